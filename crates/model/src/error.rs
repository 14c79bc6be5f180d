//! What a model can refuse.

use tamp_base::meta::MetaError;
use tamp_kernels::device::DeviceError;

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// An architecture without a family row.
    #[error("the architecture `{arch}` is not supported; tamp runs {known}")]
    Architecture {
        /// what the file says
        arch: String,
        /// the supported ones
        known: String,
    },
    /// A tensor the family needs is not in the file.
    #[error("the model has no tensor `{0}`; the file is incomplete or of another architecture than it says")]
    Missing(String),
    /// A tensor of another shape than the metadata says.
    #[error("tensor `{name}` has shape {got:?}, the metadata asks for {want:?} (columns, rows)")]
    Shape {
        /// tensor name
        name: String,
        /// what is there
        got: Vec<usize>,
        /// what is needed
        want: Vec<usize>,
    },
    /// Metadata that cannot be meant.
    #[error("the model's metadata is not usable: {0}")]
    Config(String),
    /// A missing or mistyped key.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The file.
    #[error(transparent)]
    Weights(#[from] tamp_weights::Error),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A batch the buffers were not made for.
    #[error("a batch of {got} rows, the model was loaded for {most}")]
    Rows {
        /// rows in the batch
        got: usize,
        /// rows the buffers hold
        most: usize,
    },
    /// A token outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocab}")]
    Token {
        /// the id
        token: u32,
        /// number of ids
        vocab: usize,
    },
    /// A position beyond the context the model was loaded for.
    #[error("position {position} is beyond the context of {ctx}")]
    Position {
        /// the position
        position: u32,
        /// the limit
        ctx: usize,
    },
}
