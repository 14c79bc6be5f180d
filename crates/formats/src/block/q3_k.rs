//! Q3_K: 256 numbers in 110 bytes (3.4375 bits each), 16 groups of 16 with a 6-bit scale.
//!
//! | byte | field |
//! |---|---|
//! | 0..32 | byte `l`: bit `i / 32` is bit 2 of `q[i]`, for `i % 32 = l` |
//! | 32..96 | byte `32 + 32·h + l`: bits `2t..2t+2` are the low bits of `q[128·h + 32·t + l]` |
//! | 96..104 | byte `96 + g % 8`: bits 0..4 are the low bits of `sc[g]` for g < 8, bits 4..8 for g ≥ 8 |
//! | 104..108 | byte `104 + g % 4`: bits `2·(g/4)..2·(g/4)+2` are the high bits of `sc[g]` |
//! | 108..110 | `d`, f16 |
//!
//! `x[i] = d·(sc[i/16] - 32) · (q[i] - 4)`, `q[i]` in 0..=7, `sc` in 0..=63

use super::k_symmetric::{self, Range};
use super::{each_decode, each_encode, get_f16, put_f16};
use crate::{Format, Kind};

/// Elements per block.
pub const BLOCK: usize = 256;
/// Offset of the third bits.
pub const HMASK: usize = 0;
/// Offset of the low two bits.
pub const QS: usize = HMASK + BLOCK / 8;
/// Offset of the packed scales.
pub const SCALES: usize = QS + BLOCK / 4;
/// Offset of the scale of scales.
pub const D: usize = SCALES + 12;
/// Bytes per block.
pub const BYTES: usize = D + 2;
const _: () = assert!(BYTES == 110);

/// The row of the table of formats.
pub static FORMAT: Format = Format {
    kind: Kind::Q3_K,
    name: "q3_k",
    block: BLOCK,
    bytes: BYTES,
    decode: |src, dst| each_decode(src, dst, decode),
    encode: |src, dst| each_encode(src, dst, encode),
};

/// Group `g`'s scale, 0..=63 with offset 32, out of the 12 packed bytes.
pub fn scale(packed: &[u8; 12], g: usize) -> u8 {
    let low = packed[g % 8] >> (4 * (g / 8)) & 15;
    let high = packed[8 + g % 4] >> (2 * (g / 4)) & 3;
    low | high << 4
}

fn decode(b: &[u8; BYTES], y: &mut [f32; BLOCK]) {
    let d = get_f16(b, D);
    let packed: [u8; 12] = std::array::from_fn(|i| b[SCALES + i]);
    for i in 0..BLOCK {
        let dl = d * (f32::from(scale(&packed, i / 16)) - 32.0);
        let (h, t, l) = (i / 128, i / 32 % 4, i % 32);
        let low = b[QS + 32 * h + l] >> (2 * t) & 3;
        let high = b[HMASK + l] >> (i / 32) & 1;
        y[i] = dl * (f32::from(low | high << 2) - 4.0);
    }
}

fn encode(x: &[f32; BLOCK], b: &mut [u8; BYTES]) {
    let k = k_symmetric::encode(x, &Range { lo: -4, hi: 3, sc_lo: -32, sc_hi: 31 });
    b.fill(0);
    for g in 0..16 {
        let sc = (i32::from(k.sc[g]) + 32) as u8;
        b[SCALES + g % 8] |= (sc & 15) << (4 * (g / 8));
        b[SCALES + 8 + g % 4] |= (sc >> 4) << (2 * (g / 4));
    }
    for i in 0..BLOCK {
        let q = (k.q[i] + 4) as u8;
        let (h, t, l) = (i / 128, i / 32 % 4, i % 32);
        b[QS + 32 * h + l] |= (q & 3) << (2 * t);
        b[HMASK + l] |= (q >> 2) << (i / 32);
    }
    put_f16(b, D, k.d);
}
