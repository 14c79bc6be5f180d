//! The R16k4 layout (KERNELS §2): a tile is 16 output rows; a dword lane is a row; a dword holds 4 consecutive k.
//!
//! One file per family of formats. Each gives the bytes of a superblock, their exact inverse, and one `step` that
//! multiplies a superblock with `T` activation rows, written once over [`Lanes`].

/// Bytes of two or four vectors as lane vectors, in order.
macro_rules! spread {
    ($f:ident, [$v:expr, $w:expr]) => {{
        let (v, w) = ($v, $w);
        [
            L::$f::<0>(v),
            L::$f::<1>(v),
            L::$f::<2>(v),
            L::$f::<3>(v),
            L::$f::<0>(w),
            L::$f::<1>(w),
            L::$f::<2>(w),
            L::$f::<3>(w),
        ]
    }};
    ($f:ident, $v:expr) => {{
        let v = $v;
        let (a, b) = (spread!($f, [v[0], v[1]]), spread!($f, [v[2], v[3]]));
        [a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]
    }};
}

pub mod blocks;
pub mod floats;
pub mod kquants;
pub mod lowbit;

use std::sync::atomic::{Ordering, compiler_fence};

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
    /// blocks of 32: `[K / 32]` minus eight times the sum of codes, the start of a dot product with an offset
    pub n8: *const i32,
    /// blocks of 32: `[K / 32]` scale times sum of codes, what a minimum is multiplied with
    pub ds: *const f32,
    /// blocks of 256: `[K / 32]` sums of codes as i16, each four in the order 0, 2, 1, 3 (see [`pair_bytes`])
    pub s32: *const i16,
    /// blocks of 256: `[K / 16]` sums of codes as i16, in the same order
    pub s16: *const i16,
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
    /// rows that two tiles side by side take at most before 32 registers are too few; 0: one tile at a time is as fast
    const PAIRED: usize = 6;

    /// Writes one row's superblock (`src` in the file's layout, shorter at a ragged tail) into lane `lane`.
    /// `out` starts zeroed, which is also the padding of missing rows and columns.
    fn pack(src: &[u8], lane: usize, out: &mut [u8]);

    /// The exact inverse of [`Tile::pack`].
    fn unpack(tile: &[u8], lane: usize, dst: &mut [u8]);

    /// `acc[r][t] += w[r] · a[t]` over one superblock.
    ///
    /// # Safety
    /// [`At`] keeps what it says of this format, and the rung is there.
    unsafe fn step<L: Lanes, const R: usize, const T: usize>(at: &At<'_, R, T>, acc: &mut Sums<L, R, T>);
}

/// One superblock of `R` tiles side by side and of `T` activation rows.
pub struct At<'a, const R: usize, const T: usize> {
    /// where each tile's superblock starts, [`Tile::BYTES`] bytes
    pub w: [*const u8; R],
    /// the rows, which cover the superblock
    pub a: &'a [Act; T],
    /// its index in the rows
    pub sb: usize,
    /// what to ask memory for meanwhile
    pub ahead: Ahead,
}

/// Float sums of `R` tiles and `T` rows.
pub type Sums<L, const R: usize, const T: usize> = [[<L as Lanes>::F; T]; R];
/// Integer sums of `R` tiles and `T` rows.
type Ints<L, const R: usize, const T: usize> = [[<L as Lanes>::I; T]; R];

/// Bytes ahead that weights are prefetched, all streams together. 8–9 KB measured best on Zen 5 (KERNELS §1).
pub const AHEAD: usize = 8704;

/// How far ahead of a superblock the lines are that it asks for while it is multiplied.
pub struct Ahead(usize);

impl Ahead {
    /// At superblock `sb` of a tile of `tile` bytes. Tiles that are read once ask a little ahead; past its end a stream
    /// goes on in the next group, so the tiles of the other streams are jumped over. Tiles that several groups of rows
    /// pass over are near after the first, so each group asks for its share of the tiles that come next: memory works
    /// all the time instead of during the first group only. When it is not a group's turn it asks for what it has: a
    /// branch in the loop costs more.
    #[inline(always)]
    fn of<F: Tile, const R: usize>(sb: usize, tile: usize, tiles: usize, out: &Out) -> Self {
        let by = AHEAD / R;
        if out.turns > 1 {
            return Ahead(if sb % out.turns == out.turn { tiles * tile } else { 0 });
        }
        Ahead(if sb * F::BYTES + by >= tile { by + (R - 1) * tile } else { by })
    }
}

impl<const R: usize, const T: usize> At<'_, R, T> {
    /// Asks for part `i` of `n` of a superblock of `F`. Large superblocks ask in eight parts between their dots: all
    /// 36 or more lines at once fill the miss queue and stall the loads behind them.
    #[inline(always)]
    unsafe fn ask<L: Lanes, F: Tile>(&self, i: usize, n: usize) {
        // A fixed number of lines, rounded up: a trip count that changes with the part is mispredicted every time.
        for r in 0..R {
            for line in 0..(F::BYTES / 64).div_ceil(n) {
                let at = self.w[r].wrapping_add(self.ahead.0 + F::BYTES / n * i + 64 * line);
                // SAFETY: a prefetch may have any address.
                unsafe { L::prefetch(at) };
            }
        }
    }
}

/// Where the products of a run of tiles go, and what is done to them on the way.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    /// the first tile's first row: 16 floats per tile, tiles side by side
    pub to: *mut f32,
    /// floats from row to row
    pub stride: usize,
    /// 16 floats per tile to be added, or null
    pub bias: *const f32,
    /// added to what is there instead of replacing it
    pub add: bool,
    /// this is call `turn` of `turns` over the same tiles
    pub turn: usize,
    /// calls over the same tiles, each with other rows
    pub turns: usize,
}

/// `out[t][tile][16] = Σ_k w[tile][k] · a[t][k] (+ bias)`, superblock after superblock in k order: a row's sum never
/// depends on `R`, `T`, on the tile run or on the rung. `R` tiles go side by side, so that a broadcast of four
/// activations serves them all.
///
/// # Safety
/// `tiles` is a multiple of `R`, `w` holds `tiles * supers * F::BYTES` bytes, `a` points to `T` activation rows, `out`
/// has room for `tiles` tiles in each of `T` rows, and the rung is there.
#[inline(always)]
pub unsafe fn gemm<L: Lanes, F: Tile, const R: usize, const T: usize>(
    w: *const u8,
    tiles: usize,
    supers: usize,
    a: *const Act,
    out: &Out,
) {
    // SAFETY: the bounds are the caller's promise, word for word.
    unsafe {
        let a = &*a.cast::<[Act; T]>();
        let bytes = supers * F::BYTES;
        let mut tile = 0;
        while tile < tiles {
            let mut w: [*const u8; R] = [w.add(tile * bytes); R];
            for r in 1..R {
                w[r] = w[0].add(r * bytes);
            }
            let mut acc = [[L::splat(0.0); T]; R];
            for sb in 0..supers {
                let ahead = Ahead::of::<F, R>(sb, bytes, tiles, out);
                F::step::<L, R, T>(&At { w, a, sb, ahead }, &mut acc);
                for r in 0..R {
                    w[r] = w[r].add(F::BYTES);
                }
            }
            for r in 0..R {
                let at = (tile + r) * ROWS;
                if !out.bias.is_null() {
                    let bias = L::load(out.bias.add(at));
                    for t in 0..T {
                        acc[r][t] = L::add(acc[r][t], bias);
                    }
                }
                for t in 0..T {
                    let to = out.to.add(t * out.stride + at);
                    let sum = if out.add { L::add(L::load(to), acc[r][t]) } else { acc[r][t] };
                    L::store(to, sum);
                }
            }
            tile += R;
        }
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

/// The codes of a format, unpacked to bytes group by group.
trait Codes: Tile {
    /// bits of a code; 8: bytes around 128
    const BITS: u32;
    /// where the bits are that do not fit the nibbles or pairs of bits which come first
    const HIGH: usize = 0;

    /// Group `g < 8` (codes `4 g .. 4 g + 4`) of block `b` of 32 in the superblock at `w`.
    ///
    /// # Safety
    /// `w` is a superblock of the format, and the rung is there.
    #[inline(always)]
    unsafe fn group<L: Lanes>(w: *const u8, b: usize, g: usize) -> L::B {
        // SAFETY: every format's tile is as large as its bits are many, HIGH is within it.
        unsafe {
            let high = w.add(Self::HIGH);
            match Self::BITS {
                2 => two::<L, 0>(w.add(128 * b), g),
                3 => L::or(two::<L, 0>(w.add(128 * b), g), bit::<L, 2>(high.add(64 * b), g)),
                4 => nibble::<L>(w.add(256 * b), g),
                5 => L::or(nibble::<L>(w.add(256 * b), g), bit::<L, 4>(high.add(64 * b), g)),
                6 => L::or(nibble::<L>(w.add(256 * b), g), two::<L, 4>(high.add(128 * b), g)),
                _ => L::bytes(w.add(512 * b + 64 * g)),
            }
        }
    }
}

/// Group `g` of 256 bytes of 4-bit codes.
#[inline(always)]
unsafe fn nibble<L: Lanes>(p: *const u8, g: usize) -> L::B {
    // SAFETY: the caller hands 256 bytes.
    unsafe {
        let v = L::bytes(p.add(64 * (g % 4)));
        L::and(if g < 4 { v } else { L::shr::<4>(v) }, 15)
    }
}

/// Bit `g` of 64 bytes, moved to bit `TO` (2 or 4); bits of other groups are masked off.
#[inline(always)]
unsafe fn bit<L: Lanes, const TO: usize>(p: *const u8, g: usize) -> L::B {
    // SAFETY: the caller hands 64 bytes.
    unsafe {
        let h = L::bytes(p);
        let h = match (g + 4).wrapping_sub(TO) {
            0 => L::shl::<4>(h),
            1 => L::shl::<3>(h),
            2 => L::shl::<2>(h),
            3 => L::shl::<1>(h),
            4 => h,
            5 => L::shr::<1>(h),
            6 => L::shr::<2>(h),
            7 => L::shr::<3>(h),
            8 => L::shr::<4>(h),
            _ => L::shr::<5>(h),
        };
        L::and(h, 1 << TO)
    }
}

/// Two-bit field `g` of 128 bytes, moved to bit `TO` (0 or 4).
#[inline(always)]
unsafe fn two<L: Lanes, const TO: usize>(p: *const u8, g: usize) -> L::B {
    // SAFETY: the caller hands 128 bytes.
    unsafe {
        let v = L::bytes(p.add(64 * (g / 4)));
        let v = match (4 + 2 * (g % 4)).wrapping_sub(TO) {
            0 => L::shl::<4>(v),
            2 => L::shl::<2>(v),
            4 => v,
            6 => L::shr::<2>(v),
            8 => L::shr::<4>(v),
            _ => L::shr::<6>(v),
        };
        L::and(v, 3 << TO)
    }
}

/// Four activation codes.
#[inline(always)]
unsafe fn four_of(q: *const i8, g: usize) -> i32 {
    // SAFETY: the caller hands 32 codes, `g < 8`.
    unsafe { q.cast::<i32>().add(g).read_unaligned() }
}

/// All groups of a block, in the order in which those that share a vector follow each other.
const ALL: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// `start[t] + Σ w[r]·a[t]` over some groups of block `b`, `q[t]` pointing to the block's 32 codes. Groups go one at a
/// time through all rows and tiles: a group of each tile and a broadcast are all that is alive beside the sums, so
/// two tiles times six rows fit 32 registers.
#[inline(always)]
unsafe fn dots<L: Lanes, C: Codes, const R: usize, const T: usize, const N: usize>(
    w: &[*const u8; R],
    b: usize,
    groups: [usize; N],
    q: &[*const i8; T],
    start: [L::I; T],
) -> Ints<L, R, T> {
    // SAFETY: a superblock per tile and 32 codes per row are the caller's promise.
    unsafe {
        let mut s = [start; R];
        if C::BITS == 4 && N == 8 && L::DOT7_WIDE && T <= 2 {
            // The high nibbles stay where they stand, sixteenfold, and the sum is shifted instead of every vector: a
            // third fewer operations when there are few rows.
            for r in 0..R {
                let mut high = [L::int(0); T];
                for g in 0..4 {
                    let v = L::bytes(w[r].add(256 * b + 64 * g));
                    let (low, up) = (L::and(v, 15), L::and(v, 240));
                    for t in 0..T {
                        s[r][t] = L::dot7(s[r][t], low, four_of(q[t], g));
                        high[t] = L::dot7(high[t], up, four_of(q[t], 4 + g));
                    }
                }
                for t in 0..T {
                    s[r][t] = L::int_add(s[r][t], L::int_shr::<4>(high[t]));
                }
            }
            return s;
        }
        if !L::DOT7_FUSED && C::BITS < 8 {
            for r in 0..R {
                let mut codes = [C::group::<L>(w[r], b, groups[0]); N];
                for i in 1..N {
                    codes[i] = C::group::<L>(w[r], b, groups[i]);
                }
                for t in 0..T {
                    let mut a = [0; N];
                    for i in 0..N {
                        a[i] = four_of(q[t], groups[i]);
                    }
                    s[r][t] = L::dots(C::BITS, s[r][t], &codes, &a);
                }
            }
            return s;
        }
        for i in 0..N {
            // Without the fence the compiler loads later groups early and pays with spilled sums; five-bit codes have
            // their sums spilled by it (`cargo xtask asm` tells).
            if R * T > 2 && i % 4 == 0 && (C::BITS != 5 || T == 3) {
                compiler_fence(Ordering::SeqCst);
            }
            let g = groups[i];
            let mut codes = [C::group::<L>(w[0], b, g); R];
            for r in 1..R {
                codes[r] = C::group::<L>(w[r], b, g);
            }
            for t in 0..T {
                let a = four_of(q[t], g);
                for r in 0..R {
                    s[r][t] = if C::BITS == 8 {
                        L::dot8(s[r][t], codes[r], a)
                    } else {
                        L::dot7(s[r][t], codes[r], a)
                    };
                }
            }
        }
        s
    }
}
