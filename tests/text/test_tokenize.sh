#!/bin/sh
# SPDX-License-Identifier: MIT
# tandem tokenize and detokenize on a model's vocabulary. Usage: test_tokenize.sh TANDEM MODEL
set -eu
tandem=$1
model=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    echo "FAILED: $1" >&2
    exit 1
}

ids=$("$tandem" tokenize -m "$model" "Two words, 3 numbers")
[ "$("$tandem" detokenize -m "$model" "$ids")" = "Two words, 3 numbers" ] || fail "text does not come back"
json=$("$tandem" tokenize -m "$model" --json "Two words, 3 numbers")
[ "$json" = "[$(echo "$ids" | sed 's/ /, /g')]" ] || fail "--json gives '$json' for '$ids'"
[ "$("$tandem" detokenize -m "$model" "$json")" = "Two words, 3 numbers" ] || fail "JSON is not read"

# Any bytes survive a file.
printf 'a\377\000\n \342\202 <|x|> \r\n\360\237\230\200' >"$work/bytes"
"$tandem" tokenize -m "$model" -f "$work/bytes" >"$work/ids"
"$tandem" detokenize -m "$model" -f "$work/ids" | cmp - "$work/bytes" || fail "bytes do not come back"
"$tandem" tokenize -m "$model" --json -f - <"$work/bytes" >"$work/json"
"$tandem" detokenize -m "$model" -f - <"$work/json" | cmp - "$work/bytes" || fail "bytes do not come back as JSON"
[ "$(printf '' | "$tandem" tokenize -m "$model" -f - --json)" = "[]" ] || fail "nothing is not no ids"

# Mistakes: one sentence, exit 2 for the command line, 1 for all else.
refused() { # CODE WORDS COMMAND...
    code=$1 words=$2
    shift 2
    got=0
    "$tandem" "$@" >"$work/out" 2>"$work/err" || got=$?
    [ "$got" = "$code" ] || fail "$*: exit $got, not $code"
    [ "$(wc -l <"$work/err")" = 1 ] || fail "$*: not one line: $(cat "$work/err")"
    grep -q "$words" "$work/err" || fail "$*: no '$words' in: $(cat "$work/err")"
    [ ! -s "$work/out" ] || fail "$*: printed something"
}
refused 2 "no text" tokenize -m "$model"
refused 2 "not from both" tokenize -m "$model" -f "$work/bytes" text
refused 1 "is not below" detokenize -m "$model" 1 99999999999999999999
refused 1 "ids are numbers" detokenize -m "$model" 1 2x
refused 1 "$work/absent" tokenize -m "$model" -f "$work/absent"
refused 1 "not a GGUF file" tokenize -m "$work/bytes" text
echo "tokenize: ok"
