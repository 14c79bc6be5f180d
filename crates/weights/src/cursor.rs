//! A reader that never looks past its slice, and the budget that keeps descriptions small.

use crate::error::{Error, Result};

/// Little-endian reads over a slice; every one is checked against what is left.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `n` bytes; `n` may be anything a file says.
    pub fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8]> {
        if n > self.left() as u64 {
            return Err(Error::Truncated {
                what: what.into(),
                need: n,
                at: self.at as u64,
                left: self.left() as u64,
            });
        }
        let s = &self.bytes[self.at..self.at + n as usize];
        self.at += n as usize;
        Ok(s)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut a = [0; N];
        a.copy_from_slice(self.take(N as u64, what)?);
        Ok(a)
    }

    pub fn u8(&mut self, what: &str) -> Result<u8> {
        Ok(self.array::<1>(what)?[0])
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub fn i32(&mut self, what: &str) -> Result<i32> {
        self.array(what).map(i32::from_le_bytes)
    }

    pub fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub fn f32(&mut self, what: &str) -> Result<f32> {
        self.array(what).map(f32::from_le_bytes)
    }

    pub fn f64(&mut self, what: &str) -> Result<f64> {
        self.array(what).map(f64::from_le_bytes)
    }

    /// Refuses a count that could not fit even if every element took its least space.
    pub fn fits(&self, count: u64, least: usize, what: &str) -> Result<usize> {
        match count.checked_mul(least as u64) {
            Some(need) if need <= self.left() as u64 => Ok(count as usize),
            need => Err(Error::Truncated {
                what: format!("{what} ({count} entries)"),
                need: need.unwrap_or(u64::MAX),
                at: self.at as u64,
                left: self.left() as u64,
            }),
        }
    }
}

/// Bytes of heap that one model's description (metadata, tensor list, tokenizer) may take. The largest real
/// vocabularies (262 144 tokens, 515 000 merges) stay under 45 MB; with the transient buffers of reading the whole
/// stays under the 64 MB a hostile file is granted.
pub(crate) const LIMIT: usize = 52 << 20;

/// What an allocation costs beside its bytes, rounded up.
pub(crate) const ALLOC: usize = 16;

/// What is left of [`LIMIT`].
pub(crate) struct Budget(usize);

impl Budget {
    pub fn new() -> Self {
        Budget(LIMIT)
    }

    /// Pays for `count` elements of `each` bytes, before they are allocated.
    pub fn pay(&mut self, count: usize, each: usize, what: &str) -> Result<()> {
        match count.checked_mul(each).and_then(|n| self.0.checked_sub(n)) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => Err(Error::TooMuch { what: what.into(), limit: LIMIT }),
        }
    }
}
