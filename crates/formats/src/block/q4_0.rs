//! Q4_0: 32 numbers in 18 bytes (4.5 bits each).
//!
//! | byte | field |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..18 | byte `2 + j`: bits 0..4 are `q[j]`, bits 4..8 are `q[j + 16]`; each 0..=15 |
//!
//! `x[i] = (q[i] - 8) · d`

use super::{each_decode, each_encode, get_f16, put_f16, to_f16};
use crate::{Format, Kind, search};

/// Elements per block.
pub const BLOCK: usize = 32;
/// Offset of the scale.
pub const D: usize = 0;
/// Offset of the nibbles.
pub const QS: usize = D + 2;
/// Bytes per block.
pub const BYTES: usize = QS + BLOCK / 2;
const _: () = assert!(BYTES == 18);

/// The row of the table of formats.
pub static FORMAT: Format = Format {
    kind: Kind::Q4_0,
    name: "q4_0",
    block: BLOCK,
    bytes: BYTES,
    decode: |src, dst| each_decode(src, dst, decode),
    encode: |src, dst| each_encode(src, dst, encode),
};

fn decode(b: &[u8; BYTES], y: &mut [f32; BLOCK]) {
    let d = get_f16(b, D);
    for j in 0..16 {
        y[j] = (f32::from(b[QS + j] & 15) - 8.0) * d;
        y[j + 16] = (f32::from(b[QS + j] >> 4) - 8.0) * d;
    }
}

fn encode(x: &[f32; BLOCK], b: &mut [u8; BYTES]) {
    let d = search::symmetric(x, &search::importance(x), -8, 7, to_f16);
    put_f16(b, D, d);
    let q = x.map(|x| (search::quantise(x, d, -8, 7) + 8) as u8);
    for j in 0..16 {
        b[QS + j] = q[j] | q[j + 16] << 4;
    }
}
