//! The forward pass: one ragged batch in, choices and logits out. Knows nothing of time, requests or drafts.
//!
//! | module | what it holds |
//! |---|---|
//! | [`forward`] | the function that is the model |
//! | [`batch`] | rows in, results out |
//! | [`family`] | architectures as data rows |
//! | [`mixer`], [`ffn`] | the two halves of a layer |
//! | [`rope`] | rotary frequencies and their scalings |
//! | [`load`], [`matrices`] | named tensors → a model on a device |
//! | [`pack`] | named tensors → a bundle, as a device holds them |
//! | [`run`] | which layers run, what is tapped, what was done |
#![forbid(unsafe_code)]

pub mod batch;
pub mod error;
pub mod family;
pub mod ffn;
pub mod forward;
pub mod load;
pub mod matrices;
pub mod mixer;
pub mod pack;
pub mod rope;
pub mod run;

pub use error::ModelError;
pub use load::{LoadOptions, Model};
pub use matrices::Made;
pub use run::Run;
pub use tamp_kernels::numerics::NUMERICS;
