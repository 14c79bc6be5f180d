//! Norm, quantisation, gating and the functions they use.
//!
//! Planted and seen to fail: a fold one step short, a NaN block with scale 0, a coefficient of Taylor's series.

use tamp_kernels::lanes::portable::Portable;
use tamp_kernels::lanes::{self, Lanes};
use tamp_kernels::rows::Codes;
use tamp_kernels::rung::{self, Rung};

use crate::tools::*;

fn norm(rung: &Rung, x: &[f32], w: &[f32], eps: f32) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    assert!(x.len().is_multiple_of(16) && x.len() == w.len());
    // SAFETY: all three hold the same multiple of 16 values; the rung is available.
    unsafe {
        let r = (rung.rms)(x.as_ptr(), eps, x.len());
        (rung.scale)(x.as_ptr(), r, w.as_ptr(), x.len(), out.as_mut_ptr());
    }
    out
}

#[test]
fn rms_norm_is_f64s_within_a_millionth_and_one_answer_on_every_rung() {
    let mut rng = Rng(10);
    for n in [16, 32, 48, 64, 80, 128, 576, 896, 1536, 4096] {
        for size in [1e-6, 1.0, 1e4] {
            let x: Vec<f32> = (0..n).map(|_| rng.normal() * size).collect();
            let w: Vec<f32> = (0..n).map(|_| 1.0 + 0.3 * rng.normal()).collect();
            let eps = 1e-5f32;
            let mean = x.iter().map(|v| (*v as f64).powi(2)).sum::<f64>() / n as f64;
            let first = norm(rung::find("portable").unwrap(), &x, &w, eps);
            for i in 0..n {
                let want = x[i] as f64 * w[i] as f64 / (mean + eps as f64).sqrt();
                assert!((first[i] as f64 - want).abs() <= 1e-6 * want.abs() + 1e-30, "{n} {size}: {i}");
            }
            for rung in rung::available() {
                for (got, want) in norm(rung, &x, &w, eps).iter().zip(&first) {
                    same(*got, *want, || format!("norm of {n} on {}", rung.name));
                }
            }
        }
    }
}

#[test]
fn quantising_follows_its_specification_on_every_rung() {
    let mut rng = Rng(11);
    let specials = [
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN_POSITIVE,
        1e-45,
        -1e-45,
        1e-30,
        9.9e-31,
        1e38,
        -3.0e38,
    ];
    for block in [32, 256] {
        for case in 0..400 {
            let n = 256 * (1 + case % 3);
            let size = 10f32.powi(rng.below(60) as i32 - 30);
            let mut x: Vec<f32> = (0..n).map(|_| rng.normal() * size).collect();
            match case % 8 {
                0 => x.fill(specials[rng.below(2)]),
                1 | 2 => {
                    let at = rng.below(n);
                    x[at] = specials[case / 8 % specials.len()];
                }
                // Ties: amax 127 leaves the codes' scale at exactly 1.
                3 => {
                    x.iter_mut().for_each(|v| *v = rng.below(253) as f32 / 2.0 - 63.0);
                    x.chunks_mut(block).for_each(|b| b[5] = -127.0);
                }
                4 => x[..block].fill(f32::MIN_POSITIVE / 4.0),
                _ => {}
            }
            let want: Vec<_> = x.chunks(block).map(quantise_block).collect();
            for rung in rung::available() {
                let mut q = vec![99i8; n];
                let mut d = vec![9f32; n / block];
                let (mut n8, mut ds) = (vec![9i32; n / 32], vec![9f32; n / 32]);
                let (mut s32, mut s16) = (vec![9i16; n / 32], vec![9i16; n / 16]);
                let to = Codes {
                    q: q.as_mut_ptr(),
                    d: d.as_mut_ptr(),
                    n8: n8.as_mut_ptr(),
                    ds: ds.as_mut_ptr(),
                    s32: s32.as_mut_ptr(),
                    s16: s16.as_mut_ptr(),
                };
                // SAFETY: every array has the length `n` asks for; the rung is available.
                unsafe { (rung.quantise)(x.as_ptr(), n, block, to) };
                for (b, (codes, scale)) in want.iter().enumerate() {
                    assert_eq!(&q[b * block..][..block], codes, "{} case {case} block {b}", rung.name);
                    same(d[b], *scale, || format!("{} case {case} scale {b}", rung.name));
                }
                if block == 256 {
                    assert_eq!(s32, paired(&sums(&q, 32)), "{}: sums of 32", rung.name);
                    assert_eq!(s16, paired(&sums(&q, 16)), "{}: sums of 16", rung.name);
                    continue;
                }
                let of32 = sums(&q, 32);
                assert!(of32.iter().map(|s| -8 * s).eq(n8.iter().copied()), "{}: -8 times sums", rung.name);
                for (i, got) in ds.iter().enumerate() {
                    same(*got, d[i] * of32[i] as f32, || format!("{}: scale times sum {i}", rung.name));
                }
            }
        }
    }
}

/// Values of every exponent, dense where exp and silu bend, and what is not a number.
fn arguments() -> Vec<f32> {
    let mut rng = Rng(12);
    let mut x: Vec<f32> = (-100_000..=100_000).map(|i| i as f32 * 9e-4).collect();
    x.extend((0..200_000).map(|_| rng.unit() * 100.0));
    x.extend((0..20_000).map(|_| f32::from_bits(rng.next() as u32)));
    x.extend([0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-45, -1e-45]);
    x.extend([-87.0f32, -88.0, 88.0, -87.33].iter().flat_map(|v| [v.next_up(), *v, v.next_down()]));
    x.resize(x.len().next_multiple_of(16), 0.0);
    x
}

fn ulps(got: f32, want: f64) -> f64 {
    let near = want as f32;
    let ulp = near.abs().next_up() as f64 - near.abs() as f64;
    (got as f64 - want).abs() / ulp
}

/// `exp` of every argument, by one instruction set.
///
/// # Safety
/// The instruction set is there, and `x` holds whole sixteens.
#[inline(always)]
unsafe fn exps<L: Lanes>(x: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for (x, out) in x.chunks_exact(16).zip(out.chunks_exact_mut(16)) {
        // SAFETY: 16 values on both sides.
        unsafe { L::store(out.as_mut_ptr(), lanes::exp::<L>(L::load(x.as_ptr()))) };
    }
    out
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn exps_avx2(x: &[f32]) -> Vec<f32> {
    // SAFETY: the features are enabled here.
    unsafe { exps::<lanes::avx2::Avx2>(x) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn exps_avx512(x: &[f32]) -> Vec<f32> {
    // SAFETY: the features are enabled here.
    unsafe { exps::<lanes::avx512::Avx512>(x) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
fn exps_neon(x: &[f32]) -> Vec<f32> {
    // SAFETY: the features are enabled here.
    unsafe { exps::<lanes::neon::Neon>(x) }
}

#[test]
fn exp_is_within_one_ulp_of_f64_and_one_answer_on_every_rung() {
    let x: Vec<f32> = arguments().into_iter().filter(|x| *x <= 88.0).collect();
    let x = &x[..x.len() / 16 * 16];
    // SAFETY: the portable rung runs anywhere.
    let first = unsafe { exps::<Portable>(x) };
    let mut worst = (0.0, 0.0);
    for (x, got) in x.iter().zip(&first) {
        if *x < -87.0 {
            assert_eq!(got.to_bits(), 0, "exp({x})");
            continue;
        }
        let off = ulps(*got, (*x as f64).exp());
        if off > worst.0 {
            worst = (off, *x);
        }
    }
    println!("exp: at most {:.2} ulp, at {}", worst.0, worst.1);
    assert!(worst.0 <= 1.0, "{worst:?}");
    for rung in rung::available() {
        let got = match rung.name {
            // SAFETY: the rung is available, so its features are there.
            #[cfg(target_arch = "x86_64")]
            "avx2" => unsafe { exps_avx2(x) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            "avx512" => unsafe { exps_avx512(x) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            "neon" => unsafe { exps_neon(x) },
            "portable" => continue,
            other => panic!("no exp of {other} here: add it"),
        };
        for i in 0..x.len() {
            same(got[i], first[i], || format!("exp({}) on {}", x[i], rung.name));
        }
    }
}

#[test]
fn gating_is_f64s_silu_times_up_within_three_ulp_and_one_answer_on_every_rung() {
    let x = arguments();
    let mut rng = Rng(13);
    let up: Vec<f32> = (0..x.len()).map(|i| if i % 3 == 0 { 1.0 } else { rng.normal() }).collect();
    let gate = |rung: &Rung| {
        let mut g = x.clone();
        for (g, u) in g.chunks_exact_mut(16).zip(up.chunks_exact(16)) {
            // SAFETY: 16 values on both sides; the rung is available.
            unsafe { (rung.silu_mul)(g.as_mut_ptr(), u.as_ptr()) };
        }
        g
    };
    let first = gate(rung::find("portable").unwrap());
    let mut worst = (0.0, 0.0);
    for i in 0..x.len() {
        let (g, u) = (x[i] as f64, up[i] as f64);
        if x[i].is_nan() || x[i] == f32::NEG_INFINITY {
            continue;
        }
        // Below -80 the result is smaller than 1e-33 of the argument: only its smallness counts.
        let want = g / (1.0 + (-g).exp()) * u;
        if x[i] < -80.0 {
            assert!(
                (first[i] as f64).abs() <= 1e-30 * (1.0 + g.abs() * u.abs()),
                "silu({g}) · {u} = {}",
                first[i]
            );
        } else if want.is_finite() && want.abs() > 1e-36 && want.abs() < f32::MAX as f64 {
            let off = ulps(first[i], want);
            if off > worst.0 {
                worst = (off, x[i]);
            }
        }
    }
    println!("silu · up: at most {:.2} ulp, at {}", worst.0, worst.1);
    assert!(worst.0 <= 3.0, "{worst:?}");
    for rung in rung::available() {
        for (i, got) in gate(rung).iter().enumerate() {
            same(*got, first[i], || format!("silu({}) · {} on {}", x[i], up[i], rung.name));
        }
    }
}
