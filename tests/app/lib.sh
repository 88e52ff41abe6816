# SPDX-License-Identifier: MIT
# Shared by the scripts beside it: TANDEM is the program, DATA the folder of vectors, TMP a folder
# that goes away, with what is still running. A failed expectation is printed; the script goes on and
# fails at its end.
set -u
TANDEM=$1
DATA=$2
TMP=$(mktemp -d "${TMPDIR:-/tmp}/tandem-test.XXXXXX") || exit 1
server=
far=
trap '[ -n "$server$far" ] && kill -9 $server $far 2>/dev/null; rm -rf "$TMP"' EXIT
unset TANDEM_ISA
XDG_CACHE_HOME=$TMP/cache
export XDG_CACHE_HOME
MINI=$(dirname "$0")/../../models/tandem-mini.gguf # the model that is shipped
n_checks=0
n_failed=0

# skip REASON: this machine cannot run the script.
skip() {
    echo "skipped: $1"
    exit 77
}

# without REASON: part of the script cannot run here; it counts as skipped, and says why, if the rest
# holds.
without=
without() {
    without="$without${without:+; }$1"
}

failed() {
    n_failed=$((n_failed + 1))
    printf 'FAILED: %s\n' "$1"
    sed 's/^/  out: /' "$TMP/out" | head -5
    sed 's/^/  err: /' "$TMP/err" | head -5
}

# code WANT COMMAND...: runs it with empty input, keeps $TMP/out and $TMP/err, checks the exit code.
code() {
    want=$1
    shift
    n_checks=$((n_checks + 1))
    "$@" >"$TMP/out" 2>"$TMP/err" </dev/null
    got=$?
    [ "$got" = "$want" ] || failed "exit $got, not $want: $*"
}

# ok COMMAND...: exit 0.
ok() { code 0 "$@"; }

# says TEXT, out_has TEXT: in what the last command wrote.
says() {
    grep -qF -e "$1" "$TMP/err" || failed "the error does not say '$1'"
}
out_has() {
    grep -qF -e "$1" "$TMP/out" || failed "the output does not hold '$1'"
}

# mistake CODE SENTENCE COMMAND...: one line on stderr, nothing on stdout.
mistake() {
    want=$1
    sentence=$2
    shift 2
    code "$want" "$@"
    says "tandem: "
    says "$sentence"
    [ "$(wc -l <"$TMP/err")" -eq 1 ] || failed "not one line: $*"
    [ ! -s "$TMP/out" ] || failed "something on stdout: $*"
}

same() {
    n_checks=$((n_checks + 1))
    cmp -s "$1" "$2" || failed "$1 and $2 differ"
}

# ---- processes that answer others ---------------------------------------------------------------

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
# serve ARGS...: starts a server; $server is its process, $URL its address, $TMP/server its log.
serve() {
    : >"$TMP/server"
    "$TANDEM" serve -t 1 --port 0 "$@" >"$TMP/server.out" 2>"$TMP/server" </dev/null &
    server=$!
    URL=$(wait_for '^serving at \(https*:[^,]*\)\/, .*' "$TMP/server" $server)
    [ -n "$URL" ] || { cp "$TMP/server" "$TMP/err"; failed "the server did not start: $*"; }
}
# peer ARGS...: starts a prefill side; $far is its process, $PEER its address, $TMP/far its log.
peer() {
    : >"$TMP/far"
    "$TANDEM" prefill -t 1 --listen 127.0.0.1:0 "$@" >"$TMP/far.out" 2>"$TMP/far" </dev/null &
    far=$!
    PEER=$(wait_for '^listening on \([0-9.]*:[0-9]*\),.*' "$TMP/far" $far)
    [ -n "$PEER" ] || { cp "$TMP/far" "$TMP/err"; failed "the prefill side did not start: $*"; }
}
# stop server|far SIGNAL: it ends, and says by its exit code that it was asked to.
stop() {
    n_checks=$((n_checks + 1))
    eval "pid=\$$1; $1="
    kill "-$2" $pid 2>/dev/null
    wait $pid 2>/dev/null
    got=$?
    [ $got -eq 0 ] || { cp "$TMP/$1" "$TMP/err"; failed "$1: exit $got"; }
}
# began N: waits until the prefill side has begun N requests.
began() {
    for _ in $(seq 600); do
        [ "$(grep -c ' began: ' "$TMP/far")" -ge "$1" ] && return
        sleep 0.05
    done
    cp "$TMP/far" "$TMP/err"
    failed "no request arrived"
}

finish() {
    printf '%s: %d checks, %d failed\n' "$(basename "$0")" "$n_checks" "$n_failed"
    [ "$n_failed" -eq 0 ] || exit 1
    [ -z "$without" ] || skip "in part: $without"
    exit 0
}
