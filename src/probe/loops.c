// SPDX-License-Identifier: MIT
// Twelve independent accumulators each: a fused multiply-add takes 4 or 5 cycles and two can start
// per cycle, so ten must be under way. Operands stay in registers; an empty asm makes the compiler
// believe that they change, so it can neither fold nor drop the work.
#include "probe/loops_impl.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { ACCS = 12 };
#define KEEP(x) __asm__ volatile("" : "+r"(x))

static uint32_t int8_generic(uint64_t n)
{
    int32_t acc[ACCS] = {0};
    int32_t a = 3, b = 5;
    for (uint64_t i = 0; i < n; i++) {
        for (int k = 0; k < ACCS; k++) {
            KEEP(a);
            acc[k] = (int32_t)((uint32_t)acc[k] + (uint32_t)((int8_t)a * (int8_t)b));
        }
    }
    uint32_t sum = 0;
    for (int k = 0; k < ACCS; k++) sum += (uint32_t)acc[k];
    return sum;
}

static float f32_generic(uint64_t n)
{
    float acc[ACCS] = {0};
    const float a = 0.999f, b = 0.001f;
    for (uint64_t i = 0; i < n; i++) {
        for (int k = 0; k < ACCS; k++) acc[k] = acc[k] * a + b;
        __asm__ volatile("" : : : "memory");
    }
    float sum = 0;
    for (int k = 0; k < ACCS; k++) sum += acc[k];
    return sum;
}

static uint64_t read_generic(const void *p, size_t size_bytes)
{
    const uint64_t *at = p;
    uint64_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (size_t i = 0; i < size_bytes / 8; i += 4) {
        s0 += at[i];
        s1 += at[i + 1];
        s2 += at[i + 2];
        s3 += at[i + 3];
    }
    return s0 + s1 + s2 + s3;
}

#if defined(__x86_64__)

#define AVX2   __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

AVX2 static uint32_t int8_avx2(uint64_t n)
{
    __m256i acc[ACCS], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
    const __m256i ones = _mm256_set1_epi16(1);
    for (int k = 0; k < ACCS; k++) acc[k] = _mm256_setzero_si256();
    for (uint64_t i = 0; i < n; i++) {
#pragma GCC unroll 12
        for (int k = 0; k < ACCS; k++) {
            __asm__ volatile("" : "+x"(a));
            const __m256i pairs = _mm256_maddubs_epi16(a, b);
            acc[k] = _mm256_add_epi32(acc[k], _mm256_madd_epi16(pairs, ones));
        }
    }
    for (int k = 1; k < ACCS; k++) acc[0] = _mm256_add_epi32(acc[0], acc[k]);
    return (uint32_t)_mm256_extract_epi32(acc[0], 0);
}

AVX2 static float f32_avx2(uint64_t n)
{
    __m256 acc[ACCS], a = _mm256_set1_ps(0.999f);
    const __m256 b = _mm256_set1_ps(0.001f);
    for (int k = 0; k < ACCS; k++) acc[k] = _mm256_setzero_ps();
    for (uint64_t i = 0; i < n; i++) {
        __asm__ volatile("" : "+x"(a));
#pragma GCC unroll 12
        for (int k = 0; k < ACCS; k++) acc[k] = _mm256_fmadd_ps(acc[k], a, b);
    }
    for (int k = 1; k < ACCS; k++) acc[0] = _mm256_add_ps(acc[0], acc[k]);
    return _mm256_cvtss_f32(acc[0]);
}

AVX2 static uint64_t read_avx2(const void *p, size_t size_bytes)
{
    const __m256i *at = p;
    __m256i s[4];
    for (int k = 0; k < 4; k++) s[k] = _mm256_setzero_si256();
    for (size_t i = 0; i < size_bytes / 32; i += 4)
        for (int k = 0; k < 4; k++) s[k] = _mm256_xor_si256(s[k], _mm256_load_si256(at + i + k));
    s[0] = _mm256_xor_si256(_mm256_xor_si256(s[0], s[1]), _mm256_xor_si256(s[2], s[3]));
    return (uint64_t)_mm256_extract_epi64(s[0], 0);
}

AVX512 static uint32_t int8_avx512(uint64_t n)
{
    __m512i acc[ACCS], a = _mm512_set1_epi8(3);
    const __m512i b = _mm512_set1_epi8(5);
    for (int k = 0; k < ACCS; k++) acc[k] = _mm512_setzero_si512();
    for (uint64_t i = 0; i < n; i++) {
        __asm__ volatile("" : "+v"(a));
#pragma GCC unroll 12
        for (int k = 0; k < ACCS; k++) acc[k] = _mm512_dpbusd_epi32(acc[k], a, b);
    }
    for (int k = 1; k < ACCS; k++) acc[0] = _mm512_add_epi32(acc[0], acc[k]);
    return (uint32_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(acc[0]));
}

AVX512 static float f32_avx512(uint64_t n)
{
    __m512 acc[ACCS], a = _mm512_set1_ps(0.999f);
    const __m512 b = _mm512_set1_ps(0.001f);
    for (int k = 0; k < ACCS; k++) acc[k] = _mm512_setzero_ps();
    for (uint64_t i = 0; i < n; i++) {
        __asm__ volatile("" : "+v"(a));
#pragma GCC unroll 12
        for (int k = 0; k < ACCS; k++) acc[k] = _mm512_fmadd_ps(acc[k], a, b);
    }
    for (int k = 1; k < ACCS; k++) acc[0] = _mm512_add_ps(acc[0], acc[k]);
    return _mm512_cvtss_f32(acc[0]);
}

static void loops_isa(struct td_loops *out, enum td_isa isa)
{
    if (isa == TD_ISA_AVX2 || isa == TD_ISA_AVX512)
        *out = (struct td_loops){"vpmaddubsw + vpmaddwd (256 bits)",
                                 ACCS * 32 * 2,
                                 ACCS * 8 * 2,
                                 int8_avx2,
                                 f32_avx2,
                                 read_avx2};
    if (isa == TD_ISA_AVX512)
        // Reading stays at 256 bits: memory is the limit, not the width of a load.
        *out = (struct td_loops){"vpdpbusd (512 bits)", ACCS * 64 * 2, ACCS * 16 * 2,
                                 int8_avx512,           f32_avx512,    read_avx2};
}

#elif defined(__aarch64__)

#if defined(__clang__)
#define DOTPROD __attribute__((target("dotprod")))
#else
#define DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#endif

DOTPROD static uint32_t int8_neon(uint64_t n)
{
    int32x4_t acc[ACCS];
    int8x16_t a = vdupq_n_s8(3);
    const int8x16_t b = vdupq_n_s8(5);
    for (int k = 0; k < ACCS; k++) acc[k] = vdupq_n_s32(0);
    for (uint64_t i = 0; i < n; i++) {
        __asm__ volatile("" : "+w"(a));
#pragma GCC unroll 12
        for (int k = 0; k < ACCS; k++) acc[k] = vdotq_s32(acc[k], a, b);
    }
    for (int k = 1; k < ACCS; k++) acc[0] = vaddq_s32(acc[0], acc[k]);
    return (uint32_t)vaddvq_s32(acc[0]);
}

static float f32_neon(uint64_t n)
{
    float32x4_t acc[ACCS], a = vdupq_n_f32(0.999f);
    const float32x4_t b = vdupq_n_f32(0.001f);
    for (int k = 0; k < ACCS; k++) acc[k] = vdupq_n_f32(0);
    for (uint64_t i = 0; i < n; i++) {
        __asm__ volatile("" : "+w"(a));
#pragma GCC unroll 12
        // Adds a product to the accumulator: values grow, which costs no time.
        for (int k = 0; k < ACCS; k++) acc[k] = vfmaq_f32(acc[k], a, b);
    }
    for (int k = 1; k < ACCS; k++) acc[0] = vaddq_f32(acc[0], acc[k]);
    return vaddvq_f32(acc[0]);
}

static uint64_t read_neon(const void *p, size_t size_bytes)
{
    const uint64_t *at = p;
    uint64x2_t s[4];
    for (int k = 0; k < 4; k++) s[k] = vdupq_n_u64(0);
    for (size_t i = 0; i < size_bytes / 8; i += 8)
        for (int k = 0; k < 4; k++) s[k] = veorq_u64(s[k], vld1q_u64(at + i + 2 * k));
    s[0] = veorq_u64(veorq_u64(s[0], s[1]), veorq_u64(s[2], s[3]));
    return vgetq_lane_u64(s[0], 0) ^ vgetq_lane_u64(s[0], 1);
}

static void loops_isa(struct td_loops *out, enum td_isa isa)
{
    if (isa == TD_ISA_NEON)
        *out = (struct td_loops){"sdot (128 bits)", ACCS * 16 * 2, ACCS * 4 * 2,
                                 int8_neon,         f32_neon,      read_neon};
}

#else

static void loops_isa(struct td_loops *out, enum td_isa isa)
{
    (void)out;
    (void)isa;
}

#endif

void td_loops_get(struct td_loops *out, enum td_isa isa)
{
    *out = (struct td_loops){"scalar code", ACCS * 2,    ACCS * 2,
                             int8_generic,  f32_generic, read_generic};
    if (td_isa_supported(isa)) loops_isa(out, isa);
}
