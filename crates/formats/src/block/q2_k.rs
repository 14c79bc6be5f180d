//! Q2_K: 256 numbers in 84 bytes (2.625 bits each), 16 groups of 16 with a 4-bit scale and minimum.
//!
//! | byte | field |
//! |---|---|
//! | 0..16 | byte `g`, of group `g`: bits 0..4 are `sc[g]`, bits 4..8 are `mn[g]` |
//! | 16..80 | byte `16 + 32·h + l`: bits `2t..2t+2` are `q[128·h + 32·t + l]` (h 0..2, t 0..4, l 0..32) |
//! | 80..82 | `d`, f16 |
//! | 82..84 | `dmin`, f16 |
//!
//! `x[i] = d·sc[i/16] · q[i] - dmin·mn[i/16]`

use super::k_affine;
use super::{each_decode, each_encode, get_f16, put_f16};
use crate::{Format, Kind};

/// Elements per block.
pub const BLOCK: usize = 256;
/// Offset of the scales and minima.
pub const SCALES: usize = 0;
/// Offset of the quants.
pub const QS: usize = SCALES + BLOCK / 16;
/// Offset of the scale of scales.
pub const D: usize = QS + BLOCK / 4;
/// Offset of the scale of minima.
pub const DMIN: usize = D + 2;
/// Bytes per block.
pub const BYTES: usize = DMIN + 2;
const _: () = assert!(BYTES == 84);

/// The row of the table of formats.
pub static FORMAT: Format = Format {
    kind: Kind::Q2_K,
    name: "q2_k",
    block: BLOCK,
    bytes: BYTES,
    decode: |src, dst| each_decode(src, dst, decode),
    encode: |src, dst| each_encode(src, dst, encode),
};

fn decode(b: &[u8; BYTES], y: &mut [f32; BLOCK]) {
    let (d, dmin) = (get_f16(b, D), get_f16(b, DMIN));
    for i in 0..BLOCK {
        let scales = b[SCALES + i / 16];
        let (dl, ml) = (d * f32::from(scales & 15), dmin * f32::from(scales >> 4));
        let (h, t, l) = (i / 128, i / 32 % 4, i % 32);
        let q = b[QS + 32 * h + l] >> (2 * t) & 3;
        y[i] = dl * f32::from(q) - ml;
    }
}

fn encode(x: &[f32; BLOCK], b: &mut [u8; BYTES]) {
    let k = k_affine::encode::<16>(x, 3, 15);
    b.fill(0);
    for g in 0..16 {
        b[SCALES + g] = k.sc[g] | k.mn[g] << 4;
    }
    for i in 0..BLOCK {
        let (h, t, l) = (i / 128, i / 32 % 4, i % 32);
        b[QS + 32 * h + l] |= k.q[i] << (2 * t);
    }
    put_f16(b, D, k.d);
    put_f16(b, DMIN, k.dmin);
}
