#!/bin/sh
# SPDX-License-Identifier: MIT
# Breaks the AVX2 kernels one way at a time, in a copy, and says which of the breaks kcheck missed.
# Not part of `make check`: run it after changing kcheck.   usage: tests/kcheck/mutate.sh
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
missed=0

# mutate NAME FILE SED-SCRIPT
mutate() {
    rm -rf "$work/src"
    cp -r "$root/src" "$work/src"
    sed -i "$3" "$work/src/kernels/avx2/$2"
    if cmp -s "$work/src/kernels/avx2/$2" "$root/src/kernels/avx2/$2"; then
        echo "STALE   $1: the script changes nothing"
        missed=$((missed + 1))
        return
    fi
    # shellcheck disable=SC2046
    ${CC:-cc} -std=c11 -O0 -D_POSIX_C_SOURCE=200809L -ffp-contract=off -fno-math-errno \
        -I"$work/src" -I"$root/tests/kcheck" $(find "$work/src/kernels" -name '*.c') \
        "$work/src/base/type.c" "$root"/tests/kcheck/*.c -lm -o "$work/kcheck"
    if "$work/kcheck" --isa avx2 --short >"$work/log" 2>&1; then
        echo "MISSED  $1"
        missed=$((missed + 1))
    else
        echo "noticed $1: $(grep -m1 FAILED "$work/log" || echo "died")"
    fi
}

mutate 'tail mask one lane too wide' vec_impl.h 's/set1_epi32((int32_t)td_min_u32(n, 8))/set1_epi32((int32_t)td_min_u32(n, 8) + 1)/'
mutate 'tail mask one lane too narrow' vec_impl.h 's/set1_epi32((int32_t)td_min_u32(n, 8))/set1_epi32((int32_t)td_min_u32(n, 8) - 1)/'
mutate 'one byte read behind the last block' mm_q8.c 's/__m256i v = load2(p + 1, stride);/&(void)*(const volatile uint8_t *)(p + stride + 17);/'
mutate 'one byte read before the first block' mm_q8.c 's/__m256i v = load2(p + 1, stride);/&(void)*(const volatile uint8_t *)(p - 1);/'
mutate 'one byte read behind the last block of Q8_0' mm_q16.c 's/v\[i\] = _mm256_shuffle_epi8(/(void)*(const volatile uint8_t *)(p + (size_t)(i + 4) * stride + 16 + 16 * (i == 3));&/'
mutate 'difference for sum' mm_q8.c 's/_mm256_add_epi16(part\[r\], v)/_mm256_sub_epi16(part[r], v)/'
mutate 'Q8_0 widened without its sign' mm_q16.c 's/_mm256_cvtepi8_epi16(load128(p + 18))/_mm256_cvtepu8_epi16(load128(p + 18))/'
mutate 'minus 128 taken for 127' mm_q16.c 's/_mm256_cvtepi8_epi16(load128(p + 2))/_mm256_max_epi16(&, _mm256_set1_epi16(-127))/'
mutate 'words of a pair changed over' mm_q16.c 's/0, 2, 1, 3, 4/0, 1, 2, 3, 4/'
mutate 'lower half shuffled for upper' mm_impl.h 's/out\[1\] = _mm256_unpackhi_epi64/out[1] = _mm256_unpacklo_epi64/'
mutate 'last block left out' mm_q8.c 's/b < t->w->n_blocks; b++, p +=/b + 1 < t->w->n_blocks; b++, p +=/'
mutate 'offset of 11 for 12' mm_q8.c 's/set1_epi32(12 \* s)/set1_epi32(11 * s)/'
mutate 'second panel forgets the first' mm_q8.c 's/t->w->first ? load_n(y\[r\], t->n_out)/0 ? load_n(y[r], t->n_out)/'
mutate 'outputs of a cut group one too many' mm_q8.c 's/store_n(y\[r\], acc\[r\], t->n_out)/store_n(y[r], acc[r], t->n_out + 1)/'
mutate 'product and sum rounded apart' mm_q8.c 's/acc = _mm256_fmadd_ps(_mm256_mul_ps(dw, \(.*\)), _mm256_cvtepi32_ps(isum),/acc = _mm256_add_ps(_mm256_mul_ps(_mm256_mul_ps(dw, \1), _mm256_cvtepi32_ps(isum)),/'
mutate 'folds in another order' vec_impl.h 's/_mm_add_ps(c, _mm_movehl_ps(c, c))/_mm_add_ps(c, _mm_movehdup_ps(c))/;s/_mm_add_ss(d, _mm_movehdup_ps(d))/_mm_add_ss(d, _mm_movehl_ps(d, d))/'
mutate 'ties of quantisation upwards' rows.c 's/_mm256_add_ps(_mm256_mul_ps(v\[i\], inv), magic)/_mm256_add_ps(_mm256_floor_ps(_mm256_add_ps(_mm256_mul_ps(v[i], inv), _mm256_set1_ps(0.5f))), magic)/'
mutate 'maximum over all positions forgotten' attend.c 's/m = _mm256_max_ps(m, _mm256_permute2f128_ps(m, m, 1));//'
[ "$missed" -eq 0 ] || { echo "$missed missed"; exit 1; }
