//! Searches for the scale, or scale and offset, that lose least: the encoders' arithmetic.
//!
//! Every search walks a grid of trial scales. A trial fixes the integers; weighted least squares then gives the
//! best scale for those integers in closed form, and the trial with the smallest weighted error wins. `store`
//! rounds a scale to what the format keeps, so that trials are judged by the scale that will be read back.

/// Trial scales per unit of the largest level, and how far they reach beyond it and below it.
const STEPS: i32 = 4;
const ABOVE: i32 = STEPS;
const BELOW: i32 = 2 * STEPS;

/// Refinements of a scale with an offset: two take 0.5 % (Gaussian) to 2.5 % (outliers) off Q4_1's error.
const REFINE: usize = 2;

/// How much each element's error counts: the block's root mean square plus its own magnitude. Large weights carry
/// more of a dot product than their share, yet the small ones are most of it.
pub fn importance<const N: usize>(x: &[f32; N]) -> [f32; N] {
    let rms = (x.iter().map(|x| x * x).sum::<f32>() / N as f32).sqrt();
    x.map(|x| rms + x.abs())
}

/// `K` sums over `0..N`, each kept in eight lanes: a single running sum would forbid the compiler to vectorise
/// (1.5 times slower encoding, measured on Q4_1).
fn sums<const N: usize, const K: usize>(terms: impl Fn(usize) -> [f32; K]) -> [f32; K] {
    const LANES: usize = 8;
    const { assert!(N.is_multiple_of(LANES)) };
    let mut acc = [[0.0f32; LANES]; K];
    for i in (0..N).step_by(LANES) {
        for l in 0..LANES {
            let t = terms(i + l);
            for k in 0..K {
                acc[k][l] += t[k];
            }
        }
    }
    acc.map(|lanes| lanes.iter().sum())
}

/// Rounds to nearest, ties to even, for |v| < 2²²: adding 1.5 · 2²³ leaves no fraction bits. Unlike
/// `f32::round_ties_even` this is two vector additions on every target.
pub fn nearest(v: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    (v + MAGIC) - MAGIC
}

/// `1 / d`; 0 where that is not finite, so that every level becomes 0.
pub fn inverse(d: f32) -> f32 {
    let inv = 1.0 / d;
    if inv.is_finite() { inv } else { 0.0 }
}

/// The integer in `lo..=hi` for `x` at scale `d`; 0, or the nearest to it, when the scale is 0.
pub fn quantise(x: f32, d: f32, lo: i32, hi: i32) -> i32 {
    let v = if d == 0.0 { 0.0 } else { x / d };
    nearest(v.clamp(lo as f32, hi as f32)) as i32
}

/// The element of largest magnitude, with its sign.
pub fn peak(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |p: f32, &x| if x.abs() > p.abs() { x } else { p })
}

/// The `f16` scale that spreads the largest magnitude over `top` levels; of the nearest and its two neighbours the
/// one that loses least, which matters where scales are subnormal and far apart.
pub fn full_range<const N: usize>(x: &[f32; N], top: i32) -> f32 {
    let bits = half::f16::from_f32((peak(x).abs() / top as f32).min(65504.0)).to_bits();
    let mut best = (f32::INFINITY, 0.0);
    for bits in [bits, bits.saturating_sub(1), (bits + 1).min(0x7bff)] {
        let d = half::f16::from_bits(bits).to_f32();
        let error: f32 = x.iter().map(|&x| (x - d * quantise(x, d, -top, top) as f32).powi(2)).sum();
        if error < best.0 {
            best = (error, d);
        }
    }
    best.1
}

/// The scale `d` for which `d · q`, `q` in `lo..=hi` with `|lo| > hi`, is nearest to `x`. It takes the sign that
/// lets the peak use the longer side.
pub fn symmetric<const N: usize>(x: &[f32; N], w: &[f32; N], lo: i32, hi: i32, store: fn(f32) -> f32) -> f32 {
    let (flo, fhi) = (lo as f32, hi as f32);
    let levels = (lo * STEPS - ABOVE..=(lo * STEPS + BELOW).min(-STEPS)).map(|i| i as f32 / STEPS as f32);
    best_scale(x, w, levels, store, |v| nearest(v.clamp(flo, fhi)))
}

/// As [`symmetric`] for `x` not below zero and `q` in `0..=top`.
pub fn unsigned<const N: usize>(x: &[f32; N], w: &[f32; N], top: i32, store: fn(f32) -> f32) -> f32 {
    let levels = ((top * STEPS - BELOW).max(STEPS)..=top * STEPS + ABOVE).map(|i| i as f32 / STEPS as f32);
    best_scale(x, w, levels, store, |v| nearest(v.clamp(0.0, top as f32)))
}

/// As [`symmetric`] for a table of levels in rising order, whose ends differ, so both signs are tried. `nearest_to`
/// holds the index of the level nearest to each integer from -128: trials need no more precision.
pub fn table<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    levels: &[i8; 16],
    nearest_to: &[u8; 256],
    store: fn(f32) -> f32,
) -> f32 {
    let ends = [levels[0], levels[15]].map(f32::from);
    let around = (-4..=8).map(|i| 1.0 - i as f32 / 32.0);
    let trials = around.flat_map(|f| ends.map(|e| f * e)).chain(levels.iter().map(|&l| f32::from(l)));
    best_scale(x, w, trials, store, |v| {
        let at = nearest(v.clamp(-128.0, 127.0)) as i32 + 128;
        f32::from(levels[usize::from(nearest_to[at as usize & 255])])
    })
}

/// The index of the level nearest to `x` at scale `d`.
pub fn nearest_level(x: f32, d: f32, levels: &[i8; 16]) -> usize {
    let v = if d == 0.0 { 0.0 } else { x / d };
    (1..16).filter(|&i| v > 0.5 * (f32::from(levels[i - 1]) + f32::from(levels[i]))).count()
}

/// Tries the scales that put the peak on each of `trials`. Refining the winner further gained nothing.
fn best_scale<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    trials: impl Iterator<Item = f32>,
    store: fn(f32) -> f32,
    level: impl Fn(f32) -> f32,
) -> f32 {
    let peak = peak(x);
    let mut best = (f32::INFINITY, 0.0);
    for trial in trials {
        let inv = 1.0 / store(peak / trial);
        if !inv.is_finite() {
            continue;
        }
        let q: [f32; N] = std::array::from_fn(|i| level(x[i] * inv));
        let [xq, qq] = sums::<N, 2>(|i| [w[i] * x[i] * q[i], w[i] * q[i] * q[i]]);
        if qq > 0.0 {
            let d = store(xq / qq);
            // Term by term, not from the sums above: numbers that lie on a grid then lose exactly nothing on it.
            let [error] = sums::<N, 1>(|i| [w[i] * (x[i] - d * q[i]).powi(2)]);
            if error < best.0 {
                best = (error, d);
            }
        }
    }
    best.1
}

/// The scale and offset for which `scale · q + offset`, `q` in `0..=levels`, is nearest to `x`, with the offset not
/// above `bound`.
pub fn affine<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    levels: i32,
    bound: f32,
    store: fn(f32) -> f32,
) -> (f32, f32) {
    let min = x.iter().fold(bound, |a, &b| a.min(b));
    let max = x.iter().fold(min, |a, &b| a.max(b));
    let top = levels as f32;
    let flat = (0.0, store(min));
    let mut best = (loss(x, w, flat, top), flat);
    let mut keep = |pair: (f32, f32)| {
        let error = loss(x, w, pair, top);
        if error < best.0 {
            best = (error, pair);
        }
        best.1
    };
    let mut trial_best = (f32::INFINITY, flat);
    for i in (levels * STEPS - BELOW).max(STEPS)..=levels * STEPS + ABOVE {
        let inv = i as f32 / STEPS as f32 / (max - min);
        if !inv.is_finite() {
            continue;
        }
        let fit = Fit::new(x, w, min, |x| nearest(((x - min) * inv).clamp(0.0, top)));
        let (scale, offset) = fit.solve(bound);
        let pair = (store(scale), store(offset));
        let error = fit.loss(pair);
        if error < trial_best.0 {
            trial_best = (error, pair);
        }
    }
    let mut pair = keep(trial_best.1);
    // The offset's rounding may exceed a step when the offset is large: fit the scale to the offset that is kept,
    // and let the lowest level lie below the smallest element.
    for _ in 0..REFINE {
        if pair.0 == 0.0 {
            break;
        }
        let fit = Fit::new(x, w, min, |x| nearest(((x - pair.1) / pair.0).clamp(0.0, top)));
        let (scale, offset) = fit.solve(bound);
        keep((store(fit.scale_for(pair.1)), pair.1));
        for below in 0..3 {
            let offset = store(offset - below as f32 * scale);
            keep((store(scale), offset));
            pair = keep((store(fit.scale_for(offset)), offset));
        }
    }
    pair
}

/// Weighted squared error of `x` when stored with this scale and offset.
pub fn loss<const N: usize>(x: &[f32; N], w: &[f32; N], (scale, offset): (f32, f32), top: f32) -> f32 {
    let inv = inverse(scale);
    let [sum] = sums::<N, 1>(|i| {
        let q = nearest(((x[i] - offset) * inv).clamp(0.0, top));
        let e = scale * q + offset - x[i];
        [w[i] * e * e]
    });
    sum
}

/// Weighted sums of `u = x - base` and integers `q`: all that least squares needs.
struct Fit {
    base: f32,
    w: f32,
    u: f32,
    q: f32,
    uq: f32,
    qq: f32,
}

impl Fit {
    // Sums are taken relative to a base near the data: with raw values a common offset would drown the fit.
    fn new<const N: usize>(x: &[f32; N], w: &[f32; N], base: f32, level: impl Fn(f32) -> f32) -> Self {
        let [w, u, q, uq, qq] = sums::<N, 5>(|i| {
            let (q, u) = (level(x[i]), x[i] - base);
            [w[i], w[i] * u, w[i] * q, w[i] * u * q, w[i] * q * q]
        });
        Self { base, w, u, q, uq, qq }
    }

    /// Scale and offset of least error, the offset not above `bound`.
    fn solve(&self, bound: f32) -> (f32, f32) {
        let det = self.w * self.qq - self.q * self.q;
        // All integers alike: any offset does as well as another.
        if det <= 1e-6 * self.w * self.qq {
            let offset = self.base.min(bound);
            return (self.scale_for(offset), offset);
        }
        let offset = (self.qq * self.u - self.q * self.uq) / det + self.base;
        if offset > bound {
            return (self.scale_for(bound), bound);
        }
        ((self.w * self.uq - self.u * self.q) / det, offset)
    }

    /// The best scale for a given offset.
    fn scale_for(&self, offset: f32) -> f32 {
        if self.qq > 0.0 { (self.uq - (offset - self.base) * self.q) / self.qq } else { 0.0 }
    }

    /// Weighted squared error for these integers, up to a constant.
    fn loss(&self, (scale, offset): (f32, f32)) -> f32 {
        let b = offset - self.base;
        scale * (scale * self.qq + 2.0 * b * self.q - 2.0 * self.uq) + b * (b * self.w - 2.0 * self.u)
    }
}
