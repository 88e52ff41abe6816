// SPDX-License-Identifier: MIT
// One frame of every type, with every field set, for the wire's tests and its corpus.
#ifndef TD_TESTS_RELAY_WIRE_SAMPLES_H
#define TD_TESTS_RELAY_WIRE_SAMPLES_H

#include "base/type.h"
#include "relay/wire.h"

#include <string.h>

#define SAMPLE_VERSION 1

static const int32_t sample_tokens[3] = {0, 200018, 7};
static const uint32_t sample_marks[4] = {4096, 4096, 3584, 0};
static const uint8_t sample_kv[24] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 250};
static const float sample_logits[2] = {1.5f, -2.25f};
static uint8_t sample_rates[2 * TD_WIRE_RATE_BYTES];

static enum td_wire_channel sample_channel(uint8_t type)
{
    switch (type) {
    case TD_WIRE_JOIN:
    case TD_WIRE_JOINED:
    case TD_WIRE_BLAST:
    case TD_WIRE_SPAN:
    case TD_WIRE_CHECKPOINT:
    case TD_WIRE_FINAL:
    case TD_WIRE_LOGITS: return TD_WIRE_DATA;
    default: return TD_WIRE_CONTROL;
    }
}

static void sample_rates_init(void)
{
    const struct td_wire_rate r[2] = {{0, 1689470, 52870}, {32768, 1221230, 38760}};
    td_wire_put_rate(sample_rates, &r[0]);
    td_wire_put_rate(sample_rates + TD_WIRE_RATE_BYTES, &r[1]);
}

static struct td_wire_msg sample(uint8_t type)
{
    struct td_wire_msg m = {.h = {.version = SAMPLE_VERSION, .type = type, .request = 77}};
    switch ((enum td_wire_type)type) {
    case TD_WIRE_HELLO:
        m.h.version = 0;
        m.h.request = 0;
        m.u.hello = (struct td_wire_hello){1, 3, TD_WIRE_PREFILL, "tandem 0.1.0 (abc)"};
        break;
    case TD_WIRE_IDENTITY:
        m.h.request = 0;
        m.u.identity = (struct td_wire_identity){.kv_types = TD_WIRE_KV_F16 | TD_WIRE_KV_Q8_0,
                                                 .flags = TD_WIRE_ALLOW_WEIGHTS,
                                                 .n_layers = 36,
                                                 .n_vocab = 201088,
                                                 .name = "gpt-oss-120b",
                                                 .quant = "MXFP4"};
        memset(m.u.identity.layout, 1, 32);
        memset(m.u.identity.tokenizer, 2, 32);
        memset(m.u.identity.weights, 0xff, 32);
        break;
    case TD_WIRE_WELCOME:
        m.h.request = 0;
        m.u.welcome = (struct td_wire_welcome){.lease_ms = 60000,
                                               .progress_ms = 250,
                                               .n_slots = 2,
                                               .max_tokens = 131072,
                                               .max_kv_bytes = (uint64_t)6 << 30};
        memset(m.u.welcome.token, 0xa5, 32);
        break;
    case TD_WIRE_RATES:
        m.h.request = 0;
        sample_rates_init();
        m.items = sample_rates;
        m.items_bytes = sizeof(sample_rates);
        break;
    case TD_WIRE_JOIN:
        m.h.request = 0;
        memset(m.u.join_token, 0xa5, 32);
        break;
    case TD_WIRE_JOINED:
    case TD_WIRE_BYE: m.h.request = 0; break;
    case TD_WIRE_REQUEST:
        m.h.kv_type = TD_F16;
        m.u.request = (struct td_wire_request){.n_tokens = 5000,
                                               .have = 4096,
                                               .checkpoint_tokens = 4096,
                                               .have_sum = 0x1122334455667788u,
                                               .tokens_sum = 0x99aabbccddeeff00u};
        break;
    case TD_WIRE_TOKENS:
        m.h.pos0 = 4997;
        m.h.n = 3;
        m.items = sample_tokens;
        m.items_bytes = sizeof(sample_tokens);
        break;
    case TD_WIRE_ACCEPT: m.u.accept = (struct td_wire_accept){4096, 151000000, 1000000}; break;
    case TD_WIRE_PROGRESS:
        m.u.progress = (struct td_wire_progress){4608, 4096, 18874368, 250000000, 5000};
        break;
    case TD_WIRE_CANCEL: break;
    case TD_WIRE_RESUME:
        m.u.resume = (struct td_wire_resume){.n_spans = 99, .span_sum = 12345, .n_layers = 4};
        memset(m.u.resume.token, 0xa5, 32);
        m.items = sample_marks;
        m.items_bytes = sizeof(sample_marks);
        break;
    case TD_WIRE_COMMITTED: m.u.n_committed = 4999; break;
    case TD_WIRE_ERROR:
        m.h.version = 0;
        m.u.error = (struct td_wire_error){TD_WIRE_E_BUDGET, "9 GiB of KV are needed, 6 are free"};
        break;
    case TD_WIRE_PING:
    case TD_WIRE_PONG:
        m.h.request = 0;
        m.u.t_ns = 123456789012345u;
        break;
    case TD_WIRE_PROBE: m.u.probe = (struct td_wire_probe){1, 64 << 20}; break;
    case TD_WIRE_PROBED: m.u.probed = (struct td_wire_probed){64 << 20, 53000000}; break;
    case TD_WIRE_BLAST:
    case TD_WIRE_SPAN:
        m.items = sample_kv;
        m.items_bytes = sizeof(sample_kv);
        if (type == TD_WIRE_BLAST) break;
        m.h.kv_type = TD_F16;
        m.h.layer = 35;
        m.h.pos0 = 4096;
        m.h.n = 3;
        break;
    case TD_WIRE_CHECKPOINT:
        m.h.n = 4608;
        m.u.checkpoint = (struct td_wire_checkpoint){36, 0xfedcba9876543210u};
        break;
    case TD_WIRE_FINAL:
        m.h.n = 4999;
        m.u.final = (struct td_wire_final){72, 4711, 37748736, 2500000000u, 7, 903, 4096};
        break;
    case TD_WIRE_LOGITS:
        m.h.pos0 = 1000;
        m.h.n = 2;
        m.items = sample_logits;
        m.items_bytes = sizeof(sample_logits);
        break;
    case TD_WIRE_N_TYPES: break;
    }
    return m;
}

#endif
