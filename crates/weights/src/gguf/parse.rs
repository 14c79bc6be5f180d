//! From bytes to metadata and a tensor list. The main attack surface: nothing in the file is believed before it
//! was held against what is left of the file.

use std::ops::Range;

use tamp_base::meta::{Meta, Value};
use tamp_formats::Kind;

use super::{ALIGNMENT, MAGIC, value};
use crate::cursor::{ALLOC, Budget, Cursor};
use crate::entry::{Entry, Shape, check_ranges};
use crate::error::{Error, Result};

/// A GGUF file's description.
#[derive(Debug)]
pub struct Parsed {
    /// 2 or 3
    pub version: u32,
    /// all keys
    pub meta: Meta,
    /// the data section, as a range of the file
    pub data: Range<usize>,
    pub(crate) entries: Vec<Entry>,
}

/// Reads the description of a GGUF file; `bytes` is the whole file. Tensor data is not touched.
///
/// Every tensor of a known type lies inside the file, on the file's alignment, and overlaps no other.
pub fn parse(bytes: &[u8]) -> Result<Parsed> {
    parse_within(bytes, &mut Budget::new())
}

/// [`parse`] against a budget shared by the parts of one model.
pub(crate) fn parse_within(bytes: &[u8], budget: &mut Budget) -> Result<Parsed> {
    let mut c = Cursor::new(bytes);
    if c.take(4, "the GGUF magic")? != MAGIC {
        return Err(Error::bad("the magic", format!("{:02x?}", &bytes[..4]), "GGUF"));
    }
    let version = c.u32("the GGUF version")?;
    if version != 2 && version != 3 {
        return Err(match version.swap_bytes() {
            1..=3 => Error::BigEndian,
            _ => Error::Version(version),
        });
    }
    let tensors = c.u64("the tensor count")?;
    let keys = c.u64("the key count")?;
    // The least a tensor takes: name length, dimension count, type, offset; a key: length, type, one byte.
    let tensors = c.fits(tensors, 24, "the tensor list")?;
    let keys = c.fits(keys, 13, "the metadata")?;

    let mut meta = Meta::default();
    for _ in 0..keys {
        let key = value::string(&mut c, budget, "a metadata key", true)?;
        // A map node holds up to eleven pairs and is at least half full.
        budget.pay(1, 3 * (size_of::<String>() + size_of::<Value>()), &key)?;
        let v = value::value(&mut c, budget, &key)?;
        if meta.get(&key).is_some() {
            return Err(Error::Twice { what: "metadata key", name: key });
        }
        meta.set(key, v);
    }
    let alignment = alignment(&meta)?;

    budget.pay(tensors, size_of::<Entry>(), "the tensor list")?;
    let mut entries = Vec::with_capacity(tensors);
    for _ in 0..tensors {
        entries.push(tensor(&mut c, budget, alignment)?);
    }

    // Files without tensors (vocabularies) may end without the padding.
    let start = c.at().next_multiple_of(alignment).min(bytes.len());
    let data = start..bytes.len();
    for e in &mut entries {
        place(e, &data)?;
    }
    check_ranges(&entries, budget)?;
    Ok(Parsed { version, meta, data, entries })
}

fn alignment(meta: &Meta) -> Result<usize> {
    match meta.get("general.alignment") {
        None => Ok(ALIGNMENT),
        Some(v) => v
            .as_u64()
            .filter(|a| a.is_power_of_two() && (8..=1 << 30).contains(a))
            .map(|a| a as usize)
            .ok_or_else(|| Error::bad("general.alignment", v.brief(), "a power of two of at least 8")),
    }
}

/// One line of the tensor list; its range is still relative to the data section.
fn tensor(c: &mut Cursor, budget: &mut Budget, alignment: usize) -> Result<Entry> {
    let name = value::string(c, budget, "a tensor name", true)?;
    budget.pay(1, ALLOC, "the tensor list")?;
    let dims = c.u32(&name)?;
    if dims > 4 {
        return Err(Error::bad(format!("the dimension count of `{name}`"), dims, "at most 4"));
    }
    let mut shape = Shape::default();
    for _ in 0..dims {
        shape.push(&name, c.u64(&name)?)?;
    }
    let id = c.u32(&name)?;
    let offset = c.u64(&name)?;
    if !offset.is_multiple_of(alignment as u64) {
        return Err(Error::bad(
            format!("the offset of `{name}`"),
            offset,
            format!("a multiple of the alignment, {alignment}"),
        ));
    }
    let offset = usize::try_from(offset)
        .map_err(|_| Error::bad(format!("the offset of `{name}`"), offset, "an offset inside the file"))?;
    let kind = Kind::from_id(id);
    let len = match kind {
        Some(k) => shape.byte_len(&name, k)?,
        None => 0,
    };
    let end = offset
        .checked_add(len)
        .ok_or_else(|| Error::bad(format!("the offset of `{name}`"), offset, "an offset inside the file"))?;
    Ok(Entry::raw(name, shape, kind, id, 0, offset..end))
}

/// Moves a tensor's range from the data section to the file, and checks that the file holds it.
fn place(e: &mut Entry, data: &Range<usize>) -> Result<()> {
    let len = e.range.len();
    // A tensor of unknown type has at least one byte.
    let fits = e.range.end <= data.len() && (len > 0 || e.range.start < data.len());
    if !fits {
        return Err(Error::Truncated {
            what: format!("the tensor `{}`", e.name),
            need: len.max(1) as u64,
            at: (data.start as u64).saturating_add(e.range.start as u64),
            left: data.len().saturating_sub(e.range.start) as u64,
        });
    }
    e.range = data.start + e.range.start..data.start + e.range.end;
    Ok(())
}
