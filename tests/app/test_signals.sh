#!/bin/sh
# SPDX-License-Identifier: MIT
# Ctrl-C, a reader that goes away, a full disk, and a file that is cut while it is mapped.
. "$(dirname "$0")/lib.sh"
ok "$TANDEM" synth tiny "$TMP/m.gguf"

# started: runs the program endlessly in the background and waits for its first output.
started() {
    : >"$TMP/out"
    "$TANDEM" run -m "$TMP/m.gguf" --raw -p "Once upon a time" -c 100000 -t 2 --ignore-eos "$@" \
        >"$TMP/out" 2>"$TMP/err" </dev/null &
    pid=$!
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        [ -s "$TMP/out" ] && break
        sleep 0.5
    done
}
ended() {
    n_checks=$((n_checks + 1))
    wait $pid
    got=$?
    [ "$got" = "$1" ] || failed "exit $got, not $1"
}

# A shell starts background jobs with SIGINT ignored, which the program overrides.
started
kill -INT $pid
ended 130
says "interrupted"

started
: >"$TMP/m.gguf"
ended 1
says "$TMP/m.gguf: the file was cut short"
[ "$(wc -l <"$TMP/err")" -eq 1 ] || failed "not one line"

ok "$TANDEM" synth tiny "$TMP/m.gguf" --force
n_checks=$((n_checks + 1))
"$TANDEM" run -m "$TMP/m.gguf" --raw -p hi -c 4000 --ignore-eos --stats none 2>"$TMP/err" | head -c 20 >"$TMP/out"
[ ! -s "$TMP/err" ] || failed "a closed pipe is no news"
n_checks=$((n_checks + 1))
"$TANDEM" inspect "$TMP/m.gguf" --tensors 2>"$TMP/err" | head -n 1 >"$TMP/out"
[ ! -s "$TMP/err" ] || failed "a closed pipe is no news"

if [ -w /dev/full ]; then
    "$TANDEM" inspect "$TMP/m.gguf" >/dev/full 2>"$TMP/err"
    [ $? -eq 1 ] || failed "a full disk is a failure"
    says "the output cannot be written"
    n_checks=$((n_checks + 1))
else
    without "no /dev/full"
fi

# Interrupted while writing: no torso stays.
"$TANDEM" synth gpt-oss-20b "$TMP/big.gguf" --layers 2 >"$TMP/out" 2>"$TMP/err" &
pid=$!
sleep 0.7
kill -INT $pid
ended 130
[ ! -e "$TMP/big.gguf" ] || failed "an interrupted synth left its file"
finish
