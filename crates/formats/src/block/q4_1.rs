//! Q4_1: 32 numbers in 20 bytes (5 bits each).
//!
//! | byte | field |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..4 | `m`, f16 |
//! | 4..20 | byte `4 + j`: bits 0..4 are `q[j]`, bits 4..8 are `q[j + 16]`; each 0..=15 |
//!
//! `x[i] = q[i] · d + m`

use super::{each_decode, each_encode, get_f16, put_f16, to_f16};
use crate::{Format, Kind, search};

/// Elements per block.
pub const BLOCK: usize = 32;
/// Offset of the scale.
pub const D: usize = 0;
/// Offset of the minimum.
pub const M: usize = D + 2;
/// Offset of the nibbles.
pub const QS: usize = M + 2;
/// Bytes per block.
pub const BYTES: usize = QS + BLOCK / 2;
const _: () = assert!(BYTES == 20);

/// The row of the table of formats.
pub static FORMAT: Format = Format {
    kind: Kind::Q4_1,
    name: "q4_1",
    block: BLOCK,
    bytes: BYTES,
    decode: |src, dst| each_decode(src, dst, decode),
    encode: |src, dst| each_encode(src, dst, encode),
};

fn decode(b: &[u8; BYTES], y: &mut [f32; BLOCK]) {
    let (d, m) = (get_f16(b, D), get_f16(b, M));
    for j in 0..16 {
        y[j] = f32::from(b[QS + j] & 15) * d + m;
        y[j + 16] = f32::from(b[QS + j] >> 4) * d + m;
    }
}

fn encode(x: &[f32; BLOCK], b: &mut [u8; BYTES]) {
    let (d, m) = search::affine(x, &search::importance(x), 15, f32::INFINITY, to_f16);
    put_f16(b, D, d);
    put_f16(b, M, m);
    let q = x.map(|x| search::quantise(x - m, d, 0, 15) as u8);
    for j in 0..16 {
        b[QS + j] = q[j] | q[j + 16] << 4;
    }
}
