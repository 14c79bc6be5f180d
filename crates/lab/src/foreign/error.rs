//! What can go wrong with an engine that is not ours.

use thiserror::Error;

/// Why there is no sample of a foreign engine. Every sentence names the engine by its key in the engines file.
#[derive(Debug, Error)]
pub enum ForeignError {
    /// The engines file cannot be used.
    #[error("{place}: {why}")]
    Config {
        /// the file, and the entry or line where known
        place: String,
        /// what is wrong and which words are known
        why: String,
    },
    /// A name that the engines file does not hold.
    #[error("no engine `{name}`; the file has {known}")]
    Unknown {
        /// as asked for
        name: String,
        /// the names there are
        known: String,
    },
    /// A request that no engine can be asked.
    #[error("cannot ask {engine}: {why}")]
    Ask {
        /// key of the engine
        engine: String,
        /// what is missing or out of range
        why: String,
    },
    /// Its program could not be started, or is not installed.
    #[error("{engine} did not start: {why}")]
    Start {
        /// key of the engine
        engine: String,
        /// the system's or the program's own words
        why: String,
    },
    /// Its program ended by itself.
    #[error("{engine} ended by itself ({status}); it last said: {said}")]
    Ended {
        /// key of the engine
        engine: String,
        /// exit status
        status: String,
        /// end of its log
        said: String,
    },
    /// Something did not happen in time.
    #[error("{engine}: {what} took longer than {seconds} s; {hint}")]
    Late {
        /// key of the engine
        engine: String,
        /// what was waited for
        what: String,
        /// the limit
        seconds: f64,
        /// which key raises the limit, or what it last said
        hint: String,
    },
    /// The connection failed.
    #[error("{engine}: {url}: {why}")]
    Http {
        /// key of the engine
        engine: String,
        /// address that was asked
        url: String,
        /// the system's words
        why: String,
    },
    /// It answered with another status than 200.
    #[error("{engine}: {url} answered {status}: {said}")]
    Status {
        /// key of the engine
        engine: String,
        /// address that was asked
        url: String,
        /// HTTP status
        status: u16,
        /// start of the body
        said: String,
    },
    /// Its stream or row is not what it should be.
    #[error("{engine}: the answer to `{prompt}` cannot be counted: {why}")]
    Answer {
        /// key of the engine
        engine: String,
        /// name of the prompt
        prompt: String,
        /// what is wrong
        why: String,
    },
    /// What its program printed is not a sample of what was asked.
    #[error("{engine}: its row cannot be counted: {why}")]
    Row {
        /// key of the engine
        engine: String,
        /// what is wrong
        why: String,
    },
    /// It could not be stopped.
    #[error("{engine}: process group {group} still runs after it was killed; end it before the next sample")]
    LeftBehind {
        /// key of the engine
        engine: String,
        /// id of the group
        group: u32,
    },
    /// A temporary file or pipe of ours failed.
    #[error("{engine}: {what}: {why}")]
    Io {
        /// key of the engine
        engine: String,
        /// what was tried
        what: String,
        /// the system's words
        why: std::io::Error,
    },
}
