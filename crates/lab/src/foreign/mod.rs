//! Engines that are not ours, as arms: the same token ids in, the same [`Sample`] out.
//!
//! An entry of the engines file says how one is reached: at an address, by a start command, or by a program that prints
//! the row itself. [`sample`] is one process: start → ready → warm-up → requests → stop, and nothing is left behind.

mod command;
mod config;
mod error;
mod http;
mod process;
mod receipt;
mod server;
mod sse;
mod stream;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tamp_base::record::Sample;

pub use config::{Engine, Env, How, KIND, Stop, Version, engines};
pub use error::ForeignError;

/// `kind` of the file that a `command` engine reads its [`Ask`] from.
pub const ASK: &str = "tamp.lab.ask";

/// What every engine of a bracket is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// the model's file
    pub model: PathBuf,
    /// the measured requests, in order
    pub prompts: Vec<Prompt>,
    /// new tokens per request, at most
    pub max_tokens: usize,
    /// 0 is greedy
    pub temperature: f64,
    /// of the sampler
    pub seed: u64,
    /// worker threads
    pub threads: usize,
    /// positions the engine makes room for
    pub ctx: usize,
    /// uncounted rounds over all prompts before the measured one
    pub warmup: usize,
}

/// One prompt in both forms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// its name in the spec
    pub name: String,
    /// its token ids
    pub ids: Vec<u32>,
    /// blake3 of the ids as little-endian u32, in hex
    pub hash: String,
    /// the same as text, for an engine that takes nothing else; empty when there is no such text
    pub text: String,
}

impl Prompt {
    /// A prompt with its hash.
    pub fn new(name: impl Into<String>, ids: Vec<u32>, text: impl Into<String>) -> Prompt {
        let mut h = blake3::Hasher::new();
        for id in &ids {
            h.update(&id.to_le_bytes());
        }
        Prompt { name: name.into(), hash: h.finalize().to_hex().to_string(), ids, text: text.into() }
    }
}

impl Ask {
    /// Refuses what no engine could be asked, or what this one cannot be told.
    fn check(&self, engine: &Engine) -> Result<(), ForeignError> {
        let refuse = |why: String| Err(ForeignError::Ask { engine: engine.key.clone(), why });
        let text = !engine.ids && !matches!(engine.how, How::Command { .. });
        if self.prompts.is_empty() || self.max_tokens == 0 || self.threads == 0 {
            return refuse("prompts, max_tokens and threads must be at least 1".into());
        }
        if !(0.0..=100.0).contains(&self.temperature) {
            return refuse(format!("temperature is {}; it takes 0 to 100", self.temperature));
        }
        for p in &self.prompts {
            let whole = p.ids.len().saturating_add(self.max_tokens);
            if p.ids.is_empty() {
                return refuse(format!("prompt `{}` has no tokens", p.name));
            }
            if whole > self.ctx {
                return refuse(format!(
                    "prompt `{}` and its answer take {whole} positions of {}",
                    p.name, self.ctx
                ));
            }
            if text && p.text.is_empty() {
                return refuse(format!("it takes only text, and prompt `{}` has none", p.name));
            }
        }
        Ok(())
    }

    /// The settings of a row.
    fn settings(&self) -> Vec<String> {
        vec![
            format!("max_tokens={}", self.max_tokens),
            format!("temperature={}", self.temperature),
            format!("seed={}", self.seed),
            format!("threads={}", self.threads),
            format!("ctx={}", self.ctx),
        ]
    }
}

/// One sample of one engine: a fresh process, unless it is reached by address. When this returns, whatever it answers,
/// the process and its children have ended.
///
/// Beside the record's own fields, `observed` tells
///
/// | name | meaning |
/// |---|---|
/// | `same_ids` | it was given exactly our token ids, and counted as many |
/// | `chunked` | times between tokens are not each token's own |
/// | `token_times` | `each`; `spread` over the tokens of a chunk; `mean` of the whole; `chunks`: nobody says what a chunk holds |
/// | `read_together` | tokens that reached us at once with the one before |
/// | `engine_program`, `engine_program_blake3`, `engine_code_blake3` | the program that ran, its hash, and that of all further code it had mapped |
///
/// `decision_grade` is left to the caller, who knows which lock it holds.
pub fn sample(engine: &Engine, ask: &Ask) -> Result<Sample, ForeignError> {
    ask.check(engine)?;
    match &engine.how {
        How::Url { base } => server::at(engine, ask, base),
        How::Start { argv, ready, within, stop } => server::fresh(engine, ask, argv, ready, *within, *stop),
        How::Command { argv, within } => command::run(engine, ask, argv, *within),
    }
}

/// A command's words with the values of this sample.
fn fill(argv: &[String], values: &[(&str, String)]) -> Vec<String> {
    argv.iter().map(|a| values.iter().fold(a.clone(), |a, (name, v)| a.replace(name, v))).collect()
}
