//! The R16k4 layout (KERNELS §2): a tile is 16 output rows; a dword lane is a row; a dword holds 4 consecutive k.
//!
//! One file per family of formats. Each gives the bytes of a superblock, their exact inverse, and one `step` that
//! multiplies a superblock with `T` activation rows, written once over [`Lanes`].

/// Bytes of four vectors as 16 lane vectors, in order.
macro_rules! spread {
    ($f:ident, $v:expr) => {{
        let v = $v;
        [
            L::$f::<0>(v[0]),
            L::$f::<1>(v[0]),
            L::$f::<2>(v[0]),
            L::$f::<3>(v[0]),
            L::$f::<0>(v[1]),
            L::$f::<1>(v[1]),
            L::$f::<2>(v[1]),
            L::$f::<3>(v[1]),
            L::$f::<0>(v[2]),
            L::$f::<1>(v[2]),
            L::$f::<2>(v[2]),
            L::$f::<3>(v[2]),
            L::$f::<0>(v[3]),
            L::$f::<1>(v[3]),
            L::$f::<2>(v[3]),
            L::$f::<3>(v[3]),
        ]
    }};
}

pub mod blocks;
pub mod floats;
pub mod kquants;
pub mod lowbit;

use tamp_formats::Kind;

use crate::lanes::Lanes;

/// Output rows per tile.
pub const ROWS: usize = 16;

/// One activation row, quantised for a format's block, or plain f32. Pointers stay valid while the batch runs.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// `[K]` int8 codes in -127..=127
    pub q: *const i8,
    /// `[K / block]` scales
    pub d: *const f32,
    /// `[K / 32]` sums of codes
    pub s32: *const i32,
    /// `[K / 16]` sums of codes
    pub s16: *const i32,
    /// `[K / 32]` scale times sum of codes
    pub ds: *const f32,
    /// `[K]` unquantised values
    pub x: *const f32,
}

/// A format's tile: layout and arithmetic.
pub trait Tile {
    /// the file format it is packed from
    const KIND: Kind;
    /// columns per superblock
    const K: usize;
    /// bytes per superblock of 16 rows, a multiple of 64
    const BYTES: usize;

    /// Writes one row's superblock (`src` in the file's layout, shorter at a ragged tail) into lane `lane`.
    /// `out` starts zeroed, which is also the padding of missing rows and columns.
    fn pack(src: &[u8], lane: usize, out: &mut [u8]);

    /// The exact inverse of [`Tile::pack`].
    fn unpack(tile: &[u8], lane: usize, dst: &mut [u8]);

    /// `acc[t] += w · a[t]` over superblock `sb`.
    ///
    /// # Safety
    /// `w` holds [`Tile::BYTES`] bytes, every activation row covers the superblock, and the rung is there.
    unsafe fn step<L: Lanes, const T: usize>(w: *const u8, a: &[Act; T], sb: usize, acc: &mut [L::F; T]);
}

/// Bytes ahead that weights are prefetched. 8–9 KB measured best on Zen 5 for T = 1…8 (KERNELS §1).
const AHEAD: usize = 8704;

/// `out[tile][t][16] = Σ_k w[tile][k] · a[t][k]`, superblock after superblock in k order: a row's sum never depends
/// on `T`, on the tile run or on the rung.
///
/// # Safety
/// `w` holds `tiles * supers * F::BYTES` bytes, `a` points to `T` activation rows, `out` to `tiles * T * 16` floats,
/// and the rung is there.
#[inline(always)]
pub unsafe fn gemm<L: Lanes, F: Tile, const T: usize>(
    w: *const u8,
    tiles: usize,
    supers: usize,
    a: *const Act,
    out: *mut f32,
) {
    // SAFETY: the bounds are the caller's promise, word for word.
    unsafe {
        let a = &*a.cast::<[Act; T]>();
        let mut w = w;
        for tile in 0..tiles {
            let mut acc = [L::splat(0.0); T];
            for sb in 0..supers {
                if F::K < 256 {
                    ahead::<L, F>(w, 0, 1);
                }
                F::step::<L, T>(w, a, sb, &mut acc);
                w = w.add(F::BYTES);
            }
            for t in 0..T {
                L::store(out.add((tile * T + t) * ROWS), acc[t]);
            }
        }
    }
}

/// Prefetches part `i` of `n` of the superblock [`AHEAD`] bytes on. Large superblocks ask in eight parts between
/// their dots: all 36 or more lines at once fill the miss queue and stall the loads behind them.
#[inline(always)]
unsafe fn ahead<L: Lanes, F: Tile>(w: *const u8, i: usize, n: usize) {
    let part = F::BYTES / n;
    for line in 0..part.div_ceil(64) {
        // SAFETY: a prefetch may have any address.
        unsafe { L::prefetch(w.wrapping_add(AHEAD + i * part + 64 * line)) };
    }
}

/// Code `i` of a 32-block sits at byte `j = i % 4` of its lane in group `g = i / 4`.
fn groups() -> impl Iterator<Item = (usize, usize, usize)> {
    (0..32).map(|i| (i, i / 4, i % 4))
}

/// 4-bit codes of a 32-block: low nibble k < 16, high nibble k >= 16. 256 bytes.
fn put_nibbles(u: &[u8; 32], lane: usize, out: &mut [u8]) {
    for (i, g, j) in groups() {
        out[(g % 4) * 64 + lane * 4 + j] |= (u[i] & 15) << (4 * (g / 4));
    }
}

fn get_nibbles(tile: &[u8], lane: usize, u: &mut [u8; 32]) {
    for (i, g, j) in groups() {
        u[i] |= (tile[(g % 4) * 64 + lane * 4 + j] >> (4 * (g / 4))) & 15;
    }
}

/// One more bit per code, bit `g` of the byte of position `j`. 64 bytes.
fn put_bits(bit: &[u8; 32], lane: usize, out: &mut [u8]) {
    for (i, g, j) in groups() {
        out[lane * 4 + j] |= (bit[i] & 1) << g;
    }
}

fn get_bits(tile: &[u8], lane: usize, bit: &mut [u8; 32]) {
    for (i, g, j) in groups() {
        bit[i] = (tile[lane * 4 + j] >> g) & 1;
    }
}

/// Two more bits per code: groups 0–3 in the first 64 bytes, 4–7 in the second. 128 bytes.
fn put_pairs(two: &[u8; 32], lane: usize, out: &mut [u8]) {
    for (i, g, j) in groups() {
        out[(g / 4) * 64 + lane * 4 + j] |= (two[i] & 3) << (2 * (g % 4));
    }
}

fn get_pairs(tile: &[u8], lane: usize, two: &mut [u8; 32]) {
    for (i, g, j) in groups() {
        two[i] = (tile[(g / 4) * 64 + lane * 4 + j] >> (2 * (g % 4))) & 3;
    }
}

/// Copies a 2-byte scale of one lane.
fn put_half(src: &[u8], lane: usize, out: &mut [u8]) {
    out[2 * lane..2 * lane + 2].copy_from_slice(&src[..2]);
}

fn get_half(tile: &[u8], lane: usize, dst: &mut [u8]) {
    dst[..2].copy_from_slice(&tile[2 * lane..2 * lane + 2]);
}

/// Low and high nibbles of a 32-block as 8 groups.
#[inline(always)]
unsafe fn nibbles<L: Lanes>(p: *const u8) -> [L::B; 8] {
    // SAFETY: the caller hands 256 bytes.
    unsafe {
        let v = [L::bytes(p), L::bytes(p.add(64)), L::bytes(p.add(128)), L::bytes(p.add(192))];
        [
            L::and(v[0], 15),
            L::and(v[1], 15),
            L::and(v[2], 15),
            L::and(v[3], 15),
            L::and(L::shr::<4>(v[0]), 15),
            L::and(L::shr::<4>(v[1]), 15),
            L::and(L::shr::<4>(v[2]), 15),
            L::and(L::shr::<4>(v[3]), 15),
        ]
    }
}

/// The fifth bit of 8 groups, moved to 0x10 and joined.
#[inline(always)]
unsafe fn join_fifth<L: Lanes>(w: &mut [L::B; 8], p: *const u8) {
    // SAFETY: the caller hands 64 bytes.
    unsafe {
        let h = L::bytes(p);
        w[0] = L::or(w[0], L::and(L::shl::<4>(h), 16));
        w[1] = L::or(w[1], L::and(L::shl::<3>(h), 16));
        w[2] = L::or(w[2], L::and(L::shl::<2>(h), 16));
        w[3] = L::or(w[3], L::and(L::shl::<1>(h), 16));
        w[4] = L::or(w[4], L::and(h, 16));
        w[5] = L::or(w[5], L::and(L::shr::<1>(h), 16));
        w[6] = L::or(w[6], L::and(L::shr::<2>(h), 16));
        w[7] = L::or(w[7], L::and(L::shr::<3>(h), 16));
    }
}

/// `Σ w·a` of a 32-block of codes up to 127, from `start`. With few rows two chains hide the latency of the dot
/// product; with more the rows do, and the addition that joins the chains is saved.
#[inline(always)]
unsafe fn dot32<L: Lanes, const T: usize>(w: &[L::B; 8], q: *const i8, start: i32) -> L::I {
    // SAFETY: the caller hands 32 codes.
    unsafe {
        let q = q.cast::<i32>();
        let mut s = L::int(start);
        if T > 2 {
            for g in 0..8 {
                s = L::dot7(s, w[g], q.add(g).read_unaligned());
            }
            return s;
        }
        let mut s1 = L::int(0);
        for g in 0..4 {
            s = L::dot7(s, w[g], q.add(g).read_unaligned());
            s1 = L::dot7(s1, w[4 + g], q.add(4 + g).read_unaligned());
        }
        L::int_add(s, s1)
    }
}

/// `Σ (w - 128)·a` of a 32-block of bytes; `sum` is Σa.
#[inline(always)]
unsafe fn dot32_wide<L: Lanes, const T: usize>(w: &[L::B; 8], q: *const i8, sum: i32) -> L::I {
    // SAFETY: the caller hands 32 codes.
    unsafe {
        let q = q.cast::<i32>();
        let mut s = L::int(-L::DOT8_BIAS * sum);
        if T > 2 {
            for g in 0..8 {
                s = L::dot8(s, w[g], q.add(g).read_unaligned());
            }
            return s;
        }
        let mut s1 = L::int(0);
        for g in 0..4 {
            s = L::dot8(s, w[g], q.add(g).read_unaligned());
            s1 = L::dot8(s1, w[4 + g], q.add(4 + g).read_unaligned());
        }
        L::int_add(s, s1)
    }
}

/// `Σ w·a` of the 16-block in groups `4 half .. 4 half + 4`, from `start`.
#[inline(always)]
unsafe fn dot16<L: Lanes>(w: &[L::B; 8], half: usize, q: *const i8, start: i32) -> L::I {
    // SAFETY: the caller hands 32 codes.
    unsafe {
        let q = q.cast::<i32>();
        let mut s = L::int(start);
        for g in 4 * half..4 * half + 4 {
            s = L::dot7(s, w[g], q.add(g).read_unaligned());
        }
        s
    }
}
