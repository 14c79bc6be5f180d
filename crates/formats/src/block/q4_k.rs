//! Q4_K: 256 numbers in 144 bytes (4.5 bits each), 8 groups of 32 with a 6-bit scale and minimum.
//!
//! | byte | field |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..4 | `dmin`, f16 |
//! | 4..16 | packed `sc[0..8]` and `mn[0..8]`, see [`scale_min`] |
//! | 16..144 | byte `16 + 32·p + l`: bits 0..4 are `q[64·p + l]`, bits 4..8 are `q[64·p + 32 + l]` |
//!
//! `x[i] = d·sc[i/32] · q[i] - dmin·mn[i/32]`
//!
//! The 12 packed bytes, `g` in 0..4:
//!
//! | byte | bits 0..6 | bits 6..8 |
//! |---|---|---|
//! | `g` | `sc[g]` | high bits of `sc[g + 4]` |
//! | `4 + g` | `mn[g]` | high bits of `mn[g + 4]` |
//!
//! | byte | bits 0..4 | bits 4..8 |
//! |---|---|---|
//! | `8 + g` | low bits of `sc[g + 4]` | low bits of `mn[g + 4]` |

use super::k_affine::{self, eight};
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
/// Offset of the nibbles.
pub const QS: usize = SCALES + 12;
/// Bytes per block.
pub const BYTES: usize = QS + BLOCK / 2;
const _: () = assert!(BYTES == 144);

/// The row of the table of formats.
pub static FORMAT: Format = Format {
    kind: Kind::Q4_K,
    name: "q4_k",
    block: BLOCK,
    bytes: BYTES,
    decode: |src, dst| each_decode(src, dst, decode),
    encode: |src, dst| each_encode(src, dst, encode),
};

/// Group `g`'s scale and minimum, 0..=63 each, out of the 12 packed bytes; Q5_K packs them the same way.
pub fn scale_min(packed: &[u8; 12], g: usize) -> (u8, u8) {
    if g < 4 {
        (packed[g] & 63, packed[g + 4] & 63)
    } else {
        let low = packed[g + 4];
        (low & 15 | packed[g - 4] >> 6 << 4, low >> 4 | packed[g] >> 6 << 4)
    }
}

/// The inverse of [`scale_min`] for all eight groups.
pub fn pack_scale_min(sc: &[u8; 8], mn: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for g in 0..4 {
        packed[g] = sc[g] | sc[g + 4] >> 4 << 6;
        packed[4 + g] = mn[g] | mn[g + 4] >> 4 << 6;
        packed[8 + g] = sc[g + 4] & 15 | mn[g + 4] << 4;
    }
    packed
}

fn decode(b: &[u8; BYTES], y: &mut [f32; BLOCK]) {
    let (d, dmin) = (get_f16(b, D), get_f16(b, DMIN));
    let packed: [u8; 12] = std::array::from_fn(|i| b[SCALES + i]);
    for i in 0..BLOCK {
        let (sc, mn) = scale_min(&packed, i / 32);
        let q = b[QS + 32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2)) & 15;
        y[i] = d * f32::from(sc) * f32::from(q) - dmin * f32::from(mn);
    }
}

fn encode(x: &[f32; BLOCK], b: &mut [u8; BYTES]) {
    let k = k_affine::encode::<32>(x, 15, 63);
    b.fill(0);
    put_f16(b, D, k.d);
    put_f16(b, DMIN, k.dmin);
    b[SCALES..QS].copy_from_slice(&pack_scale_min(&eight(&k.sc), &eight(&k.mn)));
    for i in 0..BLOCK {
        b[QS + 32 * (i / 64) + i % 32] |= k.q[i] << (4 * (i / 32 % 2));
    }
}
