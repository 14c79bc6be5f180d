//! AVX-512 with VNNI: one register per 16 lanes.

use std::arch::asm;
use std::arch::x86_64::*;

use super::Lanes;
use super::avx2::{sum8, top8};

/// Needs [`Avx512::FEATURES`].
#[derive(Clone, Copy)]
pub struct Avx512;

/// Folds eight vectors by 8, 4, 2, 1 side by side: each step halves what two registers hold into one, so that all eight
/// cost a third of folding one after the other. `f(a[i], a[i + half])` as in [`Lanes::sum`].
///
/// # Safety
/// AVX-512F and DQ must be there.
#[inline(always)]
unsafe fn fold(v: &[__m512; 8], f: impl Fn(__m512, __m512) -> __m512) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        // 16 → 8 lanes: two vectors per register, one in each half.
        let half = |a, b| {
            f(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b))
        };
        let (a, b, c, d) = (half(v[0], v[1]), half(v[2], v[3]), half(v[4], v[5]), half(v[6], v[7]));
        // 8 → 4: four vectors per register, a quarter each.
        let quarter = |a, b| {
            f(_mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b))
        };
        let (a, b) = (quarter(a, b), quarter(c, d));
        // 4 → 2 → 1 within quarters: a's vectors end in lanes 0 of them, b's in lanes 2.
        let two = f(_mm512_shuffle_ps::<0b01_00_01_00>(a, b), _mm512_shuffle_ps::<0b11_10_11_10>(a, b));
        let one = f(two, _mm512_shuffle_ps::<0b10_11_00_01>(two, two));
        let order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 4, 8, 12, 2, 6, 10, 14);
        _mm512_permutexvar_ps(order, one)
    }
}

/// `vpdpwssd`. The compiler makes two operations of the intrinsic, a multiplication and an addition, which costs 3 % of
/// a Q4_K product.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
fn dpwssd(mut sum: __m512i, w: __m512i, a: __m512i) -> __m512i {
    // SAFETY: registers only, and the instruction set is there.
    unsafe {
        asm!(
            "vpdpwssd {sum}, {w}, {a}",
            sum = inout(zmm_reg) sum,
            w = in(zmm_reg) w,
            a = in(zmm_reg) a,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

impl Lanes for Avx512 {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;
    const DOT7_WIDE: bool = true;
    const DOT7_FUSED: bool = true;
    const DOT8_BIAS: i32 = 128;

    #[inline(always)]
    unsafe fn splat(v: f32) -> __m512 {
        // SAFETY: the caller vouches for AVX-512 (trait contract); so in every method below.
        unsafe { _mm512_set1_ps(v) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        // SAFETY: 16 readable values.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        // SAFETY: 16 writable values.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> __m512 {
        // SAFETY: 16 readable values.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> __m512 {
        // SAFETY: 16 readable values.
        unsafe {
            let w = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(w))
        }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    unsafe fn keep_ge(x: __m512, t: __m512, v: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, t), v) }
    }
    #[inline(always)]
    unsafe fn first(n: usize, a: __m512, b: __m512) -> __m512 {
        let m = if n >= 16 { u16::MAX } else { (1u16 << n) - 1 };
        // SAFETY: as above.
        unsafe { _mm512_mask_blend_ps(m, b, a) }
    }
    #[inline(always)]
    unsafe fn pick_lt(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    unsafe fn nearest(a: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: __m512) {
        // SAFETY: room for 16 halves.
        unsafe {
            let h = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
            _mm256_storeu_si256(p.cast(), h);
        }
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512i {
        // SAFETY: as above. The default rounding mode is nearest, ties to even.
        unsafe { _mm512_cvtps_epi32(a) }
    }
    #[inline(always)]
    unsafe fn from_int(a: __m512i) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn exp2i(a: __m512i) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(a, _mm512_set1_epi32(127)))) }
    }
    #[inline(always)]
    unsafe fn int(v: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(v) }
    }
    #[inline(always)]
    unsafe fn int_add(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn int_sub(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_sub_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn int_mul(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_mullo_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn int_shl<const N: u32>(a: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    unsafe fn int_shr<const N: u32>(a: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_srai_epi32::<N>(a) }
    }
    #[inline(always)]
    unsafe fn byte<const J: i32>(b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let s = _mm512_srl_epi32(b, _mm_cvtsi32_si128(8 * J));
            _mm512_and_si512(s, _mm512_set1_epi32(255))
        }
    }
    #[inline(always)]
    unsafe fn sbyte<const J: i32>(b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_srai_epi32::<24>(_mm512_sll_epi32(b, _mm_cvtsi32_si128(24 - 8 * J))) }
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: __m512i) {
        // SAFETY: 16 writable bytes.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(v)) }
    }
    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> __m512i {
        // SAFETY: 64 readable bytes.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn and(a: __m512i, v: u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_and_si512(a, _mm512_set1_epi8(v as i8)) }
    }
    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn shr<const N: u32>(a: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_srli_epi16::<N>(a) }
    }
    #[inline(always)]
    unsafe fn shl<const N: u32>(a: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_slli_epi16::<N>(a) }
    }
    #[inline(always)]
    unsafe fn even(a: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_and_si512(a, _mm512_set1_epi16(255)) }
    }
    #[inline(always)]
    unsafe fn odd(a: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_srli_epi16::<8>(a) }
    }
    #[inline(always)]
    unsafe fn even_signed(a: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(a)) }
    }
    #[inline(always)]
    unsafe fn odd_signed(a: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_srai_epi16::<8>(a) }
    }
    #[inline(always)]
    unsafe fn dot2(acc: __m512i, w: __m512i, a: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { dpwssd(acc, w, _mm512_set1_epi32(a)) }
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], a: __m512i) -> __m512i {
        // SAFETY: as above; the table is 16 bytes.
        unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), a) }
    }
    #[inline(always)]
    unsafe fn dot7(acc: __m512i, w: __m512i, a: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(a)) }
    }
    #[inline(always)]
    unsafe fn dot8(acc: __m512i, w: __m512i, a: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(a)) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m512) -> f32 {
        // SAFETY: as above.
        unsafe { sum8(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v))) }
    }
    #[inline(always)]
    unsafe fn top(v: __m512) -> f32 {
        // SAFETY: as above.
        unsafe { top8(_mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v))) }
    }
    #[inline(always)]
    unsafe fn sums(v: &[__m512; 8]) -> __m512 {
        // SAFETY: as above.
        unsafe { fold(v, |a, b| _mm512_add_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn tops(v: &[__m512; 8]) -> __m512 {
        // SAFETY: as above.
        unsafe { fold(v, |a, b| _mm512_max_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}
