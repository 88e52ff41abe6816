#!/bin/sh
# SPDX-License-Identifier: MIT
# Every check there is, in one run: `make check`. One line a step; a step's output is shown when it
# fails. Ends with the names of what was skipped and with the counts.
#   scripts/check.sh [quick]   quick: gcc build, quick tests and house rules only
set -u
cd "$(dirname "$0")/.."
mode=${1:-all}
jobs=$(nproc 2>/dev/null || sysctl -n hw.ncpu)
root=${TD_CHECK_DIR:-build/check}
mkdir -p "$root"
n_passed=0
n_failed=0
skipped=

# step NAME COMMAND...: runs it with the output in a file; exit 77 counts as skipped.
step() {
    name=$1
    shift
    log=$root/$name.log
    begin=$(date +%s)
    # In a shell of its own: a step may exit.
    ("$@") >"$log" 2>&1 </dev/null
    status=$?
    seconds=$(($(date +%s) - begin))
    if [ $status -eq 0 ]; then
        printf 'ok    %-22s %4ds\n' "$name" $seconds
        n_passed=$((n_passed + 1))
    elif [ $status -eq 77 ]; then
        printf 'skip  %-22s %s\n' "$name" "$(tail -n 1 "$log")"
        skipped="$skipped $name"
    else
        printf 'FAIL  %-22s %4ds, exit %d; the end of %s:\n' "$name" $seconds $status "$log"
        tail -n 60 "$log" | sed 's/^/      | /'
        n_failed=$((n_failed + 1))
    fi
    return $status
}

have() { command -v "$1" >/dev/null 2>&1; }
need() { have "$1" || { echo "$1 is not installed"; exit 77; }; }

build() { # FOLDER CMAKE-FLAGS...
    folder=$1
    shift
    cmake -S . -B "$folder" "$@" && cmake --build "$folder" --parallel "$jobs"
}

# tests FOLDER CTEST-FLAGS...
tests() {
    folder=$1
    shift
    ctest --test-dir "$folder" --no-tests=error --output-on-failure -j "$jobs" "$@"
    status=$?
    sed -n 's/^.*- \([^ ]*\) (Skipped)$/\1/p' "$folder/Testing/Temporary/LastTest.log" >/dev/null
    return $status
}
# note_skipped LOG PREFIX: ctest counts skipped tests as passed; their names go to the end of our output.
note_skipped() {
    for test in $(sed -n 's/^[[:space:]]*[0-9]* - \([^ ]*\) (Skipped)$/\1/p' "$1"); do
        skipped="$skipped $2$test"
    done
}

quality() {
    need python3
    python3 tests/quality/quality.py "$root/gcc"
}

rules() {
    tools/check_floors.sh && tools/check_house.sh
}

clang_build() {
    need clang
    CC=clang build "$root/clang" -DTD_WERROR=ON
}

asan_build() { build "$root/asan" -DTD_WERROR=ON -DTD_ASAN=ON; }
tsan_build() { build "$root/tsan" -DTD_WERROR=ON -DTD_TSAN=ON; }

tidy() {
    need clang-tidy
    have run-clang-tidy || { echo "run-clang-tidy is not installed"; exit 77; }
    run-clang-tidy -p "$root/clang" -quiet -j "$jobs" "$PWD/src/.*"
}

fuzz() {
    need clang
    CC=clang build "$root/fuzz" -DTD_WERROR=ON -DTD_ASAN=ON -DTD_FUZZ=ON -DTD_TESTS=OFF || exit 1
    for target in fuzz/fuzz_*.c; do
        short=$(basename "$target" .c)
        short=${short#fuzz_}
        mkdir -p "$root/found/$short"
        # New inputs go to the first folder; the tree's corpus is only read.
        "$root/fuzz/fuzz/fuzz_$short" -max_total_time=5 -rss_limit_mb=2048 -malloc_limit_mb=512 \
            -artifact_prefix="$root/found/$short-" "$root/found/$short" "fuzz/corpus/$short" || exit 1
    done
}

# core_build NAME CMAKE-FLAGS...: what needs no library, for another machine.
core_build() {
    name=$1
    shift
    build "$root/$name" -DTD_CORE_ONLY=ON "$@"
}

# logits_bits "MODELS" NAME EMULATOR...: the engine of core_build NAME, under the emulator, must give the bytes
# that it gives here.
logits_bits() {
    models=$1
    name=$2
    shift 2
    [ -x "$root/gcc/tests/logits_bits" ] || { echo "the gcc build has failed: nothing to compare with"; exit 1; }
    for model in $models; do
        data=tests/data/$model
        for where in here there; do
            program=$root/$name/tests/logits_bits
            [ $where = here ] && program=$root/gcc/tests/logits_bits
            [ $where = here ] && emulator= || emulator=$*
            $emulator "$program" $data.gguf $data.tokens.txt $data.logits.npy "$root/$name/$model.$where" || exit 1
        done
        cmp "$root/$name/$model.here" "$root/$name/$model.there" || exit 1
    done
}

neon() {
    need aarch64-linux-gnu-gcc
    need qemu-aarch64
    [ -e "$(aarch64-linux-gnu-gcc -print-file-name=libc.a)" ] || { echo "no C library for aarch64 is installed"; exit 77; }
    core_build arm -DTD_WERROR=ON -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake || exit 1
    qemu-aarch64 "$root/arm/tests/kcheck" --isa generic --short || exit 1
    # With and without the matrix-multiply extension (i8mm).
    qemu-aarch64 "$root/arm/tests/kcheck" --isa neon --short || exit 1
    qemu-aarch64 -cpu neoverse-n1 "$root/arm/tests/kcheck" --isa neon --short || exit 1
    logits_bits "gptoss-tiny synth-odd" arm qemu-aarch64 || exit 1
    logits_bits "gptoss-tiny synth-odd" arm qemu-aarch64 -cpu neoverse-n1
}

nehalem() {
    need qemu-x86_64
    [ "$(uname -m)" = x86_64 ] || { echo "not an x86-64 machine"; exit 77; }
    # A CPU without AVX: nothing outside the dispatched files may use it.
    core_build static -DCMAKE_EXE_LINKER_FLAGS=-static || exit 1
    qemu-x86_64 -cpu Nehalem "$root/static/tests/kcheck" --isa generic --short || exit 1
    # The generic kernels take 40 s for the larger model here.
    logits_bits synth-odd static qemu-x86_64 -cpu Nehalem
}

if [ "$mode" = quick ]; then
    step rules rules
    step build build build && { step tests tests build -L quick; note_skipped "$root/tests.log" ""; }
else
    step rules rules
    step web scripts/web.sh
    step gcc build "$root/gcc" -DTD_WERROR=ON && {
        step gcc-tests tests "$root/gcc"
        note_skipped "$root/gcc-tests.log" gcc/
        step quality quality
    }
    [ -x "$root/gcc/tandem" ] && {
        step e2e-clients tests/e2e/run.sh clients "$root/gcc/tandem" "$root/e2e"
        step e2e-page tests/e2e/run.sh page "$root/gcc/tandem" "$root/e2e"
        step e2e-plan tests/e2e/run.sh plan "$root/gcc/tandem" "$root/e2e"
    }
    step clang clang_build && {
        step clang-tests tests "$root/clang" -L quick -E '^(app|text)\.'
        note_skipped "$root/clang-tests.log" clang/
        step tidy tidy
    }
    step asan asan_build && {
        step asan-tests tests "$root/asan" -L quick
        note_skipped "$root/asan-tests.log" asan/
    }
    step tsan tsan_build && {
        step tsan-tests tests "$root/tsan" -R '^test_(team|session|kv|kv_write|pace|vectors|synth|probe|trouble|link|listen|stream|host|far|relay|remote|faults|job|sched)$'
        note_skipped "$root/tsan-tests.log" tsan/
    }
    step neon neon
    step nehalem nehalem
    step fuzz fuzz
fi

[ -n "$skipped" ] && echo "skipped:$skipped"
n_skipped=$(printf '%s\n' "$skipped" | wc -w)
echo "$n_passed passed, $n_failed failed, $((n_skipped)) skipped"
[ $n_failed -eq 0 ]
