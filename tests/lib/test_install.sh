# SPDX-License-Identifier: MIT
# What `make install` puts down is enough for a program outside: the example is built with pkg-config
# from there, against the shared and the static library, and says what `tandem run` says. Also: the
# shared library gives out nothing but tandem_*, and C++ takes the header.
#   test_install.sh BUILD_DIR MODEL EXAMPLE.c CC
set -u
build=$1
model=$2
example=$3
cc=$4
command -v pkg-config >/dev/null 2>&1 || { echo "pkg-config is not installed"; exit 77; }
tmp=$(mktemp -d "${TMPDIR:-/tmp}/tandem-install.XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
fail() {
    echo "FAILED: $1"
    exit 1
}
cmake --install "$build" --prefix "$tmp/usr" >"$tmp/log" 2>&1 || { cat "$tmp/log"; exit 1; }
for f in bin/tandem include/tandem.h share/man/man1/tandem.1; do
    [ -f "$tmp/usr/$f" ] || fail "$f is not installed"
done
libdir=$(dirname "$(find "$tmp/usr" -name libtandem.a)")
PKG_CONFIG_PATH=$libdir/pkgconfig
export PKG_CONFIG_PATH
pkg-config --exists tandem || fail "pkg-config does not find tandem"
# Words of flags, not one.
# shellcheck disable=SC2046
$cc -std=c11 -Wall -Werror "$example" $(pkg-config --cflags --libs tandem) -Wl,-rpath,"$libdir" -o "$tmp/shared" ||
    fail "the example does not build against the shared library"
mkdir "$tmp/static" && cp "$libdir/libtandem.a" "$tmp/static/"
# shellcheck disable=SC2046
$cc -std=c11 -Wall -Werror "$example" -L"$tmp/static" $(pkg-config --static --cflags --libs tandem) -o "$tmp/archive" ||
    fail "the example does not build against the static library"
text="The quick brown fox"
"$tmp/usr/bin/tandem" run -m "$model" --raw -p "$text" -n 8 --temp 0 --stats none >"$tmp/want" || fail "tandem run"
for kind in shared archive; do
    "$tmp/$kind" "$model" "$text" 8 >"$tmp/got" 2>"$tmp/err" || fail "$kind: $(cat "$tmp/err")"
    [ "$(cat "$tmp/want")" = "$(cat "$tmp/got")" ] || fail "$kind: '$(cat "$tmp/got")' is not '$(cat "$tmp/want")'"
    grep -q "read 4 of 4\|read [0-9]* of [0-9]* tokens" "$tmp/err" || fail "$kind: no progress"
    "$tmp/$kind" /absent.gguf x 2>"$tmp/err" && fail "$kind: an absent file is no error"
    grep -q "absent.gguf" "$tmp/err" || fail "$kind: the error does not name the file"
done
if command -v nm >/dev/null 2>&1 && [ -e "$libdir/libtandem.so" ]; then
    extra=$(nm -D --defined-only "$libdir/libtandem.so" | awk '$3 !~ /^tandem_/ { print $3 }')
    [ -z "$extra" ] || fail "the shared library also gives out: $extra"
fi
if command -v c++ >/dev/null 2>&1; then
    printf '#include <tandem.h>\nint main() { return tandem_version() == nullptr; }\n' >"$tmp/t.cpp"
    # shellcheck disable=SC2046
    c++ -Wall -Werror "$tmp/t.cpp" $(pkg-config --cflags --libs tandem) -o "$tmp/cpp" || fail "C++"
fi
echo "install: ok"
