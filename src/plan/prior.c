// SPDX-License-Identifier: MIT
// What is believed before anything is measured: typical rates, and how far they differ between
// machines, programs, builds, number formats and kinds of model.
#include "plan/fit.h"

#include <stdio.h>
#include <string.h>

// clang-format off
const struct td_plan_prior td_plan_prior = {
    .mean = {
        [TD_PLAN_GEMM] = -0.362,
        [TD_PLAN_EXPERTS] = -0.477,
        [TD_PLAN_ATTEND] = -1.626,
        [TD_PLAN_BAND] = -0.099,
        [TD_PLAN_CACHE] = -1.505,
        [TD_PLAN_LAYER] = -8.745,
        [TD_PLAN_ROWS] = 3.825,
        [TD_PLAN_EXPERT_ROWS] = 3.412,
        [TD_PLAN_EXPERT_BAND] = -0.429,
        [TD_PLAN_VECTOR] = -2.013,
        [TD_PLAN_EXPERT_VECTOR] = -2.421,
        [TD_PLAN_OVERLAP] = 1.720,
        [TD_PLAN_CROWD] = -0.314,
    },
    .spread = {
        [TD_PLAN_GEMM] = {0.021, 0.210, 0.162, 0.049, 0.319, 0.158, 0.040, 0.176, 0.231, 0.019, 0.000, 0.006, 0.006, 0.800},
        [TD_PLAN_EXPERTS] = {0.054, 0.194, 0.036, 0.040, 0.353, 0.043, 0.236, 0.091, 0.034, 0.027, 0.000, 0.021, 0.025, 0.200},
        [TD_PLAN_ATTEND] = {0.148, 1.261, 0.127, 0.115, 0.396, 0.454, 0.056, 0.000, 0.000, 0.016, 0.465, 0.013, 0.013, 0.800},
        [TD_PLAN_BAND] = {0.011, 0.012, 0.111, 0.098, 0.021, 0.022, 0.006, 0.005, 0.005, 0.025, 0.000, 0.020, 0.005, 0.600},
        [TD_PLAN_CACHE] = {0.101, 1.046, 0.077, 0.106, 0.806, 0.395, 0.060, 0.000, 0.000, 0.120, 0.040, 0.022, 0.015, 0.200},
        [TD_PLAN_LAYER] = {0.119, 1.293, 0.050, 0.050, 0.070, 0.390, 0.463, 0.000, 0.000, 0.512, 0.000, 0.024, 0.020, 0.400},
        [TD_PLAN_ROWS] = {0.080, 0.285, 0.063, 0.061, 0.061, 0.046, 0.046, 0.157, 0.051, 0.000, 0.000, 0.052, 0.048, 0.200},
        [TD_PLAN_EXPERT_ROWS] = {0.057, 0.194, 0.070, 0.085, 0.113, 0.092, 0.037, 0.214, 0.040, 0.000, 0.000, 0.037, 0.059, 0.200},
        [TD_PLAN_EXPERT_BAND] = {0.024, 0.048, 0.032, 0.261, 0.137, 0.000, 0.000, 0.058, 0.000, 0.000, 0.000, 0.073, 0.019, 0.200},
        [TD_PLAN_VECTOR] = {0.044, 0.053, 0.086, 0.276, 0.054, 0.000, 0.000, 0.048, 0.029, 0.000, 0.000, 0.005, 0.000, 0.200},
        [TD_PLAN_EXPERT_VECTOR] = {0.408, 0.465, 0.087, 0.090, 0.174, 0.087, 0.170, 0.108, 0.046, 0.000, 0.000, 0.910, 0.000, 0.200},
        [TD_PLAN_OVERLAP] = {0.102, 0.217, 0.075, 0.077, 0.123, 0.000, 0.000, 1.500, 0.049, 0.000, 0.000, 0.000, 0.000, 0.000},
        [TD_PLAN_CROWD] = {0.042, 0.030, 0.000, 0.000, 0.170, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.235, 0.036, 0.000},
    },
    .noise_prefill = 0.068,
    .noise_decode = 0.030,
};
// clang-format on

const char *td_plan_rate_name(enum td_plan_rate rate)
{
    static const char *const names[TD_PLAN_N_RATES] = {
        [TD_PLAN_GEMM] = "gemm",
        [TD_PLAN_EXPERTS] = "experts",
        [TD_PLAN_ATTEND] = "attend",
        [TD_PLAN_BAND] = "band",
        [TD_PLAN_CACHE] = "cache",
        [TD_PLAN_LAYER] = "layer",
        [TD_PLAN_ROWS] = "rows",
        [TD_PLAN_EXPERT_ROWS] = "expert_rows",
        [TD_PLAN_EXPERT_BAND] = "expert_band",
        [TD_PLAN_VECTOR] = "vector",
        [TD_PLAN_EXPERT_VECTOR] = "expert_vector",
        [TD_PLAN_OVERLAP] = "overlap",
        [TD_PLAN_CROWD] = "crowd",
    };
    return names[rate];
}

const char *td_plan_evidence_name(enum td_plan_evidence evidence)
{
    static const char *const names[TD_PLAN_N_EVIDENCES] = {
        [TD_PLAN_KNOWN] = "known",
        [TD_PLAN_OTHER_PROGRAM] = "program",
        [TD_PLAN_NEW_MACHINE] = "machine",
    };
    return names[evidence];
}

struct word {
    const char *part, *family;
};

// The first that is found in the program's name counts.
static const struct word families[] = {
    {"tandem", "tandem"}, {"CPU", "cpu"},       {"CUDA", "cuda"},     {"cuBLAS", "cuda"},
    {"vLLM", "cuda"},     {"TensorRT", "cuda"}, {"SGLang", "cuda"},   {"Metal", "metal"},
    {"MLX", "mlx"},       {"exo", "mlx"},       {"Vulkan", "vulkan"}, {"ROCm", "rocm"},
    {"hipBLAS", "rocm"},  {"SYCL", "sycl"},
};

static const char *family_of(const char *backend)
{
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
        if (strstr(backend, families[i].part)) return families[i].family;
    return "";
}

// An id of up to four words, 0 when the last is not known. FNV-1a, 32 bits: among some hundred
// names two rarely agree by chance, and then share a little too much.
static uint32_t id_of(int level, const char *a, const char *b, const char *c)
{
    if (c[0] == '\0') return 0;
    const char *words[] = {a, b, c};
    uint32_t h = (2166136261u ^ (uint32_t)level) * 16777619u;
    for (int i = 0; i < 3; i++) {
        for (const char *p = words[i]; *p; p++) h = (h ^ (uint8_t)*p) * 16777619u;
        h = (h ^ 0x1f) * 16777619u;
    }
    return h ? h : 1;
}

void td_plan_context_of(struct td_plan_context *out, const struct td_plan_names *names)
{
    static const char *const kinds[] = {"dense", "experts", "compressed", "hybrid"};
    static const char *const formats[] = {"mxfp4", "q4_0", "q4_k", "q8", "q6",
                                          "iq",    "f16",  "mlx",  ""};
    const char *device = names->device, *backend = names->backend;
    const char *family = family_of(backend), *kind = kinds[names->kind];
    const char *format = formats[td_plan_quant_of(names->quant)];
    uint32_t *id = out->id;
    id[TD_PLAN_ALL] = 1;
    id[TD_PLAN_FAMILY] = id_of(1, "", "", family);
    id[TD_PLAN_DEVICE] = id_of(2, "", "", device);
    id[TD_PLAN_DEVICE_FAMILY] = device[0] ? id_of(3, "", device, family) : 0;
    id[TD_PLAN_BACKEND] = device[0] ? id_of(4, "", device, backend) : 0;
    char month[8], half[8];
    snprintf(month, sizeof(month), "%.7s", names->date);
    // "2025-10" is of the second half of its year; a bare year of the first.
    snprintf(half, sizeof(half), "%.4s%s", names->date,
             strlen(month) == 7 && strcmp(month + 5, "06") > 0 ? "b" : "a");
    id[TD_PLAN_BUILD] = device[0] ? id_of(5, device, backend, month) : 0;
    id[TD_PLAN_ERA] = month[0] ? id_of(13, "", family, half) : 0;
    id[TD_PLAN_QUANT] = id_of(6, "", family, format);
    id[TD_PLAN_BACKEND_QUANT] = device[0] ? id_of(7, device, backend, format) : 0;
    id[TD_PLAN_KIND] = id_of(8, "", family, kind);
    char head[16];
    snprintf(head, sizeof(head), "%u", names->head_dim);
    id[TD_PLAN_HEAD] = names->head_dim ? id_of(12, "", head, family) : 0;
    id[TD_PLAN_BACKEND_MODEL] = device[0] ? id_of(9, device, backend, names->model) : 0;
    id[TD_PLAN_MODEL] = id_of(10, "", "", names->model);
    id[TD_PLAN_UNKNOWN] = names->is_device_unknown ? id_of(11, "", "", device) : 0;
}
