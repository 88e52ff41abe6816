#!/bin/sh
# SPDX-License-Identifier: MIT
# Two processes in tandem on loopback: the same bytes wherever the prompt was read, and one sentence
# or the same answer when the other side goes away. Nothing here depends on how fast the machine is.
PTY=$3
. "$(dirname "$0")/lib.sh"
# ids N [SEED]: token ids for a vocabulary of 1000 and more.
ids() { awk -v n="$1" -v x="${2:-1}" 'BEGIN { for (i = 0; i < n; i++) { x = (x * 75 + 74) % 65537; print x % 1000 } }' >"$TMP/ids"; }
field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p" "$TMP/err" | tail -n 1; }
is() {
    n_checks=$((n_checks + 1))
    [ "$(field "$1")" = "$2" ] || failed "$1 is '$(field "$1")', not '$2'"
}
at_least() {
    n_checks=$((n_checks + 1))
    [ "$(field "$1")" -ge "$2" ] || failed "$1 is '$(field "$1")', less than $2"
}
here() { ok "$TANDEM" eval -m "$M" --tokens "$TMP/ids" --logits "$TMP/here.npy" --last -t 1; }
# there CODE ARGS...: the same by way of the peer.
there() {
    want=$1
    shift
    rm -f "$TMP/there.npy"
    code "$want" "$TANDEM" eval -m "$M" --tokens "$TMP/ids" --logits "$TMP/there.npy" --last -t 1 \
        --prefill "$PEER" --stats json "$@"
}

ok "$TANDEM" key new "$TMP/key"
ok "$TANDEM" key new "$TMP/other"
M=synth:tiny
KEY="--key $TMP/key"

# ---- a command line that cannot work --------------------------------------------------------
mistake 2 "--listen HOST:PORT" "$TANDEM" prefill -m $M
mistake 1 "without a key" "$TANDEM" prefill -m $M --listen 0.0.0.0:0
mistake 1 "$TMP/none" "$TANDEM" prefill -m $M --listen 127.0.0.1:0 --key "$TMP/none"
mistake 2 "--key goes with --prefill" "$TANDEM" run -m $M -p hi $KEY
mistake 2 "--prefill goes with --logits --last" "$TANDEM" eval -m $M --tokens "$TMP/ids" --logits "$TMP/x" --prefill 127.0.0.1:1
mistake 2 "not tokens per second" "$TANDEM" run -m $M -p hi --pace-prefill 5,6
mistake 2 "'doctor' needs a machine" "$TANDEM" doctor

# ---- the same bytes -------------------------------------------------------------------------
peer -m $M $KEY --chunk 64
for n in 1 2 63 64 65 199 300; do
    ids $n
    here
    there 0 $KEY --prefill-policy require --chunk 64
    same "$TMP/here.npy" "$TMP/there.npy"
    if [ $n -gt 1 ]; then is path remote; else is path local; fi
    is tokens $n
done
at_least bytes 1
is local_tokens 1
is weights_differ false
# What the peer has read before is not read again; more than one checkpoint.
ids 310
here
there 0 $KEY --prefill-policy require --checkpoint 32
same "$TMP/here.npy" "$TMP/there.npy"
is path remote
# Half the bytes, nearly the same.
there 0 $KEY --prefill-policy require --kv-wire q8_0
is path remote
is kv_wire q8_0
# Never.
there 0 $KEY --prefill-policy never
same "$TMP/here.npy" "$TMP/there.npy"
is path local

# ---- who may not ----------------------------------------------------------------------------
there 1 --key "$TMP/other" --prefill-policy require
says "key"
there 1 --prefill-policy require
says "--key"
there 0 --key "$TMP/other"
same "$TMP/here.npy" "$TMP/there.npy"
is path local
M=synth:tiny,seed=2
there 1 $KEY --prefill-policy require
says "weights"
there 0 $KEY --prefill-policy require --allow-different-weights
is path remote
is weights_differ true
says "other weights"
M=synth:tiny,vocab=1500
there 1 $KEY --prefill-policy require
M=synth:tiny

# ---- doctor, bench --------------------------------------------------------------------------
ok "$TANDEM" doctor -m $M -t 1 --prefill "$PEER" $KEY
out_has "ok    reachable"
out_has "ok    key"
out_has "ok    model"
out_has "ok    canary"
out_has "ok    link here"
out_has "ok    pays"
ok "$TANDEM" doctor -m $M -t 1 --prefill "$PEER" $KEY -o json
out_has '"ok": true'
out_has '"pays_from_tokens"'
code 1 "$TANDEM" doctor -m $M -t 1 --prefill "$PEER" --key "$TMP/other"
out_has "FAIL"
ok "$TANDEM" bench -m $M -t 1 --prefill "$PEER" $KEY -p 64,200 -n 3,1 -r 2
out_has "| pp200 "
out_has "| pp200+tg3 "
out_has "| remote "
ok "$TANDEM" bench -m $M -t 1 --prefill "$PEER" $KEY -p 64 -r 2 -o json --save "$TMP/bench.json"
out_has '"exposed_seconds"'
same "$TMP/out" "$TMP/bench.json"
grep -q ' done: 200 tokens' "$TMP/far" || { cp "$TMP/far" "$TMP/err"; failed "no line for a request"; }
stop far TERM

# ---- in the clear; the shipped model; a conversation -------------------------------------------
if [ ! -r "$MINI" ]; then
    without "models/tandem-mini.gguf is not there"
else
    M=$MINI
    peer -m "$M" --slots 2
    ids 500
    here
    there 0 --prefill-policy require
    same "$TMP/here.npy" "$TMP/there.npy"
    is path remote
    ok "$TANDEM" run -m "$M" -t 1 --temp 0 -p "What is 58 + 27?" --stats json
    cp "$TMP/out" "$TMP/answer"
    ok "$TANDEM" run -m "$M" -t 1 --temp 0 -p "What is 58 + 27?" --stats json --prefill "$PEER" --prefill-policy require
    same "$TMP/answer" "$TMP/out"
    is path remote
    ok "$TANDEM" run -m "$M" -t 1 --temp 0 -p "What is 58 + 27?" --prefill "$PEER" --prefill-policy require
    says ", read at 127.0.0.1:"
    # What lies in the cache is believed only as far as it reads well; without a folder there is none.
    [ -s "$XDG_CACHE_HOME/tandem/digests" ] || failed "no digest was kept"
    ids 40
    here
    for bad in garbage '[]' '{}' '{"'"$M"'": 5}'; do
        for name in digests rates; do echo "$bad" >"$XDG_CACHE_HOME/tandem/$name"; done
        there 0 --prefill-policy require
        same "$TMP/here.npy" "$TMP/there.npy"
    done
    sed 's/": "..../": "0000/' "$XDG_CACHE_HOME/tandem/digests" >"$TMP/wrong"
    cp "$TMP/wrong" "$XDG_CACHE_HOME/tandem/digests"
    there 1 --prefill-policy require
    says "weights"
    rm "$XDG_CACHE_HOME/tandem/digests"
    mkfifo "$XDG_CACHE_HOME/tandem/digests"
    there 0 --prefill-policy require
    rm -r "$XDG_CACHE_HOME/tandem"
    : >"$XDG_CACHE_HOME/tandem"
    there 0 --prefill-policy require
    rm "$XDG_CACHE_HOME/tandem"
    code 0 env -u HOME -u XDG_CACHE_HOME "$TANDEM" eval -m "$M" --tokens "$TMP/ids" --last -t 1 \
        --logits "$TMP/there.npy" --prefill "$PEER" --prefill-policy require
    same "$TMP/here.npy" "$TMP/there.npy"
    n_checks=$((n_checks + 1))
    "$PTY" "$TANDEM" run -m "$M" -t 1 --temp 0 -n 8 --stats json --prefill "$PEER" --prefill-policy require \
        >"$TMP/out" 2>&1 <<'STEPS'
wait > 
send What is 58 + 27?\n
wait "have":0,
wait > 
send And 12 + 30?\n
wait "path":"remote"
absent "have":0,
wait > 
sleep 500
send \x04
exit 0
STEPS
    got=$?
    [ $got -ne 77 ] || without "no pseudo-terminal"
    [ $got -eq 0 ] || [ $got -eq 77 ] || failed "the conversation: $(tail -n 1 "$TMP/out")"
    stop far INT
    M=synth:tiny
fi

# ---- the other side goes away in the middle ---------------------------------------------------
# Paces make sure that it is asked, and that there is a middle.
ids 900
here
SLOW="--pace-prefill 150 --chunk 32 --checkpoint 64"
peer -m $M $KEY --pace-prefill 300 --chunk 32
n_checks=$((n_checks + 1))
"$PTY" "$TANDEM" eval -m "$M" --tokens "$TMP/ids" --logits "$TMP/there.npy" --last -t 1 --prefill "$PEER" \
    $KEY --prefill-policy require >"$TMP/out" 2>&1 <<'STEPS'
wait reading there
wait /900 tokens,
wait  here
exit 0
STEPS
got=$?
[ $got -ne 77 ] || without "no pseudo-terminal"
[ $got -eq 0 ] || [ $got -eq 77 ] || failed "the live line: $(tail -n 1 "$TMP/out")"
ids 900 2 # another prompt: this one is known there now
here
(
    began 4 # canary, prompt, canary, prompt
    sleep 0.5
    kill -9 $far
) &
there 0 $KEY $SLOW
wait
same "$TMP/here.npy" "$TMP/there.npy"
n_checks=$((n_checks + 1))
case $(field path) in salvaged | local) ;; *) failed "path is '$(field path)'" ;; esac
wait $far 2>/dev/null
peer -m $M $KEY --pace-prefill 300 --chunk 32
(
    began 2 # canary, prompt
    kill -9 $far
) &
there 1 $KEY $SLOW --prefill-policy require
wait
[ "$(grep -vc 'synthetic weights' "$TMP/err")" -eq 1 ] || failed "not one line"
far=
finish
