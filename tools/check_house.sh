#!/bin/sh
# SPDX-License-Identifier: MIT
# House rules that a grep can hold: format, size, banned calls, headers that stand alone, licence lines.
#   tools/check_house.sh [FILES...]   default: all of src, tests, fuzz, include
set -u
cd "$(dirname "$0")/.."
bad=0
say() {
    echo "$1"
    bad=1
}
[ $# -gt 0 ] || set -- $(find src tests fuzz include examples train tools -name '*.[ch]' 2>/dev/null | sort)
formatter=
command -v clang-format >/dev/null 2>&1 && formatter=clang-format

for file; do
    [ -f "$file" ] || continue
    lines=$(wc -l <"$file")
    [ "$lines" -le 800 ] || say "$file: $lines lines, at most 800"
    grep -q 'SPDX-License-Identifier: MIT' "$file" || say "$file: no SPDX-License-Identifier line"
    hit=$(grep -nE '(^|[^A-Za-z0-9_])(atoi|atol|atof|sprintf|vsprintf|strcpy|strcat|strncpy|gets|strtok|alloca|rand)\(' "$file")
    [ -z "$hit" ] || say "$file: banned call: $hit"
    case $file in
    src/app/*) ;;
    src/*)
        hit=$(grep -nE '(^|[^A-Za-z0-9_])(exit|_exit|abort|getenv|printf|puts)\(' "$file" | grep -vE '^[0-9]+: *//')
        [ -z "$hit" ] || say "$file: only the app may: $hit"
        ;;
    esac
    case $file in
    src/*.h | include/*.h)
        printf '#include "%s"\n' "${file#*/}" |
            ${CC:-cc} -std=c11 -D_POSIX_C_SOURCE=200809L -Isrc -Iinclude -fsyntax-only -x c - >/dev/null 2>&1 ||
            case $file in */neon/*) ;; *) say "$file: does not compile alone" ;; esac
        ;;
    esac
    if [ -n "$formatter" ] && ! $formatter "$file" | cmp -s - "$file"; then
        say "$file: not formatted (make format)"
    fi
done
[ -n "$formatter" ] || echo "house: clang-format is not installed, format not checked"
[ $bad = 0 ] && echo "house: ok"
exit $bad
