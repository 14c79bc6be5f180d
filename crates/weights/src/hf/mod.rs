//! Hugging Face checkpoints: `config.json`, tensor names, safetensors files; in and out.

pub(crate) mod config;
pub(crate) mod folder;
pub(crate) mod header;
pub(crate) mod names;
mod tokenizer;
mod write;

pub use write::write_safetensors;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Typed JSON; what the type does not name is skipped without being kept.
pub(crate) fn json<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::Json { what: what.into(), error })
}
