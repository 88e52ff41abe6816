#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs what is missing to build and test tandem: apt, dnf or brew. Quick and silent when nothing
# is. When it may not install (neither root nor sudo without a password), it prints the command.
#   scripts/setup.sh [--check]   --check: also what only `make check` uses; where that cannot be had,
#                                the checks that need it are skipped and named
set -eu
is_check=0
[ "${1:-}" = --check ] && is_check=1

# Is the library there? Headers count, not only the run-time half.
has_lib() { command -v pkg-config >/dev/null 2>&1 && pkg-config --exists "$1"; }
has_cmd() { command -v "$1" >/dev/null 2>&1; }

# Does clang have its run-time libraries for sanitizers and fuzzing?
has_clang_rt() { has_cmd clang && [ -e "$(clang -print-file-name=libclang_rt.fuzzer-"$(uname -m)".a 2>/dev/null)" ]; }

# Can the cross compiler link a static program? Debian's only recommends the C library.
has_arm_libc() { has_cmd aarch64-linux-gnu-gcc && [ -e "$(aarch64-linux-gnu-gcc -print-file-name=libc.a)" ]; }

# The browser that the chat page is tested in. Not every system has a package of it.
has_chromium() {
    has_cmd chromium || has_cmd chromium-browser || has_cmd google-chrome ||
        [ -e "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" ]
}

# For make check only; "-": no such package there, the check that needs it is skipped.
wanted_for_check() {
    cat <<'LIST'
cmd clang clang clang -
clang_rt clang-rt libclang-rt-dev compiler-rt -
cmd clang-format clang-format clang-tools-extra clang-format
cmd clang-tidy clang-tidy clang-tools-extra -
cmd run-clang-tidy clang-tidy clang-tools-extra -
cmd aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu gcc-aarch64-linux-gnu -
arm_libc arm-libc libc6-dev-arm64-cross - -
cmd qemu-aarch64 qemu-user qemu-user -
cmd node nodejs nodejs node
cmd npm npm npm -
cmd curl curl curl curl
cmd openssl openssl openssl -
cmd llvm-symbolizer llvm llvm -
chromium chromium chromium chromium -
cmd python3 python3 python3 python3
LIST
}

# One line each: what is looked for, then its package for apt, dnf and brew ("-": comes with it).
wanted() {
    cat <<'LIST'
cmd cc gcc gcc -
cmd make make make -
cmd cmake cmake cmake cmake
cmd pkg-config pkg-config pkgconf-pkg-config pkg-config
lib libpcre2-8 libpcre2-dev pcre2-devel pcre2
lib libutf8proc libutf8proc-dev utf8proc-devel utf8proc
lib jansson libjansson-dev jansson-devel jansson
lib libedit libedit-dev libedit-devel libedit
lib openssl libssl-dev openssl-devel openssl@3
lib libxxhash libxxhash-dev xxhash-devel xxhash
lib libmicrohttpd libmicrohttpd-dev libmicrohttpd-devel libmicrohttpd
lib cmocka libcmocka-dev libcmocka-devel cmocka
LIST
}

if has_cmd apt-get; then
    manager=apt
elif has_cmd dnf; then
    manager=dnf
elif has_cmd brew; then
    manager=brew
else
    manager=none
fi

missing=
packages=
chromium=
while read -r kind name apt dnf brew; do
    [ -n "$kind" ] || continue
    case $kind in
    cmd) has_cmd "$name" && continue ;;
    lib) has_lib "$name" && continue ;;
    clang_rt) has_clang_rt && continue ;;
    arm_libc) has_arm_libc && continue ;;
    chromium) has_chromium && continue ;;
    esac
    missing="$missing $name"
    case $manager in
    apt) package=$apt ;;
    dnf) package=$dnf ;;
    brew) package=$brew ;;
    *) package=$name ;;
    esac
    [ "$package" = - ] && continue
    # By itself, below: where there is no such package, the others must come all the same.
    [ "$kind" = chromium ] && chromium=$package && continue
    packages="$packages $package"
done <<EOF_WANTED
$(wanted)
$([ $is_check = 0 ] || wanted_for_check)
EOF_WANTED
# A compiler without the C library's headers is half there (Debian's gcc only recommends them).
if has_cmd cc && ! printf '#include <stdio.h>\n' | cc -E - >/dev/null 2>&1; then
    missing="$missing stdio.h"
    [ $manager = apt ] && packages="$packages libc6-dev"
    [ $manager = dnf ] && packages="$packages glibc-devel"
elif ! has_cmd cc && [ $manager = apt ]; then
    packages="$packages libc6-dev"
fi
[ -n "$missing" ] || exit 0
[ -n "$packages$chromium" ] || { [ $manager != none ] && exit 0; }
# What only some checks need must not stop the others.
failure=$((1 - is_check))

if [ $manager = none ]; then
    echo "setup: missing:$missing; install them with your system's package manager" >&2
    exit $failure
fi
if [ $manager = brew ]; then
    # brew refuses to run as root, and needs no more than the user.
    case $missing in
    *" cc"* | *" make"*) echo "setup: run this first: xcode-select --install" >&2 && exit 1 ;;
    esac
    echo "setup: installing$packages"
    # shellcheck disable=SC2086 # a list of words
    brew install $packages
    exit
fi

as_root=
if [ "$(id -u)" -ne 0 ]; then
    if has_cmd sudo && sudo -n true 2>/dev/null; then
        as_root="sudo -n"
    elif has_cmd sudo && [ -t 0 ]; then
        as_root=sudo # it asks for the password
    else
        case $manager in
        apt) command="apt-get install -y$packages $chromium" ;;
        *) command="dnf install -y$packages $chromium" ;;
        esac
        echo "setup: missing:$missing; run this as root: $command" >&2
        exit $failure
    fi
fi

install() {
    echo "setup: installing $*"
    case $manager in
    apt)
        DEBIAN_FRONTEND=noninteractive
        export DEBIAN_FRONTEND
        # Lists may be missing on a fresh system, or too old to find the packages they name.
        $as_root apt-get install -y --no-install-recommends "$@" >/dev/null 2>&1 || {
            $as_root apt-get update -q >/dev/null
            $as_root apt-get install -y --no-install-recommends "$@" >/dev/null
        }
        ;;
    dnf) $as_root dnf install -y -q "$@" ;;
    esac
}
# shellcheck disable=SC2086 # a list of words
[ -z "$packages" ] || install $packages
[ -z "$chromium" ] || install "$chromium" || echo "setup: no $chromium; the chat page is not tested in a browser"
