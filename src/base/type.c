// SPDX-License-Identifier: MIT
// Sizes and names of weight types.
#include "base/type.h"

#include <assert.h>
#include <stddef.h>

const struct td_type_info *td_type_info(uint32_t type)
{
    static const struct td_type_info f32 = {"F32", 1, 4};
    static const struct td_type_info f16 = {"F16", 1, 2};
    static const struct td_type_info bf16 = {"BF16", 1, 2};
    static const struct td_type_info q8_0 = {"Q8_0", TD_QK, sizeof(struct td_block_q8_0)};
    static const struct td_type_info mxfp4 = {"MXFP4", TD_QK, sizeof(struct td_block_mxfp4)};
    switch (type) {
    case TD_F32: return &f32;
    case TD_F16: return &f16;
    case TD_BF16: return &bf16;
    case TD_Q8_0: return &q8_0;
    case TD_MXFP4: return &mxfp4;
    }
    return NULL;
}

const char *td_type_known_name(uint32_t type)
{
    // Numbers 4, 5, 31-33 and 36-38 were given out once and withdrawn.
    static const char *const names[] = {
        "F32",     "F16",   "Q4_0",   "Q4_1",  NULL,    NULL,     "Q5_0", "Q5_1",    "Q8_0",
        "Q8_1",    "Q2_K",  "Q3_K",   "Q4_K",  "Q5_K",  "Q6_K",   "Q8_K", "IQ2_XXS", "IQ2_XS",
        "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",   "I16",     "I32",
        "I64",     "F64",   "IQ1_M",  "BF16",  NULL,    NULL,     NULL,   "TQ1_0",   "TQ2_0",
        NULL,      NULL,    NULL,     "MXFP4", "NVFP4", "Q1_0",   "Q2_0",
    };
    return type < sizeof(names) / sizeof(names[0]) ? names[type] : NULL;
}

uint64_t td_type_size_bytes(enum td_type type, uint64_t n)
{
    const struct td_type_info *t = td_type_info(type);
    assert(t && n % t->block == 0);
    return n / t->block * t->block_bytes;
}
