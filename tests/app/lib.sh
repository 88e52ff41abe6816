# SPDX-License-Identifier: MIT
# Shared by the scripts beside it: TANDEM is the program, DATA the folder of vectors, TMP a folder
# that goes away. A failed expectation is printed; the script goes on and fails at its end.
set -u
TANDEM=$1
DATA=$2
TMP=$(mktemp -d "${TMPDIR:-/tmp}/tandem-test.XXXXXX") || exit 1
trap 'rm -rf "$TMP"' EXIT
unset TANDEM_ISA
n_checks=0
n_failed=0

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

finish() {
    printf '%s: %d checks, %d failed\n' "$(basename "$0")" "$n_checks" "$n_failed"
    [ "$n_failed" -eq 0 ]
    exit
}
