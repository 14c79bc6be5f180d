//! Tokens to text and back, chat templates, streaming detokenisation.
//!
//! | item | what it does |
//! |---|---|
//! | [`Tokenizer`] | text to tokens and back, from GGUF metadata, from `tokenizer.json` or compiled before |
//! | [`Bytes`] | what a compiled tokenizer is opened from: shared memory or a mapped file, never copied |
//! | [`Detokenizer`] | tokens to text while they are produced, whole characters only |
//! | [`grammar`] | which tokens keep an answer inside a JSON schema, a regular expression or a grammar |
//! | [`tools`] | tool calls out of what a model writes, while it writes |
//! | [`think`] | reasoning and answer apart, while they are written |
//! | [`Template`] | a conversation to the text that a model was trained to continue |
#![forbid(unsafe_code)]

mod added;
mod byte_level;
mod bytes;
mod compiled;
mod detokenizer;
mod error;
mod finder;
mod from_json;
mod from_meta;
pub mod grammar;
mod jinja;
mod kinds;
mod merge;
mod message;
mod norm;
mod pre;
mod sentence;
mod slots;
mod template;
pub mod think;
mod tokenizer;
pub mod tools;
mod unicode;
mod vocab;
mod word_piece;

pub use bytes::Bytes;
pub use detokenizer::Detokenizer;
pub use error::Error;
pub use from_meta::template_of;
pub use message::{Content, Message};
pub use template::Template;
pub use tokenizer::{Special, Tokenizer};
