//! ONNX exports of Hugging Face models, as dynamic quantisation leaves them: int8 matrices with one scale each, float
//! norms. Matrices are named by the node that multiplies with them, because exporters rename the matrices
//! themselves (`onnx::MatMul_2454_quantized`) and keep the path of the module in the node
//! (`/model/layers.0/self_attn/q_proj/MatMul_quant`). The graph is taken to compute what `config.json` says.
//!
//! Field numbers: `onnx.proto3`.

mod wire;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use tamp_formats::Kind;

use self::wire::{Fields, Wire, varints};
use crate::bytes::Bytes;
use crate::cursor::Budget;
use crate::entry::{Entry, Shape, View};
use crate::error::{Error, Result};
use crate::hf::config::Facts;
use crate::hf::folder::{Beside, finish, named};
use crate::hf::names;
use crate::store::{Part, Source, Weights};

/// Nodes and tensors of a graph; the export of a model of 32 layers has some ten thousand.
const MOST_FIELDS: usize = 1 << 20;

const FLOAT: u64 = 1;
const UINT8: u64 = 2;
const INT8: u64 = 3;
const FLOAT16: u64 = 10;
const BFLOAT16: u64 = 16;

/// A stored tensor.
#[derive(Clone)]
struct Init {
    dims: [u64; 4],
    rank: usize,
    dtype: u64,
    /// where its elements are
    data: Range<usize>,
    /// the first of `int32_data`, where a zero point is kept
    int: Option<i32>,
    external: bool,
}

/// Opens an ONNX file; `config.json` and the tokenizer are in its folder or the one above.
pub(crate) fn open(path: &Path, bytes: Bytes) -> Result<Weights> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let up = dir.parent().filter(|_| !dir.join("config.json").is_file());
    read(Part { path: Some(path.into()), bytes }, Beside::read(up.unwrap_or(dir))?)
}

pub(crate) fn read(part: Part, beside: Beside) -> Result<Weights> {
    let mut budget = Budget::new();
    let facts = beside.facts(&mut budget)?;
    let entries = tensors(part.bytes.get(), &facts, &mut budget).map_err(|e| match &part.path {
        Some(p) => e.within(p),
        None => e,
    })?;
    finish(Source::Onnx, facts, vec![part], entries, beside.tokenizer, &mut budget)
}

fn tensors(file: &[u8], facts: &Facts, budget: &mut Budget) -> Result<Vec<Entry>> {
    let mut graph = None;
    for f in Fields::new(file, 0..file.len()) {
        if let (7, Wire::Bytes(r)) = f? {
            graph = Some(r);
        }
    }
    let graph =
        graph.ok_or_else(|| Error::missing("the graph of the ONNX file", "the file is no ONNX model"))?;

    let mut inits = HashMap::new();
    for (n, f) in Fields::new(file, graph.clone()).enumerate() {
        if n == MOST_FIELDS {
            return Err(Error::bad(
                "the ONNX graph",
                format!("over {n} nodes and tensors"),
                "a model's few thousand",
            ));
        }
        if let (5, Wire::Bytes(r)) = f? {
            // A growing table holds up to thrice its entries while it moves.
            budget.pay(3, size_of::<(&str, Init)>(), "the list of ONNX tensors")?;
            let (name, init) = init(file, r)?;
            if inits.insert(name, init).is_some() {
                return Err(Error::Twice { what: "tensor", name: name.into() });
            }
        }
    }
    let mut entries = Vec::new();
    let mut push = |name: &str, e: Entry| -> Result<()> {
        budget.pay(1, 3 * size_of::<Entry>() + name.len() + 64, "the tensor list")?;
        entries.push(named(name, e, facts)?);
        Ok(())
    };
    for f in Fields::new(file, graph.clone()) {
        if let (1, Wire::Bytes(r)) = f?
            && let Some((name, e)) = node(file, r, &inits)?
        {
            push(&name, e)?;
        }
    }
    // Norms and biases keep their own names. In file order, so that the result does not depend on a hash.
    for f in Fields::new(file, graph) {
        if let (5, Wire::Bytes(r)) = f? {
            let (name, i) = init(file, r)?;
            if i.rank == 1 && names::to_gguf(name, facts.layers).is_some() {
                push(name, vector(name, &i)?)?;
            }
        }
    }
    if entries.is_empty() {
        return Err(Error::missing(
            "every matrix of the model",
            "tamp reads ONNX files exported from Hugging Face llama-like models and quantised dynamically to int8",
        ));
    }
    Ok(entries)
}

fn text(file: &[u8], r: Range<usize>) -> Result<&str> {
    std::str::from_utf8(&file[r.clone()])
        .map_err(|_| Error::bad(format!("the name at byte {}", r.start), "not UTF-8", "UTF-8 text"))
}

/// `TensorProto`
fn init(file: &[u8], range: Range<usize>) -> Result<(&str, Init)> {
    let mut name = "";
    let mut i = Init { dims: [0; 4], rank: 0, dtype: 0, data: 0..0, int: None, external: false };
    for f in Fields::new(file, range) {
        match f? {
            (1, w) => {
                for d in varints(file, &w) {
                    let d = d?;
                    let wrong = || Error::bad("the dimensions of an ONNX tensor", "over 4", "at most 4");
                    *i.dims.get_mut(i.rank).ok_or_else(wrong)? = d;
                    i.rank += 1;
                }
            }
            (2, Wire::Varint(t)) => i.dtype = t,
            // float_data, packed, lies like raw_data.
            (4 | 9, Wire::Bytes(r)) => i.data = r,
            (5, w) => {
                if let Some(v) = varints(file, &w).next() {
                    i.int = Some(v? as i32);
                }
            }
            (8, Wire::Bytes(r)) => name = text(file, r)?,
            (14, Wire::Varint(v)) => i.external = v != 0,
            _ => {}
        }
    }
    Ok((name, i))
}

/// The weight a node multiplies with or looks up in, under its module's name.
fn node(file: &[u8], range: Range<usize>, inits: &HashMap<&str, Init>) -> Result<Option<(String, Entry)>> {
    let (mut name, mut op) = ("", "");
    let mut inputs = [""; 4];
    let mut n = 0;
    for f in Fields::new(file, range) {
        match f? {
            (1, Wire::Bytes(r)) => {
                if let Some(slot) = inputs.get_mut(n) {
                    *slot = text(file, r)?;
                }
                n += 1;
            }
            (3, Wire::Bytes(r)) => name = text(file, r)?,
            (4, Wire::Bytes(r)) => op = text(file, r)?,
            _ => {}
        }
    }
    let (weight, zero, transpose) = match op {
        "MatMul" => (inputs[1], "", true),
        "MatMulInteger" => (inputs[1], inputs[3], true),
        "Gather" => (inputs[0], "", false),
        _ => return Ok(None),
    };
    let Some(init) = inits.get(weight).filter(|i| i.rank == 2) else { return Ok(None) };
    let Some((path, _)) = name.rsplit_once('/') else { return Ok(None) };
    let module = format!("{}.weight", path.trim_start_matches('/').replace('/', "."));
    let entry = matrix(file, &module, weight, zero, init, transpose, inits)?;
    Ok(Some((module, entry)))
}

/// A matrix as an F32 tensor of \[out\]\[in\].
fn matrix(
    file: &[u8],
    module: &str,
    weight: &str,
    zero: &str,
    i: &Init,
    transpose: bool,
    inits: &HashMap<&str, Init>,
) -> Result<Entry> {
    let [a, b, ..] = i.dims;
    let dims = if transpose { [a, b] } else { [b, a] };
    let shape = Shape::of(module, &dims)?;
    shape.byte_len(module, Kind::F32)?;
    let (view, width) = match i.dtype {
        FLOAT => (if transpose { View::Transpose } else { View::Raw }, 4),
        INT8 | UINT8 => {
            let stem = weight.strip_suffix("_quantized").unwrap_or(weight);
            let of = |suffix: &str| inits.get(format!("{stem}_{suffix}").as_str());
            let scale = of("scale").filter(|s| s.dtype == FLOAT && s.data.len() == 4).ok_or_else(|| {
                Error::missing(
                    format!("the scale of `{module}`"),
                    "tamp reads matrices quantised with one scale; export without per-channel quantisation",
                )
            })?;
            let zero = inits.get(zero).or_else(|| of("zero_point"));
            let (scale, zero) = (scalar(file, scale), zero_point(file, module, i.dtype, zero)?);
            if !scale.is_finite() {
                return Err(Error::bad(format!("the scale of `{module}`"), scale, "a finite number"));
            }
            (View::Int8 { scale, zero, unsigned: i.dtype == UINT8, transpose }, 1)
        }
        t => return Err(Error::UnknownKind { name: module.into(), kind: format!("ONNX type {t}") }),
    };
    stored(module, i, shape.count(), width)?;
    let mut e = Entry::raw(String::new(), shape, Some(Kind::F32), 0, 0, i.data.clone());
    e.view = view;
    Ok(e)
}

/// The one `f32` of a tensor of four bytes.
fn scalar(file: &[u8], i: &Init) -> f32 {
    let mut b = [0; 4];
    b.copy_from_slice(&file[i.data.clone()]);
    f32::from_le_bytes(b)
}

/// The zero point of a matrix of bytes: one byte of the same type, 0 when there is none.
fn zero_point(file: &[u8], module: &str, dtype: u64, zero: Option<&Init>) -> Result<i32> {
    let v = match zero {
        None => 0,
        Some(z) if z.dtype != dtype => {
            return Err(Error::bad(
                format!("the zero point of `{module}`"),
                "of another type",
                "that of the matrix",
            ));
        }
        Some(Init { int: Some(v), .. }) => *v,
        Some(z) => match &file[z.data.clone()] {
            [b] if dtype == UINT8 => i32::from(*b),
            [b] => i32::from(*b as i8),
            other => {
                return Err(Error::bad(
                    format!("the zero point of `{module}`"),
                    format!("{} bytes", other.len()),
                    "one byte: tamp reads matrices quantised with one zero point",
                ));
            }
        },
    };
    let range = if dtype == UINT8 { 0..=255 } else { -128..=127 };
    if !range.contains(&v) {
        return Err(Error::bad(format!("the zero point of `{module}`"), v, format!("{range:?}")));
    }
    Ok(v)
}

/// A norm or a bias, widened to F32.
fn vector(name: &str, i: &Init) -> Result<Entry> {
    let shape = Shape::of(name, &i.dims[..1])?;
    let (view, width) = match i.dtype {
        FLOAT => (View::Raw, 4),
        FLOAT16 => (View::Widen(Kind::F16), 2),
        BFLOAT16 => (View::Widen(Kind::BF16), 2),
        t => return Err(Error::UnknownKind { name: name.into(), kind: format!("ONNX type {t}") }),
    };
    shape.byte_len(name, Kind::F32)?;
    stored(name, i, shape.count(), width)?;
    let mut e = Entry::raw(String::new(), shape, Some(Kind::F32), 0, 0, i.data.clone());
    e.view = view;
    Ok(e)
}

/// The file holds exactly the elements that the dimensions say.
fn stored(name: &str, i: &Init, count: usize, width: usize) -> Result<()> {
    if i.external {
        return Err(Error::Unsupported {
            what: format!("`{name}` is kept outside the ONNX file"),
            hint: "export the model into one file".into(),
        });
    }
    if count.checked_mul(width) != Some(i.data.len()) {
        return Err(Error::bad(
            format!("the data of `{name}`"),
            format!("{} bytes", i.data.len()),
            format!("{count} elements of {width} bytes"),
        ));
    }
    Ok(())
}
