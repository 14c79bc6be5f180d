//! AVX2 with FMA and F16C: two registers per 16 lanes.

use std::arch::x86_64::*;

use super::Lanes;

/// Two 8-lane halves.
#[derive(Clone, Copy)]
pub struct Avx2;

type F = [__m256; 2];
type I = [__m256i; 2];

#[inline(always)]
fn each<A: Copy, R>(a: [A; 2], f: impl Fn(A) -> R) -> [R; 2] {
    [f(a[0]), f(a[1])]
}
#[inline(always)]
fn each2<A: Copy, B: Copy, R>(a: [A; 2], b: [B; 2], f: impl Fn(A, B) -> R) -> [R; 2] {
    [f(a[0], b[0]), f(a[1], b[1])]
}

/// The last three folds of a sum.
///
/// # Safety
/// AVX must be there.
#[inline(always)]
pub(super) unsafe fn sum8(v: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
    }
}

/// The last three folds of a maximum.
///
/// # Safety
/// AVX must be there.
#[inline(always)]
pub(super) unsafe fn top8(v: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
    }
}

impl Lanes for Avx2 {
    type F = F;
    type I = I;
    type B = I;
    const DOT7_WIDE: bool = false;
    const DOT7_FUSED: bool = false;
    const DOT8_BIAS: i32 = 0;

    #[inline(always)]
    unsafe fn splat(v: f32) -> F {
        // SAFETY: the caller vouches for AVX2, FMA and F16C (trait contract); so in every method below.
        unsafe { [_mm256_set1_ps(v); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        // SAFETY: 16 readable values.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        // SAFETY: 16 writable values.
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        // SAFETY: 16 readable values.
        unsafe {
            [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))]
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        // SAFETY: 16 readable values.
        unsafe {
            each([_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(8).cast())], |h| {
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(h)))
            })
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { _mm256_add_ps(a, b) })
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { _mm256_sub_ps(a, b) })
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { _mm256_mul_ps(a, b) })
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { _mm256_div_ps(a, b) })
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        // SAFETY: as above.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    unsafe fn fnma(a: F, b: F, c: F) -> F {
        // SAFETY: as above.
        unsafe { [_mm256_fnmadd_ps(a[0], b[0], c[0]), _mm256_fnmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { _mm256_max_ps(a, b) })
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        // SAFETY: as above.
        each(a, |a| unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) })
    }
    #[inline(always)]
    unsafe fn keep_ge(x: F, t: F, v: F) -> F {
        // SAFETY: as above.
        let m = each2(x, t, |x, t| unsafe { _mm256_cmp_ps::<_CMP_GE_OQ>(x, t) });
        // SAFETY: as above.
        each2(m, v, |m, v| unsafe { _mm256_and_ps(m, v) })
    }
    #[inline(always)]
    unsafe fn first(n: usize, a: F, b: F) -> F {
        // SAFETY: as above.
        unsafe {
            let n = _mm256_set1_epi32(n.min(16) as i32);
            let lo = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let hi = _mm256_add_epi32(lo, _mm256_set1_epi32(8));
            let m = each([lo, hi], |i| _mm256_castsi256_ps(_mm256_cmpgt_epi32(n, i)));
            [_mm256_blendv_ps(b[0], a[0], m[0]), _mm256_blendv_ps(b[1], a[1], m[1])]
        }
    }
    #[inline(always)]
    unsafe fn pick_lt(a: F, b: F, x: F, y: F) -> F {
        // SAFETY: as above.
        let m = each2(a, b, |a, b| unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) });
        // SAFETY: as above.
        unsafe { [_mm256_blendv_ps(y[0], x[0], m[0]), _mm256_blendv_ps(y[1], x[1], m[1])] }
    }
    #[inline(always)]
    unsafe fn nearest(a: F) -> F {
        // SAFETY: as above.
        each(a, |a| unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) })
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: F) {
        // SAFETY: room for 16 halves.
        unsafe {
            for (i, v) in v.into_iter().enumerate() {
                let h = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
                _mm_storeu_si128(p.add(8 * i).cast(), h);
            }
        }
    }
    #[inline(always)]
    unsafe fn round(a: F) -> I {
        // SAFETY: as above. The default rounding mode is nearest, ties to even.
        each(a, |a| unsafe { _mm256_cvtps_epi32(a) })
    }
    #[inline(always)]
    unsafe fn from_int(a: I) -> F {
        // SAFETY: as above.
        each(a, |a| unsafe { _mm256_cvtepi32_ps(a) })
    }
    #[inline(always)]
    unsafe fn exp2i(a: I) -> F {
        // SAFETY: as above.
        each(a, |a| unsafe {
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(a, _mm256_set1_epi32(127))))
        })
    }
    #[inline(always)]
    unsafe fn int(v: i32) -> I {
        // SAFETY: as above.
        unsafe { [_mm256_set1_epi32(v); 2] }
    }
    #[inline(always)]
    unsafe fn int_add(a: I, b: I) -> I {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { _mm256_add_epi32(a, b) })
    }
    #[inline(always)]
    unsafe fn int_sub(a: I, b: I) -> I {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { _mm256_sub_epi32(a, b) })
    }
    #[inline(always)]
    unsafe fn int_mul(a: I, b: I) -> I {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { _mm256_mullo_epi32(a, b) })
    }
    #[inline(always)]
    unsafe fn int_shl<const N: u32>(a: I) -> I {
        // SAFETY: as above.
        each(a, |a| unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(N as i32)) })
    }
    #[inline(always)]
    unsafe fn int_shr<const N: u32>(a: I) -> I {
        // SAFETY: as above.
        each(a, |a| unsafe { _mm256_sra_epi32(a, _mm_cvtsi32_si128(N as i32)) })
    }
    #[inline(always)]
    unsafe fn byte<const J: i32>(b: I) -> I {
        // SAFETY: as above.
        each(b, |b| unsafe {
            _mm256_and_si256(_mm256_srl_epi32(b, _mm_cvtsi32_si128(8 * J)), _mm256_set1_epi32(255))
        })
    }
    #[inline(always)]
    unsafe fn sbyte<const J: i32>(b: I) -> I {
        // SAFETY: as above.
        each(b, |b| unsafe { _mm256_srai_epi32::<24>(_mm256_sll_epi32(b, _mm_cvtsi32_si128(24 - 8 * J))) })
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: I) {
        // SAFETY: 16 writable bytes.
        unsafe {
            let w = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(v[0], v[1]));
            let b = _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256::<1>(w));
            _mm_storeu_si128(p.cast(), b);
        }
    }
    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> I {
        // SAFETY: 64 readable bytes.
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
    }
    #[inline(always)]
    unsafe fn and(a: I, v: u8) -> I {
        // SAFETY: as above.
        each(a, |a| unsafe { _mm256_and_si256(a, _mm256_set1_epi8(v as i8)) })
    }
    #[inline(always)]
    unsafe fn or(a: I, b: I) -> I {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { _mm256_or_si256(a, b) })
    }
    #[inline(always)]
    unsafe fn shr<const N: u32>(a: I) -> I {
        // SAFETY: as above.
        each(a, |a| unsafe { _mm256_srl_epi16(a, _mm_cvtsi32_si128(N as i32)) })
    }
    #[inline(always)]
    unsafe fn shl<const N: u32>(a: I) -> I {
        // SAFETY: as above.
        each(a, |a| unsafe { _mm256_sll_epi16(a, _mm_cvtsi32_si128(N as i32)) })
    }
    #[inline(always)]
    unsafe fn even(a: I) -> I {
        // SAFETY: as above.
        each(a, |a| unsafe { _mm256_and_si256(a, _mm256_set1_epi16(255)) })
    }
    #[inline(always)]
    unsafe fn odd(a: I) -> I {
        // SAFETY: as above.
        each(a, |a| unsafe { _mm256_srli_epi16::<8>(a) })
    }
    #[inline(always)]
    unsafe fn even_signed(a: I) -> I {
        // SAFETY: as above.
        each(a, |a| unsafe { _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(a)) })
    }
    #[inline(always)]
    unsafe fn odd_signed(a: I) -> I {
        // SAFETY: as above.
        each(a, |a| unsafe { _mm256_srai_epi16::<8>(a) })
    }
    #[inline(always)]
    unsafe fn dot2(acc: I, w: I, a: i32) -> I {
        // SAFETY: as above.
        unsafe {
            let a = _mm256_set1_epi32(a);
            each2(acc, w, |acc, w| _mm256_add_epi32(acc, _mm256_madd_epi16(w, a)))
        }
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], a: I) -> I {
        // SAFETY: as above; the table is 16 bytes.
        let t = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())) };
        // SAFETY: as above.
        each(a, |a| unsafe { _mm256_shuffle_epi8(t, a) })
    }
    #[inline(always)]
    unsafe fn dot7(acc: I, w: I, a: i32) -> I {
        // A pair of products is at most 2·127·128 = 32 512: the 16-bit sum cannot saturate.
        // SAFETY: as above.
        unsafe {
            let a = _mm256_set1_epi32(a);
            let ones = _mm256_set1_epi16(1);
            each2(acc, w, |acc, w| _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), ones)))
        }
    }
    #[inline(always)]
    unsafe fn dots<const N: usize>(bits: u32, mut acc: I, w: &[I; N], a: &[i32; N]) -> I {
        // A pair of products of a b-bit code is at most 2·127·(2^b - 1), so that 8 pairs of 4-bit codes fit 16 bits
        // (30 480), 4 of 5-bit (31 496), 2 of 6-bit (32 004).
        let together = match bits {
            0..=4 => 8,
            5 => 4,
            6 => 2,
            _ => 1,
        };
        let mut i = 0;
        while i < N {
            // SAFETY: as above.
            unsafe {
                let mut sum = [_mm256_setzero_si256(); 2];
                let end = if i + together < N { i + together } else { N };
                while i < end {
                    let x = _mm256_set1_epi32(a[i]);
                    sum = each2(sum, w[i], |s, w| _mm256_add_epi16(s, _mm256_maddubs_epi16(w, x)));
                    i += 1;
                }
                let ones = _mm256_set1_epi16(1);
                acc = each2(acc, sum, |acc, s| _mm256_add_epi32(acc, _mm256_madd_epi16(s, ones)));
            }
        }
        acc
    }
    #[inline(always)]
    unsafe fn dot8(acc: I, w: I, a: i32) -> I {
        // |q| as the unsigned operand, the sign moved to the activation: 2·128·127 does not saturate.
        // SAFETY: as above.
        unsafe {
            let a = _mm256_set1_epi32(a);
            let ones = _mm256_set1_epi16(1);
            let flip = _mm256_set1_epi8(-128);
            each2(acc, w, |acc, w| {
                let q = _mm256_xor_si256(w, flip);
                let p = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(a, q));
                _mm256_add_epi32(acc, _mm256_madd_epi16(p, ones))
            })
        }
    }
    #[inline(always)]
    unsafe fn sum(v: F) -> f32 {
        // SAFETY: as above.
        unsafe { sum8(_mm256_add_ps(v[0], v[1])) }
    }
    #[inline(always)]
    unsafe fn top(v: F) -> f32 {
        // SAFETY: as above.
        unsafe { top8(_mm256_max_ps(v[0], v[1])) }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}
