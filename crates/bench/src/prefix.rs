//! What a shared beginning saves: a prompt that shares part of its tokens with the one before it.

use serde::Serialize;
use tamp_base::ids::Token;
use tamp_kernels::device::Device;
use tamp_text::Tokenizer;

use crate::ceiling::Bracket;
use crate::prompt::tokens;
use crate::single::ask;
use crate::stats::{median, ms};
use crate::{BenchError, Facts, Subject};

/// Tokens between the beginnings of two prompts that are not to share any.
const STRIDE: usize = 37;

/// The reuse curve.
#[derive(Clone, Debug, Serialize)]
pub struct PrefixRow {
    /// always `tamp.bench.prefix`
    pub kind: &'static str,
    /// version of this record
    pub v: u32,
    /// tokens of every prompt
    pub prompt_tokens: usize,
    /// the shares, as asked
    pub points: Vec<PrefixPoint>,
    /// the read ceiling of this run
    pub ceiling_gb_s: f64,
    /// where it was measured
    #[serde(flatten)]
    pub facts: Facts,
    /// the probe
    pub ceiling: Bracket,
}

/// One share.
#[derive(Clone, Debug, Serialize)]
pub struct PrefixPoint {
    /// percent of the prompt that the prompt before began with
    pub share: u32,
    /// the same in tokens
    pub shared_tokens: usize,
    /// prompt tokens that the engine did not compute, median over repeats
    pub cached_tokens: f64,
    /// receipt → first token, median over repeats
    pub ttft_ms: f64,
    /// the same ÷ that of the smallest share in the same repeat, median over repeats
    pub ratio: f64,
    /// receipt → first token of each repeat, ms
    pub samples: Vec<f64>,
}

/// For each share and repeat: a prompt nobody has asked before, then one of the same length that begins with `share`
/// percent of it and goes on differently; the second one counts.
pub fn prefix<D: Device>(
    s: &mut Subject<'_, D>,
    text: &str,
    len: usize,
    shares: &[u32],
    repeats: usize,
) -> Result<PrefixRow, BenchError> {
    let mut pairs = Vec::new();
    for repeat in 0..repeats {
        for (i, &share) in shares.iter().enumerate() {
            let shared = len * share.min(100) as usize / 100;
            pairs.push((
                i,
                shared,
                pair(s.engine.tokenizer(), text, len, shared, repeat * shares.len() + i)?,
            ));
        }
    }
    // Touches the memory that a prompt of this length uses; its text begins where no pair's does.
    ask(s, tokens(s.engine.tokenizer(), text, pairs.len() * STRIDE + STRIDE / 2, len)?, 1)?;

    let (pool, bytes) = (s.pool, s.engine.model().weight_bytes());
    let (ceiling, times) = Bracket::around(pool, bytes, || {
        let mut times = vec![(Vec::new(), Vec::new()); shares.len()];
        for (i, _, (before, counted)) in &pairs {
            ask(s, before.clone(), 1)?;
            let t = ask(s, counted.clone(), 1)?.1;
            times[*i].0.push(ms(t.first_token_ns));
            times[*i].1.push((len as u64).saturating_sub(t.prompt_rows) as f64);
        }
        Ok::<_, BenchError>(times)
    })?;
    let times = times?;
    let least = (0..shares.len()).min_by_key(|&i| shares[i]);
    let base = least.map(|i| times[i].0.clone()).unwrap_or_default();
    let points = shares.iter().zip(times).map(|(&share, (samples, cached))| PrefixPoint {
        share,
        shared_tokens: len * share.min(100) as usize / 100,
        cached_tokens: median(&cached),
        ttft_ms: median(&samples),
        ratio: median(&samples.iter().zip(&base).map(|(t, b)| t / b).collect::<Vec<_>>()),
        samples,
    });
    Ok(PrefixRow {
        kind: "tamp.bench.prefix",
        v: 1,
        prompt_tokens: len,
        points: points.collect(),
        ceiling_gb_s: ceiling.gb_s(),
        facts: s.facts(),
        ceiling,
    })
}

/// Two prompts of `len` tokens that have exactly the first `shared` in common (BOS included); the `n`-th pair begins
/// like no other.
fn pair(
    t: &Tokenizer,
    text: &str,
    len: usize,
    shared: usize,
    n: usize,
) -> Result<(Vec<Token>, Vec<Token>), BenchError> {
    let one = tokens(t, text, n * STRIDE, len)?;
    let bos = usize::from(t.adds_bos() && t.bos().is_some() && len > 0);
    let shared = shared.max(bos).min(len);
    // Another place of the text, moved on while it happens to go on alike.
    for away in 1..=STRIDE {
        let other = tokens(t, text, n * STRIDE + len / 2 + STRIDE * 3 + away, len)?;
        let tail = &other[bos..];
        if one.get(shared) != tail.first() || shared == len {
            let two = one[..shared].iter().chain(tail).copied().take(len).collect();
            return Ok((one, two));
        }
    }
    Err(BenchError::Ended("a text that goes on alike wherever it is cut".into()))
}

#[cfg(test)]
mod tests {
    use tamp_weights::Weights;
    use tamp_weights::testing::{Arch, tiny};

    use super::*;
    use crate::prompt::PROSE;

    #[test]
    fn a_pair_has_exactly_the_share_in_common_and_no_two_pairs_begin_alike() {
        for arch in [Arch::Llama, Arch::Qwen2] {
            let weights = Weights::from_gguf_bytes(tiny(arch, 3)).unwrap();
            let t = Tokenizer::from_meta(&weights.meta).unwrap();
            let bos = usize::from(t.adds_bos());
            let mut begun = std::collections::BTreeSet::new();
            for (n, shared) in [0, 25, 50, 75, 90, 95, 0, 50].into_iter().enumerate() {
                let (one, two) = pair(&t, PROSE, 100, shared, n).unwrap();
                assert_eq!((one.len(), two.len()), (100, 100));
                let common = one.iter().zip(&two).take_while(|(a, b)| a == b).count();
                assert_eq!(common, shared.max(bos));
                assert!(begun.insert(one[..16].to_vec()));
            }
        }
    }
}
