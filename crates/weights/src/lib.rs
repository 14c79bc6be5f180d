//! Files → named tensors: GGUF (split too), Hugging Face safetensors folders, llama2.c checkpoints and quantised
//! ONNX exports, all under GGUF's names and metadata keys; and back out to GGUF and safetensors.
//!
//! The readers trust nothing: a damaged or hostile file gives an [`Error`], within 64 MB beyond its own size.
#![forbid(unsafe_code)]

mod atomic;
mod bytes;
mod cursor;
mod entry;
mod error;
pub mod gguf;
mod kinds;
mod sniff;
mod store;
pub mod testing;
mod view;

pub use error::{Error, Result};
pub use store::{Source, Tensor, TensorInfo, Weights};
