//! Work on single activation rows: norm, quantisation, gating, rotation.

use crate::device::Pairing;
use crate::lanes::{self, Lanes};

/// RMSNorm: `out = x / sqrt(mean(x²) + eps) · w`. `n` is a multiple of 16.
///
/// # Safety
/// `n` values at each pointer; the rung is there.
#[inline(always)]
pub unsafe fn rms_norm<L: Lanes>(x: *const f32, w: *const f32, eps: f32, n: usize, out: *mut f32) {
    // SAFETY: the bounds are the caller's promise.
    unsafe {
        let mut acc = L::splat(0.0);
        for i in (0..n).step_by(16) {
            let v = L::load(x.add(i));
            acc = L::fma(v, v, acc);
        }
        let r = L::splat(1.0 / (lanes::sum::<L>(acc) / n as f32 + eps).sqrt());
        for i in (0..n).step_by(16) {
            let v = L::mul(L::mul(L::load(x.add(i)), r), L::load(w.add(i)));
            L::store(out.add(i), v);
        }
    }
}

/// Where a quantised row goes.
#[derive(Clone, Copy)]
pub struct Codes {
    /// `[n]` codes in -127..=127
    pub q: *mut i8,
    /// `[n / block]` scales
    pub d: *mut f32,
    /// `[n / 32]` sums of codes
    pub s32: *mut i32,
    /// `[n / 16]` sums of codes
    pub s16: *mut i32,
    /// `[n / 32]` scale times sum: what a block's minimum is multiplied with
    pub ds: *mut f32,
}

/// Levels tried for the largest value of a block. Which one rounds the others best is a matter of luck, so trying
/// three and refitting the scale lowers the squared error by 14 % per 32 and 3.5 % per 256 (Gaussian; Laplace alike).
const LEVELS: [f32; 3] = [127.0, 126.0, 125.0];

/// Symmetric int8 per `block` (32 or 256) values, ties to even: of the [`LEVELS`] the one with the least squared
/// error, then the scale that fits its codes best. A block of zeros gets scale 0; a block with an infinity or NaN
/// gets a NaN scale, so that the fault reaches the logits instead of vanishing.
///
/// # Safety
/// `n`, a multiple of `block`, values at `x`, matching room in `to`; the rung is there.
#[inline(always)]
pub unsafe fn quantise<L: Lanes>(x: *const f32, n: usize, block: usize, to: Codes) {
    // SAFETY: the bounds are the caller's promise.
    unsafe {
        for b in 0..n / block {
            let x = x.add(b * block);
            let mut top = L::splat(0.0);
            for i in (0..block).step_by(16) {
                top = L::max(L::abs(L::load(x.add(i))), top);
            }
            let amax = lanes::max16::<L>(top);
            // 127/amax overflows for subnormal amax; such a block is zero for every purpose, if it holds numbers:
            // the maximum passes NaN over.
            if amax < 1e-30 {
                let number = (0..block).all(|i| !(*x.add(i)).is_nan());
                flat(b, block, if number { 0.0 } else { f32::NAN }, to);
                continue;
            }
            let mut error = [L::splat(0.0); LEVELS.len()];
            for i in (0..block).step_by(16) {
                let v = L::load(x.add(i));
                for (level, error) in LEVELS.iter().zip(&mut error) {
                    let u = L::mul(v, L::splat(level / amax));
                    let e = L::sub(u, L::from_int(L::round(u)));
                    *error = L::fma(e, e, *error);
                }
            }
            let mut best = 0;
            let mut least = f32::INFINITY;
            for (i, level) in LEVELS.iter().enumerate() {
                // In units of the values: an error of one code weighs (amax / level)².
                let e = lanes::sum::<L>(error[i]) / (level * level);
                if e < least {
                    (best, least) = (i, e);
                }
            }
            if least == f32::INFINITY {
                // No error compares: there is an infinity or a NaN in the block.
                flat(b, block, f32::NAN, to);
                continue;
            }
            let scale = LEVELS[best] / amax;
            let (mut ur, mut rr) = (L::splat(0.0), L::splat(0.0));
            for i in (0..block).step_by(16) {
                let at = b * block + i;
                let u = L::mul(L::load(x.add(i)), L::splat(scale));
                let code = L::round(u);
                let r = L::from_int(code);
                ur = L::fma(u, r, ur);
                rr = L::fma(r, r, rr);
                L::store_i8(to.q.add(at), code);
                // Whole numbers of at most 16 · 127: exact in any order.
                *to.s16.add(at / 16) = lanes::sum::<L>(r) as i32;
            }
            // Least squares: d = Σxr / Σr²; Σr² >= 125², because the largest value has its level.
            let d = lanes::sum::<L>(ur) / lanes::sum::<L>(rr) / scale;
            *to.d.add(b) = d;
            for i in b * block / 32..(b + 1) * block / 32 {
                let sum = *to.s16.add(2 * i) + *to.s16.add(2 * i + 1);
                *to.s32.add(i) = sum;
                *to.ds.add(i) = d * sum as f32;
            }
        }
    }
}

/// A block without codes, of scale `d`.
#[cold]
unsafe fn flat(b: usize, block: usize, d: f32, to: Codes) {
    // SAFETY: the block lies within the row, as in `quantise`.
    unsafe {
        *to.d.add(b) = d;
        to.q.add(b * block).write_bytes(0, block);
        to.s16.add(b * block / 16).write_bytes(0, block / 16);
        to.s32.add(b * block / 32).write_bytes(0, block / 32);
        for i in b * block / 32..(b + 1) * block / 32 {
            *to.ds.add(i) = d * 0.0;
        }
    }
}

/// `g[i] = silu(g[i]) · u[i]` over 16 values.
///
/// # Safety
/// 16 values at each pointer; the rung is there.
#[inline(always)]
pub unsafe fn silu_mul<L: Lanes>(g: *mut f32, u: *const f32) {
    // SAFETY: the bounds are the caller's promise.
    unsafe {
        let v = lanes::silu::<L>(L::load(g));
        L::store(g, L::mul(v, L::load(u)));
    }
}

/// Rotates one head in place. `cos` and `sin` hold one value per pair. Plain multiplications and additions, never
/// contracted, so every rung agrees without its own version.
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], pairing: Pairing) {
    let half = cos.len();
    for i in 0..half {
        let (a, b) = match pairing {
            Pairing::Interleaved => (2 * i, 2 * i + 1),
            Pairing::Half => (i, i + half),
        };
        let (x, y) = (head[a], head[b]);
        head[a] = x * cos[i] - y * sin[i];
        head[b] = x * sin[i] + y * cos[i];
    }
}
