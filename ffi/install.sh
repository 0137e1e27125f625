#!/usr/bin/env bash
# ffi/install.sh PREFIX: builds libpoet and installs it (Linux):
#
#   PREFIX/include/poet.h
#   PREFIX/lib/libpoet.a
#   PREFIX/lib/libpoet.so.VERSION, and the links libpoet.so.1 (its soname) and libpoet.so
#   PREFIX/lib/pkgconfig/poet.pc
#
# DESTDIR goes before PREFIX, for packagers. `pkg-config --libs poet` is for the shared library; with
# --static it lists what the static one needs.
set -euo pipefail
[ "$#" = 1 ] || {
    echo "usage: $0 PREFIX" >&2
    exit 2
}
case $1 in
/*) prefix=$1 ;;
*) prefix=$PWD/$1 ;;
esac
cd "$(dirname "$0")/.."

version=$(cargo pkgid -p poet-ffi)
version=${version##*[#@]}
soname=libpoet.so.1
# What a program must be linked with beside the static library, as rustc says it.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Without the crate type that the tests of this repository need, the whole program is optimised.
cargo rustc --release --locked -p poet-ffi --lib --crate-type cdylib,staticlib -- \
    --print native-static-libs 2>&1 | tee "$log"
private=$(sed -n 's/^note: native-static-libs: //p' "$log" | tail -n 1)
[ -n "$private" ] || {
    echo "rustc did not say what the static library needs" >&2
    exit 1
}
# Rust names the shared library of the unwinder, of which a program that is static as a whole can have
# none. The static one does for every program.
private=${private//-lgcc_s/-lgcc_eh}
built=${CARGO_TARGET_DIR:-target}/release

to=${DESTDIR:-}$prefix
install -d "$to/include" "$to/lib/pkgconfig"
install -m 644 ffi/include/poet.h "$to/include/"
install -m 644 "$built/libpoet.a" "$to/lib/"
install -m 755 "$built/libpoet.so" "$to/lib/libpoet.so.$version"
ln -sf "libpoet.so.$version" "$to/lib/$soname"
ln -sf "$soname" "$to/lib/libpoet.so"
cat >"$to/lib/pkgconfig/poet.pc" <<END
prefix=$prefix
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: poet
Description: Sequential-work engine for proofs of elapsed time
Version: $version
Cflags: -I\${includedir}
Libs: -L\${libdir} -lpoet
Libs.private: $private
END
echo "installed libpoet $version in $to"
