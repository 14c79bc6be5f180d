//! Formats with 256 codes per block and integer scales inside: everything stays integer until once per 256. The ones
//! of 4 to 6 bits, and what all of them share.

use std::hint::black_box;

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

/// `acc[r][t] += d·d_a·isum - dmin·d_a·imin`; `d` and the minima's scale are halves at these bytes of the superblock.
#[inline(always)]
pub(super) unsafe fn finish<L: Lanes, const R: usize, const T: usize>(
    at: &At<'_, R, T>,
    (d, dmin): (usize, Option<usize>),
    isum: &Ints<L, R, T>,
    imin: &Ints<L, R, T>,
    acc: &mut Sums<L, R, T>,
) {
    // SAFETY: the superblock lies within every activation row, the scales within it.
    unsafe {
        for r in 0..R {
            let d = L::load_f16(at.w[r].add(d).cast());
            let dmin = dmin.map(|m| L::load_f16(at.w[r].add(m).cast()));
            for t in 0..T {
                let da = L::splat(*at.a[t].d.add(at.sb));
                acc[r][t] = L::fma(L::from_int(isum[r][t]), L::mul(d, da), acc[r][t]);
                if let Some(dmin) = dmin {
                    acc[r][t] = L::fnma(L::from_int(imin[r][t]), L::mul(dmin, da), acc[r][t]);
                }
            }
        }
    }
}

/// `Σ m·s` of the `4 N` scales or minima in the bytes of `N` vectors with the sums of codes at `s`, for every row. Both
/// sides are i16 in pairs: bytes 0 and 2 of a dword, then 1 and 3, which is the order the sums are kept in.
#[inline(always)]
pub(super) unsafe fn dot_sums<L: Lanes, const N: usize, const T: usize>(
    v: &[L::B; N],
    signed: bool,
    s: &[*const i16; T],
) -> [L::I; T] {
    // SAFETY: 4 N sums per row are the caller's promise.
    unsafe {
        let mut out = [L::int(0); T];
        for i in 0..N {
            let (even, odd) = if signed {
                (L::even_signed(v[i]), L::odd_signed(v[i]))
            } else {
                (L::even(v[i]), L::odd(v[i]))
            };
            for t in 0..T {
                let s = s[t].cast::<i32>().add(2 * i);
                out[t] = L::dot2(out[t], even, s.read_unaligned());
                out[t] = L::dot2(out[t], odd, s.add(1).read_unaligned());
            }
        }
        out
    }
}

impl<const R: usize, const T: usize> At<'_, R, T> {
    /// Where each row's codes of sub-block `b` of 32 start.
    #[inline(always)]
    fn codes(&self, b: usize) -> [*const i8; T] {
        let mut q = [self.a[0].q; T];
        for t in 0..T {
            q[t] = self.a[t].q.wrapping_add(256 * self.sb + 32 * b);
        }
        q
    }

    /// Where each row's sums per 32 start.
    #[inline(always)]
    fn sums32(&self) -> [*const i16; T] {
        let mut s = [self.a[0].s32; T];
        for t in 0..T {
            s[t] = self.a[t].s32.wrapping_add(8 * self.sb);
        }
        s
    }

    /// Where each row's sums per 16 start.
    #[inline(always)]
    pub(super) fn sums16(&self) -> [*const i16; T] {
        let mut s = [self.a[0].s16; T];
        for t in 0..T {
            s[t] = self.a[t].s16.wrapping_add(16 * self.sb);
        }
        s
    }
}

/// The arithmetic Q4_K and Q5_K share: scales and minima per 32, packed `scales` bytes into the superblock.
#[inline(always)]
unsafe fn step32<L: Lanes, C: Codes, const R: usize, const T: usize>(
    at: &At<'_, R, T>,
    scales: usize,
    acc: &mut Sums<L, R, T>,
) {
    // The float sums change once per superblock: told nothing, the compiler keeps them in registers meanwhile and spills
    // integer sums, which change all the time.
    let acc = if R * T > 8 { black_box(acc) } else { acc };
    // SAFETY: a superblock per tile and of every row are the caller's promise.
    unsafe {
        let mut scale = [[L::int(0); 8]; R];
        for r in 0..R {
            let (low, high) = scales32::<L>(at.w[r].add(scales));
            scale[r] = spread!(byte, [low, high]);
        }
        let mut isum = [[L::int(0); T]; R];
        for b in 0..8 {
            at.ask::<L, C>(b, 8);
            let dot = dots::<L, C, R, T, 8>(&at.w, b, ALL, &at.codes(b), [L::int(0); T]);
            for r in 0..R {
                for t in 0..T {
                    isum[r][t] = L::int_add(isum[r][t], L::int_mul(dot[r][t], scale[r][b]));
                }
            }
        }
        let mut imin = isum;
        for r in 0..R {
            imin[r] = dot_sums::<L, 2, T>(&minima32::<L>(at.w[r].add(scales)), false, &at.sums32());
        }
        finish::<L, R, T>(at, (scales + 192, Some(scales + 224)), &isum, &imin, acc);
    }
}

/// Q4_K's eight 6-bit scales as bytes of two vectors.
#[inline(always)]
unsafe fn scales32<L: Lanes>(p: *const u8) -> (L::B, L::B) {
    // SAFETY: the caller hands 192 bytes.
    unsafe {
        let (w0, w2) = (L::bytes(p), L::bytes(p.add(128)));
        (L::and(w0, 63), L::or(L::and(w2, 15), L::and(L::shr::<2>(w0), 48)))
    }
}

/// Its eight 6-bit minima.
#[inline(always)]
unsafe fn minima32<L: Lanes>(p: *const u8) -> [L::B; 2] {
    // SAFETY: the caller hands 192 bytes.
    unsafe {
        let (w1, w2) = (L::bytes(p.add(64)), L::bytes(p.add(128)));
        [L::and(w1, 63), L::or(L::and(L::shr::<4>(w2), 15), L::and(L::shr::<2>(w1), 48))]
    }
}

/// `Σ scale·Σ code·a` of the formats with a scale per 16, codes as they are stored.
#[inline(always)]
pub(super) unsafe fn sum16<L: Lanes, C: Codes, const R: usize, const T: usize>(
    at: &At<'_, R, T>,
    scale: &[[L::I; 16]; R],
) -> Ints<L, R, T> {
    // SAFETY: a superblock per tile and of every row are the caller's promise.
    unsafe {
        let mut isum = [[L::int(0); T]; R];
        for b in 0..8 {
            at.ask::<L, C>(b, 8);
            let q = at.codes(b);
            for half in 0..2 {
                let groups = if half == 0 { [0, 1, 2, 3] } else { [4, 5, 6, 7] };
                let dot = dots::<L, C, R, T, 4>(&at.w, b, groups, &q, [L::int(0); T]);
                for r in 0..R {
                    for t in 0..T {
                        isum[r][t] = L::int_add(isum[r][t], L::int_mul(dot[r][t], scale[r][2 * b + half]));
                    }
                }
            }
        }
        isum
    }
}

/// Four vectors, 64 bytes apart, of each tile.
#[inline(always)]
pub(super) unsafe fn four<L: Lanes, const R: usize>(w: &[*const u8; R], at: usize) -> [[L::B; 4]; R] {
    // SAFETY: the caller hands 256 bytes from `at` on.
    unsafe {
        let mut out = [[L::bytes(w[0].add(at)); 4]; R];
        for r in 0..R {
            for i in 0..4 {
                out[r][i] = L::bytes(w[r].add(at + 64 * i));
            }
        }
        out
    }
}

/// The bytes of four vectors of each tile as lanes.
macro_rules! spread_all {
    ($f:ident, $v:expr) => {{
        let v = $v;
        let mut out = [[L::int(0); 16]; R];
        for r in 0..R {
            out[r] = spread!($f, v[r]);
        }
        out
    }};
}
pub(super) use spread_all;

/// The arithmetic Q6_K and Q3_K share: codes minus `2^OFF`, signed scales per 16 from `scales` on, one half for all at
/// `d`.
#[inline(always)]
pub(super) unsafe fn signed16<L: Lanes, C: Codes, const OFF: u32, const R: usize, const T: usize>(
    at: &At<'_, R, T>,
    scales: usize,
    d: usize,
    acc: &mut Sums<L, R, T>,
) {
    // SAFETY: a superblock per tile and of every row are the caller's promise.
    unsafe {
        let mut isum = sum16::<L, C, R, T>(at, &spread_all!(sbyte, four::<L, R>(&at.w, scales)));
        // Loaded a second time: kept over the loop, their bytes would take four registers a tile from its sums.
        let bytes = four::<L, R>(&at.w, scales);
        for r in 0..R {
            let shift = dot_sums::<L, 4, T>(&bytes[r], true, &at.sums16());
            for t in 0..T {
                isum[r][t] = L::int_sub(isum[r][t], L::int_shl::<OFF>(shift[t]));
            }
        }
        finish::<L, R, T>(at, (d, None), &isum, &isum, acc);
    }
}

impl Codes for Q4K {
    const BITS: u32 = 4;
}

impl Codes for Q5K {
    const BITS: u32 = 5;
    const HIGH: usize = 2048;
}

impl Codes for Q6K {
    const BITS: u32 = 6;
    const HIGH: usize = 2048;
}

impl Tile for Q4K {
    const KIND: Kind = Kind::Q4_K;
    const K: usize = 256;
    const BYTES: usize = 2304;
    // Six rows are 5 % faster yet, and keep sums on the stack.
    const PAIRED: usize = 4;

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
    unsafe fn step<L: Lanes, const R: usize, const T: usize>(at: &At<'_, R, T>, acc: &mut Sums<L, R, T>) {
        // SAFETY: the caller's promise.
        unsafe { step32::<L, Self, R, T>(at, 2048, acc) }
    }
}

impl Tile for Q5K {
    const KIND: Kind = Kind::Q5_K;
    const K: usize = 256;
    const BYTES: usize = 2816;
    const PAIRED: usize = 5;

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
    unsafe fn step<L: Lanes, const R: usize, const T: usize>(at: &At<'_, R, T>, acc: &mut Sums<L, R, T>) {
        // SAFETY: the caller's promise.
        unsafe { step32::<L, Self, R, T>(at, 2560, acc) }
    }
}

impl Tile for Q6K {
    const KIND: Kind = Kind::Q6_K;
    const K: usize = 256;
    // 3360 used; the 32 bytes of padding keep every superblock on a line.
    const BYTES: usize = 3392;
    // Sixteen scales leave too few registers: two tiles and five rows spill and reach 0.40 TOPS a core, one tile and
    // four rows 0.61.
    const PAIRED: usize = 0;

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
    unsafe fn step<L: Lanes, const R: usize, const T: usize>(at: &At<'_, R, T>, acc: &mut Sums<L, R, T>) {
        // SAFETY: the caller's promise.
        unsafe { signed16::<L, Self, 5, R, T>(at, 3072, 3328, acc) }
    }
}

/// Low nibbles and high pairs of Q6_K's sub-block `b`.
fn q6_codes(src: &[u8], b: usize) -> ([u8; 32], [u8; 32]) {
    let (n, quarter) = (b / 4, b % 4);
    let u = std::array::from_fn(|l| (src[64 * n + 32 * (quarter % 2) + l] >> (4 * (quarter / 2))) & 15);
    (u, codes2(&src[128..192], b))
}
