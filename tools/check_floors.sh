#!/bin/sh
# SPDX-License-Identifier: MIT
# Fails on an #include in src/ that climbs: each folder may include only what tools/floors.txt allows.
set -eu
cd "$(dirname "$0")/.."
bad=0
for file in $(find src -name '*.[ch]' | sort); do
    floor=$(printf '%s\n' "$file" | cut -d/ -f2)
    allowed=$(sed -n "s/^$floor://p" tools/floors.txt)
    grep -q "^$floor:" tools/floors.txt || { echo "$file: floor '$floor' is not in tools/floors.txt"; bad=1; continue; }
    for inc in $(sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"\([a-z0-9_]*\)\/.*/\1/p' "$file" | sort -u); do
        case " $floor $allowed " in
        *" $inc "*) ;;
        *) echo "$file: '$floor' may not include '$inc'"; bad=1 ;;
        esac
    done
done
[ "$bad" = 0 ] && echo "floors: ok"
exit "$bad"
