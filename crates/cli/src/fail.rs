//! How a command fails: a sentence, what to do about it, and the exit code.

use std::fmt;

use tamp_base::card::CardError;
use tamp_bench::BenchError;
use tamp_engine::EngineError;

/// Exit codes, as `tamp --help` and the README list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Something unexpected.
    Other = 1,
    /// A flag, name, knob or value that does not exist.
    Usage = 2,
    /// A model or another file that is missing or cannot be read.
    File = 3,
    /// The network, a registry client or the hub.
    Network = 4,
    /// The plan refuses: the model, machine and settings do not go together.
    Refused = 5,
    /// Stopped by Ctrl-C.
    Interrupted = 130,
}

/// The table for `--help`.
pub const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 other, 2 usage, 3 model or file, 4 network, 5 refused by the plan, 130 interrupted";

/// A failed command.
#[derive(Debug)]
pub struct Fail {
    /// exit code
    pub code: Code,
    /// one sentence
    pub what: String,
    /// what to do next, empty when there is nothing to do
    pub hint: String,
}

/// The result of a command.
pub type Done<T = ()> = Result<T, Fail>;

impl Fail {
    /// A failure with a sentence.
    pub fn new(code: Code, what: impl fmt::Display) -> Self {
        Self { code, what: what.to_string(), hint: String::new() }
    }

    /// Wrong words on the command line or in a configuration file.
    pub fn usage(what: impl fmt::Display) -> Self {
        Self::new(Code::Usage, what)
    }

    /// A file that is missing or unreadable.
    pub fn file(what: impl fmt::Display) -> Self {
        Self::new(Code::File, what)
    }

    /// The network or a program that speaks to it.
    pub fn network(what: impl fmt::Display) -> Self {
        Self::new(Code::Network, what)
    }

    /// Adds what to do next.
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = hint.to_string();
        self
    }

    /// The process was interrupted on purpose; there is nothing to explain.
    pub fn interrupted() -> Self {
        Self::new(Code::Interrupted, "interrupted")
    }

    /// Prints to stderr and gives the exit code.
    pub fn report(&self) -> u8 {
        use std::io::Write;
        let mut err = std::io::stderr().lock();
        let _ = writeln!(err, "tamp: {}", self.what);
        if !self.hint.is_empty() {
            let _ = writeln!(err, "      {}", self.hint);
        }
        self.code as u8
    }
}

impl From<CardError> for Fail {
    fn from(e: CardError) -> Self {
        match e {
            CardError::Refused { .. } => Fail::new(Code::Refused, e),
            _ => Fail::usage(e).hint("`tamp techniques` lists every room, name and knob"),
        }
    }
}

impl From<tamp_weights::Error> for Fail {
    fn from(e: tamp_weights::Error) -> Self {
        Fail::file(e)
    }
}

impl From<tamp_text::Error> for Fail {
    fn from(e: tamp_text::Error) -> Self {
        Fail::file(e)
    }
}

impl From<EngineError> for Fail {
    fn from(e: EngineError) -> Self {
        use EngineError as E;
        match e {
            E::Card(e) => e.into(),
            E::Params(_) | E::EmptyPrompt => Fail::usage(e),
            E::Text(e) => e.into(),
            E::Model(tamp_model::ModelError::Weights(e)) | E::Weights(e) => e.into(),
            E::Model(ref m) => model(m).unwrap_or_else(|| Fail::new(Code::Refused, e)),
            E::Stalled | E::Gone => Fail::new(Code::Other, e),
            _ => Fail::new(Code::Refused, e),
        }
    }
}

/// A model file that is broken, as against one that the plan refuses.
fn model(e: &tamp_model::ModelError) -> Option<Fail> {
    use tamp_model::ModelError as M;
    matches!(e, M::Missing(_) | M::Shape { .. } | M::Config(_) | M::Meta(_)).then(|| Fail::file(e))
}

/// Errors of the lab that are a matter of what was asked or of files.
macro_rules! lab_errors {
    ($($error:ty => $code:ident),* $(,)?) => {
        $(impl From<$error> for Fail {
            fn from(e: $error) -> Self {
                Fail::new(Code::$code, e)
            }
        })*
    };
}

lab_errors! {
    tamp_lab::spec::SpecError => Usage,
    tamp_lab::ledger::LedgerError => File,
    tamp_lab::record::StoreError => File,
    tamp_lab::replay::ReplayError => File,
    tamp_lab::foreign::ForeignError => Usage,
    tamp_lab::run::LabError => Other,
}

impl From<tamp_lab::lock::LockError> for Fail {
    fn from(e: tamp_lab::lock::LockError) -> Self {
        Fail::file(e)
    }
}

impl From<BenchError> for Fail {
    fn from(e: BenchError) -> Self {
        match e {
            BenchError::Engine(e) => e.into(),
            BenchError::Text { .. } | BenchError::Prompt { .. } | BenchError::Ask(_) => Fail::usage(e),
            BenchError::NoPeer(_) => Fail::file(e),
            _ => Fail::new(Code::Other, e),
        }
    }
}

/// Only for output to stdout and stderr; file errors name their file.
impl From<std::io::Error> for Fail {
    fn from(e: std::io::Error) -> Self {
        Fail::new(Code::Other, format!("cannot write the output: {e}"))
    }
}

pub use tamp_base::near::nearest;

/// Names the file of an I/O error.
pub trait At<T> {
    /// `what` is a verb phrase: "read", "write".
    fn at(self, verb: &str, path: &std::path::Path) -> Done<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, verb: &str, path: &std::path::Path) -> Done<T> {
        self.map_err(|e| Fail::file(format!("cannot {verb} {}: {e}", path.display())))
    }
}
