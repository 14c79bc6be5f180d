//! Which kind of model a path is.

use std::path::Path;

use tamp_os::held::{Held, Residency};

use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::hf::folder;
use crate::store::{Weights, gguf_file};
use crate::{bundle, gguf, llama2c, onnx};

/// Where an ONNX export keeps its graph, best first.
const ONNX: [&str; 4] =
    ["onnx/model_quantized.onnx", "onnx/model_int8.onnx", "model_quantized.onnx", "onnx/model.onnx"];

pub(crate) fn open(path: &Path, residency: Residency) -> Result<Weights> {
    let about = std::fs::metadata(path).map_err(Error::io(path))?;
    if about.is_dir() { dir(path) } else { file(path, residency) }
}

fn dir(path: &Path) -> Result<Weights> {
    let has = |name: &str| path.join(name).is_file();
    if has("model.safetensors") || has("model.safetensors.index.json") {
        return folder::open(path).map_err(|e| e.within(path));
    }
    if let Some(name) = ONNX.iter().find(|n| has(n)) {
        return file(&path.join(name), Residency::Map);
    }
    Err(Error::NotAModel {
        found: format!(
            "{} is a folder without model.safetensors, model.safetensors.index.json or {}",
            path.display(),
            ONNX[0]
        ),
    })
}

fn file(path: &Path, residency: Residency) -> Result<Weights> {
    let bytes = Bytes::open(path)?;
    let head = bytes.get();
    let ext = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    if head.starts_with(bundle::MAGIC) || ext == "tamp" {
        drop(bytes);
        let held = Held::open(path, residency).map_err(Error::io(path))?;
        return bundle::open(Some(path), held).map_err(|e| e.within(path));
    }
    // The magic before the name: a file is what it holds.
    if head.starts_with(gguf::MAGIC) || ext == "gguf" {
        return gguf_file(path, bytes);
    }
    match ext.as_str() {
        "safetensors" => folder::open_file(path, bytes).map_err(|e| e.within(path)),
        "onnx" => onnx::open(path, bytes).map_err(|e| e.within(path)),
        _ if llama2c::weights_end(head).is_ok() => llama2c::open(path, bytes).map_err(|e| e.within(path)),
        "bin" => Err(llama2c::weights_end(head)
            .err()
            .map_or_else(|| Error::NotAModel { found: path.display().to_string() }, |e| e.within(path))),
        _ => {
            let head = &head[..head.len().min(4)];
            Err(Error::NotAModel { found: format!("{} begins with {head:02x?}", path.display()) })
        }
    }
}
