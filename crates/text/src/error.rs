//! What can go wrong, in one sentence each.

use tamp_base::meta::MetaError;

/// A tokenizer or chat template that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A metadata key is missing or of the wrong type.
    #[error("the tokenizer cannot be built: {0}")]
    Meta(String),
    /// A kind of tokenizer that this build does not know.
    #[error("the tokenizer's {what} `{name}` is not supported; known: {known}")]
    Unsupported {
        /// which part
        what: &'static str,
        /// what the file says
        name: String,
        /// what would work
        known: String,
    },
    /// The file contradicts itself or breaks a bound.
    #[error("the tokenizer is broken: {0}")]
    Broken(String),
    /// The compiled form contradicts itself.
    #[error("the compiled tokenizer is broken: {0}; make it again from the model's own file")]
    Compiled(String),
    /// The file is not JSON of the expected shape.
    #[error("tokenizer.json cannot be read: {0}")]
    Json(String),
    /// The chat template does not parse.
    #[error("the chat template does not parse: {0}; pass another template, or send the prompt raw")]
    Template(String),
    /// The chat template parses but fails on this conversation.
    #[error("the chat template refuses this conversation: {0}")]
    Render(String),
    /// A request for a constrained answer that cannot be met.
    #[error("`{field}` cannot be used: {why}")]
    Grammar {
        /// the field, as requests call it
        field: String,
        /// what is wrong with it
        why: String,
    },
    /// A token that the grammar does not allow where it came.
    #[error("the grammar does not allow the token {token} (`{text}`) here")]
    OffGrammar {
        /// the token
        token: u32,
        /// how the model's file spells it
        text: String,
    },
    /// The grammar's parser gave up on this answer.
    #[error("the grammar cannot go on with this answer: {0}")]
    Parser(String),
}

impl From<MetaError> for Error {
    fn from(e: MetaError) -> Self {
        Self::Meta(e.to_string())
    }
}

/// The first `max` characters of file content, for messages.
pub(crate) fn brief(s: &str, max: usize) -> String {
    match s.char_indices().nth(max) {
        Some((i, _)) => format!("{}…", &s[..i]),
        None => s.to_string(),
    }
}
