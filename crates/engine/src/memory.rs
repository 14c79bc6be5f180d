//! How much memory an engine takes, before it does.

use serde::Serialize;

/// Anonymous memory, bytes. Mapped files are apart: the system takes their pages back when it must. Buffers and KV
/// pages are asked for at load and taken from the system when they are first written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Forecast {
    /// what the process used beside the weights: program, tokenizer, template; observed
    pub process: u64,
    /// weights as the device holds them, but for those used where the file lies
    pub weights: u64,
    /// weights used where the file lies; not part of the sums
    pub mapped: u64,
    /// activations and scratch of a full batch
    pub buffers: u64,
    /// logits of every sequence of a batch on their way through the chain, and its list of candidates
    pub sampling: u64,
    /// KV pages, all of them used
    pub kv: u64,
    /// process and weights
    pub after_load: u64,
    /// everything: full context, full batch
    pub at_full: u64,
}

/// A logit as it comes home.
const LOGIT: u64 = 4;
/// A candidate of the filters: tempered logit, id, padding.
const CANDIDATE: u64 = 16;

impl Forecast {
    /// The logits of `batch` sequences, and one list of candidates at a time.
    pub(crate) fn sampling(batch: usize, vocab: usize) -> u64 {
        let vocab = vocab as u64;
        (batch as u64).saturating_mul(vocab * LOGIT).saturating_add(vocab * CANDIDATE)
    }

    /// Adds the parts up.
    pub(crate) fn sum(mut self) -> Forecast {
        self.after_load = self.process.saturating_add(self.weights);
        let grows = [self.buffers, self.sampling, self.kv];
        self.at_full = grows.iter().fold(self.after_load, |a, &b| a.saturating_add(b));
        self
    }
}
