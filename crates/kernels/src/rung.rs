//! The rungs: one table of coarse function pointers per instruction set. A rung can only be had where it runs.

use tamp_formats::Kind;

use crate::attend::{self, Block, Half, Single};
use crate::lanes::Lanes;
use crate::lanes::portable::Portable;
use crate::rows::{self, Codes};
use crate::tile::{AHEAD, Act, Out, Tile, blocks, floats, gemm, kquants, lowbit};

/// Widest T of any kernel.
pub const WIDEST: usize = 6;

/// `(weights, tiles, superblocks per row, T activation rows, out)`; tiles a multiple of R; see [`gemm`].
pub type GemmFn = unsafe fn(*const u8, usize, usize, *const Act, &Out);

/// A format's kernels and layout on one rung.
#[derive(Clone, Copy)]
pub struct Kernel {
    /// the format
    pub kind: Kind,
    /// columns per superblock
    pub k: usize,
    /// bytes per superblock
    pub bytes: usize,
    /// `single[t - 1]` multiplies one tile at a time with `t` rows; widths a rung lacks are `None`, 1 is always there
    pub single: [Option<GemmFn>; WIDEST],
    /// `paired[t - 1]` multiplies two tiles side by side; all `None` where registers are too few, and for the few rows
    /// that memory bounds
    pub paired: [Option<GemmFn>; WIDEST],
    /// one row's superblock into a tile
    pub pack: fn(&[u8], usize, &mut [u8]),
    /// its exact inverse
    pub unpack: fn(&[u8], usize, &mut [u8]),
}

impl Kernel {
    /// Rows that one call takes at most.
    pub fn widest(&self) -> usize {
        let last = |table: &[Option<GemmFn>]| table.iter().rposition(|k| k.is_some()).map(|i| i + 1);
        last(&self.paired).or(last(&self.single)).unwrap_or(1)
    }
}

/// Everything the CPU device calls, for one instruction set.
pub struct Rung {
    /// the word in plans and in `--use kernels.isa=…`
    pub name: &'static str,
    /// can this machine run it?
    pub available: fn() -> bool,
    /// kernels of a format
    pub kernel: fn(Kind) -> Kernel,
    /// asks for the first bytes of a stream of weights, those that its kernel will not ask for itself
    pub warm: fn(*const u8, usize),
    /// [`rows::rms`]
    pub rms: unsafe fn(*const f32, f32, usize) -> f32,
    /// [`rows::scale`]
    pub scale: unsafe fn(*const f32, f32, *const f32, usize, *mut f32),
    /// [`rows::quantise`]
    pub quantise: unsafe fn(*const f32, usize, usize, Codes),
    /// [`rows::to_half`]
    pub to_half: unsafe fn(*const f32, usize, *mut u16),
    /// [`rows::silu_mul`]
    pub silu_mul: unsafe fn(*mut f32, *const f32),
    /// query vectors [`attend::block`] takes at most
    pub queries: usize,
    /// [`attend::block`] over f16 pages
    pub attend_f16: unsafe fn(&Block),
    /// [`attend::block`] over f32 pages
    pub attend_f32: unsafe fn(&Block),
    /// [`attend::merge`]
    pub merge: unsafe fn(&mut f32, &mut f32, *mut f32, f32, f32, *const f32, usize),
    /// [`attend::finish`]
    pub finish: unsafe fn(f32, *const f32, usize, *mut f32),
}

/// Matches a kind to its tile type once.
macro_rules! by_kind {
    ($kind:expr, $f:ident) => {
        match $kind {
            Kind::F32 => $f!(floats::F32),
            Kind::F16 => $f!(floats::F16),
            Kind::BF16 => $f!(floats::Bf16),
            Kind::Q4_0 => $f!(blocks::Q4_0),
            Kind::Q4_1 => $f!(blocks::Q4_1),
            Kind::Q5_0 => $f!(blocks::Q5_0),
            Kind::Q5_1 => $f!(blocks::Q5_1),
            Kind::Q8_0 => $f!(blocks::Q8_0),
            Kind::IQ4_NL => $f!(blocks::Iq4Nl),
            Kind::Q2_K => $f!(lowbit::Q2K),
            Kind::Q3_K => $f!(lowbit::Q3K),
            Kind::Q4_K => $f!(kquants::Q4K),
            Kind::Q5_K => $f!(kquants::Q5K),
            Kind::Q6_K => $f!(kquants::Q6K),
        }
    };
}

macro_rules! rung {
    ($module:ident, $lanes:ty, $(#[$feature:meta])?, $available:expr, [$($width:literal)*], [$($pair:literal)*], $queries:literal) => {
        mod $module {
            use super::*;
            type L = $lanes;

            $(#[$feature])?
            unsafe fn multiply<F: Tile, const R: usize, const T: usize>(
                w: *const u8, tiles: usize, supers: usize, a: *const Act, out: &Out,
            ) {
                // SAFETY: this function's contract is that of `gemm`; the rung was checked when it was chosen.
                unsafe { gemm::<L, F, R, T>(w, tiles, supers, a, out) }
            }

            fn kernel(kind: Kind) -> Kernel {
                macro_rules! of {
                    ($tile:ty) => {{
                        #[allow(unused_mut)]
                        let (mut single, mut paired) = ([None; WIDEST], [None; WIDEST]);
                        $(single[$width - 1] = Some(multiply::<$tile, 1, $width> as GemmFn);)*
                        $(if $pair <= <$tile>::PAIRED {
                            paired[$pair - 1] = Some(multiply::<$tile, 2, $pair> as GemmFn);
                        })*
                        Kernel {
                            kind: <$tile>::KIND,
                            k: <$tile>::K,
                            bytes: <$tile>::BYTES,
                            single,
                            paired,
                            pack: <$tile>::pack,
                            unpack: <$tile>::unpack,
                        }
                    }};
                }
                by_kind!(kind, of)
            }

            fn warm(p: *const u8, bytes: usize) {
                for at in (0..bytes.min(AHEAD)).step_by(64) {
                    // SAFETY: a prefetch may have any address; the rung was checked when it was chosen.
                    unsafe { L::prefetch(p.wrapping_add(at)) };
                }
            }

            $(#[$feature])?
            unsafe fn rms(x: *const f32, eps: f32, n: usize) -> f32 {
                // SAFETY: same contract.
                unsafe { rows::rms::<L>(x, eps, n) }
            }
            $(#[$feature])?
            unsafe fn scale(x: *const f32, r: f32, w: *const f32, n: usize, out: *mut f32) {
                // SAFETY: same contract.
                unsafe { rows::scale::<L>(x, r, w, n, out) }
            }
            $(#[$feature])?
            unsafe fn quantise(x: *const f32, n: usize, block: usize, to: Codes) {
                // SAFETY: same contract.
                unsafe { rows::quantise::<L>(x, n, block, to) }
            }
            $(#[$feature])?
            unsafe fn to_half(x: *const f32, n: usize, out: *mut u16) {
                // SAFETY: same contract.
                unsafe { rows::to_half::<L>(x, n, out) }
            }
            $(#[$feature])?
            unsafe fn silu_mul(g: *mut f32, u: *const f32) {
                // SAFETY: same contract.
                unsafe { rows::silu_mul::<L>(g, u) }
            }
            $(#[$feature])?
            unsafe fn attend_f16(b: &Block) {
                // SAFETY: same contract; the width is the block's own.
                unsafe {
                    match b.n {
                        1 => attend::block::<L, Half, 1>(b),
                        2 => attend::block::<L, Half, 2>(b),
                        3 => attend::block::<L, Half, 3>(b),
                        5 if $queries == 6 => attend::block::<L, Half, 5>(b),
                        6 if $queries == 6 => attend::block::<L, Half, $queries>(b),
                        _ => attend::block::<L, Half, 4>(b),
                    }
                }
            }
            $(#[$feature])?
            unsafe fn attend_f32(b: &Block) {
                // SAFETY: same contract; the width is the block's own.
                unsafe {
                    match b.n {
                        1 => attend::block::<L, Single, 1>(b),
                        2 => attend::block::<L, Single, 2>(b),
                        3 => attend::block::<L, Single, 3>(b),
                        5 if $queries == 6 => attend::block::<L, Single, 5>(b),
                        6 if $queries == 6 => attend::block::<L, Single, $queries>(b),
                        _ => attend::block::<L, Single, 4>(b),
                    }
                }
            }
            $(#[$feature])?
            unsafe fn merge(
                m: &mut f32, l: &mut f32, o: *mut f32, m2: f32, l2: f32, o2: *const f32, head_dim: usize,
            ) {
                // SAFETY: same contract.
                unsafe { attend::merge::<L>(m, l, o, m2, l2, o2, head_dim) }
            }
            $(#[$feature])?
            unsafe fn finish(l: f32, o: *const f32, head_dim: usize, out: *mut f32) {
                // SAFETY: same contract.
                unsafe { attend::finish::<L>(l, o, head_dim, out) }
            }

            pub static RUNG: Rung = Rung {
                name: stringify!($module),
                available: $available,
                kernel,
                warm,
                rms,
                scale,
                quantise,
                to_half,
                silu_mul,
                queries: $queries,
                attend_f16,
                attend_f32,
                merge,
                finish,
            };
        }
    };
}

rung!(portable, Portable, , || true, [1 4], [], 4);

// 16 registers: more than four rows spill.
#[cfg(target_arch = "x86_64")]
rung!(
    avx2,
    crate::lanes::avx2::Avx2,
    #[target_feature(enable = "avx2,fma,f16c")],
    || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"),
    [1 2 3 4],
    [],
    4
);

#[cfg(target_arch = "x86_64")]
rung!(
    avx512,
    crate::lanes::avx512::Avx512,
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")],
    || is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("f16c"),
    [1 2 3 4 6],
    [3 4 5 6],
    6
);

// 32 registers of a quarter each: four rows fill half of them with sums.
#[cfg(target_arch = "aarch64")]
rung!(
    neon,
    crate::lanes::neon::Neon,
    #[target_feature(enable = "neon,dotprod")],
    || std::arch::is_aarch64_feature_detected!("dotprod"),
    [1 2 3 4],
    [],
    4
);

/// Every rung of this build, the best first, the portable oracle last.
pub static RUNGS: &[&Rung] = &[
    #[cfg(target_arch = "x86_64")]
    &avx512::RUNG,
    #[cfg(target_arch = "x86_64")]
    &avx2::RUNG,
    #[cfg(target_arch = "aarch64")]
    &neon::RUNG,
    &portable::RUNG,
];

/// The rungs this machine can run, best first.
pub fn available() -> impl Iterator<Item = &'static Rung> {
    RUNGS.iter().copied().filter(|r| (r.available)())
}

/// A rung by name, if this machine can run it; `auto` is the best.
pub fn find(name: &str) -> Option<&'static Rung> {
    available().find(|r| name == "auto" || r.name == name)
}
