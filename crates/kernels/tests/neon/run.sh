#!/bin/sh
# Builds this crate's tests for 64-bit Arm and runs them under emulation (KERNELS §9.6). Arguments go to `cargo test`;
# without any, the ladder runs. On Debian the tools are:
#
#   dpkg --add-architecture arm64 && apt-get update
#   apt-get install --no-install-recommends gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static \
#       rustc-web libstd-rust-web-dev libstd-rust-web-dev:arm64
#
# Any other rustc with the aarch64-unknown-linux-gnu target does as well. When something is missing, this says so and
# succeeds: it is a check of machines that have the tools.
set -eu
target=aarch64-unknown-linux-gnu

skip() {
    echo "skipped: NEON under emulation needs $1 (see the head of $0)"
    exit 0
}

for tool in aarch64-linux-gnu-gcc qemu-aarch64-static cargo; do
    command -v "$tool" >/dev/null 2>&1 || skip "$tool"
done

# The compiler in use when it has the target, else Debian's.
rustc=
for candidate in "${RUSTC:-rustc}" /usr/bin/rustc; do
    lib=$("$candidate" --print target-libdir --target "$target" 2>/dev/null) || continue
    ls "$lib"/libstd-*.rlib >/dev/null 2>&1 || continue
    rustc=$candidate
    break
done
[ -n "$rustc" ] || skip "a rustc with the standard library of $target"

# Two compilers must not share a folder of artefacts, or each rebuilds what the other left.
export RUSTC="$rustc"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/neon"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc

# The loader and libc must be of one version: with the multiarch libc installed the cross package's loader would walk
# off in the first thread it starts. Pointer authentication as specified is all the emulator would do.
root=
[ -e /lib/ld-linux-aarch64.so.1 ] || root="-L /usr/aarch64-linux-gnu"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu max,pauth-impdef=on $root"

cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- --test ladder --test numerics
exec cargo test --target "$target" -p tamp-kernels "$@"
