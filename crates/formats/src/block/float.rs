//! F32, F16, BF16: one number per block, little-endian, no scale.
//!
//! | format | bytes | bits, from the top |
//! |---|---|---|
//! | F32 | 4 | sign 1, exponent 8, fraction 23 |
//! | F16 | 2 | sign 1, exponent 5, fraction 10 |
//! | BF16 | 2 | sign 1, exponent 8, fraction 7 |
//!
//! Encoding rounds to nearest, ties to even, and keeps infinities and NaN.

use half::{bf16, f16};

use crate::{Format, Kind};

const _: () = assert!(F32.bytes == size_of::<f32>() && F16.bytes == size_of::<f16>());
const _: () = assert!(BF16.bytes == size_of::<bf16>());

/// 32-bit float.
pub static F32: Format = Format {
    kind: Kind::F32,
    name: "f32",
    block: 1,
    bytes: 4,
    decode: |src, dst| {
        for (b, y) in src.as_chunks::<4>().0.iter().zip(dst) {
            *y = f32::from_le_bytes(*b);
        }
    },
    encode: |src, dst| {
        for (x, b) in src.iter().zip(dst.as_chunks_mut::<4>().0) {
            *b = x.to_le_bytes();
        }
    },
};

/// IEEE half.
pub static F16: Format = Format {
    kind: Kind::F16,
    name: "f16",
    block: 1,
    bytes: 2,
    decode: |src, dst| {
        for (b, y) in src.as_chunks::<2>().0.iter().zip(dst) {
            *y = f16::from_le_bytes(*b).to_f32();
        }
    },
    encode: |src, dst| {
        for (x, b) in src.iter().zip(dst.as_chunks_mut::<2>().0) {
            *b = f16::from_f32(*x).to_le_bytes();
        }
    },
};

/// bfloat16.
pub static BF16: Format = Format {
    kind: Kind::BF16,
    name: "bf16",
    block: 1,
    bytes: 2,
    decode: |src, dst| {
        for (b, y) in src.as_chunks::<2>().0.iter().zip(dst) {
            *y = bf16::from_le_bytes(*b).to_f32();
        }
    },
    encode: |src, dst| {
        for (x, b) in src.iter().zip(dst.as_chunks_mut::<2>().0) {
            *b = bf16::from_f32(*x).to_le_bytes();
        }
    },
};
