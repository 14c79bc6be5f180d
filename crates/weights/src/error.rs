//! What can go wrong between a path and named tensors.

use std::path::PathBuf;

/// Why a model could not be read or written. Every message carries what was found and, where there is something
/// to do, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// the file or folder
        path: PathBuf,
        /// why
        source: std::io::Error,
    },
    /// An error inside a named file.
    #[error("{}: {error}", path.display())]
    In {
        /// the file
        path: PathBuf,
        /// what is wrong in it
        #[source]
        error: Box<Error>,
    },
    /// Writing failed.
    #[error("cannot write: {0}")]
    Write(#[from] std::io::Error),
    /// Nothing tamp knows how to read.
    #[error(
        "this is no model tamp can read ({found}); give a GGUF file, a tamp bundle, a folder with config.json and \
         *.safetensors, a llama2.c .bin with tokenizer.bin beside it, or a folder with onnx/model_quantized.onnx and config.json"
    )]
    NotAModel {
        /// what was found instead
        found: String,
    },
    /// The file ends inside something.
    #[error(
        "{what} needs {need} bytes at byte {at}, and only {left} are left: \
         the file is cut short or damaged, fetch it again"
    )]
    Truncated {
        /// what was being read
        what: String,
        /// bytes needed
        need: u64,
        /// where they would start
        at: u64,
        /// bytes left there
        left: u64,
    },
    /// A GGUF version other than 2 and 3.
    #[error("GGUF version {0} is not supported (2 and 3 are); convert the model again with a current tool")]
    Version(u32),
    /// A GGUF file for big-endian machines.
    #[error("this is a big-endian GGUF file; tamp reads little-endian files, fetch or convert that variant")]
    BigEndian,
    /// A value that the format does not allow.
    #[error("{what} is {got}, expected {want}")]
    Bad {
        /// what was read
        what: String,
        /// its value
        got: String,
        /// what is allowed
        want: String,
    },
    /// The same name or key twice.
    #[error("the {what} `{name}` is there twice")]
    Twice {
        /// tensor, metadata key, …
        what: &'static str,
        /// the name
        name: String,
    },
    /// Two tensors claim the same bytes.
    #[error("the tensors `{a}` and `{b}` overlap in the file")]
    Overlap {
        /// one
        a: String,
        /// the other
        b: String,
    },
    /// A tensor whose type tamp does not know.
    #[error("the tensor `{name}` is stored as {kind}, which tamp does not read")]
    UnknownKind {
        /// the tensor
        name: String,
        /// the type's name or number
        kind: String,
    },
    /// Something is missing that the model needs.
    #[error("{what} is missing; {hint}")]
    Missing {
        /// the file, key or tensor
        what: String,
        /// what to do
        hint: String,
    },
    /// The description of the model would take more memory than any real one does.
    #[error("{what} would take more than the {} MB tamp grants a model's description", limit >> 20)]
    TooMuch {
        /// what was being read when it became too much
        what: String,
        /// the limit in bytes
        limit: usize,
    },
    /// Metadata that is missing or of the wrong type.
    #[error(transparent)]
    Meta(#[from] tamp_base::meta::MetaError),
    /// A part of a bundle that is not what was written.
    #[error(
        "the section `{section}` of the bundle does not match its hash: the file is damaged or was changed, \
         fetch it or convert the model again"
    )]
    Section {
        /// the section, `header`, `manifest` or `padding`
        section: String,
    },
    /// A mapped file that changed.
    #[error(
        "{} was changed while it was in use; start again. `--use weights.residency=read` holds a copy that nothing \
         can change",
        path.display()
    )]
    Changed {
        /// the file
        path: PathBuf,
    },
    /// A tensor in a layout that nobody here can read.
    #[error("the tensor `{name}` is packed as `{layout}`: {hint}")]
    Layout {
        /// the tensor
        name: String,
        /// the layout's name
        layout: String,
        /// why, and what to do
        hint: String,
    },
    /// JSON that does not parse.
    #[error("{what} is not the JSON expected: {error}")]
    Json {
        /// which part
        what: String,
        /// the parser's words
        error: serde_json::Error,
    },
    /// A feature of a model that tamp does not have.
    #[error("{what}: {hint}")]
    Unsupported {
        /// what was asked
        what: String,
        /// why, or what to do
        hint: String,
    },
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn bad(what: impl Into<String>, got: impl ToString, want: impl Into<String>) -> Self {
        Error::Bad { what: what.into(), got: got.to_string(), want: want.into() }
    }

    pub(crate) fn missing(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Missing { what: what.into(), hint: hint.into() }
    }

    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
        move |source| Error::Io { path: path.into(), source }
    }

    /// Says in which file; an error that already says so stays as it is.
    pub(crate) fn within(self, path: &std::path::Path) -> Self {
        match self {
            Error::Io { .. } | Error::In { .. } | Error::Changed { .. } => self,
            error => Error::In { path: path.into(), error: Box::new(error) },
        }
    }
}
