//! From stored bytes to canonical ones, for sources that keep a tensor otherwise than GGUF does.

use half::{bf16, f16};
use tamp_formats::Kind;

use crate::entry::View;

/// The canonical bytes of a tensor of `rows` × `cols`.
pub(crate) fn canonical(view: View, stored: &[u8], cols: usize, rows: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows * cols * 4);
    let mut put = |x: f32| out.extend_from_slice(&x.to_le_bytes());
    match view {
        // A layout is undone by whoever knows it; see `Weights::unpack_with`.
        View::Raw | View::Packed(_) => return stored.into(),
        View::Widen(k) => {
            for b in stored.as_chunks::<2>().0 {
                let bits = u16::from_le_bytes(*b);
                put(if k == Kind::BF16 {
                    bf16::from_bits(bits).to_f32()
                } else {
                    f16::from_bits(bits).to_f32()
                });
            }
        }
        View::Int8 { scale, zero, unsigned, transpose } => {
            // Exact: a difference of two bytes is an integer below 2^9, and its product with the scale is rounded
            // once, as the exporter's own dequantisation rounds it.
            let one = |b: u8| {
                let q = if unsigned { i32::from(b) } else { i32::from(b as i8) };
                (q - zero) as f32 * scale
            };
            if transpose {
                for r in 0..rows {
                    for c in 0..cols {
                        put(one(stored[c * rows + r]));
                    }
                }
            } else {
                stored.iter().for_each(|&b| put(one(b)));
            }
        }
        View::Transpose => {
            let words = stored.as_chunks::<4>().0;
            for r in 0..rows {
                for c in 0..cols {
                    put(f32::from_le_bytes(words[c * rows + r]));
                }
            }
        }
    }
    out
}
