//! Formats with 256 codes per block and integer scales inside: everything stays integer until once per 256. The ones
//! of 4 to 6 bits, and what all of them share.

use super::*;

/// 4-bit codes, 6-bit scales and minima per 32.
pub struct Q4K;
/// 5-bit codes, 6-bit scales and minima per 32.
pub struct Q5K;
/// 6-bit codes minus 32, 8-bit scales per 16.
pub struct Q6K;

/// Copies 4-byte groups of a row's packed scales into dword lanes, 64 bytes apart.
pub(super) fn put_dwords(src: &[u8], lane: usize, out: &mut [u8]) {
    for (i, four) in src.chunks_exact(4).enumerate() {
        out[64 * i + 4 * lane..][..4].copy_from_slice(four);
    }
}

pub(super) fn get_dwords(tile: &[u8], lane: usize, dst: &mut [u8]) {
    for (i, four) in dst.chunks_exact_mut(4).enumerate() {
        four.copy_from_slice(&tile[64 * i + 4 * lane..][..4]);
    }
}

/// Sub-block `b` of 32 out of 4-bit codes stored as 64-code pairs (Q4_K, Q5_K): byte l = k_l | k_{l+32} << 4.
fn codes4(qs: &[u8], b: usize) -> [u8; 32] {
    std::array::from_fn(|l| (qs[32 * (b / 2) + l] >> (4 * (b % 2))) & 15)
}

fn bytes4(u: &[u8; 32], b: usize, qs: &mut [u8]) {
    for l in 0..32 {
        qs[32 * (b / 2) + l] |= (u[l] & 15) << (4 * (b % 2));
    }
}

/// Sub-block `b` of 32 out of 2-bit fields stored as 128-code quads (Q2_K, Q3_K; Q6_K's high bits).
pub(super) fn codes2(qs: &[u8], b: usize) -> [u8; 32] {
    std::array::from_fn(|l| (qs[32 * (b / 4) + l] >> (2 * (b % 4))) & 3)
}

pub(super) fn bytes2(two: &[u8; 32], b: usize, qs: &mut [u8]) {
    for l in 0..32 {
        qs[32 * (b / 4) + l] |= (two[l] & 3) << (2 * (b % 4));
    }
}

/// Bit `b` of 32 bytes (Q5_K's fifth bits, Q3_K's third).
pub(super) fn plane(qh: &[u8], b: usize) -> [u8; 32] {
    std::array::from_fn(|l| (qh[l] >> b) & 1)
}

pub(super) fn set_plane(bit: &[u8; 32], b: usize, qh: &mut [u8]) {
    for l in 0..32 {
        qh[l] |= bit[l] << b;
    }
}

/// Two-bit fields of 8 groups, unshifted codes 0..=3.
#[inline(always)]
pub(super) unsafe fn pairs<L: Lanes>(p: *const u8) -> [L::B; 8] {
    // SAFETY: the caller hands 128 bytes.
    unsafe {
        let (x, y) = (L::bytes(p), L::bytes(p.add(64)));
        [
            L::and(x, 3),
            L::and(L::shr::<2>(x), 3),
            L::and(L::shr::<4>(x), 3),
            L::and(L::shr::<6>(x), 3),
            L::and(y, 3),
            L::and(L::shr::<2>(y), 3),
            L::and(L::shr::<4>(y), 3),
            L::and(L::shr::<6>(y), 3),
        ]
    }
}

/// `acc[t] += d·d_a·isum - dmin·d_a·imin`.
#[inline(always)]
pub(super) unsafe fn finish<L: Lanes, const T: usize>(
    a: &[Act; T],
    sb: usize,
    d: L::F,
    isum: &[L::I; T],
    min: Option<(L::F, &[L::I; T])>,
    acc: &mut [L::F; T],
) {
    // SAFETY: superblock sb lies within every activation row.
    unsafe {
        for t in 0..T {
            let da = L::splat(*a[t].d.add(sb));
            acc[t] = L::fma(L::from_int(isum[t]), L::mul(d, da), acc[t]);
            if let Some((dmin, imin)) = min {
                let neg = L::sub(L::splat(0.0), L::mul(dmin, da));
                acc[t] = L::fma(L::from_int(imin[t]), neg, acc[t]);
            }
        }
    }
}

/// The arithmetic Q4_K and Q5_K share: scales and minima per 32.
#[inline(always)]
unsafe fn step32<L: Lanes, C: Codes, const T: usize>(
    scales: *const u8,
    a: &[Act; T],
    sb: usize,
    acc: &mut [L::F; T],
    w: *const u8,
) {
    // SAFETY: 256 bytes at `scales` and a full superblock of activations are the caller's promise.
    unsafe {
        let (w0, w1, w2) = (L::bytes(scales), L::bytes(scales.add(64)), L::bytes(scales.add(128)));
        let s_lo = L::and(w0, 63);
        let m_lo = L::and(w1, 63);
        let s_hi = L::or(L::and(w2, 15), L::and(L::shr::<2>(w0), 48));
        let m_hi = L::or(L::and(L::shr::<4>(w2), 15), L::and(L::shr::<2>(w1), 48));
        let both = spread!(byte, [s_lo, s_hi, m_lo, m_hi]);
        let (mut isum, mut imin) = ([L::int(0); T], [L::int(0); T]);
        for b in 0..8 {
            ahead::<L, C>(w, b, 8);
            let codes = C::get::<L>(w, b);
            for t in 0..T {
                let at = 8 * sb + b;
                let dot = dot32::<L, T>(&codes, a[t].q.add(32 * at), 0);
                isum[t] = L::int_add(isum[t], L::int_mul(dot, both[b]));
                imin[t] = L::int_add(imin[t], L::int_mul(L::int(*a[t].s32.add(at)), both[8 + b]));
            }
        }
        let d = L::load_f16(scales.add(192).cast());
        let dmin = L::load_f16(scales.add(224).cast());
        finish::<L, T>(a, sb, d, &isum, Some((dmin, &imin)), acc);
    }
}

/// The arithmetic the 16-block formats share: codes minus `OFF`, a scale per 16.
#[inline(always)]
pub(super) unsafe fn sum16<L: Lanes, C: Codes, const T: usize, const OFF: i32>(
    scales: &[L::I; 16],
    a: &[Act; T],
    sb: usize,
    w: *const u8,
) -> [L::I; T] {
    // SAFETY: a full superblock of activations is the caller's promise.
    unsafe {
        let mut isum = [L::int(0); T];
        for b in 0..8 {
            ahead::<L, C>(w, b, 8);
            let codes = C::get::<L>(w, b);
            for t in 0..T {
                let q = a[t].q.add(256 * sb + 32 * b);
                for half in 0..2 {
                    let start = if OFF == 0 { 0 } else { -OFF * *a[t].s16.add(16 * sb + 2 * b + half) };
                    let dot = dot16::<L>(&codes, half, q, start);
                    isum[t] = L::int_add(isum[t], L::int_mul(dot, scales[2 * b + half]));
                }
            }
        }
        isum
    }
}

/// The codes of sub-block `b` of 32, unpacked to bytes.
pub(super) trait Codes: Tile {
    /// # Safety
    /// `w` is a superblock of the format.
    unsafe fn get<L: Lanes>(w: *const u8, b: usize) -> [L::B; 8];
}

impl Codes for Q4K {
    #[inline(always)]
    unsafe fn get<L: Lanes>(w: *const u8, b: usize) -> [L::B; 8] {
        // SAFETY: a whole superblock is the caller's promise.
        unsafe { nibbles::<L>(w.add(256 * b)) }
    }
}

impl Codes for Q5K {
    #[inline(always)]
    unsafe fn get<L: Lanes>(w: *const u8, b: usize) -> [L::B; 8] {
        // SAFETY: a whole superblock is the caller's promise.
        unsafe {
            let mut codes = nibbles::<L>(w.add(256 * b));
            join_fifth::<L>(&mut codes, w.add(2048 + 64 * b));
            codes
        }
    }
}

impl Codes for Q6K {
    #[inline(always)]
    unsafe fn get<L: Lanes>(w: *const u8, b: usize) -> [L::B; 8] {
        // SAFETY: a whole superblock is the caller's promise.
        unsafe {
            let mut codes = nibbles::<L>(w.add(256 * b));
            let hi = pairs::<L>(w.add(2048 + 128 * b));
            for g in 0..8 {
                codes[g] = L::or(codes[g], L::and(L::shl::<4>(hi[g]), 48));
            }
            codes
        }
    }
}

/// Four vectors, 64 bytes apart.
#[inline(always)]
pub(super) unsafe fn four<L: Lanes>(p: *const u8) -> [L::B; 4] {
    // SAFETY: the caller hands 256 bytes.
    unsafe { [L::bytes(p), L::bytes(p.add(64)), L::bytes(p.add(128)), L::bytes(p.add(192))] }
}

impl Tile for Q4K {
    const KIND: Kind = Kind::Q4_K;
    const K: usize = 256;
    const BYTES: usize = 2304;

    fn pack(src: &[u8], lane: usize, out: &mut [u8]) {
        for b in 0..8 {
            put_nibbles(&codes4(&src[16..], b), lane, &mut out[256 * b..]);
        }
        put_dwords(&src[4..16], lane, &mut out[2048..]);
        put_half(src, lane, &mut out[2240..]);
        put_half(&src[2..], lane, &mut out[2272..]);
    }

    fn unpack(tile: &[u8], lane: usize, dst: &mut [u8]) {
        dst.fill(0);
        for b in 0..8 {
            let mut u = [0; 32];
            get_nibbles(&tile[256 * b..], lane, &mut u);
            bytes4(&u, b, &mut dst[16..]);
        }
        get_dwords(&tile[2048..], lane, &mut dst[4..16]);
        get_half(&tile[2240..], lane, dst);
        get_half(&tile[2272..], lane, &mut dst[2..]);
    }

    #[inline(always)]
    unsafe fn step<L: Lanes, const T: usize>(w: *const u8, a: &[Act; T], sb: usize, acc: &mut [L::F; T]) {
        // SAFETY: BYTES bytes at w and a full superblock of activations are the caller's promise.
        unsafe { step32::<L, Self, T>(w.add(2048), a, sb, acc, w) }
    }
}

impl Tile for Q5K {
    const KIND: Kind = Kind::Q5_K;
    const K: usize = 256;
    const BYTES: usize = 2816;

    fn pack(src: &[u8], lane: usize, out: &mut [u8]) {
        for b in 0..8 {
            put_nibbles(&codes4(&src[48..], b), lane, &mut out[256 * b..]);
            put_bits(&plane(&src[16..48], b), lane, &mut out[2048 + 64 * b..]);
        }
        put_dwords(&src[4..16], lane, &mut out[2560..]);
        put_half(src, lane, &mut out[2752..]);
        put_half(&src[2..], lane, &mut out[2784..]);
    }

    fn unpack(tile: &[u8], lane: usize, dst: &mut [u8]) {
        dst.fill(0);
        for b in 0..8 {
            let (mut u, mut bit) = ([0; 32], [0; 32]);
            get_nibbles(&tile[256 * b..], lane, &mut u);
            get_bits(&tile[2048 + 64 * b..], lane, &mut bit);
            bytes4(&u, b, &mut dst[48..]);
            set_plane(&bit, b, &mut dst[16..48]);
        }
        get_dwords(&tile[2560..], lane, &mut dst[4..16]);
        get_half(&tile[2752..], lane, dst);
        get_half(&tile[2784..], lane, &mut dst[2..]);
    }

    #[inline(always)]
    unsafe fn step<L: Lanes, const T: usize>(w: *const u8, a: &[Act; T], sb: usize, acc: &mut [L::F; T]) {
        // SAFETY: BYTES bytes at w and a full superblock of activations are the caller's promise.
        unsafe { step32::<L, Self, T>(w.add(2560), a, sb, acc, w) }
    }
}

impl Tile for Q6K {
    const KIND: Kind = Kind::Q6_K;
    const K: usize = 256;
    // 3360 used; the 32 bytes of padding keep every superblock on a line.
    const BYTES: usize = 3392;

    fn pack(src: &[u8], lane: usize, out: &mut [u8]) {
        for b in 0..8 {
            let (u, two) = q6_codes(src, b);
            put_nibbles(&u, lane, &mut out[256 * b..]);
            put_pairs(&two, lane, &mut out[2048 + 128 * b..]);
        }
        put_dwords(&src[192..208], lane, &mut out[3072..]);
        put_half(&src[208..], lane, &mut out[3328..]);
    }

    fn unpack(tile: &[u8], lane: usize, dst: &mut [u8]) {
        dst.fill(0);
        for b in 0..8 {
            let (mut u, mut two) = ([0; 32], [0; 32]);
            get_nibbles(&tile[256 * b..], lane, &mut u);
            get_pairs(&tile[2048 + 128 * b..], lane, &mut two);
            let (n, quarter) = (b / 4, b % 4);
            for l in 0..32 {
                dst[64 * n + 32 * (quarter % 2) + l] |= u[l] << (4 * (quarter / 2));
            }
            bytes2(&two, b, &mut dst[128..192]);
        }
        get_dwords(&tile[3072..], lane, &mut dst[192..208]);
        get_half(&tile[3328..], lane, &mut dst[208..]);
    }

    #[inline(always)]
    unsafe fn step<L: Lanes, const T: usize>(w: *const u8, a: &[Act; T], sb: usize, acc: &mut [L::F; T]) {
        // SAFETY: BYTES bytes at w and a full superblock of activations are the caller's promise.
        unsafe {
            let isum = sum16::<L, Self, T, 32>(&spread!(sbyte, four::<L>(w.add(3072))), a, sb, w);
            finish::<L, T>(a, sb, L::load_f16(w.add(3328).cast()), &isum, None, acc);
        }
    }
}

/// Low nibbles and high pairs of Q6_K's sub-block `b`.
fn q6_codes(src: &[u8], b: usize) -> ([u8; 32], [u8; 32]) {
    let (n, quarter) = (b / 4, b % 4);
    let u = std::array::from_fn(|l| (src[64 * n + 32 * (quarter % 2) + l] >> (4 * (quarter / 2))) & 15);
    (u, codes2(&src[128..192], b))
}
