//! Q5_1: 32 numbers in 24 bytes (6 bits each).
//!
//! | byte | field |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..4 | `m`, f16 |
//! | 4..8 | u32, bit `i` is bit 4 of `q[i]` |
//! | 8..24 | byte `8 + j`: bits 0..4 are the low bits of `q[j]`, bits 4..8 those of `q[j + 16]` |
//!
//! `x[i] = q[i] · d + m`, `q[i]` in 0..=31

use super::q5_0::{get_5bit, put_5bit};
use super::{each_decode, each_encode, get_f16, put_f16, to_f16};
use crate::{Format, Kind, search};

/// Elements per block.
pub const BLOCK: usize = 32;
/// Offset of the scale.
pub const D: usize = 0;
/// Offset of the minimum.
pub const M: usize = D + 2;
/// Offset of the fifth bits.
pub const QH: usize = M + 2;
/// Offset of the nibbles.
pub const QS: usize = QH + 4;
/// Bytes per block.
pub const BYTES: usize = QS + BLOCK / 2;
const _: () = assert!(BYTES == 24);

/// The row of the table of formats.
pub static FORMAT: Format = Format {
    kind: Kind::Q5_1,
    name: "q5_1",
    block: BLOCK,
    bytes: BYTES,
    decode: |src, dst| each_decode(src, dst, decode),
    encode: |src, dst| each_encode(src, dst, encode),
};

fn decode(b: &[u8; BYTES], y: &mut [f32; BLOCK]) {
    let (d, m) = (get_f16(b, D), get_f16(b, M));
    let q = get_5bit(b, QH, QS);
    for i in 0..BLOCK {
        y[i] = f32::from(q[i]) * d + m;
    }
}

fn encode(x: &[f32; BLOCK], b: &mut [u8; BYTES]) {
    let (d, m) = search::affine(x, &search::importance(x), 31, f32::INFINITY, to_f16);
    put_f16(b, D, d);
    put_f16(b, M, m);
    put_5bit(b, QH, QS, &x.map(|x| search::quantise(x - m, d, 0, 31) as u8));
}
