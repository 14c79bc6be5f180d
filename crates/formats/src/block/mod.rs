//! One file per block format. Each documents its layout bit by bit, and every offset in it is a public constant,
//! so that repacking code elsewhere names the fields and not numbers.
//!
//! Notation: `q[i]` is the stored integer of element `i` of the block, bit 0 is the least significant, fields are
//! little-endian. Scales are 11-bit significands (`f16`) times at most 8-bit integers, so `scale · q` is exact in
//! `f32` for every format here but Q6_K (25 bits, one rounding): the order of the arithmetic and FMA contraction
//! cannot change a decoded bit.

pub mod float;
pub mod iq4_nl;
mod k_affine;
mod k_symmetric;
pub mod q2_k;
pub mod q3_k;
pub mod q4_0;
pub mod q4_1;
pub mod q4_k;
pub mod q5_0;
pub mod q5_1;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;

/// Reads the `f16` at byte `at`.
pub(crate) fn get_f16(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Writes `v`, already an `f16` value, at byte `at`.
pub(crate) fn put_f16(block: &mut [u8], at: usize, v: f32) {
    block[at..at + 2].copy_from_slice(&half::f16::from_f32(v).to_le_bytes());
}

/// The nearest finite `f16`: a scale that overflowed would turn a whole block into infinities.
pub(crate) fn to_f16(v: f32) -> f32 {
    half::f16::from_f32(v.clamp(-65504.0, 65504.0)).to_f32()
}

/// Runs `f` over matching blocks.
pub(crate) fn each_decode<const B: usize, const N: usize>(
    src: &[u8],
    dst: &mut [f32],
    f: fn(&[u8; B], &mut [f32; N]),
) {
    let (blocks, _) = src.as_chunks::<B>();
    let (values, _) = dst.as_chunks_mut::<N>();
    for (b, y) in blocks.iter().zip(values) {
        f(b, y);
    }
}

/// Runs `f` over matching blocks of sanitised numbers.
pub(crate) fn each_encode<const B: usize, const N: usize>(
    src: &[f32],
    dst: &mut [u8],
    f: fn(&[f32; N], &mut [u8; B]),
) {
    let (values, _) = src.as_chunks::<N>();
    let (blocks, _) = dst.as_chunks_mut::<B>();
    for (x, b) in values.iter().zip(blocks) {
        f(&x.map(sane), b);
    }
}

/// NaN becomes 0 and the rest is held where squares and sums of squares cannot overflow; no block format reaches
/// 1e9 (the largest is Q6_K with 65504 · 128 · 32 = 2.7e8).
fn sane(x: f32) -> f32 {
    if x.is_nan() { 0.0 } else { x.clamp(-1e9, 1e9) }
}
