//! NEON with the dot-product extension: four registers per 16 lanes.

use std::arch::aarch64::*;
use std::arch::asm;

use super::Lanes;

/// Four 4-lane quarters.
#[derive(Clone, Copy)]
pub struct Neon;

type F = [float32x4_t; 4];
type I = [int32x4_t; 4];
type B = [uint8x16_t; 4];

#[inline(always)]
fn each<A: Copy, R>(a: [A; 4], f: impl Fn(A) -> R) -> [R; 4] {
    [f(a[0]), f(a[1]), f(a[2]), f(a[3])]
}
#[inline(always)]
fn each2<A: Copy, B: Copy, R>(a: [A; 4], b: [B; 4], f: impl Fn(A, B) -> R) -> [R; 4] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

/// `acc[i] += Σ_j w[4 i + j] · a[4 i + j]`, all signed. The intrinsic is not stable yet.
///
/// # Safety
/// The processor has the dot-product extension.
#[inline(always)]
unsafe fn sdot(mut acc: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    // SAFETY: registers in, register out; the caller vouches for the extension.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {acc:v}.4s, {w:v}.16b, {a:v}.16b",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            a = in(vreg) a,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// Four halves, widened. The instruction is part of base NEON, the `f16` types of its intrinsic are not stable yet.
///
/// # Safety
/// 4 readable values.
#[inline(always)]
unsafe fn halves(p: *const u16) -> float32x4_t {
    let out;
    // SAFETY: the caller hands 4 values; the rest are registers.
    unsafe {
        asm!("fcvtl {o:v}.4s, {h:v}.4h", o = lateout(vreg) out, h = in(vreg) vld1_u16(p),
            options(pure, nomem, nostack, preserves_flags));
    }
    out
}

impl Lanes for Neon {
    type F = F;
    type I = I;
    type B = B;
    const DOT7_WIDE: bool = false;
    const DOT7_FUSED: bool = true;
    const DOT8_BIAS: i32 = 0;

    #[inline(always)]
    unsafe fn splat(v: f32) -> F {
        // SAFETY: NEON is part of the base architecture; so in every method below.
        unsafe { [vdupq_n_f32(v); 4] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        // SAFETY: 16 readable values.
        unsafe { [vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        // SAFETY: 16 writable values.
        unsafe {
            vst1q_f32(p, v[0]);
            vst1q_f32(p.add(4), v[1]);
            vst1q_f32(p.add(8), v[2]);
            vst1q_f32(p.add(12), v[3]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        // SAFETY: 16 readable values.
        unsafe { [halves(p), halves(p.add(4)), halves(p.add(8)), halves(p.add(12))] }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        // SAFETY: 16 readable values.
        unsafe {
            each([vld1_u16(p), vld1_u16(p.add(4)), vld1_u16(p.add(8)), vld1_u16(p.add(12))], |h| {
                vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(h)))
            })
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { vaddq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { vsubq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { vmulq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { vdivq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        // SAFETY: as above.
        unsafe {
            [
                vfmaq_f32(c[0], a[0], b[0]),
                vfmaq_f32(c[1], a[1], b[1]),
                vfmaq_f32(c[2], a[2], b[2]),
                vfmaq_f32(c[3], a[3], b[3]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn fnma(a: F, b: F, c: F) -> F {
        // SAFETY: as above.
        unsafe {
            [
                vfmsq_f32(c[0], a[0], b[0]),
                vfmsq_f32(c[1], a[1], b[1]),
                vfmsq_f32(c[2], a[2], b[2]),
                vfmsq_f32(c[3], a[3], b[3]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        // `fmax` gives NaN where either is; the contract is the second operand.
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) })
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        // SAFETY: as above.
        each(a, |a| unsafe { vabsq_f32(a) })
    }
    #[inline(always)]
    unsafe fn keep_ge(x: F, t: F, v: F) -> F {
        // SAFETY: as above.
        let m = each2(x, t, |x, t| unsafe { vcgeq_f32(x, t) });
        // SAFETY: as above.
        each2(m, v, |m, v| unsafe { vreinterpretq_f32_u32(vandq_u32(m, vreinterpretq_u32_f32(v))) })
    }
    #[inline(always)]
    unsafe fn first(n: usize, a: F, b: F) -> F {
        const INDEX: [i32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        let mut out = b;
        // SAFETY: as above; the table is 16 long.
        unsafe {
            let n = vdupq_n_s32(n.min(16) as i32);
            for i in 0..4 {
                out[i] = vbslq_f32(vcgtq_s32(n, vld1q_s32(INDEX.as_ptr().add(4 * i))), a[i], b[i]);
            }
        }
        out
    }
    #[inline(always)]
    unsafe fn pick_lt(a: F, b: F, x: F, y: F) -> F {
        let mut out = y;
        for i in 0..4 {
            // SAFETY: as above.
            out[i] = unsafe { vbslq_f32(vcltq_f32(a[i], b[i]), x[i], y[i]) };
        }
        out
    }
    #[inline(always)]
    unsafe fn nearest(a: F) -> F {
        // SAFETY: as above.
        each(a, |a| unsafe { vrndnq_f32(a) })
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: F) {
        // SAFETY: room for 16 halves.
        unsafe {
            for (i, v) in v.into_iter().enumerate() {
                let h: uint16x4_t;
                asm!("fcvtn {h:v}.4h, {v:v}.4s", h = out(vreg) h, v = in(vreg) v, options(pure, nomem, nostack));
                vst1_u16(p.add(4 * i), h);
            }
        }
    }
    #[inline(always)]
    unsafe fn round(a: F) -> I {
        // The conversion saturates and takes NaN to 0 where x86 gives i32::MIN: nothing here rounds such a value.
        // SAFETY: as above.
        each(a, |a| unsafe { vcvtnq_s32_f32(a) })
    }
    #[inline(always)]
    unsafe fn from_int(a: I) -> F {
        // SAFETY: as above.
        each(a, |a| unsafe { vcvtq_f32_s32(a) })
    }
    #[inline(always)]
    unsafe fn exp2i(a: I) -> F {
        // SAFETY: as above.
        each(a, |a| unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(a, vdupq_n_s32(127)))) })
    }
    #[inline(always)]
    unsafe fn int(v: i32) -> I {
        // SAFETY: as above.
        unsafe { [vdupq_n_s32(v); 4] }
    }
    #[inline(always)]
    unsafe fn int_add(a: I, b: I) -> I {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { vaddq_s32(a, b) })
    }
    #[inline(always)]
    unsafe fn int_sub(a: I, b: I) -> I {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { vsubq_s32(a, b) })
    }
    #[inline(always)]
    unsafe fn int_mul(a: I, b: I) -> I {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { vmulq_s32(a, b) })
    }
    #[inline(always)]
    unsafe fn int_shl<const N: u32>(a: I) -> I {
        // SAFETY: as above.
        each(a, |a| unsafe { vshlq_s32(a, vdupq_n_s32(N as i32)) })
    }
    #[inline(always)]
    unsafe fn int_shr<const N: u32>(a: I) -> I {
        // SAFETY: as above. A negative count shifts right.
        each(a, |a| unsafe { vshlq_s32(a, vdupq_n_s32(-(N as i32))) })
    }
    #[inline(always)]
    unsafe fn byte<const J: i32>(b: B) -> I {
        // SAFETY: as above. A negative count shifts right.
        each(b, |b| unsafe {
            let s = vshlq_u32(vreinterpretq_u32_u8(b), vdupq_n_s32(-8 * J));
            vreinterpretq_s32_u32(vandq_u32(s, vdupq_n_u32(255)))
        })
    }
    #[inline(always)]
    unsafe fn sbyte<const J: i32>(b: B) -> I {
        // SAFETY: as above.
        each(b, |b| unsafe { vshrq_n_s32::<24>(vshlq_s32(vreinterpretq_s32_u8(b), vdupq_n_s32(24 - 8 * J))) })
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: I) {
        // SAFETY: 16 writable bytes.
        unsafe {
            let lo = vcombine_s16(vmovn_s32(v[0]), vmovn_s32(v[1]));
            let hi = vcombine_s16(vmovn_s32(v[2]), vmovn_s32(v[3]));
            vst1q_s8(p, vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
        }
    }
    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> B {
        // SAFETY: 64 readable bytes.
        unsafe { [vld1q_u8(p), vld1q_u8(p.add(16)), vld1q_u8(p.add(32)), vld1q_u8(p.add(48))] }
    }
    #[inline(always)]
    unsafe fn and(a: B, v: u8) -> B {
        // SAFETY: as above.
        each(a, |a| unsafe { vandq_u8(a, vdupq_n_u8(v)) })
    }
    #[inline(always)]
    unsafe fn or(a: B, b: B) -> B {
        // SAFETY: as above.
        each2(a, b, |a, b| unsafe { vorrq_u8(a, b) })
    }
    #[inline(always)]
    unsafe fn shr<const N: u32>(a: B) -> B {
        // SAFETY: as above. A negative count shifts right.
        each(a, |a| unsafe { vshlq_u8(a, vdupq_n_s8(-(N as i8))) })
    }
    #[inline(always)]
    unsafe fn shl<const N: u32>(a: B) -> B {
        // SAFETY: as above.
        each(a, |a| unsafe { vshlq_u8(a, vdupq_n_s8(N as i8)) })
    }
    #[inline(always)]
    unsafe fn even(a: B) -> B {
        // SAFETY: as above.
        each(a, |a| unsafe { vreinterpretq_u8_u16(vandq_u16(vreinterpretq_u16_u8(a), vdupq_n_u16(255))) })
    }
    #[inline(always)]
    unsafe fn odd(a: B) -> B {
        // SAFETY: as above.
        each(a, |a| unsafe { vreinterpretq_u8_u16(vshrq_n_u16::<8>(vreinterpretq_u16_u8(a))) })
    }
    #[inline(always)]
    unsafe fn even_signed(a: B) -> B {
        // SAFETY: as above.
        each(a, |a| unsafe {
            vreinterpretq_u8_s16(vshrq_n_s16::<8>(vshlq_n_s16::<8>(vreinterpretq_s16_u8(a))))
        })
    }
    #[inline(always)]
    unsafe fn odd_signed(a: B) -> B {
        // SAFETY: as above.
        each(a, |a| unsafe { vreinterpretq_u8_s16(vshrq_n_s16::<8>(vreinterpretq_s16_u8(a))) })
    }
    #[inline(always)]
    unsafe fn dot2(acc: I, w: B, a: i32) -> I {
        // SAFETY: as above.
        unsafe {
            let a = vreinterpretq_s16_s32(vdupq_n_s32(a));
            each2(acc, w, |acc, w| {
                let w = vreinterpretq_s16_u8(w);
                let low = vmull_s16(vget_low_s16(w), vget_low_s16(a));
                vaddq_s32(acc, vpaddq_s32(low, vmull_high_s16(w, a)))
            })
        }
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], a: B) -> B {
        // SAFETY: as above; the table is 16 bytes.
        let t = unsafe { vld1q_u8(table.as_ptr()) };
        // SAFETY: as above.
        each(a, |a| unsafe { vqtbl1q_u8(t, a) })
    }
    #[inline(always)]
    unsafe fn dot7(acc: I, w: B, a: i32) -> I {
        // SAFETY: codes up to 127 are the same signed; the caller vouches for the dot product.
        unsafe {
            let a = vreinterpretq_s8_s32(vdupq_n_s32(a));
            each2(acc, w, |acc, w| sdot(acc, vreinterpretq_s8_u8(w), a))
        }
    }
    #[inline(always)]
    unsafe fn dot8(acc: I, w: B, a: i32) -> I {
        // SAFETY: flipping the top bit subtracts 128; the caller vouches for the dot product.
        unsafe {
            let a = vreinterpretq_s8_s32(vdupq_n_s32(a));
            each2(acc, w, |acc, w| sdot(acc, vreinterpretq_s8_u8(veorq_u8(w, vdupq_n_u8(128))), a))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nostack, preserves_flags, readonly)) }
    }
}
