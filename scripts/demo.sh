#!/bin/sh
# SPDX-License-Identifier: MIT
# The main job on a small model: demo.sh TANDEM FOLDER. Makes the model in FOLDER when it is not
# there yet.
set -eu
tandem=$1
folder=$2
mkdir -p "$folder"
model=$folder/tiny.gguf

run() {
    printf '\n$ tandem %s\n' "$*"
    "$tandem" "$@"
}

echo "A tiny gpt-oss with random weights: everything works as with a trained one, but the text is noise."
[ -s "$model" ] || run synth tiny "$model"
run inspect "$model"
run run -m "$model" -p "Why do two small machines make one fast one?" -n 48 --seed 1
run bench -m "$model" -p 256 -n 64 -r 3
cat <<'END'

With a trained model:    tandem run -m gpt-oss-20b-mxfp4.gguf
How fast would it run?   tandem bench -m synth:gpt-oss-20b
END
