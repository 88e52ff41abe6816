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

# report NAME STATUS SECONDS: the line of a step that has ended; its output lies in $root/NAME.log.
report() {
    log=$root/$1.log
    if [ "$2" -eq 0 ]; then
        printf 'ok    %-22s %4ds\n' "$1" "$3"
        n_passed=$((n_passed + 1))
    elif [ "$2" -eq 77 ]; then
        printf 'skip  %-22s %s\n' "$1" "$(tail -n 1 "$log")"
        skipped="$skipped $1"
    else
        printf 'FAIL  %-22s %4ds, exit %d; the end of %s:\n' "$1" "$3" "$2" "$log"
        tail -n 60 "$log" | sed 's/^/      | /'
        n_failed=$((n_failed + 1))
    fi
}

# step NAME COMMAND...: runs it with the output in a file; exit 77 counts as skipped.
step() {
    name=$1
    shift
    begin=$(date +%s)
    # In a shell of its own: a step may exit.
    ("$@") >"$root/$name.log" 2>&1 </dev/null
    status=$?
    report "$name" $status $(($(date +%s) - begin))
    return $status
}

# beside NAME COMMAND...: a step that runs while the next ones do, in the time that they leave: many
# tests wait more than they compute. The command lowers its own priority. `gather` reports it.
besides=
beside() {
    besides="$besides $1"
    rm -f "$root/$1.end"
    (
        name=$1
        shift
        begin=$(date +%s)
        ("$@") >"$root/$name.log" 2>&1 </dev/null
        echo "$? $(($(date +%s) - begin))" >"$root/$name.end"
    ) &
}
gather() {
    wait
    for name in $besides; do
        status=1
        seconds=0
        [ -r "$root/$name.end" ] && read -r status seconds <"$root/$name.end"
        report "$name" "$status" "$seconds"
    done
    besides=
}
# Ctrl-C does not reach what a shell runs in the background.
trap 'kill 0' INT

have() { command -v "$1" >/dev/null 2>&1; }
need() { have "$1" || { echo "$1 is not installed"; exit 77; }; }

build() { # FOLDER CMAKE-FLAGS...
    folder=$1
    shift
    cmake -S . -B "$folder" "$@" && cmake --build "$folder" --parallel "$jobs"
}

# build_some FOLDER "TARGETS" CMAKE-FLAGS...: these targets only, and what they need.
build_some() {
    folder=$1
    targets=$2
    shift 2
    # shellcheck disable=SC2086 # a list of words
    cmake -S . -B "$folder" "$@" && cmake --build "$folder" --parallel "$jobs" --target $targets
}

# tests FOLDER CTEST-FLAGS...
tests() {
    folder=$1
    shift
    ctest --test-dir "$folder" --no-tests=error --output-on-failure -j "$jobs" "$@"
}
# note_skipped FOLDER STEP PREFIX: ctest counts skipped tests as passed; they are named here, with the
# last line that each of them wrote, and again at the end.
note_skipped() {
    log=$1/Testing/Temporary/LastTest.log
    for test in $(sed -n 's/^[[:space:]]*[0-9]* - \([^ ]*\) (Skipped)$/\1/p' "$root/$2.log"); do
        why=$(awk -v test="$test" '
            / Testing: / { is_it = $NF == test; is_output = 0 }
            /^<end of output>$/ { is_output = 0 }
            is_it && is_output && NF && !/^-+$/ { why = $0 }
            /^Output:$/ { is_output = 1 }
            END { print why }' "$log")
        printf 'skip  %-22s %s\n' "$3$test" "$why"
        skipped="$skipped $3$test"
    done
}

quality() {
    need python3
    nice -n 19 python3 tests/quality/quality.py "$root/gcc"
}

rules() {
    tools/check_floors.sh || exit 1
    find src tests fuzz include examples train tools -name '*.[ch]' |
        xargs -P "$jobs" -n 40 tools/check_house.sh
}

clang_build() {
    need clang
    CC=clang build "$root/clang" -DTD_WERROR=ON
}

asan_build() { build "$root/asan" -DTD_WERROR=ON -DTD_ASAN=ON; }

# What starts threads.
tsan_tests="team synth kv kv_write pace session trouble vectors probe"
tsan_tests="$tsan_tests faults far host link listen relay remote stream"
tsan_tests="$tsan_tests http job sched sched_disk sched_remote"
tsan_build() {
    # shellcheck disable=SC2086 # a list of words
    build_some "$root/tsan" "$(printf 'test_%s ' $tsan_tests)" -DTD_WERROR=ON -DTD_TSAN=ON
}
tsan_tests() { tests "$root/tsan" -R "^test_($(echo "$tsan_tests" | tr ' ' '|'))\$"; }

tidy() {
    need clang-tidy
    have run-clang-tidy || { echo "run-clang-tidy is not installed"; exit 77; }
    # Nearly all its time is the analyzer's, and half of that is the end of large functions' budgets: a
    # third of the states per function is what the analyzer's own short mode has.
    nice -n 19 run-clang-tidy -p "$root/clang" -quiet -j "$jobs" -extra-arg=-Xclang -extra-arg=-analyzer-config \
        -extra-arg=-Xclang -extra-arg=max-nodes=75000 "$PWD/src/.*"
}

# fuzz_for SECONDS NAME: new inputs go to the first folder; the tree's corpus is only read.
fuzz_for() {
    mkdir -p "$root/found/$2"
    "$root/fuzz/fuzz/fuzz_$2" -max_total_time="$1" -rss_limit_mb=2048 -malloc_limit_mb=512 \
        -artifact_prefix="$root/found/$2-" "$root/found/$2" "fuzz/corpus/$2" >"$root/found/$2.log" 2>&1
}
fuzz() {
    need clang
    names=$(ls fuzz/fuzz_*.c | sed 's/.*fuzz_\(.*\)\.c/\1/')
    # shellcheck disable=SC2086 # a list of words
    CC=clang build_some "$root/fuzz" "$(printf 'fuzz_%s ' $names)" -DTD_WERROR=ON -DTD_ASAN=ON -DTD_FUZZ=ON \
        -DTD_TESTS=OFF || exit 1
    # In as many lanes as there are processors.
    lane=0
    while [ $lane -lt "$jobs" ]; do
        (
            i=0
            for name in $names; do
                i=$((i + 1))
                [ $((i % jobs)) -eq $lane ] || continue
                fuzz_for 5 "$name" || { tail -n 50 "$root/found/$name.log"; echo "fuzz_$name: failed"; }
            done
        ) &
        lane=$((lane + 1))
    done >"$root/found.log" 2>&1
    wait
    cat "$root/found.log"
    [ ! -s "$root/found.log" ]
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

have clang-format || {
    printf 'skip  %-22s %s\n' format "clang-format is not installed"
    skipped="$skipped format"
}
if [ "$mode" = quick ]; then
    step rules rules
    step build build build && { step tests tests build -L quick; note_skipped build tests ""; }
else
    step rules rules
    step web scripts/web.sh
    step gcc build "$root/gcc" -DTD_WERROR=ON && {
        step gcc-tests tests "$root/gcc"
        note_skipped "$root/gcc" gcc-tests gcc/
        beside quality quality
    }
    [ -x "$root/gcc/tandem" ] && {
        step e2e-clients tests/e2e/run.sh clients "$root/gcc/tandem" "$root/e2e"
        step e2e-page tests/e2e/run.sh page "$root/gcc/tandem" "$root/e2e"
        step e2e-plan tests/e2e/run.sh plan "$root/gcc/tandem" "$root/e2e"
    }
    step clang clang_build && {
        beside tidy tidy
        step clang-tests tests "$root/clang" -L quick -E '^(app|text)\.'
        note_skipped "$root/clang" clang-tests clang/
    }
    step asan asan_build && {
        step asan-tests tests "$root/asan" -L quick
        note_skipped "$root/asan" asan-tests asan/
    }
    step tsan tsan_build && {
        step tsan-tests tsan_tests
        note_skipped "$root/tsan" tsan-tests tsan/
    }
    step neon neon
    step nehalem nehalem
    step fuzz fuzz
    gather
fi

[ -n "$skipped" ] && echo "skipped:$skipped"
n_skipped=$(printf '%s\n' "$skipped" | wc -w)
echo "$n_passed passed, $n_failed failed, $((n_skipped)) skipped"
[ $n_failed -eq 0 ]
