//! A safetensors folder out.

use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value as Json, json};
use tamp_base::meta::Meta;
use tamp_formats::Kind;

use super::{config, folder, names};
use crate::atomic::AtomicFile;
use crate::convert::Progress;
use crate::error::{Error, Result};
use crate::export::{Export, Item, Target};
use crate::gguf;
use crate::store::Weights;

/// Where a tokenizer that has no `tokenizer.json` is kept: a GGUF file without tensors.
pub(super) const VOCAB: &str = "vocab.gguf";

/// Elements decoded at a time.
const BAND: usize = 1 << 20;

/// Writes `config.json`, `model.safetensors` and the tokenizer into `dir`, which is made if it is not there.
/// Floats keep their width; block formats are decoded to F32, which holds their values exactly. `progress` is called
/// with (bytes written, bytes in all).
pub fn write_safetensors(src: &Weights, dir: &Path, progress: &mut Progress<'_>) -> Result<()> {
    let out = Export::new(src, Target::Hf)?;
    let arch = out.meta.str("general.architecture")?;
    let layers = out.meta.count(&format!("{arch}.block_count"))?;
    let tied = !out.items.iter().any(|i| i.name == "output.weight");
    let embd = out
        .items
        .iter()
        .find(|i| i.name == "token_embd.weight")
        .ok_or_else(|| Error::missing("token_embd.weight", "only whole models can be converted"))?;
    let config = config::write(&out.meta, tied, embd.size().1)?;
    let (header, total) = header(&out.items, layers)?;

    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    put(&dir.join("config.json"), &config)?;
    write_tokenizer(src, &out.meta, dir)?;
    let path = dir.join("model.safetensors");
    let mut file = AtomicFile::create(&path)?;
    let written = (|| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        let mut done = 0;
        for i in &out.items {
            done += tensor(&out, i, &mut file)?;
            out.done(i);
            progress(done, total);
        }
        Ok(())
    })();
    written.map_err(|e: Error| e.within(&path))?;
    file.finish()
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut f = AtomicFile::create(path)?;
    f.write_all(bytes).map_err(Error::io(path))?;
    f.finish()
}

/// What a kind becomes here, and what the header calls it.
fn dtype(kind: Kind) -> (Kind, &'static str) {
    match kind {
        Kind::F16 => (kind, "F16"),
        Kind::BF16 => (kind, "BF16"),
        _ => (Kind::F32, "F32"),
    }
}

fn known(i: &Item) -> Result<Kind> {
    i.kind.ok_or_else(|| Error::Unsupported {
        what: format!("the tensor `{}`", i.name),
        hint: "its type is unknown, so it cannot be converted".into(),
    })
}

/// The JSON header, padded to 8 bytes, and the length of the data.
fn header(items: &[Item], layers: usize) -> Result<(Vec<u8>, u64)> {
    let mut map = Map::new();
    map.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut at = 0u64;
    for i in items {
        let name = names::to_hf(i.name, layers).ok_or_else(|| Error::Unsupported {
            what: format!("the tensor `{}`", i.name),
            hint: "a checkpoint of this family has no place for it".into(),
        })?;
        let (kind, dtype) = dtype(known(i)?);
        let (cols, rows) = i.size();
        let end = at + (cols * rows * kind.bytes()) as u64;
        let shape: Vec<usize> = i.shape.iter().rev().copied().collect();
        map.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut text = serde_json::to_vec(&Json::Object(map))
        .map_err(|error| Error::Json { what: "the safetensors header".into(), error })?;
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok((text, at))
}

fn tensor(out: &Export, i: &Item, to: &mut dyn Write) -> Result<u64> {
    let kind = known(i)?;
    let bytes = out.bytes(i)?;
    if dtype(kind).0 == kind {
        to.write_all(&bytes)?;
        return Ok(bytes.len() as u64);
    }
    let blocks = BAND / kind.block();
    let mut values = vec![0f32; blocks * kind.block()];
    let mut n = 0;
    for band in bytes.chunks(blocks * kind.bytes()) {
        let values = &mut values[..band.len() / kind.bytes() * kind.block()];
        (kind.row().decode)(band, values);
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        to.write_all(&raw)?;
        n += raw.len() as u64;
    }
    Ok(n)
}

/// `tokenizer.json` where there is one, else [`VOCAB`]; and the chat template.
fn write_tokenizer(src: &Weights, meta: &Meta, dir: &Path) -> Result<()> {
    if let Some(t) = src.tokenizer_json() {
        put(&dir.join("tokenizer.json"), t)?;
    } else if meta.get("tokenizer.ggml.tokens").is_some() {
        gguf::write(&dir.join(VOCAB), &folder::vocabulary(meta), &[], &mut |_, _| Ok(()))?;
    }
    let mut c = Map::new();
    if let Some(t) = meta.str_opt("tokenizer.chat_template")? {
        c.insert("chat_template".into(), Json::from(t));
    }
    if let Some(b) = meta.bool_opt("tokenizer.ggml.add_bos_token")? {
        c.insert("add_bos_token".into(), Json::from(b));
    }
    if c.is_empty() {
        return Ok(());
    }
    let text = serde_json::to_vec_pretty(&Json::Object(c))
        .map_err(|error| Error::Json { what: "tokenizer_config.json".into(), error })?;
    put(&dir.join("tokenizer_config.json"), &text)
}
