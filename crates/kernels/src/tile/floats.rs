//! F32, F16, BF16: 16 rows side by side for each k, f32 activations. Sums of 16 columns are added in k order, which
//! gives independent chains and the same bits on every rung.

use super::*;

/// 32-bit floats.
pub struct F32;
/// IEEE halves.
pub struct F16;
/// bfloat16.
pub struct Bf16;

macro_rules! float_tile {
    ($tile:ty, $kind:expr, $size:expr, $load:ident) => {
        impl Tile for $tile {
            const KIND: Kind = $kind;
            const K: usize = 16;
            const BYTES: usize = 256 * $size;

            fn pack(src: &[u8], lane: usize, out: &mut [u8]) {
                for (k, v) in src.chunks_exact($size).enumerate() {
                    out[(k * ROWS + lane) * $size..][..$size].copy_from_slice(v);
                }
            }

            fn unpack(tile: &[u8], lane: usize, dst: &mut [u8]) {
                for (k, v) in dst.chunks_exact_mut($size).enumerate() {
                    v.copy_from_slice(&tile[(k * ROWS + lane) * $size..][..$size]);
                }
            }

            #[inline(always)]
            unsafe fn step<L: Lanes, const R: usize, const T: usize>(
                at: &At<'_, R, T>,
                acc: &mut Sums<L, R, T>,
            ) {
                // SAFETY: the caller's promise.
                unsafe {
                    at.ask::<L, Self>(0, 1);
                    let mut part = [[L::splat(0.0); T]; R];
                    for k in 0..16 {
                        for r in 0..R {
                            let v = L::$load(at.w[r].add(k * ROWS * $size).cast());
                            for t in 0..T {
                                part[r][t] = L::fma(v, L::splat(*at.a[t].x.add(16 * at.sb + k)), part[r][t]);
                            }
                        }
                    }
                    for r in 0..R {
                        for t in 0..T {
                            acc[r][t] = L::add(acc[r][t], part[r][t]);
                        }
                    }
                }
            }
        }
    };
}

float_tile!(F32, Kind::F32, 4, load);
float_tile!(F16, Kind::F16, 2, load_f16);
float_tile!(Bf16, Kind::BF16, 2, load_bf16);
