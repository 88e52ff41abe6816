#!/bin/sh
# SPDX-License-Identifier: MIT
# `tandem serve` whose prompts another process reads, on loopback: the same answers wherever that
# was, figures that say where, and an answer all the same when the other side is gone. Nothing here
# depends on how fast the machine is.
. "$(dirname "$0")/lib.sh"
command -v curl >/dev/null || exit 77
XDG_CACHE_HOME=$TMP/cache
export XDG_CACHE_HOME
MINI=$(dirname "$0")/../../models/tandem-mini.gguf
[ -r "$MINI" ] || exit 77
server=
far=
trap '[ -n "$server$far" ] && kill -9 $server $far 2>/dev/null; rm -rf "$TMP"' EXIT
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY

# wait_for WHAT LOG PROCESS: the first text in brackets that WHAT finds in the log; empty when the
# process ends before.
wait_for() {
    for _ in $(seq 600); do
        found=$(sed -n "s/$1/\1/p" "$2" | head -n 1)
        [ -n "$found" ] && break
        kill -0 "$3" 2>/dev/null || break
        sleep 0.1
    done
    echo "$found"
}
# peer ARGS...: starts the prefill side; $far is its process, $PEER its address.
peer() {
    : >"$TMP/far"
    "$TANDEM" prefill -m "$MINI" -t 1 --listen 127.0.0.1:0 --key "$TMP/key" "$@" >"$TMP/far.out" 2>"$TMP/far" </dev/null &
    far=$!
    PEER=$(wait_for '^listening on \([0-9.]*:[0-9]*\),.*' "$TMP/far" $far)
    [ -n "$PEER" ] || { cp "$TMP/far" "$TMP/err"; failed "the prefill side did not start: $*"; }
}
# serve ARGS...: starts the server; $server is its process, $URL its address.
serve() {
    : >"$TMP/log"
    "$TANDEM" serve -m "$MINI" -t 1 --port 0 "$@" >"$TMP/server.out" 2>"$TMP/log" </dev/null &
    server=$!
    URL=$(wait_for '^serving at \(http:[^,]*\)\/, .*' "$TMP/log" $server)
    [ -n "$URL" ] || { cp "$TMP/log" "$TMP/err"; failed "the server did not start: $*"; }
}
# ended PROCESS: it ends when told to, and says so by its exit code.
ended() {
    n_checks=$((n_checks + 1))
    kill -TERM "$1"
    wait "$1" || { cat "$TMP/log" "$TMP/far" >"$TMP/err"; failed "process $1: exit $?"; }
}
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
# began N: waits until the other side has begun N requests.
began() {
    for _ in $(seq 600); do
        [ "$(grep -c ' began: ' "$TMP/far")" -ge "$1" ] && return
        sleep 0.05
    done
    cp "$TMP/far" "$TMP/err"
    failed "no request arrived"
}
ok "$TANDEM" key new "$TMP/key"
SUM='"messages":[{"role":"user","content":"What is 58 + 27?"}],"logprobs":true,"top_logprobs":3'
LONG="\"messages\":[{\"role\":\"user\",\"content\":\"$(seq -s ' ' 200)\"}],\"logprobs\":true"
OTHER="\"messages\":[{\"role\":\"user\",\"content\":\"$(seq -s ' ' 700 800)\"}],\"logprobs\":true"

# ---- here alone: what is right ------------------------------------------------------------------
serve
for question in SUM LONG OTHER; do
    eval "ask 200 \"\$$question\""
    path local
    cp "$TMP/choices" "$TMP/$question"
done
counts local 3
counts remote 0
ended $server

# ---- there: the same bytes ----------------------------------------------------------------------
peer --slots 2
serve --prefill "$PEER" --key "$TMP/key" --prefill-policy require
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
ended $server
ended $far

# ---- the other side goes away in the middle -------------------------------------------------------
# Paces make sure that it is asked, and that there is a middle.
peer --pace-prefill 300 --chunk 32
serve --prefill "$PEER" --key "$TMP/key" --pace-prefill 150 --chunk 32 --checkpoint 64
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
ended $server
# Who insists is told so, and the server lives on.
serve --prefill "$PEER" --key "$TMP/key" --prefill-policy require
n_checks=$((n_checks + 1))
got=$(curl -sS -m 120 -o "$TMP/out" -w '%{http_code}' -H 'Content-Type: application/json' \
    "$URL/v1/chat/completions" -d "{$SUM}" 2>"$TMP/err" </dev/null)
case $got in 500 | 503) ;; *) failed "status $got without the other side" ;; esac
out_has '"error"'
n_checks=$((n_checks + 1))
curl -sS -m 60 "$URL/health" 2>&1 </dev/null | grep -q '"running":0' || failed "the server does not live on"
ended $server
finish
