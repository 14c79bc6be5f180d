//! Formats with 32 codes per block: one scale, sometimes a minimum, activations quantised per 32.

use super::*;

/// Codes of 4 bits minus 8.
pub struct Q4_0;
/// 4-bit codes through a fixed table.
pub struct Iq4Nl;
/// Codes of 4 bits and a minimum.
pub struct Q4_1;
/// Codes of 5 bits minus 16.
pub struct Q5_0;
/// Codes of 5 bits and a minimum.
pub struct Q5_1;
/// Signed bytes, kept as `q + 128`.
pub struct Q8_0;

/// Bytes of a GGUF block behind its scales: 4-bit codes, byte i = k_i | k_{i+16} << 4.
fn codes4(qs: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 })
}

fn bytes4(u: &[u8; 32], qs: &mut [u8]) {
    for i in 0..16 {
        qs[i] = u[i] & 15 | (u[i + 16] & 15) << 4;
    }
}

fn bits5(qh: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| (qh[i / 8] >> (i % 8)) & 1)
}

fn bytes5(bit: &[u8; 32], qh: &mut [u8]) {
    qh[..4].fill(0);
    for i in 0..32 {
        qh[i / 8] |= bit[i] << (i % 8);
    }
}

/// `acc[r][t] += d_w · d_a · Σ(code - OFF)·a` over block `h` of the superblock, and with a minimum `+ m_w · (d_a · Σa)`;
/// scales and minima are halves `d` and `m` bytes into the superblock.
#[inline(always)]
unsafe fn add_block<L: Lanes, C: Codes, const OFF: i32, const R: usize, const T: usize>(
    at: &At<'_, R, T>,
    h: usize,
    d: usize,
    m: Option<usize>,
    acc: &mut Sums<L, R, T>,
) {
    let (w, a, b) = (&at.w, at.a, C::K / 32 * at.sb + h);
    // SAFETY: block b lies within every row, scales within the superblock.
    unsafe {
        let mut start = [L::int(0); T];
        let mut q = [a[0].q; T];
        for t in 0..T {
            let n8 = *a[t].n8.add(b);
            start[t] = match OFF {
                0 => L::int(0),
                8 => L::int(n8),
                16 => L::int_shl::<1>(L::int(n8)),
                _ if L::DOT8_BIAS == 0 => L::int(0),
                _ => L::int_shl::<4>(L::int(n8)), // 128
            };
            q[t] = a[t].q.add(32 * b);
        }
        let dot = dots::<L, C, R, T, 8>(w, h, ALL, &q, start);
        for r in 0..R {
            let dw = L::load_f16(w[r].add(d).cast());
            for t in 0..T {
                let da = L::splat(*a[t].d.add(b));
                acc[r][t] = L::fma(L::from_int(dot[r][t]), L::mul(dw, da), acc[r][t]);
            }
            if let Some(m) = m {
                let mw = L::load_f16(w[r].add(m).cast());
                for t in 0..T {
                    acc[r][t] = L::fma(mw, L::splat(*a[t].ds.add(b)), acc[r][t]);
                }
            }
        }
    }
}

/// Two blocks of 4-bit codes per superblock.
macro_rules! nibble_pair {
    ($tile:ty, $kind:expr, $off:literal) => {
        impl Tile for $tile {
            const KIND: Kind = $kind;
            const K: usize = 64;
            const BYTES: usize = 576;
            const PAIRED: usize = 4;

            fn pack(src: &[u8], lane: usize, out: &mut [u8]) {
                for (h, block) in src.chunks_exact(18).enumerate() {
                    put_half(block, lane, &mut out[512 + 32 * h..]);
                    put_nibbles(&codes4(&block[2..]), lane, &mut out[256 * h..]);
                }
            }

            fn unpack(tile: &[u8], lane: usize, dst: &mut [u8]) {
                for (h, block) in dst.chunks_exact_mut(18).enumerate() {
                    let mut u = [0; 32];
                    get_half(&tile[512 + 32 * h..], lane, block);
                    get_nibbles(&tile[256 * h..], lane, &mut u);
                    bytes4(&u, &mut block[2..]);
                }
            }

            #[inline(always)]
            unsafe fn step<L: Lanes, const R: usize, const T: usize>(
                at: &At<'_, R, T>,
                acc: &mut Sums<L, R, T>,
            ) {
                // SAFETY: the caller's promise.
                unsafe {
                    at.ask::<L, Self>(0, 1);
                    for h in 0..2 {
                        add_block::<L, Self, $off, R, T>(at, h, 512 + 32 * h, None, acc);
                    }
                }
            }
        }
    };
}

nibble_pair!(Q4_0, Kind::Q4_0, 8);
nibble_pair!(Iq4Nl, Kind::IQ4_NL, 128);

impl Codes for Q4_0 {
    const BITS: u32 = 4;
}

impl Codes for Iq4Nl {
    const BITS: u32 = 8;

    #[inline(always)]
    unsafe fn group<L: Lanes>(w: *const u8, b: usize, g: usize) -> L::B {
        // SAFETY: a superblock is the caller's promise.
        unsafe { L::lookup(&IQ4_NL_PLUS_128, nibble::<L>(w.add(256 * b), g)) }
    }
}

impl Codes for Q4_1 {
    const BITS: u32 = 4;
}

impl Codes for Q5_0 {
    const BITS: u32 = 5;
    const HIGH: usize = 512;
}

impl Codes for Q5_1 {
    const BITS: u32 = 5;
    const HIGH: usize = 256;
}

impl Codes for Q8_0 {
    const BITS: u32 = 8;
}

/// The IQ4_NL code book plus 128.
const IQ4_NL_PLUS_128: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

impl Tile for Q4_1 {
    const KIND: Kind = Kind::Q4_1;
    const K: usize = 32;
    const BYTES: usize = 320;
    const PAIRED: usize = 4;

    fn pack(src: &[u8], lane: usize, out: &mut [u8]) {
        put_half(src, lane, &mut out[256..]);
        put_half(&src[2..], lane, &mut out[288..]);
        put_nibbles(&codes4(&src[4..]), lane, out);
    }

    fn unpack(tile: &[u8], lane: usize, dst: &mut [u8]) {
        let mut u = [0; 32];
        get_half(&tile[256..], lane, dst);
        get_half(&tile[288..], lane, &mut dst[2..]);
        get_nibbles(tile, lane, &mut u);
        bytes4(&u, &mut dst[4..]);
    }

    #[inline(always)]
    unsafe fn step<L: Lanes, const R: usize, const T: usize>(at: &At<'_, R, T>, acc: &mut Sums<L, R, T>) {
        // SAFETY: the caller's promise.
        unsafe {
            at.ask::<L, Self>(0, 1);
            add_block::<L, Self, 0, R, T>(at, 0, 256, Some(288), acc);
        }
    }
}

impl Tile for Q5_0 {
    const KIND: Kind = Kind::Q5_0;
    const K: usize = 64;
    const BYTES: usize = 704;
    const PAIRED: usize = 5;

    fn pack(src: &[u8], lane: usize, out: &mut [u8]) {
        for (h, block) in src.chunks_exact(22).enumerate() {
            put_half(block, lane, &mut out[640 + 32 * h..]);
            put_bits(&bits5(&block[2..]), lane, &mut out[512 + 64 * h..]);
            put_nibbles(&codes4(&block[6..]), lane, &mut out[256 * h..]);
        }
    }

    fn unpack(tile: &[u8], lane: usize, dst: &mut [u8]) {
        for (h, block) in dst.chunks_exact_mut(22).enumerate() {
            let (mut u, mut bit) = ([0; 32], [0; 32]);
            get_half(&tile[640 + 32 * h..], lane, block);
            get_bits(&tile[512 + 64 * h..], lane, &mut bit);
            get_nibbles(&tile[256 * h..], lane, &mut u);
            bytes5(&bit, &mut block[2..]);
            bytes4(&u, &mut block[6..]);
        }
    }

    #[inline(always)]
    unsafe fn step<L: Lanes, const R: usize, const T: usize>(at: &At<'_, R, T>, acc: &mut Sums<L, R, T>) {
        // SAFETY: the caller's promise.
        unsafe {
            at.ask::<L, Self>(0, 1);
            for h in 0..2 {
                add_block::<L, Self, 16, R, T>(at, h, 640 + 32 * h, None, acc);
            }
        }
    }
}

impl Tile for Q5_1 {
    const KIND: Kind = Kind::Q5_1;
    const K: usize = 32;
    const BYTES: usize = 384;
    const PAIRED: usize = 5;

    fn pack(src: &[u8], lane: usize, out: &mut [u8]) {
        put_half(src, lane, &mut out[320..]);
        put_half(&src[2..], lane, &mut out[352..]);
        put_bits(&bits5(&src[4..]), lane, &mut out[256..]);
        put_nibbles(&codes4(&src[8..]), lane, out);
    }

    fn unpack(tile: &[u8], lane: usize, dst: &mut [u8]) {
        let (mut u, mut bit) = ([0; 32], [0; 32]);
        get_half(&tile[320..], lane, dst);
        get_half(&tile[352..], lane, &mut dst[2..]);
        get_bits(&tile[256..], lane, &mut bit);
        get_nibbles(tile, lane, &mut u);
        bytes5(&bit, &mut dst[4..]);
        bytes4(&u, &mut dst[8..]);
    }

    #[inline(always)]
    unsafe fn step<L: Lanes, const R: usize, const T: usize>(at: &At<'_, R, T>, acc: &mut Sums<L, R, T>) {
        // SAFETY: the caller's promise.
        unsafe {
            at.ask::<L, Self>(0, 1);
            add_block::<L, Self, 0, R, T>(at, 0, 320, Some(352), acc);
        }
    }
}

impl Tile for Q8_0 {
    const KIND: Kind = Kind::Q8_0;
    const K: usize = 64;
    const BYTES: usize = 1088;
    const PAIRED: usize = 5;

    fn pack(src: &[u8], lane: usize, out: &mut [u8]) {
        for (h, block) in src.chunks_exact(34).enumerate() {
            put_half(block, lane, &mut out[1024 + 32 * h..]);
            for (i, g, j) in groups() {
                out[512 * h + g * 64 + lane * 4 + j] = block[2 + i] ^ 128;
            }
        }
    }

    fn unpack(tile: &[u8], lane: usize, dst: &mut [u8]) {
        for (h, block) in dst.chunks_exact_mut(34).enumerate() {
            get_half(&tile[1024 + 32 * h..], lane, block);
            for (i, g, j) in groups() {
                block[2 + i] = tile[512 * h + g * 64 + lane * 4 + j] ^ 128;
            }
        }
    }

    #[inline(always)]
    unsafe fn step<L: Lanes, const R: usize, const T: usize>(at: &At<'_, R, T>, acc: &mut Sums<L, R, T>) {
        // SAFETY: the caller's promise.
        unsafe {
            at.ask::<L, Self>(0, 1);
            for h in 0..2 {
                add_block::<L, Self, 128, R, T>(at, h, 1024 + 32 * h, None, acc);
            }
        }
    }
}
