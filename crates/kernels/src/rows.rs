//! Work on single activation rows: norm, quantisation, gating, rotation.

use crate::device::Pairing;
use crate::lanes::{self, Lanes};

/// What RMSNorm multiplies a row with: `1 / sqrt(mean(x²) + eps)`. `n` is a multiple of 16.
///
/// # Safety
/// `n` values at `x`; the rung is there.
#[inline(always)]
pub unsafe fn rms<L: Lanes>(x: *const f32, eps: f32, n: usize) -> f32 {
    // SAFETY: the bounds are the caller's promise.
    unsafe {
        let mut acc = L::splat(0.0);
        for i in (0..n).step_by(16) {
            let v = L::load(x.add(i));
            acc = L::fma(v, v, acc);
        }
        1.0 / (lanes::sum::<L>(acc) / n as f32 + eps).sqrt()
    }
}

/// `out = x · r · w`. `n` is a multiple of 16.
///
/// # Safety
/// `n` values at each pointer; the rung is there.
#[inline(always)]
pub unsafe fn scale<L: Lanes>(x: *const f32, r: f32, w: *const f32, n: usize, out: *mut f32) {
    // SAFETY: the bounds are the caller's promise.
    unsafe {
        let r = L::splat(r);
        for i in (0..n).step_by(16) {
            L::store(out.add(i), L::mul(L::mul(L::load(x.add(i)), r), L::load(w.add(i))));
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
    /// blocks of 32: `[n / 32]` minus eight times the sum of codes
    pub n8: *mut i32,
    /// blocks of 32: `[n / 32]` scale times sum of codes
    pub ds: *mut f32,
    /// blocks of 256: `[n / 32]` sums of codes, each four in the order 0, 2, 1, 3
    pub s32: *mut i16,
    /// blocks of 256: `[n / 16]` sums of codes, in the same order
    pub s16: *mut i16,
}

impl Codes {
    /// From value `i` on, a multiple of 256, with scales per `block` values.
    pub fn at(&self, i: usize, block: usize) -> Codes {
        Codes {
            q: self.q.wrapping_add(i),
            d: self.d.wrapping_add(i / block),
            n8: self.n8.wrapping_add(i / 32),
            ds: self.ds.wrapping_add(i / 32),
            s32: self.s32.wrapping_add(i / 32),
            s16: self.s16.wrapping_add(i / 16),
        }
    }
}

/// Levels tried for the largest value of a block. Which one rounds the others best is a matter of luck, so trying
/// three and refitting the scale lowers the squared error by 14 % per 32 and 3.5 % per 256 (Gaussian; Laplace alike).
const LEVELS: [f32; 3] = [127.0, 126.0, 125.0];

/// Order in which sums stand in memory, within each four: see [`Codes::s32`].
const PAIRED: [usize; 4] = [0, 2, 1, 3];
/// Blocks below this maximum are zero for every purpose: 127 divided by a subnormal overflows.
const LEAST: f32 = 1e-30;

/// Symmetric int8 per `block` (32 or 256) values, ties to even: of the [`LEVELS`] the one with the least squared
/// error, then the scale that fits its codes best. A block of zeros gets scale 0; a block with an infinity or NaN
/// gets a NaN scale, so that the fault reaches the logits instead of vanishing.
///
/// # Safety
/// `n`, a multiple of 256, values at `x`, matching room in `to`; the rung is there.
#[inline(always)]
pub unsafe fn quantise<L: Lanes>(x: *const f32, n: usize, block: usize, to: Codes) {
    for c in 0..n / 256 {
        // SAFETY: the bounds are the caller's promise.
        unsafe {
            if block == 32 {
                small::<L>(x.add(256 * c), c, to);
            } else {
                large::<L>(x.add(256 * c), c, to);
            }
        }
    }
}

/// Adds the squared rounding errors of `v` at scale `inv`.
#[inline(always)]
unsafe fn miss<L: Lanes>(v: L::F, inv: f32, error: L::F) -> L::F {
    // SAFETY: arithmetic only; the caller vouches for the rung.
    unsafe {
        let u = L::mul(v, L::splat(inv));
        let e = L::sub(u, L::nearest(u));
        L::fma(e, e, error)
    }
}

/// Eight blocks of 32, so that what a block folds into one number is folded for eight at once.
#[inline(always)]
unsafe fn small<L: Lanes>(x: *const f32, c: usize, to: Codes) {
    const N: usize = LEVELS.len();
    // SAFETY: the bounds are those of `quantise`.
    unsafe {
        let zero = L::splat(0.0);
        let mut top = [zero; 8];
        for i in 0..8 {
            for j in 0..2 {
                top[i] = L::max(L::abs(L::load(x.add(32 * i + 16 * j))), top[i]);
            }
        }
        let amax = L::tops(&top);
        let mut inv = [zero; N];
        let mut error = [zero; N];
        for (l, level) in LEVELS.iter().enumerate() {
            inv[l] = L::div(L::splat(*level), amax);
            let each = spill::<L>(inv[l]);
            let mut sum = [zero; 8];
            for i in 0..8 {
                for j in 0..2 {
                    sum[i] = miss::<L>(L::load(x.add(32 * i + 16 * j)), each[i], sum[i]);
                }
            }
            error[l] = L::sums(&sum);
        }
        // In units of the values an error of one code weighs (amax / level)².
        let (mut scale, mut least) = (inv[0], L::splat(f32::INFINITY));
        for (l, level) in LEVELS.iter().enumerate() {
            let e = L::div(error[l], L::splat(level * level));
            scale = L::pick_lt(e, least, inv[l], scale);
            least = L::pick_lt(e, least, e, least);
        }
        let (tops, errors) = (spill::<L>(amax), spill::<L>(least));
        // Blocks that hold no numbers, or next to nothing: no error compares with an infinity or NaN in the block.
        let odd = |i: usize| tops[i] < LEAST || errors[i] == f32::INFINITY;
        let any = (0..8).any(odd);
        let each = spill::<L>(scale);
        let (mut ur, mut rr, mut total) = ([zero; 8], [zero; 8], [zero; 8]);
        for i in 0..8 {
            for j in 0..2 {
                let at = 32 * i + 16 * j;
                let u = L::mul(L::load(x.add(at)), L::splat(each[i]));
                let code = L::round(u);
                let r = L::from_int(code);
                ur[i] = L::fma(u, r, ur[i]);
                rr[i] = L::fma(r, r, rr[i]);
                // Whole numbers of at most 32 · 127: exact in any order.
                total[i] = L::add(total[i], r);
                L::store_i8(to.q.add(256 * c + at), code);
            }
        }
        let (ur, rr, total) = (L::sums(&ur), L::sums(&rr), L::sums(&total));
        // Least squares: d = Σxr / Σr²; Σr² >= 125², because the largest value has its level.
        let d = L::div(L::div(ur, rr), scale);
        let (ds, n8, d) =
            (spill::<L>(L::mul(d, total)), spill::<L>(L::mul(total, L::splat(-8.0))), spill::<L>(d));
        for i in 0..8 {
            let b = 8 * c + i;
            (*to.d.add(b), *to.ds.add(b), *to.n8.add(b)) = (d[i], ds[i], n8[i] as i32);
        }
        if any {
            for i in (0..8).filter(|&i| odd(i)) {
                // The maximum passes NaN over.
                let nothing = tops[i] < LEAST && (0..32).all(|k| !(*x.add(32 * i + k)).is_nan());
                let (b, d) = (8 * c + i, if nothing { 0.0 } else { f32::NAN });
                (*to.d.add(b), *to.ds.add(b), *to.n8.add(b)) = (d, d, 0);
                to.q.add(32 * b).write_bytes(0, 32);
            }
        }
    }
}

/// A vector's lanes in memory.
#[inline(always)]
unsafe fn spill<L: Lanes>(v: L::F) -> [f32; 16] {
    let mut out = [0f32; 16];
    // SAFETY: 16 values fit the array.
    unsafe { L::store(out.as_mut_ptr(), v) };
    out
}

/// One block of 256.
#[inline(always)]
unsafe fn large<L: Lanes>(x: *const f32, c: usize, to: Codes) {
    // SAFETY: the bounds are those of `quantise`.
    unsafe {
        let zero = L::splat(0.0);
        let mut top = zero;
        for i in 0..16 {
            top = L::max(L::abs(L::load(x.add(16 * i))), top);
        }
        let amax = lanes::max16::<L>(top);
        let mut error = [zero; LEVELS.len()];
        for i in 0..16 {
            let v = L::load(x.add(16 * i));
            for (level, error) in LEVELS.iter().zip(&mut error) {
                *error = miss::<L>(v, level / amax, *error);
            }
        }
        let (mut best, mut least) = (0, f32::INFINITY);
        for (l, level) in LEVELS.iter().enumerate() {
            let e = lanes::sum::<L>(error[l]) / (level * level);
            if e < least {
                (best, least) = (l, e);
            }
        }
        if amax < LEAST || least == f32::INFINITY {
            let zero = amax < LEAST && (0..256).all(|k| !(*x.add(k)).is_nan());
            *to.d.add(c) = if zero { 0.0 } else { f32::NAN };
            to.q.add(256 * c).write_bytes(0, 256);
            to.s32.add(8 * c).write_bytes(0, 8);
            to.s16.add(16 * c).write_bytes(0, 16);
            return;
        }
        let scale = LEVELS[best] / amax;
        let (mut ur, mut rr) = (zero, zero);
        let mut codes = [zero; 16];
        for i in 0..16 {
            let u = L::mul(L::load(x.add(16 * i)), L::splat(scale));
            let code = L::round(u);
            let r = L::from_int(code);
            ur = L::fma(u, r, ur);
            rr = L::fma(r, r, rr);
            L::store_i8(to.q.add(256 * c + 16 * i), code);
            codes[i] = r;
        }
        *to.d.add(c) = lanes::sum::<L>(ur) / lanes::sum::<L>(rr) / scale;
        let mut sums = [0i16; 16];
        for half in 0..2 {
            let part: [L::F; 8] = std::array::from_fn(|i| codes[8 * half + i]);
            for (i, s) in spill::<L>(L::sums(&part)).iter().take(8).enumerate() {
                sums[8 * half + i] = *s as i16;
            }
        }
        for i in 0..16 {
            *to.s16.add(16 * c + i) = sums[i / 4 * 4 + PAIRED[i % 4]];
        }
        for i in 0..8 {
            let k = i / 4 * 4 + PAIRED[i % 4];
            *to.s32.add(8 * c + i) = sums[2 * k] + sums[2 * k + 1];
        }
    }
}

/// `n` values, a multiple of 16, as IEEE halves, rounded to nearest, ties to even.
///
/// # Safety
/// `n` values at each pointer; the rung is there.
#[inline(always)]
pub unsafe fn to_half<L: Lanes>(x: *const f32, n: usize, out: *mut u16) {
    for i in (0..n).step_by(16) {
        // SAFETY: the bounds are the caller's promise.
        unsafe { L::store_f16(out.add(i), L::load(x.add(i))) };
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
