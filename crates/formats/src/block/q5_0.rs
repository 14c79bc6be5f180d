//! Q5_0: 32 numbers in 22 bytes (5.5 bits each).
//!
//! | byte | field |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..6 | u32, bit `i` is bit 4 of `q[i]` |
//! | 6..22 | byte `6 + j`: bits 0..4 are the low bits of `q[j]`, bits 4..8 those of `q[j + 16]` |
//!
//! `x[i] = (q[i] - 16) · d`, `q[i]` in 0..=31

use super::{each_decode, each_encode, get_f16, put_f16, to_f16};
use crate::{Format, Kind, search};

/// Elements per block.
pub const BLOCK: usize = 32;
/// Offset of the scale.
pub const D: usize = 0;
/// Offset of the fifth bits.
pub const QH: usize = D + 2;
/// Offset of the nibbles.
pub const QS: usize = QH + 4;
/// Bytes per block.
pub const BYTES: usize = QS + BLOCK / 2;
const _: () = assert!(BYTES == 22);

/// The row of the table of formats.
pub static FORMAT: Format = Format {
    kind: Kind::Q5_0,
    name: "q5_0",
    block: BLOCK,
    bytes: BYTES,
    decode: |src, dst| each_decode(src, dst, decode),
    encode: |src, dst| each_encode(src, dst, encode),
};

fn decode(b: &[u8; BYTES], y: &mut [f32; BLOCK]) {
    let d = get_f16(b, D);
    let q = get_5bit(b, QH, QS);
    for i in 0..BLOCK {
        y[i] = (f32::from(q[i]) - 16.0) * d;
    }
}

fn encode(x: &[f32; BLOCK], b: &mut [u8; BYTES]) {
    let d = search::symmetric(x, &search::importance(x), -16, 15, to_f16);
    put_f16(b, D, d);
    put_5bit(b, QH, QS, &x.map(|x| (search::quantise(x, d, -16, 15) + 16) as u8));
}

/// The 32 five-bit quants of a block with fifth bits at `qh` and nibbles at `qs`; Q5_1 stores them the same way.
pub(crate) fn get_5bit(b: &[u8], qh: usize, qs: usize) -> [u8; BLOCK] {
    std::array::from_fn(|i| {
        let low = b[qs + i % 16] >> (4 * (i / 16)) & 15;
        let high = b[qh + i / 8] >> (i % 8) & 1;
        low | high << 4
    })
}

/// The inverse of [`get_5bit`].
pub(crate) fn put_5bit(b: &mut [u8], qh: usize, qs: usize, q: &[u8; BLOCK]) {
    for k in 0..4 {
        b[qh + k] = (0..8).fold(0, |byte, bit| byte | (q[8 * k + bit] >> 4) << bit);
    }
    for j in 0..16 {
        b[qs + j] = q[j] & 15 | (q[j + 16] & 15) << 4;
    }
}
