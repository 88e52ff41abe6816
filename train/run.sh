#!/bin/sh
# SPDX-License-Identifier: MIT
# Makes models/tandem-mini.gguf from nothing: vocabulary, training, export, scores.
# Stopped at any time, it continues from its last checkpoint when started again.
#
#   train/run.sh [OUT]        OUT: checkpoints and log, train/out if not given
#
# Needs Debian's python3-torch python3-numpy python3-regex libopenblas0-pthread gcc, and two cores.
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

# Two processes of one thread; freed memory is kept, or every step would fault it in again.
export OMP_NUM_THREADS=1 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_MMAP_THRESHOLD_=20000000000

"$python" train/make_vocab.py
"$python" train/train.py --out "$out"
mkdir -p models
"$python" train/export_gguf.py "$out/model.pt" models/tandem-mini.gguf
"$python" train/plot_log.py "$out/log.csv" docs/mini-loss.svg
"$python" train/eval_torch.py models/tandem-mini.gguf -n 200
