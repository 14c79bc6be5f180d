//! What Q3_K and Q6_K share: groups of 16 with a scale, a small signed integer times one `f16`.
//!
//! `x[i] = d·sc[i/16] · q[i]`; all integers are signed.

use super::to_f16;
use crate::search::{importance, inverse, nearest, quantise, symmetric};

/// Elements per group.
const G: usize = 16;
/// The ranges of a format's integers, ends included.
pub(crate) struct Range {
    pub lo: i32,
    pub hi: i32,
    pub sc_lo: i32,
    pub sc_hi: i32,
}

/// An encoded block before packing.
pub(crate) struct Encoded {
    pub d: f32,
    pub sc: [i8; 16],
    pub q: [i8; 256],
}

/// Encodes a block. Refitting `d` to the integers afterwards, as for Q4_K, gained nothing.
pub(crate) fn encode(x: &[f32; 256], r: &Range) -> Encoded {
    let x = x.as_chunks::<G>().0;
    let w: [[f32; G]; 16] = std::array::from_fn(|g| importance(&x[g]));
    let ideal: [f32; 16] = std::array::from_fn(|g| symmetric(&x[g], &w[g], r.lo, r.hi, |v| v));
    let weight: [f32; 16] = std::array::from_fn(|g| w[g].iter().sum());
    let d = symmetric(&ideal, &weight, r.sc_lo, r.sc_hi, to_f16);
    let mut out = Encoded { d, sc: [0; 16], q: [0; 256] };
    for g in 0..16 {
        let sc = around(&x[g], &w[g], d, quantise(ideal[g], d, r.sc_lo, r.sc_hi), r);
        out.sc[g] = sc as i8;
        for i in 0..G {
            out.q[G * g + i] = quantise(x[g][i], d * sc as f32, r.lo, r.hi) as i8;
        }
    }
    out
}

/// The best scale integer near a guess.
fn around(x: &[f32; G], w: &[f32; G], d: f32, sc: i32, r: &Range) -> i32 {
    let (lo, hi) = (r.lo as f32, r.hi as f32);
    let mut best = (f32::INFINITY, 0);
    for s in (sc - 1).max(r.sc_lo)..=(sc + 1).min(r.sc_hi) {
        let scale = d * s as f32;
        let inv = inverse(scale);
        let mut error = 0.0;
        for i in 0..G {
            let e = scale * nearest((x[i] * inv).clamp(lo, hi)) - x[i];
            error += w[i] * e * e;
        }
        if error < best.0 {
            best = (error, s);
        }
    }
    best.1
}
