#!/bin/sh
# SPDX-License-Identifier: MIT
# Makes models/tandem-mini.gguf from nothing: vocabulary, training, export, then its scores, which
# go into docs/MINI.md. Stopped at any time, it continues from its last checkpoint when started again.
#
#   train/run.sh [OUT]        OUT: checkpoints and log, train/out if not given
#
# Needs Debian's python3-torch python3-numpy python3-regex libopenblas0-openmp gcc, two cores, and
# for the scores what tandem is built with (scripts/setup.sh).
set -eu
cd "$(dirname "$0")/.."
out=${1:-train/out}
python=${PYTHON:-/usr/bin/python3}

for module in torch numpy regex; do
    "$python" -c "import $module" 2>/dev/null || {
        echo "train: python3-$module is missing: apt-get install python3-$module" >&2
        exit 1
    }
done

# fill NAME COMMAND...: its tables go to that place in docs/MINI.md.
fill() {
    name=$1
    shift
    "$@" >"$out/$name.md" && status=0 || status=$?
    cat "$out/$name.md"
    "$python" train/fill_table.py docs/MINI.md "$name" <"$out/$name.md"
    return $status
}

mkdir -p "$out" models
# Two processes of one thread; freed memory is kept, or every step would fault it in again.
(
    export OMP_NUM_THREADS=1 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_MMAP_THRESHOLD_=20000000000
    [ -f train/vocab.json ] || "$python" train/make_vocab.py
    "$python" train/train.py --out "$out"
)
# The mean of the last two ends of a phase, where the rate has fallen to its least.
"$python" train/export_gguf.py $(ls -v "$out"/model-*.pt | tail -n 2) models/tandem-mini.gguf
fill progress "$python" train/plot_log.py "$out/log.csv" docs/mini-loss.svg

scripts/setup.sh
cmake -S . -B build >/dev/null
cmake --build build --parallel "$(nproc)" --target tandem answer_items >/dev/null
fill quality "$python" tests/quality/quality.py build
