//! The fast way into tiles: the bytes that [`Tile::pack`] of each format writes, four codes of a row at a time.
//!
//! `pack` of the tile files says what goes where, code by code, and is the oracle of this one (`tests/layout.rs`); a
//! load would spend seconds in it. Codes `4g .. 4g + 4` of a block are one dword of a lane everywhere, so all of this
//! is masks and shifts over dwords.

#[cfg(doc)]
use crate::tile::Tile;
use tamp_formats::Kind;

/// Writes one row's superblock into a lane, like [`Tile::pack`].
pub type Pack = fn(&[u8], usize, &mut [u8]);

/// The fast form of a format; `None`: it has none, because nothing is gained.
pub fn of(kind: Kind) -> Option<Pack> {
    Some(match kind {
        Kind::Q4_0 | Kind::IQ4_NL => q4_0,
        Kind::Q4_1 => q4_1,
        Kind::Q5_0 => q5_0,
        Kind::Q5_1 => q5_1,
        Kind::Q8_0 => q8_0,
        Kind::Q4_K => q4_k,
        Kind::Q5_K => q5_k,
        Kind::Q6_K => q6_k,
        _ => return None,
    })
}

const LOW: u32 = 0x0f0f_0f0f;

/// Dword `i` of bytes.
#[inline(always)]
fn get(src: &[u8], i: usize) -> u32 {
    src.as_chunks::<4>().0.get(i).map_or(0, |b| u32::from_le_bytes(*b))
}

/// Dword of `lane` in line `line` of 64 bytes.
#[inline(always)]
fn put(out: &mut [u8], line: usize, lane: usize, v: u32) {
    if let Some(to) = out.as_chunks_mut::<4>().0.get_mut(16 * line + lane) {
        *to = v.to_le_bytes();
    }
}

/// A 2-byte scale of a lane.
#[inline(always)]
fn half(src: &[u8], lane: usize, out: &mut [u8]) {
    if let (Some(s), Some(to)) = (src.as_chunks::<2>().0.first(), out.as_chunks_mut::<2>().0.get_mut(lane)) {
        *to = *s;
    }
}

/// 16 bytes of nibbles, `k_i | k_{i+16} << 4`: the tile pairs the same codes.
#[inline(always)]
fn nibbles(qs: &[u8], lane: usize, out: &mut [u8]) {
    for g in 0..4 {
        put(out, g, lane, get(qs, g));
    }
}

/// Every fourth bit of a word, from bit `j` on, as one byte.
#[inline(always)]
fn fourth(bits: u32, j: u32) -> u32 {
    let mut x = (bits >> j) & 0x1111_1111;
    x = (x | x >> 3) & 0x0303_0303;
    x = (x | x >> 6) & 0x000f_000f;
    (x | x >> 12) & 0xff
}

/// 32 bits of a block, bit i of code i: byte j of the dword holds bits j, j + 4, ….
#[inline(always)]
fn fifth(qh: &[u8], lane: usize, out: &mut [u8]) {
    let b = get(qh, 0);
    put(out, 0, lane, fourth(b, 0) | fourth(b, 1) << 8 | fourth(b, 2) << 16 | fourth(b, 3) << 24);
}

fn q4_0(src: &[u8], lane: usize, out: &mut [u8]) {
    for (h, block) in src.as_chunks::<18>().0.iter().enumerate() {
        half(block, lane, &mut out[512 + 32 * h..]);
        nibbles(&block[2..], lane, &mut out[256 * h..]);
    }
}

fn q4_1(src: &[u8], lane: usize, out: &mut [u8]) {
    half(src, lane, &mut out[256..]);
    half(&src[2..], lane, &mut out[288..]);
    nibbles(&src[4..], lane, out);
}

fn q5_0(src: &[u8], lane: usize, out: &mut [u8]) {
    for (h, block) in src.as_chunks::<22>().0.iter().enumerate() {
        half(block, lane, &mut out[640 + 32 * h..]);
        fifth(&block[2..], lane, &mut out[512 + 64 * h..]);
        nibbles(&block[6..], lane, &mut out[256 * h..]);
    }
}

fn q5_1(src: &[u8], lane: usize, out: &mut [u8]) {
    half(src, lane, &mut out[320..]);
    half(&src[2..], lane, &mut out[352..]);
    fifth(&src[4..], lane, &mut out[256..]);
    nibbles(&src[8..], lane, out);
}

fn q8_0(src: &[u8], lane: usize, out: &mut [u8]) {
    for (h, block) in src.as_chunks::<34>().0.iter().enumerate() {
        half(block, lane, &mut out[1024 + 32 * h..]);
        for g in 0..8 {
            put(&mut out[512 * h..], g, lane, get(&block[2..], g) ^ 0x8080_8080);
        }
    }
}

/// 128 bytes of 4-bit codes in pairs of sub-blocks, byte l = `k_l | k_{l+32} << 4`.
#[inline(always)]
fn pairs4(qs: &[u8], lane: usize, out: &mut [u8]) {
    for pair in 0..4 {
        for g in 0..4 {
            let (a, b) = (get(qs, 8 * pair + g), get(qs, 8 * pair + 4 + g));
            put(out, 8 * pair + g, lane, a & LOW | (b & LOW) << 4);
            put(out, 8 * pair + 4 + g, lane, a >> 4 & LOW | b & !LOW);
        }
    }
}

/// `n` dwords of packed scales, a line each.
#[inline(always)]
fn dwords(src: &[u8], n: usize, lane: usize, out: &mut [u8]) {
    for i in 0..n {
        put(out, i, lane, get(src, i));
    }
}

fn q4_k(src: &[u8], lane: usize, out: &mut [u8]) {
    let Some(src) = src.first_chunk::<144>() else { return };
    pairs4(&src[16..], lane, out);
    dwords(&src[4..], 3, lane, &mut out[2048..]);
    half(src, lane, &mut out[2240..]);
    half(&src[2..], lane, &mut out[2272..]);
}

fn q5_k(src: &[u8], lane: usize, out: &mut [u8]) {
    let Some(src) = src.first_chunk::<176>() else { return };
    pairs4(&src[48..], lane, out);
    for b in 0..8 {
        let mut line = 0;
        for g in 0..8 {
            line |= (get(&src[16..], g) >> b & 0x0101_0101) << g;
        }
        put(&mut out[2048..], b, lane, line);
    }
    dwords(&src[4..], 3, lane, &mut out[2560..]);
    half(src, lane, &mut out[2752..]);
    half(&src[2..], lane, &mut out[2784..]);
}

fn q6_k(src: &[u8], lane: usize, out: &mut [u8]) {
    let Some(src) = src.first_chunk::<210>() else { return };
    for b in 0..8 {
        let (n, quarter) = (b / 4, b % 4);
        let low = 16 * n + 8 * (quarter % 2);
        for g in 0..4 {
            let (a, c) = (get(src, low + g), get(src, low + 4 + g));
            let v = if quarter < 2 { a & LOW | (c & LOW) << 4 } else { a >> 4 & LOW | c & !LOW };
            put(out, 4 * b + g, lane, v);
        }
        for h in 0..2 {
            let mut two = 0;
            for g in 0..4 {
                two |= (get(&src[128..], 8 * n + 4 * h + g) >> (2 * quarter) & 0x0303_0303) << (2 * g);
            }
            put(&mut out[2048..], 2 * b + h, lane, two);
        }
    }
    dwords(&src[192..], 4, lane, &mut out[3072..]);
    half(&src[208..], lane, &mut out[3328..]);
}
