//! Which kind of model a path is.

use std::path::Path;

use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::gguf;
use crate::store::{Weights, gguf_file};

pub(crate) fn open(path: &Path) -> Result<Weights> {
    let about = std::fs::metadata(path).map_err(Error::io(path))?;
    if about.is_dir() {
        return Err(Error::NotAModel { found: format!("{} is a folder", path.display()) });
    }
    let bytes = Bytes::open(path)?;
    if bytes.get().starts_with(gguf::MAGIC) {
        return gguf_file(path, bytes);
    }
    let head = &bytes.get()[..bytes.get().len().min(4)];
    Err(Error::NotAModel { found: format!("{} begins with {head:02x?}", path.display()) })
}
