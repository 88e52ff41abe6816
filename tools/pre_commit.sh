#!/bin/sh
# SPDX-License-Identifier: MIT
# Before a commit, on changed files only; `make hooks` installs it.
set -eu
cd "$(git rev-parse --show-toplevel)"
tools/check_floors.sh
files=$(git diff --cached --name-only --diff-filter=ACM -- '*.c' '*.h')
# shellcheck disable=SC2086 # a list of names without spaces
[ -z "$files" ] || tools/check_house.sh $files
