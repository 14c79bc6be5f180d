//! What Q2_K, Q4_K and Q5_K share: groups with a scale and a minimum, both small integers times two `f16`.
//!
//! `x[i] = d·sc[g] · q[i] - dmin·mn[g]`, `g = i / group`; all integers are unsigned.

use super::to_f16;
use crate::search::{affine, importance, inverse, loss, nearest, quantise, unsigned};

/// Rounds of choosing integers for the two scales, then the scales for the integers: the second takes 0.3 % (Q4_K)
/// to 1 % (Q2_K, Q5_K) off the error, a third 0.1 %.
const ROUNDS: usize = 2;

/// An encoded block before packing. Formats with eight groups leave the upper half of `sc` and `mn` at 0.
pub(crate) struct Encoded {
    pub d: f32,
    pub dmin: f32,
    pub sc: [u8; 16],
    pub mn: [u8; 16],
    pub q: [u8; 256],
}

/// The first eight of a per-group array.
pub(crate) fn eight(v: &[u8; 16]) -> [u8; 8] {
    std::array::from_fn(|i| v[i])
}

/// Encodes a block of groups of `G`, quants in `0..=levels`, scales and minima in `0..=scales`.
pub(crate) fn encode<const G: usize>(x: &[f32; 256], levels: i32, scales: i32) -> Encoded {
    let x = x.as_chunks::<G>().0;
    let w: Vec<[f32; G]> = x.iter().map(importance).collect();
    // Padded with zeros where there are eight groups.
    let (mut scale, mut min, mut weight) = ([0.0; 16], [0.0; 16], [0.0; 16]);
    for g in 0..x.len() {
        let (s, offset) = affine(&x[g], &w[g], levels, 0.0, |v| v);
        (scale[g], min[g], weight[g]) = (s.max(0.0), -offset, w[g].iter().sum());
    }
    let mut d = unsigned(&scale, &weight, scales, to_f16);
    let mut dmin = unsigned(&min, &weight, scales, to_f16);

    let top = levels as f32;
    let mut best = (f32::INFINITY, d, dmin, vec![(0, 0); x.len()]);
    let mut guess: Vec<(i32, i32)> =
        (0..x.len()).map(|g| (quantise(scale[g], d, 0, scales), quantise(min[g], dmin, 0, scales))).collect();
    for _ in 0..ROUNDS {
        let mut error = 0.0;
        for g in 0..x.len() {
            let (e, pair) = around(&x[g], &w[g], (d, dmin), guess[g], scales, top);
            guess[g] = pair;
            error += e;
        }
        if error < best.0 {
            best = (error, d, dmin, guess.clone());
        }
        (d, dmin) = refit(x, &w, (d, dmin), &guess, top);
    }

    let (_, d, dmin, pairs) = best;
    let mut out = Encoded { d, dmin, sc: [0; 16], mn: [0; 16], q: [0; 256] };
    for (g, &(sc, mn)) in pairs.iter().enumerate() {
        (out.sc[g], out.mn[g]) = (sc as u8, mn as u8);
        let (scale, min) = (d * sc as f32, dmin * mn as f32);
        for i in 0..G {
            out.q[G * g + i] = quantise(x[g][i] + min, scale, 0, levels) as u8;
        }
    }
    out
}

/// The best integers near a guess: rounding scale and minimum apart is not best for the pair.
fn around<const G: usize>(
    x: &[f32; G],
    w: &[f32; G],
    (d, dmin): (f32, f32),
    (sc, mn): (i32, i32),
    scales: i32,
    top: f32,
) -> (f32, (i32, i32)) {
    let mut best = (f32::INFINITY, (0, 0));
    for s in (sc - 1).max(0)..=(sc + 1).min(scales) {
        for m in (mn - 2).max(0)..=(mn + 2).min(scales) {
            let error = loss(x, w, (d * s as f32, -dmin * m as f32), top);
            if error < best.0 {
                best = (error, (s, m));
            }
        }
    }
    best
}

/// Least squares for the two block scales, all integers held.
fn refit<const G: usize>(
    x: &[[f32; G]],
    w: &[[f32; G]],
    (d, dmin): (f32, f32),
    pairs: &[(i32, i32)],
    top: f32,
) -> (f32, f32) {
    // x ≈ d·a - dmin·m, with a = sc·q
    let (mut aa, mut am, mut mm, mut xa, mut xm) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for g in 0..x.len() {
        let (sc, m) = (pairs[g].0 as f32, pairs[g].1 as f32);
        let inv = inverse(d * sc);
        for i in 0..G {
            let (x, w) = (x[g][i], w[g][i]);
            let a = sc * nearest(((x + dmin * m) * inv).clamp(0.0, top));
            aa += w * a * a;
            am += w * a * m;
            mm += w * m * m;
            xa += w * x * a;
            xm += w * x * m;
        }
    }
    let det = aa * mm - am * am;
    // Minima all zero, or proportional to the scales: only d is determined.
    let (new_d, new_min) = if det > 1e-6 * aa * mm {
        ((xa * mm - xm * am) / det, (xa * am - xm * aa) / det)
    } else if aa > 0.0 {
        ((xa + dmin * am) / aa, dmin)
    } else {
        (d, dmin)
    };
    if new_d > 0.0 && new_min >= 0.0 { (to_f16(new_d), to_f16(new_min)) } else { (d, dmin) }
}
