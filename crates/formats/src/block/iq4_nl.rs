//! IQ4_NL: 32 numbers in 18 bytes (4.5 bits each), levels spaced for bell-shaped weights.
//!
//! | byte | field |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..18 | byte `2 + j`: bits 0..4 are `q[j]`, bits 4..8 are `q[j + 16]`; each 0..=15 |
//!
//! `x[i] = d · LEVELS[q[i]]`

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

/// What each nibble stands for, in units of the scale; GGUF's table (`kvalues_iq4nl`).
pub const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The index of the level nearest to each integer from -128 to 127.
const NEAREST: [u8; 256] = {
    let mut nearest = [0; 256];
    let (mut v, mut at) = (-128, 0);
    while v < 128 {
        while at < 15 && 2 * v > LEVELS[at] as i32 + LEVELS[at + 1] as i32 {
            at += 1;
        }
        nearest[(v + 128) as usize] = at as u8;
        v += 1;
    }
    nearest
};

/// The row of the table of formats.
pub static FORMAT: Format = Format {
    kind: Kind::IQ4_NL,
    name: "iq4_nl",
    block: BLOCK,
    bytes: BYTES,
    decode: |src, dst| each_decode(src, dst, decode),
    encode: |src, dst| each_encode(src, dst, encode),
};

fn decode(b: &[u8; BYTES], y: &mut [f32; BLOCK]) {
    let d = get_f16(b, D);
    for j in 0..16 {
        y[j] = d * f32::from(LEVELS[usize::from(b[QS + j] & 15)]);
        y[j + 16] = d * f32::from(LEVELS[usize::from(b[QS + j] >> 4)]);
    }
}

fn encode(x: &[f32; BLOCK], b: &mut [u8; BYTES]) {
    let d = search::table(x, &search::importance(x), &LEVELS, &NEAREST, to_f16);
    put_f16(b, D, d);
    let q = x.map(|x| search::nearest_level(x, d, &LEVELS) as u8);
    for j in 0..16 {
        b[QS + j] = q[j] | q[j + 16] << 4;
    }
}
