//! The K-quants of 2 and 3 bits: two-bit fields, a scale per 16 codes.

use super::kquants::{
    Codes, bytes2, codes2, finish, four, get_dwords, pairs, plane, put_dwords, set_plane, sum16,
};
use super::*;

/// 2-bit codes, 4-bit scales and minima per 16.
pub struct Q2K;
/// 3-bit codes minus 4, 6-bit scales minus 32 per 16.
pub struct Q3K;
impl Codes for Q2K {
    #[inline(always)]
    unsafe fn get<L: Lanes>(w: *const u8, b: usize) -> [L::B; 8] {
        // SAFETY: a whole superblock is the caller's promise.
        unsafe { pairs::<L>(w.add(128 * b)) }
    }
}

impl Codes for Q3K {
    #[inline(always)]
    unsafe fn get<L: Lanes>(w: *const u8, b: usize) -> [L::B; 8] {
        // SAFETY: a whole superblock is the caller's promise.
        unsafe {
            let mut codes = pairs::<L>(w.add(128 * b));
            let mut fifth = [L::and(codes[0], 0); 8];
            join_fifth::<L>(&mut fifth, w.add(1024 + 64 * b));
            for g in 0..8 {
                codes[g] = L::or(codes[g], L::and(L::shr::<2>(fifth[g]), 4));
            }
            codes
        }
    }
}

impl Tile for Q2K {
    const KIND: Kind = Kind::Q2_K;
    const K: usize = 256;
    const BYTES: usize = 1344;

    fn pack(src: &[u8], lane: usize, out: &mut [u8]) {
        for b in 0..8 {
            put_pairs(&codes2(&src[16..80], b), lane, &mut out[128 * b..]);
        }
        put_dwords(&src[..16], lane, &mut out[1024..]);
        put_half(&src[80..], lane, &mut out[1280..]);
        put_half(&src[82..], lane, &mut out[1312..]);
    }

    fn unpack(tile: &[u8], lane: usize, dst: &mut [u8]) {
        dst.fill(0);
        for b in 0..8 {
            let mut two = [0; 32];
            get_pairs(&tile[128 * b..], lane, &mut two);
            bytes2(&two, b, &mut dst[16..80]);
        }
        get_dwords(&tile[1024..], lane, &mut dst[..16]);
        get_half(&tile[1280..], lane, &mut dst[80..]);
        get_half(&tile[1312..], lane, &mut dst[82..]);
    }

    #[inline(always)]
    unsafe fn step<L: Lanes, const T: usize>(w: *const u8, a: &[Act; T], sb: usize, acc: &mut [L::F; T]) {
        // SAFETY: BYTES bytes at w and a full superblock of activations are the caller's promise.
        unsafe {
            let packed = four::<L>(w.add(1024));
            let mut low = packed;
            let mut high = packed;
            for i in 0..4 {
                low[i] = L::and(packed[i], 15);
                high[i] = L::and(L::shr::<4>(packed[i]), 15);
            }
            let isum = sum16::<L, Self, T, 0>(&spread!(byte, low), a, sb, w);
            let minima = spread!(byte, high);
            let mut imin = [L::int(0); T];
            for t in 0..T {
                for i in 0..16 {
                    let s = L::int(*a[t].s16.add(16 * sb + i));
                    imin[t] = L::int_add(imin[t], L::int_mul(s, minima[i]));
                }
            }
            let d = L::load_f16(w.add(1280).cast());
            let dmin = L::load_f16(w.add(1312).cast());
            finish::<L, T>(a, sb, d, &isum, Some((dmin, &imin)), acc);
        }
    }
}

/// Q3_K's 16 six-bit scales out of 12 bytes, minus 32.
fn q3_scales(s: &[u8]) -> [u8; 16] {
    std::array::from_fn(|j| {
        let low = if j < 8 { s[j] & 15 } else { s[j - 8] >> 4 };
        let high = (s[8 + j % 4] >> (2 * (j / 4))) & 3;
        (low | high << 4).wrapping_sub(32)
    })
}

fn q3_bytes(scales: &[u8; 16], s: &mut [u8]) {
    for (j, v) in scales.iter().enumerate() {
        let v = v.wrapping_add(32);
        s[j % 8] |= (v & 15) << (4 * (j / 8));
        s[8 + j % 4] |= (v >> 4 & 3) << (2 * (j / 4));
    }
}

impl Tile for Q3K {
    const KIND: Kind = Kind::Q3_K;
    const K: usize = 256;
    // 1824 used; padded to a whole line.
    const BYTES: usize = 1856;

    fn pack(src: &[u8], lane: usize, out: &mut [u8]) {
        for b in 0..8 {
            put_pairs(&codes2(&src[32..96], b), lane, &mut out[128 * b..]);
            put_bits(&plane(&src[..32], b), lane, &mut out[1024 + 64 * b..]);
        }
        put_dwords(&q3_scales(&src[96..108]), lane, &mut out[1536..]);
        put_half(&src[108..], lane, &mut out[1792..]);
    }

    fn unpack(tile: &[u8], lane: usize, dst: &mut [u8]) {
        dst.fill(0);
        for b in 0..8 {
            let (mut two, mut bit) = ([0; 32], [0; 32]);
            get_pairs(&tile[128 * b..], lane, &mut two);
            get_bits(&tile[1024 + 64 * b..], lane, &mut bit);
            bytes2(&two, b, &mut dst[32..96]);
            set_plane(&bit, b, &mut dst[..32]);
        }
        let mut scales = [0; 16];
        get_dwords(&tile[1536..], lane, &mut scales);
        q3_bytes(&scales, &mut dst[96..108]);
        get_half(&tile[1792..], lane, &mut dst[108..]);
    }

    #[inline(always)]
    unsafe fn step<L: Lanes, const T: usize>(w: *const u8, a: &[Act; T], sb: usize, acc: &mut [L::F; T]) {
        // SAFETY: BYTES bytes at w and a full superblock of activations are the caller's promise.
        unsafe {
            let isum = sum16::<L, Self, T, 4>(&spread!(sbyte, four::<L>(w.add(1536))), a, sb, w);
            finish::<L, T>(a, sb, L::load_f16(w.add(1792).cast()), &isum, None, acc);
        }
    }
}
