// SPDX-License-Identifier: MIT
// What is believed before anything is measured: typical rates, and how far they differ between
// machines, programs, builds, number formats and kinds of model.
#include "plan/fit.h"

#include <stdio.h>
#include <string.h>

// clang-format off
const struct td_plan_prior td_plan_prior = {
    .mean = {
        [TD_PLAN_GEMM] = -0.402,
        [TD_PLAN_EXPERTS] = -0.470,
        [TD_PLAN_ATTEND] = -1.504,
        [TD_PLAN_BAND] = -0.074,
        [TD_PLAN_CACHE] = -1.600,
        [TD_PLAN_LAYER] = -8.729,
        [TD_PLAN_ROWS] = 3.857,
        [TD_PLAN_EXPERT_ROWS] = 3.348,
        [TD_PLAN_EXPERT_BAND] = -0.491,
        [TD_PLAN_VECTOR] = -2.005,
        [TD_PLAN_EXPERT_VECTOR] = -2.338,
        [TD_PLAN_OVERLAP] = 1.555,
        [TD_PLAN_CROWD] = -0.258,
    },
    .spread = {
        [TD_PLAN_GEMM]        = {0.017, 0.197, 0.162, 0.044, 0.308, 0.147, 0.035, 0.183, 0.213, 0.016, 0.000, 0.005, 0.005, 0.800},
        [TD_PLAN_EXPERTS]     = {0.049, 0.216, 0.034, 0.037, 0.371, 0.039, 0.199, 0.077, 0.029, 0.024, 0.000, 0.018, 0.023, 0.200},
        [TD_PLAN_ATTEND]      = {0.136, 1.445, 0.108, 0.105, 0.439, 0.443, 0.049, 0.000, 0.000, 0.015, 0.454, 0.012, 0.012, 0.800},
        [TD_PLAN_BAND]        = {0.009, 0.010, 0.120, 0.093, 0.021, 0.037, 0.005, 0.004, 0.004, 0.060, 0.000, 0.008, 0.004, 0.600},
        [TD_PLAN_CACHE]       = {0.094, 1.147, 0.073, 0.105, 0.867, 0.372, 0.056, 0.000, 0.000, 0.101, 0.032, 0.019, 0.013, 0.200},
        [TD_PLAN_LAYER]       = {0.113, 1.500, 0.041, 0.041, 0.061, 0.286, 0.454, 0.000, 0.000, 0.455, 0.000, 0.021, 0.017, 0.400},
        [TD_PLAN_ROWS]        = {0.072, 0.408, 0.059, 0.059, 0.058, 0.047, 0.046, 0.141, 0.052, 0.000, 0.000, 0.051, 0.046, 0.200},
        [TD_PLAN_EXPERT_ROWS] = {0.051, 0.245, 0.061, 0.075, 0.084, 0.105, 0.035, 0.136, 0.038, 0.000, 0.000, 0.034, 0.088, 0.200},
        [TD_PLAN_EXPERT_BAND] = {0.022, 0.041, 0.029, 0.226, 0.070, 0.000, 0.000, 0.037, 0.000, 0.000, 0.000, 0.035, 0.013, 0.200},
        [TD_PLAN_VECTOR]      = {0.034, 0.042, 0.095, 0.257, 0.049, 0.000, 0.000, 0.043, 0.027, 0.000, 0.000, 0.004, 0.000, 0.200},
        [TD_PLAN_EXPERT_VECTOR] = {0.266, 0.311, 0.085, 0.087, 0.159, 0.089, 0.154, 0.101, 0.045, 0.000, 0.000, 1.322, 0.000, 0.200},
        [TD_PLAN_OVERLAP]     = {0.092, 0.216, 0.072, 0.075, 0.133, 0.000, 0.000, 1.500, 0.049, 0.000, 0.000, 0.000, 0.000, 0.000},
        [TD_PLAN_CROWD]       = {0.026, 0.029, 0.000, 0.000, 0.114, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.119, 0.034, 0.000},
    },
    .noise_prefill = 0.074,
    .noise_decode = 0.029,
    .interval_prefill = 1.55,
    .interval_decode = 1.2,
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

struct word {
    const char *part, *family;
};

// The first that is found in the program's name counts.
static const struct word families[] = {
    {"CPU", "cpu"},       {"CUDA", "cuda"},     {"cuBLAS", "cuda"}, {"vLLM", "cuda"},
    {"TensorRT", "cuda"}, {"SGLang", "cuda"},   {"Metal", "metal"}, {"MLX", "mlx"},
    {"exo", "mlx"},       {"Vulkan", "vulkan"}, {"ROCm", "rocm"},   {"hipBLAS", "rocm"},
    {"SYCL", "sycl"},
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
