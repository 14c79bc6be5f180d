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

/// The codes are bytes around 128 instead of small codes around an offset.
const WIDE: i32 = -1;

/// `acc[t] += d_w · d_a · Σ(code - OFF)·a`, and with a minimum `+ m_w · (d_a · Σa)`.
#[inline(always)]
unsafe fn add_block<L: Lanes, const T: usize, const OFF: i32>(
    a: &[Act; T],
    b: usize,
    codes: &[L::B; 8],
    dw: L::F,
    mw: Option<L::F>,
    acc: &mut [L::F; T],
) {
    // SAFETY: block b lies within every activation row.
    unsafe {
        for t in 0..T {
            let sum = *a[t].s32.add(b);
            let da = L::splat(*a[t].d.add(b));
            let q = a[t].q.add(32 * b);
            let dot = if OFF == WIDE {
                dot32_wide::<L, T>(codes, q, sum)
            } else {
                dot32::<L, T>(codes, q, -OFF * sum)
            };
            acc[t] = L::fma(L::from_int(dot), L::mul(dw, da), acc[t]);
            if let Some(mw) = mw {
                acc[t] = L::fma(mw, L::splat(*a[t].ds.add(b)), acc[t]);
            }
        }
    }
}

macro_rules! nibble_pair {
    ($tile:ty, $kind:expr, $table:expr, $off:expr) => {
        impl Tile for $tile {
            const KIND: Kind = $kind;
            const K: usize = 64;
            const BYTES: usize = 576;

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
            unsafe fn step<L: Lanes, const T: usize>(
                w: *const u8,
                a: &[Act; T],
                sb: usize,
                acc: &mut [L::F; T],
            ) {
                // SAFETY: BYTES bytes at w and a full superblock of activations are the caller's promise.
                unsafe {
                    for h in 0..2 {
                        let mut codes = nibbles::<L>(w.add(256 * h));
                        let table: Option<&[u8; 16]> = $table;
                        if let Some(table) = table {
                            for g in 0..8 {
                                codes[g] = L::lookup(table, codes[g]);
                            }
                        }
                        let dw = L::load_f16(w.add(512 + 32 * h).cast());
                        add_block::<L, T, { $off }>(a, 2 * sb + h, &codes, dw, None, acc);
                    }
                }
            }
        }
    };
}

nibble_pair!(Q4_0, Kind::Q4_0, None, 8);
nibble_pair!(Iq4Nl, Kind::IQ4_NL, Some(&IQ4_NL_PLUS_128), WIDE);

/// The IQ4_NL code book plus 128.
const IQ4_NL_PLUS_128: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

impl Tile for Q4_1 {
    const KIND: Kind = Kind::Q4_1;
    const K: usize = 32;
    const BYTES: usize = 320;

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
    unsafe fn step<L: Lanes, const T: usize>(w: *const u8, a: &[Act; T], sb: usize, acc: &mut [L::F; T]) {
        // SAFETY: BYTES bytes at w and a full superblock of activations are the caller's promise.
        unsafe {
            let codes = nibbles::<L>(w);
            let (dw, mw) = (L::load_f16(w.add(256).cast()), L::load_f16(w.add(288).cast()));
            add_block::<L, T, 0>(a, sb, &codes, dw, Some(mw), acc);
        }
    }
}

impl Tile for Q5_0 {
    const KIND: Kind = Kind::Q5_0;
    const K: usize = 64;
    const BYTES: usize = 704;

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
    unsafe fn step<L: Lanes, const T: usize>(w: *const u8, a: &[Act; T], sb: usize, acc: &mut [L::F; T]) {
        // SAFETY: BYTES bytes at w and a full superblock of activations are the caller's promise.
        unsafe {
            for h in 0..2 {
                let mut codes = nibbles::<L>(w.add(256 * h));
                join_fifth::<L>(&mut codes, w.add(512 + 64 * h));
                let dw = L::load_f16(w.add(640 + 32 * h).cast());
                add_block::<L, T, 16>(a, 2 * sb + h, &codes, dw, None, acc);
            }
        }
    }
}

impl Tile for Q5_1 {
    const KIND: Kind = Kind::Q5_1;
    const K: usize = 32;
    const BYTES: usize = 384;

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
    unsafe fn step<L: Lanes, const T: usize>(w: *const u8, a: &[Act; T], sb: usize, acc: &mut [L::F; T]) {
        // SAFETY: BYTES bytes at w and a full superblock of activations are the caller's promise.
        unsafe {
            let mut codes = nibbles::<L>(w);
            join_fifth::<L>(&mut codes, w.add(256));
            let (dw, mw) = (L::load_f16(w.add(320).cast()), L::load_f16(w.add(352).cast()));
            add_block::<L, T, 0>(a, sb, &codes, dw, Some(mw), acc);
        }
    }
}

impl Tile for Q8_0 {
    const KIND: Kind = Kind::Q8_0;
    const K: usize = 64;
    const BYTES: usize = 1088;

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
    unsafe fn step<L: Lanes, const T: usize>(w: *const u8, a: &[Act; T], sb: usize, acc: &mut [L::F; T]) {
        // SAFETY: BYTES bytes at w and a full superblock of activations are the caller's promise.
        unsafe {
            for h in 0..2 {
                let p = w.add(512 * h);
                let mut codes = [L::bytes(p); 8];
                for g in 1..8 {
                    codes[g] = L::bytes(p.add(64 * g));
                }
                let dw = L::load_f16(w.add(1024 + 32 * h).cast());
                add_block::<L, T, WIDE>(a, 2 * sb + h, &codes, dw, None, acc);
            }
        }
    }
}
