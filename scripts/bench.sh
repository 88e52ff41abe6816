#!/bin/sh
# SPDX-License-Identifier: MIT
# Measures gpt-oss-20b at full size with random weights, which cost what the trained ones cost.
#   scripts/bench.sh TANDEM FOLDER
# FOLDER gets the model (12.1 GB, made once), result.json and result.txt; an earlier result becomes
# result.old.json and is compared with. BENCH_ARGS replaces the tests, BENCH_MODEL the shape.
set -eu
tandem=$1
folder=$2
shape=${BENCH_MODEL:-gpt-oss-20b}
args=${BENCH_ARGS:--p 512,2048 -n 64 -d 0,8192 -r 5}
here=$(dirname "$0")
mkdir -p "$folder"
model=$folder/$shape.gguf

if [ -f "$model" ]; then
    echo "the model is there: $model"
else
    # The file, and a gigabyte to spare.
    case $shape in
    gpt-oss-20b) need_kb=13000000 ;;
    gpt-oss-120b) need_kb=66000000 ;;
    *) need_kb=1000 ;;
    esac
    need_kb=${BENCH_NEED_KB:-$need_kb}
    free_kb=$(df -Pk "$folder" | awk 'NR == 2 { print $4 }')
    if [ "$free_kb" -lt "$need_kb" ]; then
        echo "bench: $folder has $((free_kb / 1000)) MB free, $((need_kb / 1000)) are needed; name another: make bench BENCH_DIR=..." >&2
        exit 1
    fi
    echo "making $model: random weights of the published shape, once"
    # Under another name first: half a file must not pass for the model.
    "$tandem" synth "$shape" "$model.part" --force
    mv "$model.part" "$model"
fi

echo "measuring: tandem bench $args --ops (with the full size and two cores this takes half an hour;"
echo "nothing else should run meanwhile)"
[ -f "$folder/result.json" ] && mv "$folder/result.json" "$folder/result.old.json"
# Not through a pipe: its exit code would be tee's.
# shellcheck disable=SC2086 # several arguments
if ! "$tandem" bench -m "$model" $args --ops --save "$folder/result.json" >"$folder/result.txt"; then
    echo "bench: failed; what there is stands in $folder/result.txt" >&2
    exit 1
fi
cat "$folder/result.txt"
echo
echo "written: $folder/result.json and $folder/result.txt"
if [ -f "$folder/result.old.json" ] && command -v python3 >/dev/null 2>&1; then
    echo "against the result before:"
    python3 "$here/../bench/compare.py" "$folder/result.old.json" "$folder/result.json"
fi
