//! Q6_K: 256 numbers in 210 bytes (6.5625 bits each), 16 groups of 16 with an 8-bit scale.
//!
//! | byte | field |
//! |---|---|
//! | 0..128 | byte `64·h + l`, l in 0..64: bits 0..4 are the low bits of `q[128·h + l]`, bits 4..8 those of `q[128·h + 64 + l]` |
//! | 128..192 | byte `128 + 32·h + l`: bits `2t..2t+2` are the high bits of `q[128·h + 32·t + l]` (t 0..4, l 0..32) |
//! | 192..208 | `sc[0..16]`, i8 |
//! | 208..210 | `d`, f16 |
//!
//! `x[i] = d·sc[i/16] · (q[i] - 32)`, `q[i]` in 0..=63

use super::k_symmetric::{self, Range};
use super::{each_decode, each_encode, get_f16, put_f16};
use crate::{Format, Kind};

/// Elements per block.
pub const BLOCK: usize = 256;
/// Offset of the low four bits.
pub const QL: usize = 0;
/// Offset of the high two bits.
pub const QH: usize = QL + BLOCK / 2;
/// Offset of the scales.
pub const SCALES: usize = QH + BLOCK / 4;
/// Offset of the scale of scales.
pub const D: usize = SCALES + BLOCK / 16;
/// Bytes per block.
pub const BYTES: usize = D + 2;
const _: () = assert!(BYTES == 210);

/// The row of the table of formats.
pub static FORMAT: Format = Format {
    kind: Kind::Q6_K,
    name: "q6_k",
    block: BLOCK,
    bytes: BYTES,
    decode: |src, dst| each_decode(src, dst, decode),
    encode: |src, dst| each_encode(src, dst, encode),
};

fn decode(b: &[u8; BYTES], y: &mut [f32; BLOCK]) {
    let d = get_f16(b, D);
    for i in 0..BLOCK {
        let dl = d * f32::from(b[SCALES + i / 16].cast_signed());
        let h = i / 128;
        let low = b[QL + 64 * h + i % 64] >> (4 * (i / 64 % 2)) & 15;
        let high = b[QH + 32 * h + i % 32] >> (2 * (i / 32 % 4)) & 3;
        y[i] = dl * (f32::from(low | high << 4) - 32.0);
    }
}

fn encode(x: &[f32; BLOCK], b: &mut [u8; BYTES]) {
    let k = k_symmetric::encode(x, &Range { lo: -32, hi: 31, sc_lo: -128, sc_hi: 127 });
    b.fill(0);
    for i in 0..BLOCK {
        let q = (k.q[i] + 32) as u8;
        let h = i / 128;
        b[QL + 64 * h + i % 64] |= (q & 15) << (4 * (i / 64 % 2));
        b[QH + 32 * h + i % 32] |= (q >> 4) << (2 * (i / 32 % 4));
    }
    for g in 0..16 {
        b[SCALES + g] = k.sc[g].cast_unsigned();
    }
    put_f16(b, D, k.d);
}
