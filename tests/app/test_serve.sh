#!/bin/sh
# SPDX-License-Identifier: MIT
# `tandem serve` from outside, with curl: what it answers, who may ask, how it ends. Nothing here
# depends on how fast the machine is.
. "$(dirname "$0")/lib.sh"
command -v curl >/dev/null || skip "curl is not installed"
[ -r "$MINI" ] || skip "models/tandem-mini.gguf is not there"
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY

get() { curl -sS -m 60 "$@" >"$TMP/out" 2>"$TMP/err" </dev/null; }
# status WANT ARGS...: what curl is told.
status() {
    want=$1
    shift
    n_checks=$((n_checks + 1))
    got=$(curl -sS -m 60 -o "$TMP/out" -w '%{http_code}' "$@" 2>"$TMP/err" </dev/null)
    [ "$got" = "$want" ] || failed "status $got, not $want: $*"
}
has() {
    n_checks=$((n_checks + 1))
    out_has "$1"
}
logged() {
    n_checks=$((n_checks + 1))
    grep -q -e "$1" "$TMP/server" || { cp "$TMP/server" "$TMP/err"; failed "the log does not hold '$1'"; }
}
JSON='Content-Type: application/json'
QUESTION='{"messages":[{"role":"user","content":"What is 58 + 27?"}],"temperature":0'
LONG='{"prompt":"A long story:","stream":true,"ignore_eos":true,"max_tokens":'

# ---- a command line that cannot work ----------------------------------------------------------
mistake 2 "--tls-cert and --tls-key go together" "$TANDEM" serve -m "$MINI" --tls-cert x
mistake 2 "--kv-disk-size goes with --kv-disk" "$TANDEM" serve -m "$MINI" --kv-disk-size 1G
mistake 2 "--allow-public" "$TANDEM" serve -m "$MINI" --host 0.0.0.0
mistake 2 "--key goes with --prefill" "$TANDEM" serve -m "$MINI" --key x
mistake 2 "not between 0 and 65535" "$TANDEM" serve -m "$MINI" --port 65536
mistake 1 "$TMP/none" "$TANDEM" serve -m "$MINI" --api-key "$TMP/none"
mistake 1 "no such file" "$TANDEM" serve -m "$TMP/none.gguf"
mistake 1 "--kv-mem" "$TANDEM" serve -m "$MINI" --ctx 4096 --kv-mem 1k
echo 0123456789abcdef0123 >"$TMP/key"
chmod 644 "$TMP/key"
mistake 1 "chmod 600" "$TANDEM" serve -m "$MINI" --api-key "$TMP/key"
chmod 600 "$TMP/key"
echo short >"$TMP/short"
chmod 600 "$TMP/short"
mistake 1 "at least 16" "$TANDEM" serve -m "$MINI" --api-key "$TMP/short"

# ---- a file of options ------------------------------------------------------------------------
printf 'port = 0\nprot = 1\n' >"$TMP/conf"
mistake 2 "$TMP/conf, line 2: 'serve' has no option --prot; did you mean --port?" \
    "$TANDEM" serve -m "$MINI" --config "$TMP/conf"
printf '# nothing\n\nport = many\n' >"$TMP/conf"
mistake 2 "$TMP/conf, line 3: --port: 'many' is not a whole number" "$TANDEM" serve --config "$TMP/conf"
printf 'slots = 2\nslots = 3\n' >"$TMP/conf"
mistake 2 "line 2: slots is given twice" "$TANDEM" serve --config "$TMP/conf"
printf 'port\n' >"$TMP/conf"
mistake 2 'is not "name = value"' "$TANDEM" serve --config "$TMP/conf"
printf 'allow-public = maybe\n' >"$TMP/conf"
mistake 2 "true or false" "$TANDEM" serve --config "$TMP/conf"
printf 'config = other\n' >"$TMP/conf"
mistake 2 "makes no sense here" "$TANDEM" serve --config "$TMP/conf"
mistake 1 "$TMP/none" "$TANDEM" serve --config "$TMP/none"
printf '# of the server\n  slots = 3\n\nname = "the small one"\r\nctx=1k\nallow-public = false\n' >"$TMP/conf"
serve -m "$MINI" --config "$TMP/conf" --slots 2 --log-format json
logged 'model the small one .*, context 1024 tokens, 2 slots'
status 200 "$URL/health"
has '"slots":2'
stop server TERM
logged '^{"time":"20.*"path":"/health","status":200,'

# ---- answers ----------------------------------------------------------------------------------
serve -m "$MINI"
status 200 "$URL/v1/models"
has '"id":"tandem-mini"'
status 200 "$URL/v1/chat/completions" -H "$JSON" -d "$QUESTION}"
has '85'
get -N "$URL/v1/chat/completions" -H "$JSON" -d "$QUESTION,\"stream\":true}"
has 'data: [DONE]'
status 415 "$URL/v1/chat/completions" -d "$QUESTION}"
status 400 "$URL/v1/chat/completions" -H "$JSON" -d '{'
status 404 "$URL/nothing"
status 405 "$URL/v1/chat/completions"
status 403 "$URL/health" -H 'Host: evil.example'
status 403 "$URL/v1/chat/completions" -H "$JSON" -H 'Origin: http://evil.example' -d "$QUESTION}"
status 200 "$URL/"
status 200 "$URL/metrics"
has 'tandem_answers_total{result="done"} 2'
logged 'POST /v1/chat/completions 200, .* prompt [0-9]* tokens (.* stop$'
grep -q 'What' "$TMP/server" && failed "the log holds what was said"
# The port is in use.
PORT=${URL##*:}
mistake 1 "in use" "$TANDEM" serve -m "$MINI" --port "$PORT"
# A client that leaves ends its work.
n_checks=$((n_checks + 1))
curl -sSN -m 60 "$URL/v1/completions" -H "$JSON" -d "${LONG}100000}" >"$TMP/stream" 2>/dev/null </dev/null &
client=$!
for _ in $(seq 600); do [ -s "$TMP/stream" ] && break; sleep 0.05; done
kill -9 $client
wait $client 2>/dev/null
for _ in $(seq 600); do
    get "$URL/health"
    grep -q '"running":0' "$TMP/out" && break
    sleep 0.05
done
grep -q '"running":0' "$TMP/out" || failed "the work of a client that left goes on"
# SIGHUP changes nothing; SIGTERM lets a running answer end.
kill -HUP $server
: >"$TMP/stream"
curl -sSN -m 120 "$URL/v1/completions" -H "$JSON" -d "${LONG}1500}" >"$TMP/stream" 2>/dev/null </dev/null &
client=$!
for _ in $(seq 600); do [ -s "$TMP/stream" ] && break; sleep 0.05; done
stop server TERM
wait $client
n_checks=$((n_checks + 1))
tail -n 3 "$TMP/stream" | grep -q 'data: \[DONE\]' || failed "the running answer was cut off"

# A second signal, or a short patience, ends at once.
serve -m "$MINI" --drain-timeout 0
: >"$TMP/stream"
curl -sSN -m 60 "$URL/v1/completions" -H "$JSON" -d "${LONG}4000}" >"$TMP/stream" 2>/dev/null </dev/null &
client=$!
for _ in $(seq 600); do [ -s "$TMP/stream" ] && break; sleep 0.05; done
stop server INT
wait $client

# ---- a key, other origins, all addresses --------------------------------------------------------
serve -m "$MINI" --host 0.0.0.0 --api-key "$TMP/key" --cors https://good.example --allow-host box.lan
URL=http://127.0.0.1:${URL##*:}
status 401 "$URL/v1/models"
status 401 "$URL/metrics"
status 200 "$URL/health"
status 200 "$URL/"
status 200 "$URL/v1/models" -H 'Authorization: Bearer 0123456789abcdef0123'
status 200 "$URL/v1/models" -H 'x-api-key: 0123456789abcdef0123' -H 'Host: box.lan'
status 401 "$URL/v1/models" -H 'Authorization: Bearer 0123456789abcdef0124'
get -i -X OPTIONS "$URL/v1/models" -H 'Origin: https://good.example' -H 'Access-Control-Request-Method: GET'
has 'Access-Control-Allow-Origin: https://good.example'
logged 'travels in the clear'
stop server TERM

# ---- what was said survives a restart -----------------------------------------------------------
for turn in 1 2; do
    serve -m "$MINI" --kv-disk "$TMP/kv"
    status 200 "$URL/v1/chat/completions" -H "$JSON" \
        -d "{\"messages\":[{\"role\":\"user\",\"content\":\"$(seq -s ' ' 400)\"}],\"max_tokens\":4,\"temperature\":0}"
    stop server TERM
done
logged '([1-9][0-9]* reused)'

# ---- TLS ----------------------------------------------------------------------------------------
if ! command -v openssl >/dev/null; then
    without "openssl is not installed"
elif openssl req -x509 -newkey rsa:2048 -nodes -keyout "$TMP/tls.key" \
    -out "$TMP/tls.crt" -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
    >/dev/null 2>&1; then
    chmod 600 "$TMP/tls.key"
    mistake 1 "PEM" "$TANDEM" serve -m "$MINI" --tls-cert "$TMP/conf" --tls-key "$TMP/tls.key"
    serve -m "$MINI" --tls-cert "$TMP/tls.crt" --tls-key "$TMP/tls.key"
    status 200 --cacert "$TMP/tls.crt" "$URL/v1/chat/completions" -H "$JSON" -d "$QUESTION}"
    has '85'
    stop server TERM
else
    failed "openssl makes no certificate"
fi
finish
