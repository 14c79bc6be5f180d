//! GGUF v3 out, one tensor at a time, so that a conversion never holds a model in memory.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::Path;

use tamp_base::meta::{Array, IntKind, Meta, Value};

use super::{ALIGNMENT, MAGIC, value as t};
use crate::atomic::AtomicFile;
use crate::error::{Error, Result};
use crate::store::TensorInfo;

/// Gives the bytes of tensor `i`: exactly as many as its [`TensorInfo`] says.
pub type Stream<'a> = dyn FnMut(usize, &mut dyn Write) -> Result<()> + 'a;

/// Writes a GGUF v3 file with alignment 32 and returns its size. The file appears under its name only when it is
/// complete.
pub fn write(path: &Path, meta: &Meta, tensors: &[TensorInfo<'_>], stream: &mut Stream<'_>) -> Result<u64> {
    let mut file = AtomicFile::create(path)?;
    let n = write_to(&mut file, meta, tensors, stream).map_err(|e| e.within(path))?;
    file.finish()?;
    Ok(n)
}

/// [`write()`] to anything that takes bytes.
pub fn write_to(
    out: &mut dyn Write,
    meta: &Meta,
    tensors: &[TensorInfo<'_>],
    stream: &mut Stream<'_>,
) -> Result<u64> {
    let mut out = Counted { out, n: 0 };
    let mut seen = HashSet::new();
    let keys = meta.0.iter().filter(|(k, _)| *k != "general.alignment");

    out.write_all(MAGIC)?;
    out.u32(3)?;
    out.u64(tensors.len() as u64)?;
    out.u64(keys.clone().count() as u64)?;
    for (k, v) in keys {
        out.str(k)?;
        out.value(k, v)?;
    }
    let mut at = 0u64;
    for i in tensors {
        let kind = i.kind.ok_or_else(|| Error::Unsupported {
            what: format!("the tensor `{}`", i.name),
            hint: "its type is unknown, so it cannot be written".into(),
        })?;
        if !seen.insert(i.name) {
            return Err(Error::Twice { what: "tensor", name: i.name.into() });
        }
        out.str(i.name)?;
        out.u32(i.shape.len() as u32)?;
        for &d in i.shape {
            out.u64(d as u64)?;
        }
        out.u32(kind as u32)?;
        out.u64(at)?;
        at = (at + i.bytes as u64).next_multiple_of(ALIGNMENT as u64);
    }
    out.pad()?;
    for (n, i) in tensors.iter().enumerate() {
        let before = out.n;
        stream(n, &mut out)?;
        if out.n - before != i.bytes as u64 {
            return Err(Error::bad(
                format!("the data of `{}`", i.name),
                format!("{} bytes", out.n - before),
                format!("{} bytes", i.bytes),
            ));
        }
        out.pad()?;
    }
    out.flush()?;
    Ok(out.n)
}

struct Counted<'a> {
    out: &'a mut dyn Write,
    n: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.n += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Counted<'_> {
    fn u32(&mut self, v: u32) -> io::Result<()> {
        self.write_all(&v.to_le_bytes())
    }

    fn u64(&mut self, v: u64) -> io::Result<()> {
        self.write_all(&v.to_le_bytes())
    }

    fn str(&mut self, s: &str) -> io::Result<()> {
        self.u64(s.len() as u64)?;
        self.write_all(s.as_bytes())
    }

    fn pad(&mut self) -> io::Result<()> {
        let zeros = [0; ALIGNMENT];
        let n = (self.n.next_multiple_of(ALIGNMENT as u64) - self.n) as usize;
        self.write_all(&zeros[..n])
    }

    fn value(&mut self, key: &str, v: &Value) -> Result<()> {
        let (id, raw): (u32, Vec<u8>) = match v {
            Value::U8(v) => (t::U8, vec![*v]),
            Value::I8(v) => (t::I8, v.to_le_bytes().into()),
            Value::U16(v) => (t::U16, v.to_le_bytes().into()),
            Value::I16(v) => (t::I16, v.to_le_bytes().into()),
            Value::U32(v) => (t::U32, v.to_le_bytes().into()),
            Value::I32(v) => (t::I32, v.to_le_bytes().into()),
            Value::U64(v) => (t::U64, v.to_le_bytes().into()),
            Value::I64(v) => (t::I64, v.to_le_bytes().into()),
            Value::F32(v) => (t::F32, v.to_le_bytes().into()),
            Value::F64(v) => (t::F64, v.to_le_bytes().into()),
            Value::Bool(v) => (t::BOOL, vec![u8::from(*v)]),
            Value::Str(s) => {
                self.u32(t::STR)?;
                return Ok(self.str(s)?);
            }
            Value::Array(a) => {
                self.u32(t::ARRAY)?;
                return self.array(key, a);
            }
        };
        self.u32(id)?;
        Ok(self.write_all(&raw)?)
    }

    fn array(&mut self, key: &str, a: &Array) -> Result<()> {
        self.u32(match a {
            Array::Uint(IntKind::B8, _) => t::U8,
            Array::Uint(IntKind::B16, _) => t::U16,
            Array::Uint(IntKind::B32, _) => t::U32,
            Array::Uint(IntKind::B64, _) => t::U64,
            Array::Int(IntKind::B8, _) => t::I8,
            Array::Int(IntKind::B16, _) => t::I16,
            Array::Int(IntKind::B32, _) => t::I32,
            Array::Int(IntKind::B64, _) => t::I64,
            Array::F32(_) => t::F32,
            Array::F64(_) => t::F64,
            Array::Bool(_) => t::BOOL,
            Array::Str(_) => t::STR,
            Array::Nested(_) => t::ARRAY,
        })?;
        self.u64(a.len() as u64)?;
        let wide = |v: &dyn ToString| {
            Error::bad(format!("an element of `{key}`"), v.to_string(), "a value that fits its width")
        };
        match a {
            Array::Uint(k, v) => {
                for x in v {
                    let w = width(*k);
                    let fits = w == 8 || *x >> (8 * w) == 0;
                    fits.then_some(()).ok_or_else(|| wide(x))?;
                    self.write_all(&x.to_le_bytes()[..w])?;
                }
            }
            Array::Int(k, v) => {
                for x in v {
                    let (w, shift) = (width(*k), 64 - 8 * width(*k) as u32);
                    ((x << shift) >> shift == *x).then_some(()).ok_or_else(|| wide(x))?;
                    self.write_all(&x.to_le_bytes()[..w])?;
                }
            }
            Array::F32(v) => v.iter().try_for_each(|x| self.write_all(&x.to_le_bytes()))?,
            Array::F64(v) => v.iter().try_for_each(|x| self.write_all(&x.to_le_bytes()))?,
            Array::Bool(v) => v.iter().try_for_each(|x| self.write_all(&[u8::from(*x)]))?,
            Array::Str(v) => v.iter().try_for_each(|x| self.str(x))?,
            Array::Nested(v) => v.iter().try_for_each(|x| self.array(key, x))?,
        }
        Ok(())
    }
}

fn width(k: IntKind) -> usize {
    match k {
        IntKind::B8 => 1,
        IntKind::B16 => 2,
        IntKind::B32 => 4,
        IntKind::B64 => 8,
    }
}
