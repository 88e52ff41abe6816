// SPDX-License-Identifier: MIT
// Which kernels run: what the machine has, and who overwrites which slot.
#include "kernels/avx2/avx2.h"
#include "kernels/avx512/avx512.h"
#include "kernels/generic/generic.h"
#include "kernels/kernels.h"
#include "kernels/neon/neon.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

static const char *const isa_names[] = {
    [TD_ISA_GENERIC] = "generic",
    [TD_ISA_AVX2] = "avx2",
    [TD_ISA_AVX512] = "avx512",
    [TD_ISA_NEON] = "neon",
};
#define N_ISA (sizeof(isa_names) / sizeof(isa_names[0]))

#if defined(__x86_64__)
// clang 14's __builtin_cpu_supports does not know F16C. Its registers are AVX's own, so the
// builtins have asked the operating system already.
static bool has_f16c(void)
{
    unsigned a, b, c = 0, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}
#endif

#if defined(__aarch64__)
static bool has_i8mm(void)
{
#if defined(__linux__)
    return (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
#else
    return false; // macOS: sysctl hw.optional.arm.FEAT_I8MM, once someone can test it
#endif
}
#endif

bool td_isa_supported(enum td_isa isa)
{
    switch (isa) {
    case TD_ISA_GENERIC: return true;
#if defined(__x86_64__)
    // These builtins also read XCR0: a CPU whose hypervisor does not save its wide registers must
    // answer no.
    case TD_ISA_AVX2:
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    case TD_ISA_AVX512:
        return td_isa_supported(TD_ISA_AVX2) && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#else
    case TD_ISA_AVX2:
    case TD_ISA_AVX512: return false;
#endif
    case TD_ISA_NEON:
#if defined(__aarch64__) && defined(__APPLE__)
        return true; // every Apple silicon Mac has dotprod
#elif defined(__aarch64__) && defined(__linux__)
        return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
        return false;
#endif
    }
    return false;
}

enum td_isa td_isa_native(void)
{
    enum td_isa best = TD_ISA_GENERIC;
    for (enum td_isa isa = TD_ISA_GENERIC; isa < N_ISA; isa++) {
        if (td_isa_supported(isa)) best = isa;
    }
    return best;
}

const char *td_isa_name(enum td_isa isa)
{
    return isa_names[isa];
}

bool td_isa_parse(const char *name, enum td_isa *out)
{
    for (enum td_isa isa = TD_ISA_GENERIC; isa < N_ISA; isa++) {
        if (strcmp(name, isa_names[isa]) == 0) {
            *out = isa;
            return true;
        }
    }
    return false;
}

static void take_generic(struct td_kernels *k)
{
    *k = (struct td_kernels){
        .isa = isa_names[TD_ISA_GENERIC],
        .quantize_q8 = td_quantize_q8_generic,
        .quantize_q16 = td_quantize_q16_generic,
        .mm_f32_f32 = td_mm_f32_f32_generic,
        .mm_f16_f32 = td_mm_f16_f32_generic,
        .mm_bf16_f32 = td_mm_bf16_f32_generic,
        .mm_q8_0_f32 = td_mm_q8_0_f32_generic,
        .mm_mxfp4_f32 = td_mm_mxfp4_f32_generic,
        .mm_mxfp4_q8 = td_mm_mxfp4_q8_generic,
        .mm_q8_0_q16 = td_mm_q8_0_q16_generic,
        .mm_mxfp4_q16 = td_mm_mxfp4_q16_generic,
        .row_f32 = td_row_f32_generic,
        .rmsnorm = td_rmsnorm_generic,
        .rope = td_rope_generic,
        .swiglu_clamped = td_swiglu_clamped_generic,
        .add = td_add_generic,
        .madd = td_madd_generic,
        .scale = td_scale_generic,
        .f16_of_f32 = td_f16_of_f32_generic,
        .f32_of_f16 = td_f32_of_f16_generic,
        .attend_f16 = td_attend_f16_generic,
        .attend_f32 = td_attend_f32_generic,
    };
}

#if defined(__x86_64__)
// Each takes the slots it does better; the others stay as they were.
static void take_avx2(struct td_kernels *k)
{
    k->isa = isa_names[TD_ISA_AVX2];
    k->quantize_q8 = td_quantize_q8_avx2;
    k->quantize_q16 = td_quantize_q16_avx2;
    k->mm_f32_f32 = td_mm_f32_f32_avx2;
    k->mm_f16_f32 = td_mm_f16_f32_avx2;
    k->mm_bf16_f32 = td_mm_bf16_f32_avx2;
    k->mm_q8_0_f32 = td_mm_q8_0_f32_avx2;
    k->mm_mxfp4_f32 = td_mm_mxfp4_f32_avx2;
    k->mm_mxfp4_q8 = td_mm_mxfp4_q8_avx2;
    k->mm_q8_0_q16 = td_mm_q8_0_q16_avx2;
    k->mm_mxfp4_q16 = td_mm_mxfp4_q16_avx2;
    k->row_f32 = td_row_f32_avx2;
    k->rmsnorm = td_rmsnorm_avx2;
    k->rope = td_rope_avx2;
    k->swiglu_clamped = td_swiglu_clamped_avx2;
    k->add = td_add_avx2;
    k->madd = td_madd_avx2;
    k->scale = td_scale_avx2;
    k->f16_of_f32 = td_f16_of_f32_avx2;
    k->f32_of_f16 = td_f32_of_f16_avx2;
    k->attend_f16 = td_attend_f16_avx2;
    k->attend_f32 = td_attend_f32_avx2;
}

static void take_avx512(struct td_kernels *k)
{
    k->isa = isa_names[TD_ISA_AVX512];
    k->quantize_q8 = td_quantize_q8_avx512;
    k->quantize_q16 = td_quantize_q16_avx512;
    k->mm_f32_f32 = td_mm_f32_f32_avx512;
    k->mm_f16_f32 = td_mm_f16_f32_avx512;
    k->mm_bf16_f32 = td_mm_bf16_f32_avx512;
    k->mm_q8_0_f32 = td_mm_q8_0_f32_avx512;
    k->mm_mxfp4_f32 = td_mm_mxfp4_f32_avx512;
    k->mm_mxfp4_q8 =
        __builtin_cpu_supports("avx512vbmi") ? td_mm_mxfp4_q8_vbmi : td_mm_mxfp4_q8_avx512;
    k->mm_q8_0_q16 = td_mm_q8_0_q16_avx512;
    k->mm_mxfp4_q16 = td_mm_mxfp4_q16_avx512;
    k->row_f32 = td_row_f32_avx512;
    k->rmsnorm = td_rmsnorm_avx512;
    k->rope = td_rope_avx512;
    k->swiglu_clamped = td_swiglu_clamped_avx512;
    k->add = td_add_avx512;
    k->madd = td_madd_avx512;
    k->scale = td_scale_avx512;
    k->f16_of_f32 = td_f16_of_f32_avx512;
    k->f32_of_f16 = td_f32_of_f16_avx512;
    k->attend_f16 = td_attend_f16_avx512;
    k->attend_f32 = td_attend_f32_avx512;
}
#endif

#if defined(__aarch64__)
static void take_neon(struct td_kernels *k)
{
    k->isa = isa_names[TD_ISA_NEON];
    k->quantize_q8 = td_quantize_q8_neon;
    k->quantize_q16 = td_quantize_q16_neon;
    k->mm_f32_f32 = td_mm_f32_f32_neon;
    k->mm_f16_f32 = td_mm_f16_f32_neon;
    k->mm_bf16_f32 = td_mm_bf16_f32_neon;
    k->mm_q8_0_f32 = td_mm_q8_0_f32_neon;
    k->mm_mxfp4_f32 = td_mm_mxfp4_f32_neon;
    k->mm_mxfp4_q8 = td_mm_mxfp4_q8_neon;
    k->mm_q8_0_q16 = td_mm_q8_0_q16_neon;
    k->mm_mxfp4_q16 = td_mm_mxfp4_q16_neon;
    k->row_f32 = td_row_f32_neon;
    k->rmsnorm = td_rmsnorm_neon;
    k->rope = td_rope_neon;
    k->swiglu_clamped = td_swiglu_clamped_neon;
    k->add = td_add_neon;
    k->madd = td_madd_neon;
    k->scale = td_scale_neon;
    k->f16_of_f32 = td_f16_of_f32_neon;
    k->f32_of_f16 = td_f32_of_f16_neon;
    k->attend_f16 = td_attend_f16_neon;
    k->attend_f32 = td_attend_f32_neon;
    if (has_i8mm()) {
        k->mm_mxfp4_q8 = td_mm_mxfp4_q8_i8mm;
        k->mm_q8_0_q16 = td_mm_q8_0_q16_i8mm;
        k->mm_mxfp4_q16 = td_mm_mxfp4_q16_i8mm;
    }
}
#endif

void td_kernels_get(struct td_kernels *out, enum td_isa isa)
{
    take_generic(out);
#if defined(__x86_64__)
    const bool has_avx2 = td_isa_supported(TD_ISA_AVX2);
    if ((isa == TD_ISA_AVX2 || isa == TD_ISA_AVX512) && has_avx2) take_avx2(out);
    if (isa == TD_ISA_AVX512 && td_isa_supported(TD_ISA_AVX512)) take_avx512(out);
#elif defined(__aarch64__)
    if (isa == TD_ISA_NEON && td_isa_supported(TD_ISA_NEON)) take_neon(out);
#endif
    (void)isa;
}
