//! The forward pass: one ragged batch in, choices and logits out. Knows nothing of time, requests or drafts.
//!
//! | module | what it holds |
//! |---|---|
//! | [`forward`] | the function that is the model |
//! | [`batch`] | rows in, results out |
//! | [`family`] | architectures as data rows |
//! | [`mixer`], [`ffn`] | the two halves of a layer |
//! | [`rope`] | rotary frequencies and their scalings |
//! | [`load`] | named tensors → a model on a device |
//! | [`run`] | which layers run, what is tapped, what was done |
#![forbid(unsafe_code)]

pub mod batch;
pub mod error;
pub mod family;
pub mod ffn;
pub mod forward;
pub mod load;
pub mod mixer;
pub mod rope;
pub mod run;

pub use error::ModelError;
pub use load::{LoadOptions, Model};
pub use run::Run;
