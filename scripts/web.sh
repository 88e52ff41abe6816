#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds the chat page, web/dist, which the next build of the program takes in. Quick when nothing
# has changed. Exit 77, with the reason as the last line: it cannot be built here.
set -eu
cd "$(dirname "$0")/../web"

cannot() {
    echo "web: $1" >&2
    exit 77
}

if [ -e dist/index.html ]; then
    newer=$(find src public index.html package.json package-lock.json tsconfig.json vite.config.js -newer dist/index.html)
    [ -n "$newer" ] || exit 0
fi
command -v node >/dev/null 2>&1 || cannot "Node.js is not installed: 18 or later, with npm, builds the chat page"
command -v npm >/dev/null 2>&1 || cannot "npm is not installed: it comes with Node.js and builds the chat page"
major=$(node -p 'process.versions.node.split(".")[0]')
[ "$major" -ge 18 ] || cannot "Node.js is version $(node -v), the chat page needs 18 or later"
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    npm ci --ignore-scripts --no-audit --no-fund --fetch-retries=1 --fetch-timeout=30000 >npm.log 2>&1 || { tail -n 3 npm.log >&2; cannot "npm could not get the packages"; }
    rm -f npm.log
fi
npm run --silent build
