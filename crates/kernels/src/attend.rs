//! Attention over pages: online softmax in blocks of 64 keys, split and merged only at 512 (DESIGN 5.1 c).
//!
//! A page holds K as 16-key lanes (`[head_dim][16]`) and V row-major (`[16][head_dim]`), so scores need no shuffle
//! and values no transpose. One arithmetic serves prefill, verify and decode rows.

use tamp_base::ids::PAGE;

use crate::lanes::{self, Lanes};

/// Keys per online-softmax step.
pub const KEY_BLOCK: usize = 64;
/// Keys per independent part; parts merge left to right.
pub const KEY_CHUNK: usize = 512;
/// Query vectors per call at most; a rung with fewer registers takes fewer.
pub const QUERIES: usize = 6;

/// How K and V are stored.
pub trait Element {
    /// bytes per element
    const SIZE: usize;
    /// 16 elements as f32
    ///
    /// # Safety
    /// 16 elements at `p`; the rung is there.
    unsafe fn load<L: Lanes>(p: *const u8) -> L::F;
}

/// IEEE halves.
pub struct Half;
/// 32-bit floats, the oracle.
pub struct Single;

impl Element for Half {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8) -> L::F {
        // SAFETY: the caller's promise.
        unsafe { L::load_f16(p.cast()) }
    }
}

impl Element for Single {
    const SIZE: usize = 4;
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8) -> L::F {
        // SAFETY: the caller's promise.
        unsafe { L::load(p.cast()) }
    }
}

/// One block of keys against up to [`QUERIES`] query vectors of one KV head.
#[derive(Clone, Copy)]
pub struct Block {
    /// `[n][head_dim]` scaled queries
    pub q: *const f32,
    /// query vectors
    pub n: usize,
    /// elements per head, a multiple of 16
    pub head_dim: usize,
    /// `[n]` keys of this block each query sees, `0..=64`; they are the first ones
    pub seen: [usize; QUERIES],
    /// this head's K in the block's four pages
    pub k: [*const u8; 4],
    /// this head's V in the block's four pages
    pub v: [*const u8; 4],
    /// the same of the block that comes next, to be asked for early: pages are short, so the hardware's own
    /// prefetching starts anew with each
    pub next: [[*const u8; 4]; 2],
    /// `[n]` running maximum
    pub m: *mut f32,
    /// `[n]` running sum
    pub l: *mut f32,
    /// `[n][head_dim]` running weighted values
    pub o: *mut f32,
}

/// Adds one block to the running state of `N` queries.
///
/// # Safety
/// `b.n == N`, the pointers cover what [`Block`] says, and the rung is there.
#[inline(always)]
pub unsafe fn block<L: Lanes, E: Element, const N: usize>(b: &Block) {
    // SAFETY: the bounds are the caller's promise.
    unsafe {
        let hd = b.head_dim;
        let mut p = [[0f32; KEY_BLOCK]; N];
        let mut longest = 0;
        for &s in &b.seen[..N] {
            longest = if s > longest { s } else { longest };
        }

        // Scores: one chain per (query, 16 keys), in order over head_dim.
        let mut s = [[L::splat(0.0); 4]; N];
        for d in 0..hd {
            let mut k = [L::splat(0.0); 4];
            for g in 0..4 {
                k[g] = E::load::<L>(b.k[g].add(d * PAGE * E::SIZE));
                // A line of halves serves two dimensions.
                if E::SIZE == 4 || d % 2 == 0 {
                    L::prefetch(b.next[0][g].wrapping_add(d * PAGE * E::SIZE));
                }
            }
            for i in 0..N {
                let q = L::splat(*b.q.add(i * hd + d));
                for g in 0..4 {
                    s[i][g] = L::fma(k[g], q, s[i][g]);
                }
            }
        }

        let mut shrink = [1f32; N];
        for i in 0..N {
            let seen = b.seen[i];
            if seen == 0 {
                continue;
            }
            let mut top = L::splat(f32::NEG_INFINITY);
            for g in 0..4 {
                let n = seen.saturating_sub(16 * g);
                s[i][g] = L::first(n, s[i][g], L::splat(f32::NEG_INFINITY));
                top = L::max(s[i][g], top);
            }
            let old = *b.m.add(i);
            let top = lanes::max16::<L>(top);
            let new = if old > top { old } else { top };
            let mut sum = L::splat(0.0);
            for g in 0..4 {
                let e = lanes::exp::<L>(L::sub(s[i][g], L::splat(new)));
                L::store(p[i].as_mut_ptr().add(16 * g), e);
                sum = L::add(sum, e);
            }
            shrink[i] = exp1::<L>(old - new);
            *b.m.add(i) = new;
            *b.l.add(i) = *b.l.add(i) * shrink[i] + lanes::sum::<L>(sum);
        }

        // Values: one chain per (query, dimension), in order over keys.
        let mut d = 0;
        while d + 64 <= hd {
            // Four vectors of five or more queries do not fit the registers beside what they are made of.
            if N > 4 {
                values::<L, E, N, 2>(b, &p, &shrink, longest, d);
                values::<L, E, N, 2>(b, &p, &shrink, longest, d + 32);
            } else {
                values::<L, E, N, 4>(b, &p, &shrink, longest, d);
            }
            d += 64;
        }
        while d < hd {
            values::<L, E, N, 1>(b, &p, &shrink, longest, d);
            d += 16;
        }
    }
}

#[inline(always)]
unsafe fn values<L: Lanes, E: Element, const N: usize, const W: usize>(
    b: &Block,
    p: &[[f32; KEY_BLOCK]; N],
    shrink: &[f32; N],
    keys: usize,
    d: usize,
) {
    // SAFETY: the bounds are those of `block`.
    unsafe {
        let hd = b.head_dim;
        let mut o = [[L::splat(0.0); W]; N];
        for i in 0..N {
            for w in 0..W {
                o[i][w] = L::mul(L::load(b.o.add(i * hd + d + 16 * w)), L::splat(shrink[i]));
            }
        }
        for key in 0..keys {
            let at = ((key % PAGE) * hd + d) * E::SIZE;
            let row = b.v[key / PAGE].add(at);
            let mut v = [L::splat(0.0); W];
            for w in 0..W {
                v[w] = E::load::<L>(row.add(16 * w * E::SIZE));
            }
            for line in 0..(W * 16 * E::SIZE).div_ceil(64) {
                L::prefetch(b.next[1][key / PAGE].wrapping_add(at + 64 * line));
            }
            for i in 0..N {
                let x = L::splat(p[i][key]);
                for w in 0..W {
                    o[i][w] = L::fma(x, v[w], o[i][w]);
                }
            }
        }
        for i in 0..N {
            for w in 0..W {
                L::store(b.o.add(i * hd + d + 16 * w), o[i][w]);
            }
        }
    }
}

/// `e^x` of one value, the same bits as in a lane.
#[inline(always)]
unsafe fn exp1<L: Lanes>(x: f32) -> f32 {
    let mut a = [0f32; 16];
    // SAFETY: 16 values fit the array.
    unsafe { L::store(a.as_mut_ptr(), lanes::exp::<L>(L::splat(x))) };
    a[0]
}

/// Merges a later part into an earlier one: `(m, l, o) ← (m, l, o) ⊕ (m2, l2, o2)`.
///
/// # Safety
/// `head_dim` values at `o` and `o2`; the rung is there.
#[inline(always)]
pub unsafe fn merge<L: Lanes>(
    m: &mut f32,
    l: &mut f32,
    o: *mut f32,
    m2: f32,
    l2: f32,
    o2: *const f32,
    head_dim: usize,
) {
    // SAFETY: the bounds are the caller's promise.
    unsafe {
        let top = if *m > m2 { *m } else { m2 };
        let (a, b) = (exp1::<L>(*m - top), exp1::<L>(m2 - top));
        for d in (0..head_dim).step_by(16) {
            let kept = L::mul(L::load(o.add(d)), L::splat(a));
            L::store(o.add(d), L::fma(L::load(o2.add(d)), L::splat(b), kept));
        }
        *l = *l * a + l2 * b;
        *m = top;
    }
}

/// `out = o / l`.
///
/// # Safety
/// `head_dim` values at each pointer; the rung is there.
#[inline(always)]
pub unsafe fn finish<L: Lanes>(l: f32, o: *const f32, head_dim: usize, out: *mut f32) {
    // SAFETY: the bounds are the caller's promise.
    unsafe {
        for d in (0..head_dim).step_by(16) {
            L::store(out.add(d), L::div(L::load(o.add(d)), L::splat(l)));
        }
    }
}
