// SPDX-License-Identifier: MIT
// Measures this machine: how fast it reads memory and multiplies. It knows no model; others divide
// what a program needs by these rates.
#ifndef TD_PROBE_PROBE_H
#define TD_PROBE_PROBE_H

#include "base/status.h"
#include "kernels/kernels.h"

#include <stdbool.h>
#include <stdint.h>

// Rates of one number of threads. A multiplication with its addition counts as two operations.
struct td_probe_rates {
    uint32_t n_threads;
    double read_bytes_per_s; // a buffer of at least four times the last-level cache
    double int8_ops_per_s;   // 8-bit products summed in 32 bits, operands in registers
    double f32_flops_per_s;  // fused multiply-adds, operands in registers
};

struct td_probe {
    struct td_probe_rates one; // one thread
    struct td_probe_rates all; // n_threads of the call
    uint64_t buffer_bytes;     // that was read
    const char *isa;           // of the arithmetic: td_isa_name
    const char *int8_with;     // the instruction: "vpdpbusd (512 bits)"
    double seconds;            // the measurement took
};

// Measures with 1 and with n_threads threads; each figure is the best of several passes, since
// other programs only ever take away. Quick: about 1.5 seconds; otherwise about 8. isa: at most
// this one. is_wanted, if not NULL, is asked between passes; false stops with TD_ECANCEL.
// Fails: TD_ENOMEM, TD_EIO (threads), TD_ECANCEL.
int td_probe_measure(struct td_probe *out, uint32_t n_threads, bool quick, enum td_isa isa,
                     bool (*is_wanted)(void), struct td_error *err) TD_MUST_CHECK;

// Reads memory that somebody else holds, such as a mapped model, with a plain loop on n_threads
// threads: what decoding could reach at best, here and now.
struct td_probe_span {
    const uint8_t *bytes; // any alignment; the ends are left out up to multiples of 1024 bytes
    size_t size_bytes;
};
struct td_probe_reader;
// spans (n) must outlive the reader; together at least 1 MiB.
int td_probe_reader_open(struct td_probe_reader **out, const struct td_probe_span *spans,
                         uint32_t n_spans, uint32_t n_threads, enum td_isa isa,
                         struct td_error *err) TD_MUST_CHECK;
void td_probe_reader_close(struct td_probe_reader *reader);
// Bytes that there are to read.
uint64_t td_probe_reader_bytes(const struct td_probe_reader *reader);
// Reads about size_bytes, beginning where the last call ended and at the first span again after the
// last; returns bytes per second.
double td_probe_read(struct td_probe_reader *reader, uint64_t size_bytes);

#endif
