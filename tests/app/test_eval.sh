#!/bin/sh
# SPDX-License-Identifier: MIT
# Logits against an independent float64 reference, and the same bytes however the work is cut.
. "$(dirname "$0")/lib.sh"
M=$DATA/gptoss-tiny.gguf
TOKENS=$DATA/gptoss-tiny.tokens.txt
BASE=$DATA/gptoss-tiny.logits.npy

# at_most VALUE LIMIT
at_most() {
    n_checks=$((n_checks + 1))
    awk -v v="$1" -v limit="$2" 'BEGIN { exit !(v != "" && v + 0 <= limit + 0) }' || failed "$1 > $2"
}
field() { sed -n "s/.*\"$1\":\([-0-9.e+]*\).*/\1/p" "$TMP/out"; }

ok "$TANDEM" eval -m "$M" --tokens "$TOKENS" --kl "$BASE" --json
at_most "$(field kl_mean)" 2e-3
at_most 38 "$(field top1_same)"
ok "$TANDEM" eval -m "$M" --tokens "$TOKENS" --kl "$BASE" --precision fine --json
at_most "$(field kl_mean)" 2e-4
at_most 40 "$(field top1_same)"
ok "$TANDEM" eval -m "$M" --tokens "$TOKENS" --kl "$BASE" --precision high --json
at_most "$(field kl_mean)" 1e-5
at_most 40 "$(field top1_same)"
ok "$TANDEM" eval -m "$M" --tokens "$TOKENS" --kl "$BASE" --precision high --kv f32
out_has "top-1 agreement  40/40"

ok "$TANDEM" eval -m "$M" --tokens "$TOKENS" --logits "$TMP/ref.npy" -t 1
[ "$(wc -c <"$TMP/ref.npy")" -eq $((128 + 40 * 2000 * 4)) ] || failed "size of the .npy"
for chunk in 1 7 40 512; do
    for threads in 1 2 3; do
        ok "$TANDEM" eval -m "$M" --tokens "$TOKENS" --logits "$TMP/x.npy" --chunk $chunk -t $threads
        same "$TMP/ref.npy" "$TMP/x.npy"
    done
done
ok "$TANDEM" eval -m "$M" --tokens "$TOKENS" --kl "$TMP/ref.npy" --json
at_most "$(field kl_max)" 0

# --last is the last row of all.
ok "$TANDEM" eval -m "$M" --tokens "$TOKENS" --logits "$TMP/last.npy" --last
tail -c 8000 "$TMP/ref.npy" >"$TMP/row"
tail -c 8000 "$TMP/last.npy" >"$TMP/row_last"
same "$TMP/row" "$TMP/row_last"

# The same bits on every instruction set of this machine.
for isa in generic avx2 avx512 neon; do
    ok env TANDEM_ISA=$isa "$TANDEM" eval -m "$M" --tokens "$TOKENS" --logits "$TMP/x.npy"
    same "$TMP/ref.npy" "$TMP/x.npy"
done

# A random model of 2000 tokens is about as perplexed as its vocabulary is large.
printf 'The quick brown fox jumps over the lazy dog. %.0s' 1 2 3 4 5 6 7 8 9 10 >"$TMP/text"
ok "$TANDEM" eval -m "$M" -f "$TMP/text" --ppl --ctx 64 --json
at_most "$(field perplexity)" 1e6
at_most 100 "$(field perplexity)"
at_most 1 "$(field n_windows)"
finish
