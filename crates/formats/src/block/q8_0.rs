//! Q8_0: 32 numbers in 34 bytes (8.5 bits each).
//!
//! | byte | field |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..34 | `q[0..32]`, i8 |
//!
//! `x[i] = q[i] · d`

use super::{each_decode, each_encode, get_f16, put_f16};
use crate::{Format, Kind, search};

/// Elements per block.
pub const BLOCK: usize = 32;
/// Offset of the scale.
pub const D: usize = 0;
/// Offset of the quants.
pub const QS: usize = D + 2;
/// Bytes per block.
pub const BYTES: usize = QS + BLOCK;
const _: () = assert!(BYTES == 34);

/// The row of the table of formats.
pub static FORMAT: Format = Format {
    kind: Kind::Q8_0,
    name: "q8_0",
    block: BLOCK,
    bytes: BYTES,
    decode: |src, dst| each_decode(src, dst, decode),
    encode: |src, dst| each_encode(src, dst, encode),
};

fn decode(b: &[u8; BYTES], y: &mut [f32; BLOCK]) {
    let d = get_f16(b, D);
    for i in 0..BLOCK {
        y[i] = f32::from(b[QS + i].cast_signed()) * d;
    }
}

fn encode(x: &[f32; BLOCK], b: &mut [u8; BYTES]) {
    let d = search::full_range(x, 127);
    put_f16(b, D, d);
    for i in 0..BLOCK {
        b[QS + i] = (search::quantise(x[i], d, -127, 127) as i8).cast_unsigned();
    }
}
