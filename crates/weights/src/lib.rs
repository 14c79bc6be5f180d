//! Files → named tensors: GGUF (split too), Hugging Face safetensors folders, llama2.c checkpoints, quantised ONNX
//! exports and tamp bundles, all under GGUF's names and metadata keys; and back out to GGUF, safetensors and bundles.
//!
//! The readers trust nothing: a damaged or hostile file gives an [`Error`], within 64 MB beyond its own size.
#![forbid(unsafe_code)]

mod atomic;
pub mod bundle;
mod bytes;
mod convert;
mod cursor;
mod entry;
mod error;
mod export;
pub mod gguf;
mod hf;
mod kinds;
mod llama2c;
mod onnx;
mod quantize;
mod sniff;
mod store;
pub mod testing;
mod view;

pub use convert::{Progress, convert};
pub use error::{Error, Result};
pub use hf::write_safetensors;
pub use quantize::{Report, quantize};
pub use store::{Source, Tensor, TensorInfo, Unpack, Weights};
pub use tamp_os::held::Residency;
