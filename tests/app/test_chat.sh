#!/bin/sh
# SPDX-License-Identifier: MIT
# Chatting at a terminal, played by pty.
PTY=$3
. "$(dirname "$0")/lib.sh"
M=$TMP/m.gguf
ok "$TANDEM" synth tiny "$M"

# Before Ctrl-C and Ctrl-D: the prompt appears a moment before the terminal passes single keys on.
# play ARGS... <steps
play() {
    n_checks=$((n_checks + 1))
    : >"$TMP/err"
    "$PTY" "$TANDEM" run -m "$M" "$@" >"$TMP/out" 2>&1
    got=$?
    [ $got -eq 77 ] && skip "no pseudo-terminal"
    [ $got -eq 0 ] || failed "the dialogue: $(tail -n 1 "$TMP/out")"
}

# Two turns: the second reads only what is new. Then the commands, and Ctrl-D.
play -n 12 -s 1 --ignore-eos <<'STEPS'
wait /help, Ctrl-D leaves
wait > 
send Hello there\n
wait prompt 
absent reused
wait answer 12 tokens
wait > 
send And again\n
wait of them reused)
wait answer 12 tokens
wait > 
send /clear\n
wait a new conversation
wait > 
send /help\n
wait start a new conversation
wait > 
send /wrong\n
wait there is no command '/wrong'
wait > 
sleep 1000
send \x04
exit 0
STEPS

# Ctrl-C stops the answer, not the program; at the prompt it drops the line.
play -s 1 --ignore-eos -c 100000 <<'STEPS'
wait > 
send Tell me a long story\n
sleep 1500
send \x03
wait interrupted
wait > 
sleep 1000
send half a line\x03
wait > 
send /exit\n
exit 0
STEPS

# Pasted lines are one message, a backslash continues a line, history comes back.
play -n 4 -s 1 --ignore-eos <<'STEPS'
wait > 
send first line\nsecond line\nthird line\n
wait answer 4 tokens
absent answer 4 tokens
wait > 
send one \\\n
wait . 
send two\n
wait answer 4 tokens
wait > 
send \x1b[A
wait two
sleep 1000
send \x03
wait > 
sleep 1000
send \x04
exit 0
STEPS

# One answer at a terminal.
play -p hello -n 8 -s 1 --ignore-eos <<'STEPS'
wait answer 8 tokens
exit 0
STEPS
finish
