#!/bin/sh
# SPDX-License-Identifier: MIT
# The main job on a small model: demo.sh TANDEM FOLDER. With the model that comes with tandem it
# answers three prompts; where there is none, a tiny one with random weights is made in FOLDER.
set -eu
tandem=$1
folder=$2
shipped=${0%scripts/demo.sh}models/tandem-mini.gguf

run() {
    printf '\n$ tandem'
    for word; do
        case $word in
        *[!A-Za-z0-9_./:=-]*) printf ' "%s"' "$word" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    echo
    "$tandem" "$@"
}

if [ -s "$shipped" ]; then
    echo "tandem-mini, a gpt-oss of 2.6 million weights that comes with tandem, answers three prompts."
    # Always the most likely token, so that the demo says the same everywhere.
    run run --temp 0 -p "The code of Rovodu is 4821. The pet of Milaba is swan. It was windy in the \
harbour on Monday. The code of Kezazi is 9630. What is the code of Rovodu?"
    run run --temp 0 --show-reasoning -p "What is 58 + 27?"
    run run --temp 0 -p "Tell me a story about a fox named Mirela in the old mill."
    run bench -m "$shipped" -p 256 -n 64 -r 3
    cat <<'END'

Chat with it:            tandem run
With a large model:      tandem run -m gpt-oss-20b-mxfp4.gguf
How fast would it run?   tandem bench -m synth:gpt-oss-20b
END
    exit
fi

mkdir -p "$folder"
model=$folder/tiny.gguf
echo "A tiny gpt-oss with random weights: everything works as with a trained one, but the text is noise."
[ -s "$model" ] || run synth tiny "$model"
run inspect "$model"
run run -m "$model" -p "Why do two small machines make one fast one?" -n 48 --seed 1
run bench -m "$model" -p 256 -n 64 -r 3
cat <<'END'

With a trained model:    tandem run -m gpt-oss-20b-mxfp4.gguf
How fast would it run?   tandem bench -m synth:gpt-oss-20b
END
