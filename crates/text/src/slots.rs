//! Hash tables in flat bytes: open addressing with linear probing, read in place.
//!
//! A table is built once and never changes, so a lookup needs no more than the longest distance that building it
//! found. Building gives up beyond [`MAX_PROBE`] and tries another seed: a hostile vocabulary can end in an error,
//! but cannot make a lookup or the building slow.

use crate::error::Error;
use crate::vocab::MAX_TOKENS;

/// Most places a lookup may visit; published vocabularies need about 50 at this load.
pub const MAX_PROBE: u32 = 512;
/// Seeds tried before a vocabulary counts as hostile.
const SEEDS: u64 = 4;
/// Bits of a token id in a place.
const ID_BITS: u32 = 21;
const ID_MASK: u32 = (1 << ID_BITS) - 1;
const _: () = assert!(MAX_TOKENS == 1 << ID_BITS);

const FREE: [u8; 4] = [0xff; 4];
const TAKEN: u64 = 1 << 63;

// Odd numbers without structure: digits of the golden ratio and of pi.
const K: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 0x2437_54a0_8d31_3199, 0xa409_3822_299f_31d1];

/// Where a table's lookups start and end; kept beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// what the hash is keyed with
    pub seed: u64,
    /// places from the first to the farthest that an entry was put in
    pub probe: u32,
}

/// Places for `n` entries: four of seven taken, which keeps a miss at about three places.
fn places(n: usize) -> usize {
    n + n / 4 * 3 + 1
}

fn mix(a: u64, b: u64) -> u64 {
    let p = u128::from(a) * u128::from(b);
    p as u64 ^ (p >> 64) as u64
}

fn word(b: &[u8], at: usize) -> u64 {
    b.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from(u32::from_le_bytes(*b)))
}

fn hash_text(seed: u64, text: &[u8]) -> u64 {
    let mut h = seed ^ K[0] ^ (text.len() as u64).wrapping_mul(K[1]);
    let (chunks, tail) = text.as_chunks();
    for c in chunks {
        h = mix(h ^ u64::from_le_bytes(*c), K[1]);
    }
    // Up to seven bytes in two overlapping reads.
    let last = match tail {
        [] => return mix(h, K[2]),
        [a] => u64::from(*a),
        [a, b] => u64::from(*a) | u64::from(*b) << 8,
        [a, b, c] => u64::from(*a) | u64::from(*b) << 8 | u64::from(*c) << 16,
        t => word(t, 0) | word(t, t.len() - 4) << 32,
    };
    mix(mix(h ^ last, K[1]), K[2])
}

fn hash_pair(seed: u64, pair: u64) -> u64 {
    mix(pair ^ seed ^ K[0], K[1])
}

/// The first place of a hash among `n`.
fn place(hash: u64, n: usize) -> usize {
    ((u128::from(hash) * n as u128) >> 64) as usize
}

/// Eleven bits beside the id, so that hardly any wrong entry's text is read. Never all ones: that is a free place.
fn tag(hash: u64) -> u32 {
    (hash as u32 & 0x7ff).min(0x7fe)
}

/// Builds a table of `n` places: each entry goes into the first place from its own where `put(place, hash, entry)`
/// says that it is in. The farthest distance becomes the table's.
fn fill<P: Copy>(
    n: usize,
    free: P,
    entries: usize,
    hash: impl Fn(u64, usize) -> u64,
    mut put: impl FnMut(&mut P, u64, usize) -> bool,
) -> Result<(Vec<P>, Shape), Error> {
    'seeds: for seed in 0..SEEDS {
        let mut table = vec![free; n];
        let mut farthest = 0;
        for i in 0..entries {
            let h = hash(seed, i);
            let mut at = place(h, n);
            let mut distance = 0;
            while !put(&mut table[at], h, i) {
                distance += 1;
                if distance > MAX_PROBE {
                    continue 'seeds;
                }
                at = if at + 1 == n { 0 } else { at + 1 };
            }
            farthest = farthest.max(distance);
        }
        return Ok((table, Shape { seed, probe: farthest }));
    }
    Err(Error::Broken("its tokens collide in every hash that was tried".into()))
}

/// Texts to ids. A place is an id with a [`tag`] above it, or [`FREE`].
#[derive(Clone, Copy, Debug)]
pub struct TextSlots<'a> {
    places: &'a [[u8; 4]],
    shape: Shape,
}

impl<'a> TextSlots<'a> {
    /// A table as it was built.
    pub fn new(bytes: &'a [u8], shape: Shape) -> Self {
        Self { places: bytes.as_chunks().0, shape }
    }

    /// The table of the texts of ids `0..n` that are `wanted`; of equal texts the first id counts.
    pub fn build<'t>(
        n: usize,
        wanted: impl Fn(u32) -> bool,
        text: impl Fn(u32) -> &'t [u8],
    ) -> Result<(Vec<u8>, Shape), Error> {
        let ids: Vec<u32> = (0..n as u32).filter(|&id| wanted(id)).collect();
        let (table, shape) = fill(
            places(ids.len()),
            FREE,
            ids.len(),
            |seed, i| hash_text(seed, text(ids[i])),
            |there, hash, i| {
                if *there == FREE {
                    *there = (tag(hash) << ID_BITS | ids[i]).to_le_bytes();
                    return true;
                }
                let there = u32::from_le_bytes(*there);
                there >> ID_BITS == tag(hash) && text(there & ID_MASK) == text(ids[i])
            },
        )?;
        Ok((table.into_flattened(), shape))
    }

    /// The id whose text is `text`; `is` compares.
    pub fn find(&self, text: &[u8], is: impl Fn(u32) -> bool) -> Option<u32> {
        let h = hash_text(self.shape.seed, text);
        let mut at = place(h, self.places.len());
        for _ in 0..=self.shape.probe {
            let there = *self.places.get(at)?;
            if there == FREE {
                return None;
            }
            let there = u32::from_le_bytes(there);
            if there >> ID_BITS == tag(h) && is(there & ID_MASK) {
                return Some(there & ID_MASK);
            }
            at = if at + 1 == self.places.len() { 0 } else { at + 1 };
        }
        None
    }
}

/// One merge: `left` and `right` become `merged`, the lower rank first.
#[derive(Clone, Copy, Debug)]
pub struct Merge {
    /// id
    pub left: u32,
    /// id
    pub right: u32,
    /// id
    pub merged: u32,
    /// line of the file
    pub rank: u32,
}

/// Bytes of a merge's place: 64 bits of ids, lowest first left, right, merged, with the top bit set; 32 of rank.
const PAIR: usize = 12;

/// Pairs of ids to what they merge into.
#[derive(Clone, Copy, Debug)]
pub struct PairSlots<'a> {
    places: &'a [[u8; PAIR]],
    shape: Shape,
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(right) << ID_BITS | u64::from(left)
}

fn ids(place: &[u8; PAIR]) -> u64 {
    place.first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

const PAIR_MASK: u64 = (1 << (2 * ID_BITS)) - 1;

impl<'a> PairSlots<'a> {
    /// A table as it was built.
    pub fn new(bytes: &'a [u8], shape: Shape) -> Self {
        Self { places: bytes.as_chunks().0, shape }
    }

    /// Whether these bytes can be such a table.
    pub fn fits(bytes: &[u8]) -> bool {
        bytes.len().is_multiple_of(PAIR)
    }

    /// The table of these merges; of equal pairs the first counts.
    pub fn build(merges: &[Merge]) -> Result<(Vec<u8>, Shape), Error> {
        let n = if merges.is_empty() { 0 } else { places(merges.len()) };
        let key = |m: &Merge| pair(m.left, m.right);
        let (table, shape) = fill(
            n,
            [0; PAIR],
            merges.len(),
            |seed, i| hash_pair(seed, key(&merges[i])),
            |there, _, i| {
                let m = &merges[i];
                if ids(there) == 0 {
                    let all = TAKEN | u64::from(m.merged) << (2 * ID_BITS) | key(m);
                    there[..8].copy_from_slice(&all.to_le_bytes());
                    there[8..].copy_from_slice(&m.rank.to_le_bytes());
                    return true;
                }
                ids(there) & PAIR_MASK == key(m)
            },
        )?;
        Ok((table.into_flattened(), shape))
    }

    /// `(rank, merged)` of a pair.
    pub fn find(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        if left.max(right) > ID_MASK {
            return None;
        }
        let key = pair(left, right);
        let mut at = place(hash_pair(self.shape.seed, key), self.places.len());
        for _ in 0..=self.shape.probe {
            let there = self.places.get(at)?;
            let all = ids(there);
            if all & PAIR_MASK == key && all != 0 {
                let rank = there.last_chunk().map_or(0, |b| u32::from_le_bytes(*b));
                return Some((rank, (all >> (2 * ID_BITS)) as u32 & ID_MASK));
            }
            if all == 0 {
                return None;
            }
            at = if at + 1 == self.places.len() { 0 } else { at + 1 };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn every_text_is_found_the_first_of_equal_ones_and_no_other() {
        let texts: Vec<Vec<u8>> =
            (0..5000u32).map(|i| (i % 4000).pow(2).to_string().repeat(i as usize % 5).into_bytes()).collect();
        let text = |id: u32| texts[id as usize].as_slice();
        let (bytes, shape) = TextSlots::build(texts.len(), |id| id % 7 != 3, text).unwrap();
        let t = TextSlots::new(&bytes, shape);
        let mut first = HashMap::new();
        for id in (0..5000).filter(|id| id % 7 != 3) {
            first.entry(text(id)).or_insert(id);
        }
        assert!(shape.probe > 0 && shape.probe < 100, "{shape:?}");
        for id in 0..5000 {
            let find = |x: &[u8]| t.find(x, |o| text(o) == x);
            assert_eq!(find(text(id)), first.get(text(id)).copied());
            assert_eq!(find(&[text(id), b"x"].concat()), None);
        }
    }

    #[test]
    fn every_pair_is_found_with_its_first_rank_and_no_other() {
        let merges: Vec<Merge> = (0..4000u32)
            .map(|i| Merge { left: i * i % 1999, right: i % 61, merged: MAX_TOKENS as u32 - 1 - i, rank: i })
            .collect();
        let (bytes, shape) = PairSlots::build(&merges).unwrap();
        let t = PairSlots::new(&bytes, shape);
        let mut first = HashMap::new();
        for m in &merges {
            first.entry((m.left, m.right)).or_insert((m.rank, m.merged));
        }
        assert!(first.len() < merges.len());
        for l in 0..2000 {
            for r in 0..62 {
                assert_eq!(t.find(l, r), first.get(&(l, r)).copied(), "{l} {r}");
            }
        }
        assert_eq!(t.find(0, 1 << ID_BITS), None);
        assert_eq!(PairSlots::new(&[], Shape::default()).find(0, 0), None);
    }

    #[test]
    fn texts_that_collide_in_every_hash_are_an_error_within_few_steps() {
        let texts = vec![[0u8; 4]; 3 * MAX_PROBE as usize];
        // Texts told apart by id alone, with one hash: what the best attack could do.
        let mut steps = 0usize;
        let r = fill(
            places(texts.len()),
            false,
            texts.len(),
            |seed, i| hash_text(seed, &texts[i]),
            |there, _, _| {
                steps += 1;
                !std::mem::replace(there, true)
            },
        );
        assert!(r.is_err());
        assert!(steps < SEEDS as usize * (MAX_PROBE as usize + 2).pow(2), "{}", steps);
    }
}
