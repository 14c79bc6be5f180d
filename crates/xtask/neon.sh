#!/bin/sh
# Builds the kernel and format tests for aarch64 and runs them under emulation (KERNELS §9.6).
#
# Debian packages, once, as root:
#   dpkg --add-architecture arm64 && apt-get update
#   apt-get install -y --no-install-recommends rustc-web libstd-rust-web-dev:arm64 \
#       gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
#
# With rustup instead: rustup target add aarch64-unknown-linux-gnu, plus the last two packages.
# `-cpu max` gives the emulated core dotprod and i8mm.
set -eu

target=aarch64-unknown-linux-gnu
need() { command -v "$1" >/dev/null 2>&1 || { echo "neon: $1 is missing; see the head of $0" >&2; exit 1; }; }
need aarch64-linux-gnu-gcc
need qemu-aarch64-static

# A toolchain that has the target's standard library: the default one, else Debian's rustc-web.
has_std() { [ -d "$("$1" --print sysroot 2>/dev/null)/lib/rustlib/$target/lib" ]; }
rustc=
for r in "${RUSTC:-rustc}" /usr/lib/rust-web/bin/rustc /usr/bin/rustc-web /usr/bin/rustc; do
    if command -v "$r" >/dev/null 2>&1 && has_std "$r"; then rustc=$r; break; fi
done
[ -n "$rustc" ] || { echo "neon: no rustc with the $target standard library; see the head of $0" >&2; exit 1; }
echo "neon: $("$rustc" --version), $(qemu-aarch64-static --version | head -n 1)"

export RUSTC="$rustc"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu max -L /usr/aarch64-linux-gnu"
exec cargo test --target "$target" --target-dir "${CARGO_TARGET_DIR:-target}/neon" \
    --ignore-rust-version -p tamp-formats -p tamp-kernels "$@"
