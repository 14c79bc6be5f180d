//! Sixteen virtual lanes: the only vector operations the kernels use, one implementation per instruction set.
//!
//! Every operation is exact or IEEE-rounded, so a kernel written over [`Lanes`] gives the same bits on every rung
//! (DESIGN 5.1): 16 lanes whatever the register width, FMA everywhere, one fixed fold.

pub mod portable;

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;

/// 16 f32 lanes (`F`), 16 i32 lanes (`I`), 64 bytes seen as 16 dwords (`B`).
///
/// # Safety
/// Every method is unsafe because it may need an instruction set that the caller has checked for, and because
/// loads and stores go through raw pointers: 16 values (or 64 bytes) must be readable or writable there.
#[allow(missing_docs, clippy::missing_safety_doc)]
pub trait Lanes: Copy {
    type F: Copy;
    type I: Copy;
    type B: Copy;

    unsafe fn splat(v: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    /// 16 IEEE halves, widened
    unsafe fn load_f16(p: *const u16) -> Self::F;
    /// 16 bfloat16, widened
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b`, so the second operand where either is NaN
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(a: Self::F) -> Self::F;
    /// `x >= t ? v : 0`
    unsafe fn keep_ge(x: Self::F, t: Self::F, v: Self::F) -> Self::F;
    /// lane index `< n ? a : b`
    unsafe fn first(n: usize, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? x : y`, so `y` where either is NaN
    unsafe fn pick_lt(a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// nearest whole number, ties to even
    unsafe fn nearest(a: Self::F) -> Self::F;
    /// 16 IEEE halves, rounded to nearest, ties to even
    unsafe fn store_f16(p: *mut u16, v: Self::F);
    /// nearest integer, ties to even
    unsafe fn round(a: Self::F) -> Self::I;
    /// rounded to nearest, ties to even
    unsafe fn from_int(a: Self::I) -> Self::F;
    /// `2^i` for `-126 <= i <= 127`
    unsafe fn exp2i(a: Self::I) -> Self::F;

    unsafe fn int(v: i32) -> Self::I;
    unsafe fn int_add(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn int_sub(a: Self::I, b: Self::I) -> Self::I;
    /// low 32 bits of the product
    unsafe fn int_mul(a: Self::I, b: Self::I) -> Self::I;
    /// every lane shifted left
    unsafe fn int_shl<const N: u32>(a: Self::I) -> Self::I;
    /// every lane shifted right, the sign filling in
    unsafe fn int_shr<const N: u32>(a: Self::I) -> Self::I;
    /// byte `J` of every dword, zero-extended
    unsafe fn byte<const J: i32>(b: Self::B) -> Self::I;
    /// byte `J` of every dword, sign-extended
    unsafe fn sbyte<const J: i32>(b: Self::B) -> Self::I;
    /// lanes in `-128..=127` as 16 bytes
    unsafe fn store_i8(p: *mut i8, v: Self::I);

    unsafe fn bytes(p: *const u8) -> Self::B;
    unsafe fn and(a: Self::B, v: u8) -> Self::B;
    unsafe fn or(a: Self::B, b: Self::B) -> Self::B;
    /// every byte shifted right; bits of neighbours may come in, so mask after
    unsafe fn shr<const N: u32>(a: Self::B) -> Self::B;
    /// every byte shifted left; bits of neighbours may come in, so mask after
    unsafe fn shl<const N: u32>(a: Self::B) -> Self::B;
    /// bytes 0 and 2 of every dword as two unsigned i16
    unsafe fn even(a: Self::B) -> Self::B;
    /// bytes 1 and 3 of every dword as two unsigned i16
    unsafe fn odd(a: Self::B) -> Self::B;
    /// bytes 0 and 2 of every dword as two signed i16
    unsafe fn even_signed(a: Self::B) -> Self::B;
    /// bytes 1 and 3 of every dword as two signed i16
    unsafe fn odd_signed(a: Self::B) -> Self::B;
    /// `acc[lane] += w[2 lane] * a_0 + w[2 lane + 1] * a_1` in i16, exact: operands are never both -32 768
    unsafe fn dot2(acc: Self::I, w: Self::B, a: i32) -> Self::I;
    /// `table[byte]` for bytes `0..16`
    unsafe fn lookup(table: &[u8; 16], a: Self::B) -> Self::B;
    /// `acc[lane] += Σ_j w[4 lane + j] * a_j`, `w` unsigned and at most 127, `a` four i8 in a dword
    unsafe fn dot7(acc: Self::I, w: Self::B, a: i32) -> Self::I;
    /// `acc[lane] += Σ w[i][4 lane + j] * a[i]_j` over up to 8 groups of codes of at most `bits` bits, which says how
    /// many products a rung may add in 16 bits
    #[inline(always)]
    unsafe fn dots<const N: usize>(bits: u32, mut acc: Self::I, w: &[Self::B; N], a: &[i32; N]) -> Self::I {
        let _ = bits;
        for i in 0..N {
            // SAFETY: the caller's promise.
            acc = unsafe { Self::dot7(acc, w[i], a[i]) };
        }
        acc
    }
    /// `acc[lane] += Σ_j (w[4 lane + j] - 128) * a_j` up to `dot8_bias`: rungs that multiply unsigned bytes leave
    /// `+128·Σa` in, and say so
    unsafe fn dot8(acc: Self::I, w: Self::B, a: i32) -> Self::I;
    /// `dot7` takes codes up to 255
    const DOT7_WIDE: bool;
    /// `dot7` is one operation and groups come one at a time; else they come together, through `dots`
    const DOT7_FUSED: bool;
    /// what `dot8` leaves in per unit of Σa: 128 or 0
    const DOT8_BIAS: i32;

    /// sum of the lanes, folded 8, 4, 2, 1: `a[i] += a[i + 8]` and so on
    #[inline(always)]
    unsafe fn sum(v: Self::F) -> f32 {
        let mut a = [0f32; 16];
        // SAFETY: 16 values fit the array.
        unsafe { Self::store(a.as_mut_ptr(), v) };
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] += a[i + half];
            }
        }
        a[0]
    }
    /// largest lane by the same fold, each step as [`Lanes::max`]
    #[inline(always)]
    unsafe fn top(v: Self::F) -> f32 {
        let mut a = [0f32; 16];
        // SAFETY: 16 values fit the array.
        unsafe { Self::store(a.as_mut_ptr(), v) };
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] = if a[i] > a[i + half] { a[i] } else { a[i + half] };
            }
        }
        a[0]
    }

    /// [`Lanes::sum`] of eight vectors in the first eight lanes; the others hold any of them
    #[inline(always)]
    unsafe fn sums(v: &[Self::F; 8]) -> Self::F {
        let mut out = [0f32; 16];
        for i in 0..16 {
            // SAFETY: arithmetic only; the caller vouches for the rung.
            out[i] = if i < 8 { unsafe { Self::sum(v[i]) } } else { out[i - 8] };
        }
        // SAFETY: 16 values.
        unsafe { Self::load(out.as_ptr()) }
    }
    /// [`Lanes::top`] of eight vectors in the first eight lanes; the others hold any of them
    #[inline(always)]
    unsafe fn tops(v: &[Self::F; 8]) -> Self::F {
        let mut out = [0f32; 16];
        for i in 0..16 {
            // SAFETY: arithmetic only; the caller vouches for the rung.
            out[i] = if i < 8 { unsafe { Self::top(v[i]) } } else { out[i - 8] };
        }
        // SAFETY: 16 values.
        unsafe { Self::load(out.as_ptr()) }
    }

    /// hint that the line at `p` is wanted soon; any address is fine
    unsafe fn prefetch(p: *const u8);
}

/// Sum of the 16 lanes, folded 8, 4, 2, 1.
///
/// # Safety
/// The rung's instruction set must be there.
#[inline(always)]
pub unsafe fn sum<L: Lanes>(v: L::F) -> f32 {
    // SAFETY: the caller's promise.
    unsafe { L::sum(v) }
}

/// Largest of the 16 lanes.
///
/// # Safety
/// The rung's instruction set must be there.
#[inline(always)]
pub unsafe fn max16<L: Lanes>(v: L::F) -> f32 {
    // SAFETY: the caller's promise.
    unsafe { L::top(v) }
}

/// `e^x` for `x <= 88`, at most 1 ulp off (0.88 measured; Taylor's coefficients gave 2.7); 0 below -87. Cody–Waite
/// reduction, then a degree-6 polynomial of least relative error on ±ln 2 / 2, coefficients rounded one by one.
///
/// # Safety
/// The rung's instruction set must be there.
#[inline(always)]
pub unsafe fn exp<L: Lanes>(x: L::F) -> L::F {
    // SAFETY: arithmetic only; the caller vouches for the rung.
    unsafe {
        let lo = L::splat(-87.0);
        let c = L::max(x, lo);
        let n = L::round(L::mul(c, L::splat(std::f32::consts::LOG2_E)));
        let nf = L::from_int(n);
        let r = L::fma(nf, L::splat(-0.693_145_75), c);
        let r = L::fma(nf, L::splat(-1.428_606_8e-6), r);
        let mut p = L::splat(1.382_066_5e-3);
        for k in [8.368_676e-3, 4.166_826_6e-2, 1.666_652_1e-1, 4.999_999_4e-1, 1.0, 1.0] {
            p = L::fma(p, r, L::splat(k));
        }
        L::keep_ge(x, lo, L::mul(p, L::exp2i(n)))
    }
}

/// `g / (1 + e^-g)`.
///
/// # Safety
/// The rung's instruction set must be there.
#[inline(always)]
pub unsafe fn silu<L: Lanes>(g: L::F) -> L::F {
    // SAFETY: arithmetic only; the caller vouches for the rung. The argument of exp is kept under 88.
    unsafe {
        let zero = L::splat(0.0);
        let e = exp::<L>(L::sub(zero, L::max(g, L::splat(-87.0))));
        L::div(g, L::add(L::splat(1.0), e))
    }
}
