//! Protocol buffers on the wire, as far as an ONNX file needs them: fields of a message, each held against what is
//! left of its message. Nothing recurses, nothing is copied.

use std::ops::Range;

use crate::error::{Error, Result};

/// One field's value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wire {
    Varint(u64),
    /// 32 or 64 bits, low bits first
    Fixed(u64),
    /// a string, bytes, packed numbers or a message: a range of the file
    Bytes(Range<usize>),
}

/// The fields of the message at a range of the file.
pub(super) struct Fields<'a> {
    file: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    /// `range` must lie inside the file; every range handed out by [`Fields`] does.
    pub fn new(file: &'a [u8], range: Range<usize>) -> Self {
        Fields { file, at: range.start, end: range.end }
    }

    /// A varint of at most ten bytes; what does not fit in 64 bits is dropped, as protocol buffers say.
    fn varint(&mut self) -> Result<u64> {
        let mut v = 0u64;
        for i in 0..10 {
            let b = self.take(1, "a varint")?;
            let b = self.file[b.start];
            v |= u64::from(b & 0x7f) << (7 * i);
            if b < 0x80 {
                return Ok(v);
            }
        }
        Err(Error::bad(format!("the varint before byte {}", self.at), "over ten bytes", "at most ten"))
    }

    fn take(&mut self, n: u64, what: &str) -> Result<Range<usize>> {
        let left = (self.end - self.at) as u64;
        if n > left {
            return Err(Error::Truncated { what: what.into(), need: n, at: self.at as u64, left });
        }
        let r = self.at..self.at + n as usize;
        self.at = r.end;
        Ok(r)
    }

    fn fixed(&mut self, n: usize) -> Result<u64> {
        let r = self.take(n as u64, "a number")?;
        let mut b = [0; 8];
        b[..n].copy_from_slice(&self.file[r]);
        Ok(u64::from_le_bytes(b))
    }

    fn field(&mut self) -> Result<(u64, Wire)> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed(self.fixed(8)?),
            2 => {
                let n = self.varint()?;
                Wire::Bytes(self.take(n, "a field")?)
            }
            5 => Wire::Fixed(self.fixed(4)?),
            w => {
                return Err(Error::bad(
                    format!("the field before byte {}", self.at),
                    format!("wire type {w}"),
                    "0, 1, 2 or 5",
                ));
            }
        };
        Ok((tag >> 3, wire))
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<(u64, Wire)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let f = self.field();
        if f.is_err() {
            self.at = self.end;
        }
        Some(f)
    }
}

/// Packed or single varints.
pub(super) fn varints<'a>(file: &'a [u8], w: &Wire) -> Varints<'a> {
    match w {
        Wire::Bytes(r) => Varints { one: None, packed: Fields::new(file, r.clone()) },
        Wire::Varint(v) | Wire::Fixed(v) => Varints { one: Some(*v), packed: Fields::new(file, 0..0) },
    }
}

pub(super) struct Varints<'a> {
    one: Option<u64>,
    packed: Fields<'a>,
}

impl Iterator for Varints<'_> {
    type Item = Result<u64>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(v) = self.one.take() {
            return Some(Ok(v));
        }
        if self.packed.at >= self.packed.end {
            return None;
        }
        let v = self.packed.varint();
        if v.is_err() {
            self.packed.at = self.packed.end;
        }
        Some(v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_end_and_lengths_stay_inside() {
        let read = |b: &[u8]| Fields::new(b, 0..b.len()).collect::<Result<Vec<_>>>();
        assert_eq!(read(&[0x08, 0x96, 0x01]).unwrap(), vec![(1, Wire::Varint(150))]);
        assert_eq!(read(&[0x12, 0x02, 7, 8]).unwrap(), vec![(2, Wire::Bytes(2..4))]);
        assert!(read(&[0x08; 1]).is_err());
        assert!(read(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).is_err());
        assert!(read(&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).is_err());
        assert!(read(&[0x12, 0x03, 7, 8]).is_err());
        assert!(read(&[0x0b]).is_err());
    }
}
