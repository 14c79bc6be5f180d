//! The portable rung: plain arrays, the oracle of the others and the fallback of every machine.

use super::Lanes;

/// 16 lanes in an array.
#[derive(Clone, Copy)]
pub struct Portable;

type F = [f32; 16];
type I = [i32; 16];
type B = [u8; 64];

#[inline(always)]
fn map2<T: Copy + Default>(a: [T; 16], b: [T; 16], f: impl Fn(T, T) -> T) -> [T; 16] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Lanes for Portable {
    type F = F;
    type I = I;
    type B = B;
    const DOT7_WIDE: bool = true;
    const DOT7_FUSED: bool = false;
    const DOT8_BIAS: i32 = 0;

    #[inline(always)]
    unsafe fn splat(v: f32) -> F {
        [v; 16]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        // SAFETY: the caller hands 16 readable values.
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        // SAFETY: the caller hands 16 writable values.
        unsafe { p.cast::<F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        // SAFETY: the caller hands 16 readable values.
        let h = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        h.map(|b| half::f16::from_bits(b).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        // SAFETY: the caller hands 16 readable values.
        let h = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        h.map(|b| f32::from_bits((b as u32) << 16))
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn fnma(a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| (-a[i]).mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        a.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn keep_ge(x: F, t: F, v: F) -> F {
        std::array::from_fn(|i| if x[i] >= t[i] { v[i] } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn first(n: usize, a: F, b: F) -> F {
        std::array::from_fn(|i| if i < n { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn pick_lt(a: F, b: F, x: F, y: F) -> F {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    unsafe fn nearest(a: F) -> F {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: F) {
        // SAFETY: the caller hands room for 16.
        unsafe { p.cast::<[u16; 16]>().write_unaligned(v.map(|v| half::f16::from_f32(v).to_bits())) }
    }
    #[inline(always)]
    unsafe fn round(a: F) -> I {
        // Out of range and NaN give i32::MIN, as the vector instructions do.
        a.map(|v| {
            let r = v.round_ties_even();
            if (-2147483648.0..2147483648.0).contains(&r) { r as i32 } else { i32::MIN }
        })
    }
    #[inline(always)]
    unsafe fn from_int(a: I) -> F {
        a.map(|v| v as f32)
    }
    #[inline(always)]
    unsafe fn exp2i(a: I) -> F {
        a.map(|v| f32::from_bits((v.wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn int(v: i32) -> I {
        [v; 16]
    }
    #[inline(always)]
    unsafe fn int_add(a: I, b: I) -> I {
        map2(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn int_sub(a: I, b: I) -> I {
        map2(a, b, i32::wrapping_sub)
    }
    #[inline(always)]
    unsafe fn int_mul(a: I, b: I) -> I {
        map2(a, b, i32::wrapping_mul)
    }
    #[inline(always)]
    unsafe fn int_shl<const N: u32>(a: I) -> I {
        a.map(|v| v << N)
    }
    #[inline(always)]
    unsafe fn int_shr<const N: u32>(a: I) -> I {
        a.map(|v| v >> N)
    }
    #[inline(always)]
    unsafe fn byte<const J: i32>(b: B) -> I {
        std::array::from_fn(|i| b[4 * i + J as usize] as i32)
    }
    #[inline(always)]
    unsafe fn sbyte<const J: i32>(b: B) -> I {
        std::array::from_fn(|i| b[4 * i + J as usize] as i8 as i32)
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: I) {
        // SAFETY: the caller hands 16 writable bytes.
        unsafe { p.cast::<[i8; 16]>().write_unaligned(v.map(|x| x as i8)) }
    }
    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> B {
        // SAFETY: the caller hands 64 readable bytes.
        unsafe { p.cast::<B>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn and(a: B, v: u8) -> B {
        a.map(|x| x & v)
    }
    #[inline(always)]
    unsafe fn or(a: B, b: B) -> B {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn shr<const N: u32>(a: B) -> B {
        a.map(|x| x >> N)
    }
    #[inline(always)]
    unsafe fn shl<const N: u32>(a: B) -> B {
        a.map(|x| x << N)
    }
    #[inline(always)]
    unsafe fn even(a: B) -> B {
        std::array::from_fn(|i| if i % 2 == 0 { a[i] } else { 0 })
    }
    #[inline(always)]
    unsafe fn odd(a: B) -> B {
        std::array::from_fn(|i| if i % 2 == 0 { a[i + 1] } else { 0 })
    }
    #[inline(always)]
    unsafe fn even_signed(a: B) -> B {
        std::array::from_fn(|i| if i % 2 == 0 { a[i] } else { (a[i - 1] as i8 >> 7) as u8 })
    }
    #[inline(always)]
    unsafe fn odd_signed(a: B) -> B {
        std::array::from_fn(|i| if i % 2 == 0 { a[i + 1] } else { (a[i] as i8 >> 7) as u8 })
    }
    #[inline(always)]
    unsafe fn dot2(acc: I, w: B, a: i32) -> I {
        let (lo, hi) = (a as i16 as i32, a >> 16);
        let word = |i: usize| i16::from_le_bytes([w[i], w[i + 1]]) as i32;
        std::array::from_fn(|i| acc[i] + word(4 * i) * lo + word(4 * i + 2) * hi)
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], a: B) -> B {
        a.map(|x| table[(x & 15) as usize])
    }
    #[inline(always)]
    unsafe fn dot7(acc: I, w: B, a: i32) -> I {
        let a = a.to_le_bytes().map(|b| b as i8 as i32);
        std::array::from_fn(|i| acc[i] + (0..4).map(|j| w[4 * i + j] as i32 * a[j]).sum::<i32>())
    }
    #[inline(always)]
    unsafe fn dot8(acc: I, w: B, a: i32) -> I {
        let a = a.to_le_bytes().map(|b| b as i8 as i32);
        std::array::from_fn(|i| acc[i] + (0..4).map(|j| (w[4 * i + j] as i32 - 128) * a[j]).sum::<i32>())
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}
