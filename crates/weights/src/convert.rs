//! One kind of model file into another, without changing a weight.

use std::path::Path;

use tamp_base::meta::{Meta, Value};
use tamp_formats::Kind;

use crate::error::{Error, Result};
use crate::export::{Export, Target};
use crate::gguf;
use crate::hf::write_safetensors;
use crate::store::{TensorInfo, Weights};

/// Called with (bytes done, bytes in all).
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

/// Writes a model as GGUF when `out` ends in `.gguf`, else as a safetensors folder when it has no extension or is a
/// folder. Rows of q and k are reordered to what other programs expect of the target.
pub fn convert(src: &Weights, out: &Path, progress: &mut Progress<'_>) -> Result<()> {
    let ext = out.extension().and_then(|e| e.to_str());
    match ext {
        Some("gguf") => to_gguf(src, out, progress),
        _ if ext.is_none() || out.is_dir() => write_safetensors(src, out, progress),
        Some(e) => Err(Error::Unsupported {
            what: format!("the output extension .{e}"),
            hint: "name a .gguf file, a .tamp bundle, or a folder for safetensors".into(),
        }),
        None => Ok(()),
    }
}

fn to_gguf(src: &Weights, path: &Path, progress: &mut Progress<'_>) -> Result<()> {
    let mut out = Export::new(src, Target::Gguf)?;
    let kinds = out.items.iter().filter_map(|i| Some((i.kind?, i.bytes)));
    if let Some(t) = file_type(kinds) {
        out.meta.set("general.file_type", Value::U32(t));
    }
    let meta = gguf_meta(src, std::mem::take(&mut out.meta))?;
    let infos: Vec<TensorInfo> = out.items.iter().map(|i| i.info()).collect();
    let total = infos.iter().map(|i| i.bytes as u64).sum();
    let mut done = 0;
    gguf::write(path, &meta, &infos, &mut |i, to| {
        let item = &out.items[i];
        to.write_all(&out.bytes(item)?)?;
        out.done(item);
        done += item.bytes as u64;
        progress(done, total);
        Ok(())
    })?;
    Ok(())
}

/// Metadata for a GGUF file: the tokenizer comes along. One that exists only as `tokenizer.json` goes under the key
/// the GGUF specification has for it.
pub(crate) fn gguf_meta(src: &Weights, mut meta: Meta) -> Result<Meta> {
    if let Some(t) = src.tokenizer_json()
        && meta.get("tokenizer.huggingface.json").is_none()
    {
        let t =
            std::str::from_utf8(t).map_err(|_| Error::bad("tokenizer.json", "not UTF-8", "UTF-8 text"))?;
        meta.set("tokenizer.huggingface.json", Value::Str(t.into()));
    }
    Ok(meta)
}

/// `general.file_type` of the kind that takes most bytes.
pub(crate) fn file_type(kinds: impl Iterator<Item = (Kind, usize)>) -> Option<u32> {
    let mut sums = std::collections::BTreeMap::<Kind, usize>::new();
    for (k, n) in kinds {
        *sums.entry(k).or_default() += n;
    }
    let (kind, _) = sums.into_iter().max_by_key(|(_, n)| *n)?;
    Some(match kind {
        Kind::F32 => 0,
        Kind::F16 => 1,
        Kind::Q4_0 => 2,
        Kind::Q4_1 => 3,
        Kind::Q8_0 => 7,
        Kind::Q5_0 => 8,
        Kind::Q5_1 => 9,
        Kind::Q2_K => 10,
        Kind::Q3_K => 12,
        Kind::Q4_K => 15,
        Kind::Q5_K => 17,
        Kind::Q6_K => 18,
        Kind::IQ4_NL => 25,
        Kind::BF16 => 32,
    })
}
