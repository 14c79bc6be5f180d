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

/// Symmetric int8 per `block` (32 or 256) values: `d = amax / 127`, ties to even. A block of zeros gets scale 0; a
/// block with an infinity or NaN gets a NaN scale, so that the fault reaches the logits instead of vanishing.
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
            let mut fault = L::splat(0.0);
            for i in (0..block).step_by(16) {
                let v = L::load(x.add(i));
                top = L::max(L::abs(v), top);
                fault = L::fma(v, L::splat(0.0), fault);
            }
            let amax = lanes::max16::<L>(top);
            let fault = lanes::sum::<L>(fault);
            // 127/amax overflows for subnormal amax; such a block is zero for every purpose.
            let live = amax >= 1e-30 && fault == 0.0;
            let scale = if live { 127.0 / amax } else { 0.0 };
            *to.d.add(b) = if live {
                amax / 127.0
            } else if fault == 0.0 {
                0.0
            } else {
                f32::NAN
            };
            for i in (0..block).step_by(16) {
                let at = b * block + i;
                let v = if live { L::load(x.add(i)) } else { L::splat(0.0) };
                L::store_i8(to.q.add(at), L::round(L::mul(v, L::splat(scale))));
                let mut sum = 0i32;
                for k in 0..16 {
                    sum += *to.q.add(at + k) as i32;
                }
                *to.s16.add(at / 16) = sum;
                if at % 32 == 16 {
                    let sum = sum + *to.s16.add(at / 16 - 1);
                    *to.s32.add(at / 32) = sum;
                    *to.ds.add(at / 32) = *to.d.add(b) * sum as f32;
                }
            }
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
