//! Random matter, devices, and the scalar specification of a product.

use std::sync::Arc;

use tamp_formats::Kind;
use tamp_kernels::cpu::{Buf, Cpu};
use tamp_kernels::device::{BufShape, Device, FfnWeights, Projection, RowMap};
use tamp_kernels::linear::Linear;
use tamp_kernels::pool::Pool;
use tamp_kernels::rung::{self, Rung};
use tamp_kernels::tile::{Act, Out};

/// SplitMix64.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// in `-1..1`
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// near enough to a normal distribution, with unit variance
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() / 2.0
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for b in bytes {
            *b = self.next() as u8;
        }
    }
}

/// Pools of one worker and of two; every run has them all.
pub fn pools() -> Vec<Arc<Pool>> {
    [1, 2].map(|n| Arc::new(Pool::new(n, false).steady())).to_vec()
}

/// A device per rung and number of workers; the portable rung on one worker comes first.
pub fn devices() -> Vec<Cpu> {
    let pools = pools();
    let mut rungs: Vec<&'static Rung> = rung::available().collect();
    rungs.reverse();
    assert_eq!(rungs[0].name, "portable");
    rungs.iter().flat_map(|r| pools.iter().map(|p| Cpu::new(Arc::clone(p), r))).collect()
}

pub fn name(cpu: &Cpu) -> String {
    format!("{} on {} workers", cpu.name(), cpu.pool().threads())
}

/// Where a block keeps its f16 scale and, if it has one, its minimum; none for floats.
pub fn scale_fields(kind: Kind) -> Option<(usize, Option<usize>)> {
    use tamp_formats::block as b;
    Some(match kind {
        Kind::F32 | Kind::F16 | Kind::BF16 => return None,
        Kind::Q4_0 => (b::q4_0::D, None),
        Kind::Q4_1 => (b::q4_1::D, Some(b::q4_1::M)),
        Kind::Q5_0 => (b::q5_0::D, None),
        Kind::Q5_1 => (b::q5_1::D, Some(b::q5_1::M)),
        Kind::Q8_0 => (b::q8_0::D, None),
        Kind::IQ4_NL => (b::iq4_nl::D, None),
        Kind::Q2_K => (b::q2_k::D, Some(b::q2_k::DMIN)),
        Kind::Q3_K => (b::q3_k::D, None),
        Kind::Q4_K => (b::q4_k::D, Some(b::q4_k::DMIN)),
        Kind::Q5_K => (b::q5_k::D, Some(b::q5_k::DMIN)),
        Kind::Q6_K => (b::q6_k::D, None),
    })
}

/// What the scales of a random matrix may be.
#[derive(Clone, Copy, PartialEq)]
pub enum Scales {
    /// 1: results are integers
    One,
    /// ordinary sizes
    Tame,
    /// any 16 (or, of floats, 32) bits
    Any,
}

/// Random bytes in the layout of `kind`.
pub fn matrix(rng: &mut Rng, kind: Kind, rows: usize, cols: usize, scales: Scales) -> Vec<u8> {
    let mut out = vec![0; rows * kind.row_bytes(cols).unwrap()];
    rng.fill(&mut out);
    match scale_fields(kind) {
        None if scales == Scales::Any => {}
        None => {
            let values: Vec<f32> = (0..rows * cols).map(|_| rng.normal()).collect();
            (kind.row().encode)(&values, &mut out);
        }
        Some((d, m)) => {
            for block in out.chunks_exact_mut(kind.bytes()) {
                for at in [Some(d), m].into_iter().flatten() {
                    let v = match scales {
                        Scales::Any => continue,
                        Scales::One => half::f16::ONE,
                        Scales::Tame => half::f16::from_f32(rng.unit() * 0.02),
                    };
                    block[at..at + 2].copy_from_slice(&v.to_le_bytes());
                }
            }
        }
    }
    out
}

pub fn decode(kind: Kind, row: &[u8], cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; cols];
    (kind.row().decode)(row, &mut out);
    out
}

/// One activation row as a kernel takes it, `len` columns with zeros behind the given ones.
pub struct Row {
    pub q: Vec<i8>,
    pub d: Vec<f32>,
    pub x: Vec<f32>,
    n8: Vec<i32>,
    ds: Vec<f32>,
    s32: Vec<i16>,
    s16: Vec<i16>,
}

/// Sums of runs of `n` codes.
pub fn sums(q: &[i8], n: usize) -> Vec<i32> {
    q.chunks(n).map(|c| c.iter().map(|&v| v as i32).sum()).collect()
}

/// Each four in the order 0, 2, 1, 3.
pub fn paired(sums: &[i32]) -> Vec<i16> {
    sums.chunks(4).flat_map(|c| [c[0], c[2], c[1], c[3]]).map(|v| v as i16).collect()
}

impl Row {
    pub fn of_codes(mut q: Vec<i8>, mut d: Vec<f32>, mut x: Vec<f32>, len: usize) -> Row {
        q.resize(len, 0);
        x.resize(len, 0.0);
        d.resize(len / 16, 0.0);
        let (of32, of16) = (sums(&q, 32), sums(&q, 16));
        // Only formats with 32 codes per block read it.
        let ds = of32.iter().zip(&d).map(|(s, d)| d * *s as f32).collect();
        let n8 = of32.iter().map(|s| -8 * s).collect();
        Row { n8, ds, s32: paired(&of32), s16: paired(&of16), q, d, x }
    }

    /// Quantised by the letter of `rows::quantise`'s documentation.
    pub fn quantised(x: &[f32], kind: Kind) -> Row {
        let len = x.len().next_multiple_of(256);
        let mut padded = x.to_vec();
        padded.resize(len, 0.0);
        let (mut q, mut d) = (vec![], vec![]);
        if kind.act_block() > 0 {
            for block in padded.chunks(kind.act_block()) {
                let (codes, scale) = quantise_block(block);
                q.extend(codes);
                d.push(scale);
            }
        }
        Row::of_codes(q, d, padded, len)
    }

    pub fn act(&self) -> Act {
        Act {
            q: self.q.as_ptr(),
            d: self.d.as_ptr(),
            n8: self.n8.as_ptr(),
            ds: self.ds.as_ptr(),
            s32: self.s32.as_ptr(),
            s16: self.s16.as_ptr(),
            x: self.x.as_ptr(),
        }
    }
}

pub fn quantise_block(x: &[f32]) -> (Vec<i8>, f32) {
    if x.iter().any(|v| !v.is_finite()) {
        return (vec![0; x.len()], f32::NAN);
    }
    let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    if amax < 1e-30 {
        return (vec![0; x.len()], 0.0);
    }
    // Of three levels for the largest value the one with the least squared error in units of the values.
    let codes = |level: f32| x.iter().map(move |v| v * (level / amax)).map(|u| (u, u.round_ties_even()));
    let error = |level: f32| sixteen(codes(level).map(|(u, r)| (u - r, u - r))) / (level * level);
    let level = [126.0, 125.0].iter().fold(127.0, |best, l| if error(*l) < error(best) { *l } else { best });
    // Then the scale that fits those codes best.
    let fit = sixteen(codes(level)) / sixteen(codes(level).map(|(_, r)| (r, r)));
    (codes(level).map(|(_, r)| r as i8).collect(), fit / (level / amax))
}

/// Sum of products in 16 lanes (index mod 16, FMA), folded 8, 4, 2, 1.
fn sixteen(products: impl Iterator<Item = (f32, f32)>) -> f32 {
    let mut lanes = [0f32; 16];
    for (i, (a, b)) in products.enumerate() {
        lanes[i % 16] = a.mul_add(b, lanes[i % 16]);
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// A block's integers, its scale and its minimum: `x[i] = d · q[i] + m · n[i]`, `n` zero where there is no minimum.
struct Integers {
    q: Vec<i64>,
    n: Vec<i64>,
    d: f32,
    m: f32,
}

fn integers(kind: Kind, block: &[u8]) -> Integers {
    let (d_at, m_at) = scale_fields(kind).unwrap();
    let get = |at: usize| half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let with = |d: f32, m: f32| -> Vec<i64> {
        let mut b = block.to_vec();
        b[d_at..d_at + 2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
        if let Some(at) = m_at {
            b[at..at + 2].copy_from_slice(&half::f16::from_f32(m).to_le_bytes());
        }
        decode(kind, &b, kind.block()).iter().map(|&v| v as i64).collect()
    };
    Integers { q: with(1.0, 0.0), n: with(0.0, 1.0), d: get(d_at), m: m_at.map_or(0.0, get) }
}

/// The result a kernel must give for one weight row and one activation row, bit for bit: integer sums in i64 per
/// block, then one FMA for the scale and one for the minimum; floats in runs of 16.
pub fn product(kind: Kind, row: &[u8], cols: usize, a: &Row) -> f32 {
    let mut acc = 0f32;
    if scale_fields(kind).is_none() {
        let mut w = decode(kind, row, cols);
        w.resize(cols.next_multiple_of(16), 0.0);
        for (w, x) in w.chunks(16).zip(a.x.chunks(16)) {
            acc += w.iter().zip(x).fold(0f32, |part, (w, x)| w.mul_add(*x, part));
        }
        return acc;
    }
    for (b, block) in row.chunks(kind.bytes()).enumerate() {
        let w = integers(kind, block);
        let q = &a.q[b * kind.block()..][..kind.block()];
        let dot = |w: &[i64]| w.iter().zip(q).map(|(w, &q)| w * q as i64).sum::<i64>();
        let (sum, min) = (dot(&w.q), dot(&w.n));
        assert!(
            i32::try_from(sum).is_ok() && i32::try_from(min).is_ok(),
            "{kind}: an i32 holds any block's sum"
        );
        acc = (sum as f32).mul_add(w.d * a.d[b], acc);
        if scale_fields(kind).is_some_and(|f| f.1.is_some()) {
            acc = match kind.block() {
                32 => w.m.mul_add(a.d[b] * min as f32, acc),
                // K-quants subtract their minimum, so `n` holds -mn; the sign commutes with every rounding.
                _ => (min as f32).mul_add(w.m * a.d[b], acc),
            };
        }
    }
    acc
}

/// Weights as f64 times codes and scales as f64.
pub fn product_f64(w: &[f32], a: impl Iterator<Item = f64>) -> f64 {
    w.iter().zip(a).map(|(w, a)| *w as f64 * a).sum()
}

#[track_caller]
pub fn same(got: f32, want: f32, what: impl Fn() -> String) {
    let equal = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
    assert!(equal, "{}: got {got:e} ({:08x}), want {want:e} ({:08x})", what(), got.to_bits(), want.to_bits());
}

/// A kernel called directly: `tiles` from `first` on, as many rows as `acts`, one tile or two at a time.
pub fn direct(w: &Linear, pair: bool, first: usize, tiles: usize, rows: &[&Row]) -> Option<Vec<[f32; 16]>> {
    let table = if pair { &w.kernel.paired } else { &w.kernel.single };
    let kernel = table[rows.len() - 1]?;
    assert!(!pair || tiles.is_multiple_of(2));
    let acts: Vec<Act> = rows.iter().map(|r| r.act()).collect();
    let mut out = vec![[f32::NAN; 16]; tiles * rows.len()];
    for r in rows {
        assert!(r.x.len() >= w.supers * w.kernel.k && first + tiles <= w.tiles());
    }
    let (to, stride) = (out.as_mut_ptr().cast(), 16 * tiles);
    let to = Out { to, stride, bias: std::ptr::null(), add: false, turn: 0, turns: 1 };
    // SAFETY: the rows cover every superblock, the tiles exist, `out` has 16 floats per tile and row, and the rung
    // that packed `w` is available.
    unsafe { kernel(w.tile(first), tiles, w.supers, acts.as_ptr(), &to) };
    // By tile, then by row.
    Some((0..tiles * rows.len()).map(|i| out[i % rows.len() * tiles + i / rows.len()]).collect())
}

/// `W · x` through the device: the down projection adds it to a residual of zeros.
pub struct Multiplier {
    weights: FfnWeights<Cpu>,
    buf: Buf,
    shape: BufShape,
}

impl Multiplier {
    pub fn new(cpu: &Cpu, kind: Kind, rows: usize, cols: usize, bytes: &[u8], batch: usize) -> Self {
        let tiny = || Projection { w: cpu.linear(Kind::F32, 1, 1, &[0; 4]).unwrap(), bias: None };
        let down = Projection { w: cpu.linear(kind, rows, cols, bytes).unwrap(), bias: None };
        let norm = cpu.vector(&[1.0; 16]).unwrap();
        let weights = FfnWeights { norm, gate: tiny(), up: tiny(), down, eps: 1e-5 };
        let shape = BufShape {
            rows: batch,
            d: rows,
            q: 16,
            kv: 16,
            heads: 1,
            kv_heads: 1,
            head_dim: 16,
            ff: cols,
            vocab: 1,
            logits: 0,
            ctx: 16,
        };
        Multiplier { weights, buf: cpu.buf(&shape).unwrap(), shape }
    }

    pub fn linear(&self) -> &Linear {
        &self.weights.down.w
    }

    pub fn run(&mut self, cpu: &Cpu, xs: &[&[f32]]) -> Vec<Vec<f32>> {
        let (d, ff) = (self.shape.d, self.shape.ff);
        for (r, x) in xs.iter().enumerate() {
            let (at, to) = (r * self.buf.ff.stride, r * self.buf.x.stride);
            self.buf.ff.data[at..at + ff].copy_from_slice(x);
            self.buf.x.data[to..to + d].fill(0.0);
        }
        let rows = RowMap { pos: vec![0; xs.len()], ..RowMap::default() };
        cpu.phase_e(&self.weights, &rows, &mut self.buf);
        (0..xs.len()).map(|r| self.buf.x.data[r * self.buf.x.stride..][..d].to_vec()).collect()
    }
}
