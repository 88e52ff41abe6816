#!/bin/sh
# SPDX-License-Identifier: MIT
# What users get wrong, and the one sentence they are told.
. "$(dirname "$0")/lib.sh"
M=$DATA/gptoss-tiny.gguf
TOKENS=$DATA/gptoss-tiny.tokens.txt

# The command line.
mistake 2 "there is no command 'rnu'; did you mean 'run'?" "$TANDEM" rnu
mistake 2 "there is no command 'frobnicate'" "$TANDEM" frobnicate
mistake 2 "'run' has no option --tmep; did you mean --temp?" "$TANDEM" run --tmep 1 -m "$M"
mistake 2 "'run' has no option --wxyzwxyz" "$TANDEM" run --wxyzwxyz
mistake 2 "'run' has no option --logits (it belongs to 'eval')" "$TANDEM" run --logits x
mistake 2 "'run' has no option -z" "$TANDEM" run -z
cp "$TANDEM" "$TMP/tandem" # where no model came with it
mistake 2 "'run' needs a model" "$TMP/tandem" run -p hello
mistake 2 "--n-predict needs a value" "$TANDEM" run -m "$M" -p hi -n
mistake 2 "--n-predict: 'many' is not a whole number" "$TANDEM" run -m "$M" -p hi -n many
mistake 2 "--n-predict: '-3' is not a whole number" "$TANDEM" run -m "$M" -p hi -n -3
mistake 2 "--n-predict: '12x' is not a whole number" "$TANDEM" run -m "$M" -p hi -n 12x
mistake 2 "--ctx: '99999999999999999999' is not" "$TANDEM" run -m "$M" -p hi --ctx 99999999999999999999
mistake 2 "--threads: 0 is not between 1 and 1024" "$TANDEM" run -m "$M" -p hi -t 0
mistake 2 "--temp: 'hot' is not a number" "$TANDEM" run -m "$M" -p hi --temp hot
mistake 2 "--temp: 'nan' is not a number" "$TANDEM" run -m "$M" -p hi --temp nan
mistake 2 "--top-p: 1.5 is not between 0 and 1" "$TANDEM" run -m "$M" -p hi --top-p 1.5
mistake 2 "--reasoning: 'extreme' is not one of low|medium|high" "$TANDEM" run -m "$M" --reasoning extreme
mistake 2 "--kv: 'q8' is not one of f16|f32" "$TANDEM" run -m "$M" -p hi --kv q8
mistake 2 "--temp is given twice" "$TANDEM" run -m "$M" -p hi --temp 1 --temp=2
mistake 2 "--raw takes no value" "$TANDEM" run -m "$M" -p hi --raw=1
mistake 2 "'run' does not know what to do with 'hello'" "$TANDEM" run -m "$M" hello
mistake 2 "-p and -f both give the prompt" "$TANDEM" run -m "$M" -p hi -f x
mistake 2 "--special goes with --raw" "$TANDEM" run -m "$M" -p hi --special
mistake 2 "the prompt is empty" "$TANDEM" run -m "$M" -p ""
mistake 2 "TANDEM_ISA='sse9' is not one of" env TANDEM_ISA=sse9 "$TANDEM" --version
mistake 2 "--n-prompt: '512,,3' is not a list" "$TANDEM" bench -m "$M" -p 512,,3
mistake 2 "leave nothing to do" "$TANDEM" bench -m "$M" -p 0 -n 0
mistake 2 "'synth' needs more" "$TANDEM" synth tiny
mistake 2 "'inspect' needs a model" "$TANDEM" inspect
mistake 2 "does one of --logits" "$TANDEM" eval -m "$M" --tokens "$TOKENS"
mistake 2 "--ppl needs a text" "$TANDEM" eval -m "$M" --tokens "$TOKENS" --ppl
mistake 2 "--kl needs token ids" "$TANDEM" eval -m "$M" -f x --kl y
mistake 2 "--last goes with --logits" "$TANDEM" eval -m "$M" --tokens "$TOKENS" --kl y --last

mistake 2 "'tokenize' needs a model" "$TANDEM" tokenize hello
mistake 2 "no text given" "$TANDEM" tokenize -m "$M"
mistake 2 "not from both" "$TANDEM" tokenize -m "$M" -f x hello
mistake 1 "ids are numbers" "$TANDEM" detokenize -m "$M" one
mistake 1 "is not below 2000" "$TANDEM" detokenize -m "$M" 2000

# Files.
mistake 1 "$TMP/none.gguf: no such file" "$TANDEM" tokenize -m "$TMP/none.gguf" hello
mistake 1 "$TMP/none.gguf: no such file" "$TANDEM" run -m "$TMP/none.gguf" -p hi
mistake 1 "$TMP: a folder" "$TANDEM" run -m "$TMP" -p hi
printf '<html>not found</html>' >"$TMP/page.gguf"
mistake 1 "$TMP/page.gguf" "$TANDEM" run -m "$TMP/page.gguf" -p hi
mistake 1 "$TMP/page.gguf" "$TANDEM" inspect "$TMP/page.gguf"
: >"$TMP/empty.gguf"
mistake 1 "$TMP/empty.gguf: the file is empty" "$TANDEM" run -m "$TMP/empty.gguf" -p hi
head -c 1000000 "$M" >"$TMP/short.gguf"
mistake 1 "$TMP/short.gguf" "$TANDEM" run -m "$TMP/short.gguf" -p hi
# The first of the two is the value of general.architecture, in the first 100 bytes.
{
    head -c 100 "$M" | LC_ALL=C sed 's/gpt-oss/gpt-xyz/'
    tail -c +101 "$M"
} >"$TMP/arch.gguf"
mistake 1 "gpt-xyz" "$TANDEM" run -m "$TMP/arch.gguf" -p hi
ok "$TANDEM" inspect "$TMP/arch.gguf"
out_has "runs here      no:"
mistake 1 "$TMP/none.txt" "$TANDEM" run -m "$M" -f "$TMP/none.txt"
mistake 1 "$TMP/none.ids" "$TANDEM" eval -m "$M" --tokens "$TMP/none.ids" --logits "$TMP/o.npy"
echo "1 2 three" >"$TMP/words.ids"
mistake 1 "'three' is not a token id" "$TANDEM" eval -m "$M" --tokens "$TMP/words.ids" --logits "$TMP/o.npy"
echo "1 -2" >"$TMP/minus.ids"
mistake 1 "'-2' is not a token id" "$TANDEM" eval -m "$M" --tokens "$TMP/minus.ids" --logits "$TMP/o.npy"
echo "" >"$TMP/no.ids"
mistake 1 "no token ids" "$TANDEM" eval -m "$M" --tokens "$TMP/no.ids" --logits "$TMP/o.npy"
echo "5 99999" >"$TMP/large.ids"
mistake 1 "99999" "$TANDEM" eval -m "$M" --tokens "$TMP/large.ids" --logits "$TMP/o.npy"
[ ! -e "$TMP/o.npy" ] || failed "a failed eval left its output"
mistake 1 "$TMP/none.npy" "$TANDEM" eval -m "$M" --tokens "$TOKENS" --kl "$TMP/none.npy"
mistake 1 "not a .npy file" "$TANDEM" eval -m "$M" --tokens "$TOKENS" --kl "$TMP/page.gguf"
head -c 5000 "$DATA/gptoss-tiny.logits.npy" >"$TMP/short.npy"
mistake 1 "truncated?" "$TANDEM" eval -m "$M" --tokens "$TOKENS" --kl "$TMP/short.npy"
echo "5 6 7" >"$TMP/three.ids"
mistake 1 "40 rows for 3 tokens" "$TANDEM" eval -m "$M" --tokens "$TMP/three.ids" --kl "$DATA/gptoss-tiny.logits.npy"
mistake 1 "$TMP/no/dir.npy" "$TANDEM" eval -m "$M" --tokens "$TOKENS" --logits "$TMP/no/dir.npy"
mistake 1 "tokens are too few to score" "$TANDEM" eval -m "$M" -f /dev/null --ppl

# Models by description.
mistake 1 "gpt-oss-999b" "$TANDEM" run -m synth:gpt-oss-999b -p hi
mistake 2 "nosuch" "$TANDEM" synth nosuch "$TMP/x.gguf"
mistake 1 "tall" "$TANDEM" bench -m synth:tiny,tall=3
ok "$TANDEM" synth tiny "$TMP/x.gguf"
mistake 1 "$TMP/x.gguf is already there; --force overwrites it" "$TANDEM" synth tiny "$TMP/x.gguf"
ok "$TANDEM" synth tiny "$TMP/x.gguf" --force
mistake 1 "$TMP/no: No such file or directory" "$TANDEM" synth tiny "$TMP/no/x.gguf"
mistake 1 "a folder" "$TANDEM" synth tiny "$TMP"

# Memory and context.
code 1 "$TANDEM" run -m "$M" --raw -p "hello hello hello" --ctx 2
says "the context holds 2"
says "use --ctx"
mistake 1 "not enough memory: the KV cache of" "$TANDEM" run -m "$M" --raw -p hi --ctx 2000000000
mistake 1 "cannot be written" "$TANDEM" probe --quick -t 1 -o /dev/full
finish
