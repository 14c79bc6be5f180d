//! Q5_K: 256 numbers in 176 bytes (5.5 bits each), 8 groups of 32 with a 6-bit scale and minimum.
//!
//! | byte | field |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..4 | `dmin`, f16 |
//! | 4..16 | packed `sc[0..8]` and `mn[0..8]`, as in [`q4_k`](super::q4_k) |
//! | 16..48 | byte `16 + l`: bit `i / 32` is bit 4 of `q[i]`, for `i % 32 = l` |
//! | 48..176 | byte `48 + 32·p + l`: bits 0..4 are the low bits of `q[64·p + l]`, bits 4..8 those of `q[64·p + 32 + l]` |
//!
//! `x[i] = d·sc[i/32] · q[i] - dmin·mn[i/32]`, `q[i]` in 0..=31

use super::k_affine::{self, eight};
use super::q4_k::{pack_scale_min, scale_min};
use super::{each_decode, each_encode, get_f16, put_f16};
use crate::{Format, Kind};

/// Elements per block.
pub const BLOCK: usize = 256;
/// Offset of the scale of scales.
pub const D: usize = 0;
/// Offset of the scale of minima.
pub const DMIN: usize = D + 2;
/// Offset of the packed scales and minima.
pub const SCALES: usize = DMIN + 2;
/// Offset of the fifth bits.
pub const QH: usize = SCALES + 12;
/// Offset of the nibbles.
pub const QS: usize = QH + BLOCK / 8;
/// Bytes per block.
pub const BYTES: usize = QS + BLOCK / 2;
const _: () = assert!(BYTES == 176);

/// The row of the table of formats.
pub static FORMAT: Format = Format {
    kind: Kind::Q5_K,
    name: "q5_k",
    block: BLOCK,
    bytes: BYTES,
    decode: |src, dst| each_decode(src, dst, decode),
    encode: |src, dst| each_encode(src, dst, encode),
};

fn decode(b: &[u8; BYTES], y: &mut [f32; BLOCK]) {
    let (d, dmin) = (get_f16(b, D), get_f16(b, DMIN));
    let packed: [u8; 12] = std::array::from_fn(|i| b[SCALES + i]);
    for i in 0..BLOCK {
        let (sc, mn) = scale_min(&packed, i / 32);
        let low = b[QS + 32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2)) & 15;
        let high = b[QH + i % 32] >> (i / 32) & 1;
        y[i] = d * f32::from(sc) * f32::from(low | high << 4) - dmin * f32::from(mn);
    }
}

fn encode(x: &[f32; BLOCK], b: &mut [u8; BYTES]) {
    let k = k_affine::encode::<32>(x, 31, 63);
    b.fill(0);
    put_f16(b, D, k.d);
    put_f16(b, DMIN, k.dmin);
    b[SCALES..QH].copy_from_slice(&pack_scale_min(&eight(&k.sc), &eight(&k.mn)));
    for i in 0..BLOCK {
        b[QS + 32 * (i / 64) + i % 32] |= (k.q[i] & 15) << (4 * (i / 32 % 2));
        b[QH + i % 32] |= (k.q[i] >> 4) << (i / 32);
    }
}
