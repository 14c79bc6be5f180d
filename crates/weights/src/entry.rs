//! One tensor's place in a source: name, shape, type, byte range.

use std::ops::Range;

use tamp_formats::Kind;

use crate::cursor::Budget;
use crate::error::{Error, Result};

/// Up to four dimensions in ggml order, all at least 1, whose product fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    dims: [usize; 4],
    n: usize,
}

impl Shape {
    /// Columns first.
    pub fn of(name: &str, dims: &[u64]) -> Result<Shape> {
        let mut s = Shape::default();
        for &d in dims {
            s.push(name, d)?;
        }
        Ok(s)
    }

    /// Adds the next slower dimension.
    pub fn push(&mut self, name: &str, d: u64) -> Result<()> {
        let wrong = |want: &str| Error::bad(format!("a dimension of `{name}`"), d, want);
        let Some(slot) = self.dims.get_mut(self.n) else {
            return Err(wrong("one of at most 4 dimensions"));
        };
        if d == 0 {
            return Err(wrong("at least 1"));
        }
        *slot = usize::try_from(d).map_err(|_| wrong("a size that fits in memory"))?;
        self.n += 1;
        // i64, because that is what every other reader counts in.
        self.checked_count().map(|_| ()).ok_or_else(|| wrong("dimensions whose product is below 2^63"))
    }

    fn checked_count(&self) -> Option<usize> {
        let n = self.dims[..self.n].iter().try_fold(1usize, |a, &d| a.checked_mul(d))?;
        (n as u64 <= i64::MAX as u64).then_some(n)
    }

    /// Elements.
    pub fn count(&self) -> usize {
        self.dims[..self.n].iter().product()
    }

    /// Columns (the fastest dimension).
    pub fn cols(&self) -> usize {
        if self.n == 0 { 1 } else { self.dims[0] }
    }

    /// Rows: all other dimensions together.
    pub fn rows(&self) -> usize {
        self.count() / self.cols()
    }

    pub fn as_slice(&self) -> &[usize] {
        // A scalar is a vector of one, so that nobody has to index an empty shape.
        if self.n == 0 { &[1] } else { &self.dims[..self.n] }
    }

    /// Bytes of the tensor as `kind`; columns must be whole blocks.
    pub fn byte_len(&self, name: &str, kind: Kind) -> Result<usize> {
        if !self.cols().is_multiple_of(kind.block()) {
            return Err(Error::bad(
                format!("the row length of `{name}`"),
                self.cols(),
                format!("a multiple of {} for {kind}", kind.block()),
            ));
        }
        let row = kind.row_bytes(self.cols());
        row.and_then(|row| row.checked_mul(self.rows())).ok_or_else(|| {
            Error::bad(format!("the size of `{name}`"), "over 2^64 bytes", "a size that fits in memory")
        })
    }
}

/// How the bytes of a tensor become those of its canonical form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum View {
    /// as they lie in the file
    Raw,
    /// F16 or BF16 stored, F32 given: norms and biases, which GGUF keeps in F32
    Widen(Kind),
    /// int8 times scale; stored `[in][out]` when `transpose`
    Int8 { scale: f32, zero: i32, unsigned: bool, transpose: bool },
    /// F32 stored `[in][out]`
    Transpose,
    /// in a layout of some device: the index of its name
    Packed(usize),
}

/// A tensor and where its bytes are.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub name: String,
    pub shape: Shape,
    /// The kind given out; `None`: unknown type `id`.
    pub kind: Option<Kind>,
    pub id: u32,
    /// which file of the source
    pub part: usize,
    /// stored bytes in that file
    pub range: Range<usize>,
    pub view: View,
}

impl Entry {
    pub fn raw(
        name: String,
        shape: Shape,
        kind: Option<Kind>,
        id: u32,
        part: usize,
        range: Range<usize>,
    ) -> Self {
        Entry { name, shape, kind, id, part, range, view: View::Raw }
    }
}

/// Refuses tensors of one file that share bytes. Tensors of unknown type count as one byte long.
pub(crate) fn check_ranges(entries: &[Entry], budget: &mut Budget) -> Result<()> {
    budget.pay(entries.len(), 8, "the tensor list")?;
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_unstable_by_key(|&i| (entries[i].part, entries[i].range.start));
    for w in order.windows(2) {
        let (a, b) = (&entries[w[0]], &entries[w[1]]);
        if a.part == b.part && a.range.end.max(a.range.start + 1) > b.range.start {
            return Err(Error::Overlap { a: a.name.clone(), b: b.name.clone() });
        }
    }
    Ok(())
}
