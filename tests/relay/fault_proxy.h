// SPDX-License-Identifier: MIT
// A TCP proxy that does to connections what networks do, at the byte it is told: the same plan
// always meets the same byte. Tests put it between the two ends of the relay; it knows nothing of
// what it carries.
#ifndef TD_TESTS_RELAY_FAULT_PROXY_H
#define TD_TESTS_RELAY_FAULT_PROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum fault_kind {
    FAULT_CUT,   // both ends see the other close
    FAULT_RESET, // both ends see a reset
    FAULT_FLIP,  // one bit of the byte is changed
    FAULT_STALL, // nothing passes for `ms`
    FAULT_MARK,  // `hit` is told; nothing passes for `ms`
    N_FAULT_KINDS
};
enum fault_direction { FAULT_TO_SERVER, FAULT_TO_CLIENT };

// What happens before byte at_byte of one direction of the i_conn-th connection of this plan.
struct fault {
    enum fault_kind kind;
    uint32_t i_conn;
    enum fault_direction direction;
    uint64_t at_byte;
    uint32_t ms;        // of STALL and MARK
    uint32_t refuse_ms; // afterwards new connections are reset for so long
    bool is_all;        // CUT, RESET, STALL: of every connection that is open then
};

enum { FAULT_MAX = 16, FAULT_MAX_CONNS = 64 };

struct fault_plan {
    struct fault faults[FAULT_MAX];
    uint32_t n_faults;
    uint64_t bytes_per_s; // each direction of each connection; 0: as fast as it can
    uint32_t latency_ms;  // of each byte, each way
};

// Words: `rate=BYTES_PER_S`, `latency=MS` and faults `KIND,CONN,DIRECTION,BYTE[,ms=MS][,refuse=MS]
// [,all]`, KIND one of cut, reset, flip, stall, mark, DIRECTION `to` the server or `from` it.
// False: `why` says what is wrong.
bool fault_plan_parse(struct fault_plan *out, const char *text, char *why, size_t why_bytes);

struct fault_proxy;

// Listens on HOST:port (0: any) and carries every connection to to_host:to_port. Addresses are
// numeric. NULL when it cannot. Runs in a thread of its own.
struct fault_proxy *fault_proxy_open(const char *host, uint16_t port, const char *to_host,
                                     uint16_t to_port);
void fault_proxy_close(struct fault_proxy *p);
uint16_t fault_proxy_port(const struct fault_proxy *p);

// Resets what is open and begins anew: the next connection is number 0.
void fault_proxy_begin(struct fault_proxy *p, const struct fault_plan *plan);

// One more fault for the plan under way; at_byte counts from what has passed of that connection.
// False: the plan is full.
bool fault_proxy_add(struct fault_proxy *p, const struct fault *fault);

struct fault_count {
    uint32_t n_conns; // since begin, also refused ones
    uint32_t n_hit;   // faults that came to pass
    uint32_t n_open;
    uint64_t bytes[FAULT_MAX_CONNS][2]; // passed, by direction
};
void fault_proxy_count(struct fault_proxy *p, struct fault_count *out);

// Called for every fault that comes to pass, on the proxy's thread. Before the first begin.
void fault_proxy_watch(struct fault_proxy *p, void *ctx,
                       void (*hit)(void *ctx, uint32_t i_fault, const struct fault *fault));

#endif
