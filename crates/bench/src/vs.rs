//! tamp and another engine in one run: in turn on the same file and token ids, with the ceiling probed between pairs.

pub mod peer;

use std::time::Duration;

use serde::Serialize;
use tamp_base::ids::Token;
use tamp_kernels::device::Device;
use tamp_kernels::probe;

use crate::batch;
use crate::single::ask;
use crate::stats::median;
use crate::{BenchError, Facts, Subject, prompt};
use peer::Peer;

/// Time for the ceiling between two pairs.
const PROBE: Duration = Duration::from_millis(300);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// one stream's tokens after the first
    Decode,
    /// a prompt's tokens until the first token
    Prefill,
    /// the tokens of several streams in the same steps
    Batch,
    /// decoding behind a long prompt; the peer runs with flash attention off and on, and its better rate counts
    Context,
}

impl Work {
    /// Its word in rows and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Work::Decode => "decode",
            Work::Prefill => "prefill",
            Work::Batch => "batch",
            Work::Context => "context",
        }
    }
}

/// A workload with its sizes.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// what
    pub work: Work,
    /// prompt tokens per stream
    pub prompt: usize,
    /// new tokens per stream, the first included; 1 for a prefill
    pub tokens: usize,
    /// streams; 1 but for a batch
    pub streams: usize,
}

/// One engine beside another.
#[derive(Clone, Debug, Serialize)]
pub struct VsRow {
    /// always `tamp.bench.vs`
    pub kind: &'static str,
    /// version of this record
    pub v: u32,
    /// the other engine
    pub engine: String,
    /// its version or commit
    pub engine_version: String,
    /// the setting of its best sample
    pub engine_setting: String,
    /// it took the same token ids; an engine that takes only text or makes its own prompts says no
    pub same_ids: bool,
    /// the model file's stem
    pub model: String,
    /// decode, prefill, batch or context
    pub work: &'static str,
    /// prompt tokens per stream
    pub prompt_tokens: usize,
    /// new tokens per stream
    pub tokens: usize,
    /// streams
    pub batch: usize,
    /// pairs that were counted
    pub pairs: usize,
    /// who went first in each pair: `o` ours, `t` theirs
    pub order: String,
    /// our median rate, tokens/s of all streams
    pub ours_tok_s: f64,
    /// theirs
    pub theirs_tok_s: f64,
    /// median over pairs of ours ÷ theirs
    pub ratio: f64,
    /// the smallest of these ratios
    pub ratio_min: f64,
    /// the largest
    pub ratio_max: f64,
    /// weight bytes we read per token, for context also the prompt's keys and values; none for a prefill, which
    /// arithmetic bounds
    pub bytes_per_token: Option<f64>,
    /// median over pairs of the read ceiling probed around each, GB/s
    pub ceiling_gb_s: f64,
    /// median over pairs of our share of it
    pub ceiling_fraction: Option<f64>,
    /// a word when a share cannot be right
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<&'static str>,
    /// our rates, pair by pair
    pub ours: Vec<f64>,
    /// theirs
    pub theirs: Vec<f64>,
    /// the ceiling around each pair, GB/s
    pub ceilings: Vec<f64>,
    /// where ours was measured
    #[serde(flatten)]
    pub facts: Facts,
}

/// Whether theirs goes first in pair `i`: the Thue–Morse sequence (ABBA BAAB …), in which neither side gains from a
/// machine that drifts, at first or second order.
pub fn theirs_first(i: usize) -> bool {
    i.count_ones() % 2 == 1
}

/// What the two sides are told: the same ids, cut from one text.
#[derive(Clone, Debug)]
pub struct Ask {
    /// the workload
    pub load: Load,
    /// token ids of each stream
    pub ids: Vec<Vec<Token>>,
    /// the first stream's ids as text, for an engine that takes nothing else
    pub text: String,
}

impl Ask {
    /// Cuts the prompts out of a text.
    pub fn new<D: Device>(s: &Subject<'_, D>, text: &str, load: Load) -> Result<Ask, BenchError> {
        let tokenizer = s.engine.tokenizer();
        let cut = |i| prompt::tokens(tokenizer, text, i * load.prompt, load.prompt);
        let ids = (0..load.streams).map(cut).collect::<Result<Vec<_>, _>>()?;
        let first = ids.first().map_or(&[][..], Vec::as_slice);
        let text = String::from_utf8_lossy(&tokenizer.decode(first, false)).into_owned();
        Ok(Ask { load, ids, text })
    }
}

/// Runs `pairs` counted pairs after one uncounted sample of each side; `progress` counts samples of pairs.
pub fn vs<D: Device>(
    s: &mut Subject<'_, D>,
    peer: &mut dyn Peer,
    ask: &Ask,
    model: String,
    pairs: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<VsRow, BenchError> {
    let weights = s.engine.model().weight_bytes();
    let pool = s.pool;
    let probed = || Ok::<_, BenchError>(probe::read_bandwidth(pool, weights as usize, PROBE)?.gb_s);
    ours(s, ask)?;
    peer.sample(ask)?;
    let (mut own, mut other, mut ceilings, mut order) = (Vec::new(), Vec::new(), Vec::new(), String::new());
    let (mut setting, mut same, mut best) = (String::new(), true, 0.0);
    let mut before = probed()?;
    for i in 0..pairs {
        for theirs in [theirs_first(i), !theirs_first(i)] {
            if theirs {
                let sample = peer.sample(ask)?;
                same &= sample.same_ids;
                if sample.tok_s > best {
                    (best, setting) = (sample.tok_s, sample.setting);
                }
                other.push(sample.tok_s);
            } else {
                own.push(ours(s, ask)?);
            }
        }
        order.push(if theirs_first(i) { 't' } else { 'o' });
        let after = probed()?;
        ceilings.push(before.max(after));
        before = after;
        progress(i + 1);
    }
    let ratios: Vec<f64> = own.iter().zip(&other).map(|(o, t)| o / t).collect();
    let bytes = match ask.load.work {
        Work::Prefill => None,
        Work::Context => Some(weights as f64 + position_bytes(s) * ask.load.prompt as f64),
        Work::Decode | Work::Batch => Some(weights as f64 / ask.load.streams as f64),
    };
    let shares: Vec<f64> =
        own.iter().zip(&ceilings).map(|(o, c)| o * bytes.unwrap_or(0.0) / 1e9 / c).collect();
    Ok(VsRow {
        kind: "tamp.bench.vs",
        v: 1,
        engine: peer.name(),
        engine_version: peer.version(),
        engine_setting: setting,
        same_ids: same,
        model,
        work: ask.load.work.name(),
        prompt_tokens: ask.load.prompt,
        tokens: ask.load.tokens,
        batch: ask.load.streams,
        pairs,
        order,
        ours_tok_s: median(&own),
        theirs_tok_s: median(&other),
        ratio: median(&ratios),
        ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
        ratio_max: ratios.iter().copied().fold(0.0, f64::max),
        bytes_per_token: bytes,
        ceiling_gb_s: median(&ceilings),
        ceiling_fraction: bytes.map(|_| median(&shares)),
        flag: shares.iter().any(|&f| f > 1.0).then_some("void: above the ceiling"),
        ours: own,
        theirs: other,
        ceilings,
        facts: s.facts(),
    })
}

/// Bytes of one position's keys and values in all layers.
fn position_bytes<D: Device>(s: &Subject<'_, D>) -> f64 {
    let kv = &s.engine.plan().kv;
    kv.bytes as f64 / (kv.pages * kv.page).max(1) as f64
}

/// Our rate, tokens/s of all streams.
fn ours<D: Device>(s: &mut Subject<'_, D>, a: &Ask) -> Result<f64, BenchError> {
    let seconds = |ns: u64| ns as f64 / 1e9;
    match a.load.work {
        Work::Batch => Ok(batch::streams(s, &a.ids, a.load.tokens)?.total_tok_s),
        Work::Prefill => {
            let (_, t) = ask(s, a.ids[0].clone(), 1)?;
            Ok(a.load.prompt as f64 / seconds(t.prefill_ns))
        }
        Work::Decode | Work::Context => {
            let (_, t) = ask(s, a.ids[0].clone(), a.load.tokens)?;
            Ok(t.token_ns.len() as f64 / seconds(t.token_ns.iter().sum()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_pairs_gives_neither_side_the_gain_of_a_drifting_machine() {
        // Slots 0…31 of 16 pairs: a drift of first or second order costs both sides the same.
        let (mut linear, mut square) = (0i64, 0i64);
        for i in 0..16 {
            for (k, theirs) in [theirs_first(i), !theirs_first(i)].into_iter().enumerate() {
                let (slot, sign) = ((2 * i + k) as i64, if theirs { -1 } else { 1 });
                linear += sign * slot;
                square += sign * slot * slot;
            }
        }
        assert_eq!((linear, square), (0, 0));
        assert!((0..4).map(theirs_first).eq([false, true, true, false]));
    }
}
