#!/bin/sh
# SPDX-License-Identifier: MIT
# Each command does its job once, from end to end.
. "$(dirname "$0")/lib.sh"
M=$DATA/gptoss-tiny.gguf

ok "$TANDEM" --version
out_has "kernels: "
# No set leaves a function to the generic code; on this machine or on another.
! grep -q "functions generic" "$TMP/out" || failed "--version: some functions are generic"
ok "$TANDEM" --help
for command in run eval bench inspect tokenize detokenize synth probe key; do
    out_has "  $command "
done
for command in run eval bench inspect tokenize detokenize synth probe key; do
    ok "$TANDEM" "$command" --help
    out_has "usage: tandem $command"
    ok "$TANDEM" help "$command"
done
code 2 "$TANDEM"
says "usage: tandem COMMAND"
ok env TANDEM_ISA=generic "$TANDEM" --version
out_has "kernels: generic"
ok "$TANDEM" --man
same "$TMP/out" "$DATA/../../docs/tandem.1"

# inspect
ok "$TANDEM" inspect "$M"
out_has "architecture   gpt-oss"
out_has "MXFP4"
ok "$TANDEM" inspect -m "$M" --tensors
out_has "blk.0.attn_q.weight"
ok "$TANDEM" inspect "$M" --program
out_has "experts_glu"
ok "$TANDEM" inspect "$M" --json --tensors --program
out_has '"architecture": "gpt-oss"'
out_has '"name": "blk.0.attn_q.weight"'
ok "$TANDEM" inspect synth:gpt-oss-120b
out_has "parameters     116"

# synth: the same bytes for the same seed, others for another
ok "$TANDEM" synth tiny "$TMP/a.gguf" --layers 2 -s 7
out_has "random weights"
ok "$TANDEM" synth tiny "$TMP/b.gguf" --layers 2 --seed=7 -t 2
same "$TMP/a.gguf" "$TMP/b.gguf"
ok "$TANDEM" synth tiny "$TMP/c.gguf" --layers 2 --seed 8
n_checks=$((n_checks + 1))
cmp -s "$TMP/a.gguf" "$TMP/c.gguf" && failed "seeds 7 and 8 give the same file"
ok "$TANDEM" inspect "$TMP/a.gguf"
out_has "layers         2"

# The file and the model in memory compute the same.
echo "1 2 3 4 5 6 7 8" >"$TMP/ids"
ok "$TANDEM" eval -m "$TMP/a.gguf" --tokens "$TMP/ids" --logits "$TMP/file.npy"
ok "$TANDEM" eval -m synth:tiny,layers=2,seed=7 --tokens "$TMP/ids" --logits "$TMP/memory.npy"
same "$TMP/file.npy" "$TMP/memory.npy"

# tokenize and back
text='Hello, world! 123 <|start|>'
ok "$TANDEM" tokenize -m "$TMP/a.gguf" "$text"
ids=$(cat "$TMP/out")
# shellcheck disable=SC2086 # a list of ids
ok "$TANDEM" detokenize -m "$TMP/a.gguf" $ids
n_checks=$((n_checks + 1))
[ "$(cat "$TMP/out")" = "$text" ] || failed "the text does not come back"
printf '%s' "$text" >"$TMP/text"
ok "$TANDEM" tokenize -m synth:tiny,layers=2 -f "$TMP/text" --json
mv "$TMP/out" "$TMP/ids.json"
n_checks=$((n_checks + 1))
[ "$(tr -d '[],' <"$TMP/ids.json")" = "$ids" ] || failed "--json gives other ids"
ok "$TANDEM" detokenize -m "$TMP/a.gguf" -f "$TMP/ids.json"
same "$TMP/out" "$TMP/text"
ok "$TANDEM" tokenize -m "$TMP/a.gguf" --special "$text"
n_checks=$((n_checks + 1))
[ "$(wc -w <"$TMP/out")" -lt "$(echo "$ids" | wc -w)" ] || failed "--special changes nothing"

# run: the same seed gives the same text, a temperature of 0 needs none
ok "$TANDEM" run -m "$TMP/a.gguf" --raw -p "Once upon a time" -n 8 -s 1 --stats none
cp "$TMP/out" "$TMP/one"
[ ! -s "$TMP/err" ] || failed "--stats none wrote something"
n_checks=$((n_checks + 1))
printf 'Once upon a time' | "$TANDEM" run -m "$TMP/a.gguf" --raw -n 8 -s 1 -t 1 >"$TMP/two" 2>"$TMP/err" ||
    failed "the prompt from a pipe"
same "$TMP/one" "$TMP/two"
ok "$TANDEM" run -m "$TMP/a.gguf" --raw -p "Once upon a time" -n 8 --temp 0 --stats json
says '"prompt_tokens":'
says '"stop_reason":"length"'
says '"generated_tokens":8'
ok "$TANDEM" run -m "$TMP/a.gguf" --raw -p "Once upon a time" -c 32 --ignore-eos
says "the context of 32 tokens is full; use a larger --ctx"

# run without -m: the model that comes with tandem, from where the program is; installed, and in a
# build folder wherever that is. One line says so.
mkdir -p "$TMP/usr/bin" "$TMP/usr/share/tandem" "$TMP/src/models" "$TMP/build"
cp "$TANDEM" "$TMP/usr/bin/tandem"
cp "$TANDEM" "$TMP/build/tandem"
cp "$TMP/a.gguf" "$TMP/src/models/tandem-mini.gguf"
code 2 "$TMP/usr/bin/tandem" run -p hi
code 2 "$TMP/build/tandem" run -p hi
cp "$TMP/a.gguf" "$TMP/usr/share/tandem/tandem-mini.gguf"
printf 'A:STRING=b\nCMAKE_HOME_DIRECTORY:INTERNAL=%s\nC:STRING=d\n' "$TMP/src" >"$TMP/build/CMakeCache.txt"
ln -s usr/bin/tandem "$TMP/link"
for program in usr/bin/tandem build/tandem link; do
    ok "$TMP/$program" run --raw -p "Once upon a time" -n 8 -s 1 --stats none
    says "tandem: this is tandem-mini"
    [ "$(wc -l <"$TMP/err")" -eq 1 ] || failed "not one line: $program"
    same "$TMP/out" "$TMP/one"
done

# bench
ok "$TANDEM" bench -m "$TMP/a.gguf" -p 8 -n 4 -d 0,16 -r 2
out_has "| pp8 "
out_has "| tg4 @ d16 "
ok "$TANDEM" bench -m "$TMP/a.gguf" -p 8,16 -n 0 -r 2 -o json
out_has '"n_prompt": 16'
out_has '"logits_hash"'
ok "$TANDEM" bench -m "$TMP/a.gguf" -p 8 -n 4 -r 1 -o csv
[ "$(wc -l <"$TMP/out")" -eq 3 ] || failed "csv is not a heading and two rows"

# Every kind of operation of the program has its line.
"$TANDEM" inspect "$M" --program | awk '/^ *[0-9]+ /{print $3}' | sort -u >"$TMP/kinds"
ok "$TANDEM" bench -m "$M" -p 32 -n 2 -r 2 --ops
out_has "| all steps "
[ "$(wc -l <"$TMP/kinds")" -eq 11 ] || failed "not 11 kinds of operations"
while read -r kind; do
    n_checks=$((n_checks + 1))
    [ "$(grep -cE "^\| ([a-z_]+\+)*$kind(\+[a-z_]+)* " "$TMP/out")" -ge 2 ] || failed "--ops: no $kind in both tests"
done <"$TMP/kinds"
ok "$TANDEM" bench -m "$M" -p 32 -n 0 -r 1 --ops -o json
out_has '"pct_of_limit"'
out_has '"op": "experts_glu"'
ok "$TANDEM" bench -m "$M" -p 8 -n 2 -r 2 --save "$TMP/saved.json"
out_has "| pp8 "
grep -q '"n_gen": 2' "$TMP/saved.json" || failed "--save"
code 1 "$TANDEM" bench -m "$M" -p 8 -n 2 -r 2 --save "$TMP/no/such.json"
says "no/such.json: No such file or directory"
mistake 2 "--ops has no form as CSV" "$TANDEM" bench -m "$M" --ops -o csv

# What `make bench` runs, with a model that takes no time; the second run compares with the first.
ok env BENCH_MODEL=tiny BENCH_ARGS="-p 16 -n 4 -r 5" sh "$DATA/../../scripts/bench.sh" "$TANDEM" "$TMP/bench"
out_has "| tg4 "
out_has "| all steps "
[ -s "$TMP/bench/result.json" ] && [ -s "$TMP/bench/result.txt" ] || failed "make bench writes no result"
ok env BENCH_MODEL=tiny BENCH_ARGS="-p 16 -n 4 -r 5" sh "$DATA/../../scripts/bench.sh" "$TANDEM" "$TMP/bench"
out_has "the model is there"
! command -v python3 >/dev/null 2>&1 || out_has "verdict"
code 1 env BENCH_NEED_KB=99999999999 BENCH_MODEL=tiny sh "$DATA/../../scripts/bench.sh" "$TANDEM" "$TMP/other"
says "MB free"

# probe
ok "$TANDEM" probe --quick -t 1 -o "$TMP/machine.json"
out_has "read GB/s"
out_has "kernels: "
grep -q read_bytes_per_s "$TMP/machine.json" || failed "probe -o"
# key: a secret that only its owner can read, never overwritten
(umask 0 && ok "$TANDEM" key new "$TMP/key")
[ "$(stat -c %a "$TMP/key" 2>/dev/null || stat -f %Lp "$TMP/key")" = 600 ] || failed "the key's mode is not 600"
cp "$TMP/out" "$TMP/fingerprint"
out_has "fingerprint "
ok "$TANDEM" key show "$TMP/key"
same "$TMP/out" "$TMP/fingerprint"
ok "$TANDEM" key new "$TMP/key2"
n_checks=$((n_checks + 1))
cmp -s "$TMP/out" "$TMP/fingerprint" && failed "two keys have one fingerprint"
mistake 1 "never overwritten" "$TANDEM" key new "$TMP/key"
mistake 1 "chmod 600" sh -c "chmod 644 '$TMP/key2'; exec '$TANDEM' key show '$TMP/key2'"
mistake 1 "not a tandem key" sh -c "chmod 600 '$TMP/text'; exec '$TANDEM' key show '$TMP/text'"
code 2 "$TANDEM" key make "$TMP/key3"
says "neither new nor show"
code 2 "$TANDEM" key new
says "needs more"
finish
