#!/bin/sh
# SPDX-License-Identifier: MIT
# `tandem serve` whose prompts another process reads, on loopback: the same answers wherever that
# was, figures that say where, and an answer all the same when the other side is gone. Nothing here
# depends on how fast the machine is.
. "$(dirname "$0")/lib.sh"
command -v curl >/dev/null || skip "curl is not installed"
[ -r "$MINI" ] || skip "models/tandem-mini.gguf is not there"
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY

# ask STATUS FIELDS: the answer's choices into $TMP/choices, all of it into $TMP/out.
ask() {
    n_checks=$((n_checks + 1))
    got=$(curl -sS -m 120 -o "$TMP/out" -w '%{http_code}' -H 'Content-Type: application/json' \
        "$URL/v1/chat/completions" -d "{\"temperature\":0,\"max_tokens\":64,$2}" 2>"$TMP/err" </dev/null)
    [ "$got" = "$1" ] || failed "status $got, not $1"
    sed 's/.*"choices"//; s/,"usage".*//' "$TMP/out" >"$TMP/choices"
}
# path WANT...: where the prompt was read.
path() {
    n_checks=$((n_checks + 1))
    got=$(sed -n 's/.*"prefill":{"path":"\([a-z]*\)".*/\1/p' "$TMP/out" | tail -n 1)
    for want in "$@"; do [ "$got" = "$want" ] && return; done
    failed "the path is '$got', not $*"
}
# metric NAME: its value.
metric() {
    curl -sS -m 60 "$URL/metrics" 2>/dev/null </dev/null | sed -n "s/^$1 //p"
}
counts() {
    n_checks=$((n_checks + 1))
    got=$(metric "tandem_prompts_total{path=\"$1\"}")
    [ "$got" = "$2" ] || failed "$got prompts were $1, not $2"
}
ok "$TANDEM" key new "$TMP/key"
SUM='"messages":[{"role":"user","content":"What is 58 + 27?"}],"logprobs":true,"top_logprobs":3'
LONG="\"messages\":[{\"role\":\"user\",\"content\":\"$(seq -s ' ' 200)\"}],\"logprobs\":true"
OTHER="\"messages\":[{\"role\":\"user\",\"content\":\"$(seq -s ' ' 700 800)\"}],\"logprobs\":true"

# ---- here alone: what is right ------------------------------------------------------------------
serve -m "$MINI"
for question in SUM LONG OTHER; do
    eval "ask 200 \"\$$question\""
    path local
    cp "$TMP/choices" "$TMP/$question"
done
counts local 3
counts remote 0
stop server TERM

# ---- there: the same bytes ----------------------------------------------------------------------
peer -m "$MINI" --key "$TMP/key" --slots 2
serve -m "$MINI" --prefill "$PEER" --key "$TMP/key" --prefill-policy require
ask 200 "$SUM"
same "$TMP/SUM" "$TMP/choices"
path remote
out_has '85'
ask 200 "$LONG"
same "$TMP/LONG" "$TMP/choices"
path remote
counts remote 2
counts local 0
n_checks=$((n_checks + 2))
[ "$(metric tandem_relay_bytes_total)" -gt 1000 ] || failed "no bytes of KV are counted"
grep -q ' done: ' "$TMP/far" || failed "the other side has no line for a request"
# A stream says where its prompt is being read. What is known here already is not asked for.
ask 200 "$OTHER,\"stream\":true,\"return_progress\":true"
path remote
out_has '"where":"remote"'
out_has 'data: [DONE]'
ask 200 "$OTHER"
same "$TMP/OTHER" "$TMP/choices"
path local
stop server TERM
stop far TERM

# ---- the other side goes away in the middle -------------------------------------------------------
# Paces make sure that it is asked, and that there is a middle.
peer -m "$MINI" --key "$TMP/key" --pace-prefill 300 --chunk 32
serve -m "$MINI" --prefill "$PEER" --key "$TMP/key" --pace-prefill 150 --chunk 32 --checkpoint 64
# Until it has been met and measured, prompts are read here.
for i in $(seq 60); do
    ask 200 "\"messages\":[{\"role\":\"user\",\"content\":\"$(seq -s ' ' "$i" $((i + 30)))\"}]"
    grep -q '"path":"remote"' "$TMP/out" && break
done
path remote
n_begun=$(grep -c ' began: ' "$TMP/far")
n_remote=$(metric 'tandem_prompts_total{path="remote"}')
(
    began $((n_begun + 1))
    sleep 0.5
    kill -9 $far
) &
killer=$!
ask 200 "$LONG"
same "$TMP/LONG" "$TMP/choices"
path salvaged local
counts remote "$n_remote"
wait $killer
wait $far 2>/dev/null
far=
# Nobody is there any more: the next one is read here.
ask 200 "$SUM"
same "$TMP/SUM" "$TMP/choices"
path local
stop server TERM
# Who insists is told so, and the server lives on.
serve -m "$MINI" --prefill "$PEER" --key "$TMP/key" --prefill-policy require
n_checks=$((n_checks + 1))
got=$(curl -sS -m 120 -o "$TMP/out" -w '%{http_code}' -H 'Content-Type: application/json' \
    "$URL/v1/chat/completions" -d "{$SUM}" 2>"$TMP/err" </dev/null)
case $got in 500 | 503) ;; *) failed "status $got without the other side" ;; esac
out_has '"error"'
n_checks=$((n_checks + 1))
curl -sS -m 60 "$URL/health" 2>&1 </dev/null | grep -q '"running":0' || failed "the server does not live on"
stop server TERM
finish
