#!/bin/sh
# SPDX-License-Identifier: MIT
# Tests `tandem serve` from outside: run.sh clients|page|plan TANDEM FOLDER [OPTIONS for node --test].
# Packages and screenshots go to FOLDER. Exit 77, with the reason as the last line: it cannot be done here.
set -eu
what=$1
tandem=$2
folder=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)

skip() {
    echo "skipped: $1"
    exit 77
}
command -v node >/dev/null 2>&1 || skip "node is not installed"
command -v npm >/dev/null 2>&1 || skip "npm is not installed"
[ "$(node -p 'process.versions.node.split(".")[0]')" -ge 20 ] || skip "node is $(node -v), the clients need 20 or later"
if [ "$what" != clients ]; then
    for name in chromium chromium-browser google-chrome "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"; do
        TD_CHROMIUM=$(command -v "$name") && break
    done
    [ -n "$TD_CHROMIUM" ] || skip "chromium is not installed"
    export TD_CHROMIUM
    [ "$what" = plan ] || [ -e "$here/../../web/dist/index.html" ] || skip "the page is not built (make web)"
fi

# The packages lie beside a copy of the tests, which finds them there.
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cp "$here"/*.mjs "$here"/package.json "$here"/package-lock.json "$here"/.npmrc "$folder"
if ! cmp -s "$here/package-lock.json" "$folder/installed.json"; then
    (cd "$folder" && npm ci --ignore-scripts --no-audit --no-fund --fetch-retries=1 --fetch-timeout=30000) >"$folder/npm.log" 2>&1 ||
        skip "npm ci failed: $(tail -n 1 "$folder/npm.log")"
    cp "$here/package-lock.json" "$folder/installed.json"
fi

TD_TANDEM=$(cd "$(dirname "$tandem")" && pwd)/$(basename "$tandem")
TD_MODEL=$here/../../models/tandem-mini.gguf
TD_WORK=$folder
export TD_TANDEM TD_MODEL TD_WORK
cd "$folder"
exec node --test --test-reporter=spec "$@" "$what"*.test.mjs
