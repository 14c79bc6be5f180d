//! Metadata values: the thirteen types, arrays of arrays included.

use tamp_base::meta::{Array, IntKind, Value};
use tamp_base::texts::Texts;

use crate::cursor::{ALLOC, Budget, Cursor};
use crate::error::{Error, Result};

/// Arrays nest no deeper than this; files in the wild do not nest at all.
const DEPTH: usize = 4;

pub(super) const U8: u32 = 0;
pub(super) const I8: u32 = 1;
pub(super) const U16: u32 = 2;
pub(super) const I16: u32 = 3;
pub(super) const U32: u32 = 4;
pub(super) const I32: u32 = 5;
pub(super) const F32: u32 = 6;
pub(super) const BOOL: u32 = 7;
pub(super) const STR: u32 = 8;
pub(super) const ARRAY: u32 = 9;
pub(super) const U64: u32 = 10;
pub(super) const I64: u32 = 11;
pub(super) const F64: u32 = 12;

/// A length-prefixed string. Keys and tensor names must be UTF-8; values may hold vocabulary entries cut inside a
/// character, so there a bad byte becomes U+FFFD instead of refusing a model that works elsewhere.
pub(super) fn string(c: &mut Cursor, budget: &mut Budget, what: &str, strict: bool) -> Result<String> {
    let n = c.u64(what)?;
    let raw = c.take(n, what)?;
    if let Ok(s) = std::str::from_utf8(raw) {
        budget.pay(1, s.len() + ALLOC, what)?;
        return Ok(s.into());
    }
    if strict {
        return Err(Error::bad(what, "not UTF-8", "UTF-8 text"));
    }
    // Each bad byte becomes three, and the growing string may hold twice what it needs.
    budget.pay(6, raw.len() + ALLOC, what)?;
    Ok(String::from_utf8_lossy(raw).into_owned())
}

/// `n` strings, whose ends are paid for; bad bytes as in [`string`].
fn strings(c: &mut Cursor, n: usize, budget: &mut Budget, what: &str) -> Result<Texts> {
    let (mut total, mut ahead) = (0, c.clone());
    for _ in 0..n {
        let len = ahead.u64(what)?;
        total += ahead.take(len, what)?.len();
    }
    budget.pay(1, total, what)?;
    let (mut bytes, mut ends) = (Vec::with_capacity(total), Vec::with_capacity(n));
    for _ in 0..n {
        let len = c.u64(what)?;
        bytes.extend_from_slice(c.take(len, what)?);
        ends.push(bytes.len());
    }
    let (bytes, ends) = match Texts::from_utf8(bytes, ends) {
        Ok(texts) => return Ok(texts),
        Err(parts) => parts,
    };
    // Three bytes for a bad one, twice that while the block grows, and the ends again.
    budget.pay(6, total, what)?;
    budget.pay(2 * n, size_of::<usize>(), what)?;
    let starts = std::iter::once(0).chain(ends.iter().copied());
    Ok(starts.zip(&ends).map(|(from, &to)| String::from_utf8_lossy(&bytes[from..to])).collect())
}

/// A value with its type before it.
pub(super) fn value(c: &mut Cursor, budget: &mut Budget, key: &str) -> Result<Value> {
    Ok(match c.u32(key)? {
        U8 => Value::U8(c.u8(key)?),
        I8 => Value::I8(c.u8(key)? as i8),
        U16 => Value::U16(int(c, key, 2)? as u16),
        I16 => Value::I16(int(c, key, 2)? as i16),
        U32 => Value::U32(c.u32(key)?),
        I32 => Value::I32(c.i32(key)?),
        U64 => Value::U64(c.u64(key)?),
        I64 => Value::I64(c.u64(key)? as i64),
        F32 => Value::F32(c.f32(key)?),
        F64 => Value::F64(c.f64(key)?),
        BOOL => Value::Bool(boolean(c, key)?),
        STR => Value::Str(string(c, budget, key, false)?),
        ARRAY => Value::Array(array(c, budget, key, 1)?),
        t => return Err(Error::bad(format!("the type of `{key}`"), t, "a GGUF value type, 0 to 12")),
    })
}

fn boolean(c: &mut Cursor, key: &str) -> Result<bool> {
    match c.u8(key)? {
        0 => Ok(false),
        1 => Ok(true),
        b => Err(Error::bad(format!("`{key}`"), b, "0 or 1 for a bool")),
    }
}

/// An unsigned integer of `width` bytes.
fn int(c: &mut Cursor, key: &str, width: usize) -> Result<u64> {
    let mut b = [0; 8];
    b[..width].copy_from_slice(c.take(width as u64, key)?);
    Ok(u64::from_le_bytes(b))
}

fn array(c: &mut Cursor, budget: &mut Budget, key: &str, depth: usize) -> Result<Array> {
    let t = c.u32(key)?;
    let n = c.u64(key)?;
    // Bytes an element takes in the file at least, and in memory.
    let (least, held) = match t {
        U8 | I8 => (1, 8),
        U16 | I16 => (2, 8),
        U32 | I32 => (4, 8),
        U64 | I64 => (8, 8),
        F32 => (4, 4),
        F64 => (8, 8),
        BOOL => (1, 1),
        STR => (8, size_of::<usize>()),
        ARRAY => (12, size_of::<Array>() + ALLOC),
        t => return Err(Error::bad(format!("the element type of `{key}`"), t, "a GGUF value type, 0 to 12")),
    };
    let n = c.fits(n, least, key)?;
    budget.pay(n, held, key)?;

    let uints = |c: &mut Cursor, kind| {
        let width = least;
        let v: Result<Vec<_>> = filled(n, || int(c, key, width));
        Ok(Array::Uint(kind, v?))
    };
    let ints = |c: &mut Cursor, kind| {
        let shift = 64 - 8 * least as u32;
        let v: Result<Vec<_>> = filled(n, || Ok(((int(c, key, least)? << shift) as i64) >> shift));
        Ok(Array::Int(kind, v?))
    };
    match t {
        U8 => uints(c, IntKind::B8),
        U16 => uints(c, IntKind::B16),
        U32 => uints(c, IntKind::B32),
        U64 => uints(c, IntKind::B64),
        I8 => ints(c, IntKind::B8),
        I16 => ints(c, IntKind::B16),
        I32 => ints(c, IntKind::B32),
        I64 => ints(c, IntKind::B64),
        F32 => Ok(Array::F32(filled(n, || c.f32(key))?)),
        F64 => Ok(Array::F64(filled(n, || c.f64(key))?)),
        BOOL => Ok(Array::Bool(filled(n, || boolean(c, key))?)),
        STR => Ok(Array::Str(strings(c, n, budget, key)?)),
        _ if depth == DEPTH => {
            Err(Error::bad(format!("the nesting of `{key}`"), "deeper", format!("at most {DEPTH} levels")))
        }
        _ => Ok(Array::Nested(filled(n, || array(c, budget, key, depth + 1))?)),
    }
}

/// Exactly `n` elements in an allocation of exactly that size, as paid for.
fn filled<T>(n: usize, mut next: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
    let mut v = Vec::with_capacity(n);
    for _ in 0..n {
        v.push(next()?);
    }
    Ok(v)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &[&[u8]], cut: usize) -> Result<Vec<String>> {
        let mut file = Vec::new();
        for s in list {
            file.extend((s.len() as u64).to_le_bytes());
            file.extend(*s);
        }
        file.truncate(file.len() - cut);
        let texts = strings(&mut Cursor::new(&file), list.len(), &mut Budget::new(), "list")?;
        Ok(texts.iter().map(String::from).collect())
    }

    #[test]
    fn bad_bytes_of_one_string_are_replaced_in_that_one_alone() {
        let bad = "\u{fffd}";
        assert_eq!(read(&["é".as_bytes(), b"", b"x"], 0).unwrap(), ["é", "", "x"]);
        // Side by side the halves of a character are one; as strings they are none.
        assert_eq!(read(&[b"a", b"\xc3", b"\xa9", "é".as_bytes()], 0).unwrap(), ["a", bad, bad, "é"]);
        assert_eq!(read(&[b"\xff", b"ok"], 0).unwrap(), [bad, "ok"]);
    }

    #[test]
    fn strings_that_are_cut_or_larger_than_the_budget_are_refused() {
        assert!(matches!(read(&[b"one", b"two"], 1), Err(Error::Truncated { .. })));
        let much = vec![b'x'; crate::cursor::LIMIT + 1];
        assert!(matches!(read(&[&much], 0), Err(Error::TooMuch { .. })));
        let bad = vec![0xff; crate::cursor::LIMIT / 6];
        assert!(matches!(read(&[&bad], 0), Err(Error::TooMuch { .. })));
    }
}
