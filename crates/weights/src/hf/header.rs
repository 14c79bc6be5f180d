//! The header of a safetensors file: `u64` length, JSON, data. Ours and not the `safetensors` crate's, because that
//! one takes headers of 100 MB into maps before anybody can object.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tamp_formats::Kind;

use crate::cursor::{ALLOC, Budget, Cursor};
use crate::entry::Shape;
use crate::error::{Error, Result};

/// Longest header read, bytes: 60 000 tensors of experts in one file take 8 MB.
const LONGEST: u64 = 16 << 20;

/// One tensor as the header describes it.
pub(crate) struct Found {
    pub name: String,
    pub kind: Kind,
    /// columns first
    pub shape: Shape,
    /// in the file
    pub range: Range<usize>,
}

/// Reads the header of a safetensors file; `bytes` is the whole file.
pub(crate) fn parse(bytes: &[u8], budget: &mut Budget) -> Result<Vec<Found>> {
    let mut c = Cursor::new(bytes);
    let n = c.u64("the header length")?;
    if n > LONGEST {
        return Err(Error::bad("the header length", n, format!("at most {LONGEST}")));
    }
    let text = c.take(n, "the header")?;
    let data = c.at()..bytes.len();
    let mut refused = None;
    let mut d = serde_json::Deserializer::from_slice(text);
    let read =
        Head { data, budget, refused: &mut refused }.deserialize(&mut d).and_then(|v| d.end().map(|()| v));
    match (refused, read) {
        (Some(e), _) => Err(e),
        (None, Ok(v)) => Ok(v),
        (None, Err(error)) => Err(Error::Json { what: "the safetensors header".into(), error }),
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Few<4>,
    data_offsets: Few<2>,
}

/// At most `N` numbers.
struct Few<const N: usize>([u64; N], usize);

impl<'de, const N: usize> Deserialize<'de> for Few<N> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Visit<const N: usize>;
        impl<'de, const N: usize> Visitor<'de> for Visit<N> {
            type Value = Few<N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {N} non-negative integers")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut s: A) -> std::result::Result<Few<N>, A::Error> {
                let (mut v, mut n) = ([0; N], 0);
                while let Some(x) = s.next_element()? {
                    *v.get_mut(n).ok_or_else(|| A::Error::invalid_length(n + 1, &self))? = x;
                    n += 1;
                }
                Ok(Few(v, n))
            }
        }
        d.deserialize_seq(Visit)
    }
}

struct Head<'a> {
    data: Range<usize>,
    budget: &'a mut Budget,
    /// our own error, which serde's error type cannot carry
    refused: &'a mut Option<Error>,
}

impl<'de> DeserializeSeed<'de> for Head<'_> {
    type Value = Vec<Found>;
    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> std::result::Result<Vec<Found>, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Head<'_> {
    type Value = Vec<Found>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a safetensors header: an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut m: A) -> std::result::Result<Vec<Found>, A::Error> {
        let mut v = Vec::new();
        while let Some(name) = m.next_key::<String>()? {
            if name == "__metadata__" {
                m.next_value::<IgnoredAny>()?;
                continue;
            }
            let line = m.next_value::<Line>()?;
            // A growing vector holds up to thrice its elements while it moves.
            let paid = self.budget.pay(1, name.len() + ALLOC + 3 * size_of::<Found>(), "the tensor list");
            match paid.and_then(|()| found(name, &line, &self.data)) {
                Ok(f) => v.push(f),
                Err(e) => {
                    *self.refused = Some(e);
                    return Err(A::Error::custom("refused"));
                }
            }
        }
        Ok(v)
    }
}

fn found(name: String, line: &Line, data: &Range<usize>) -> Result<Found> {
    let kind = match &*line.dtype {
        "F32" => Kind::F32,
        "F16" => Kind::F16,
        "BF16" => Kind::BF16,
        other => {
            return Err(Error::UnknownKind { name, kind: other.chars().take(16).collect() });
        }
    };
    let (dims, n) = (line.shape.0, line.shape.1);
    let mut shape = Shape::default();
    for d in dims[..n].iter().rev() {
        shape.push(&name, *d)?;
    }
    let len = shape.byte_len(&name, kind)?;
    let ([start, end], 2) = (line.data_offsets.0, line.data_offsets.1) else {
        return Err(Error::bad(format!("data_offsets of `{name}`"), "one number", "two"));
    };
    if end.checked_sub(start) != Some(len as u64) {
        return Err(Error::bad(
            format!("data_offsets of `{name}`"),
            format!("{start}..{end}"),
            format!("{len} bytes"),
        ));
    }
    if end > data.len() as u64 {
        return Err(Error::Truncated {
            what: format!("the tensor `{name}`"),
            need: len as u64,
            at: (data.start as u64).saturating_add(start),
            left: (data.len() as u64).saturating_sub(start),
        });
    }
    Ok(Found { name, kind, shape, range: data.start + start as usize..data.start + end as usize })
}
