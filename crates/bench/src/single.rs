//! One stream: decode and prefill.

use serde::Serialize;
use tamp_base::ids::Token;
use tamp_engine::request::Timings;
use tamp_engine::{Event, Request};
use tamp_kernels::device::Device;

use crate::ceiling::Bracket;
use crate::stats::{median, ms, quantile, since};
use crate::{BenchError, Facts, Subject, prompt};

/// Decoding one stream.
#[derive(Clone, Debug, Serialize)]
pub struct DecodeRow {
    /// always `tamp.bench.decode`
    pub kind: &'static str,
    /// version of this record
    pub v: u32,
    /// tokens after the first ÷ the time they took, over all samples of all requests
    pub decode_tok_s: f64,
    /// median time between tokens
    pub median_token_ms: f64,
    /// 95th percentile
    pub p95_token_ms: f64,
    /// receipt of the request → first token, median over requests
    pub ttft_ms: f64,
    /// first forward → first token, median over requests
    pub prefill_ms: f64,
    /// weight bytes really read ÷ tokens
    pub bytes_per_token: f64,
    /// bytes of keys and values that the median token attends to; not part of the fraction
    pub kv_bytes_per_token: f64,
    /// the read ceiling of this run over a working set of the weights
    pub ceiling_gb_s: f64,
    /// weight bytes per second ÷ ceiling
    pub ceiling_fraction: f64,
    /// a word when the fraction cannot be right
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<&'static str>,
    /// prompt and new tokens per request
    pub prompt_tokens: usize,
    /// new tokens per request
    pub tokens: usize,
    /// where it was measured
    #[serde(flatten)]
    pub facts: Facts,
    /// the probe
    pub ceiling: Bracket,
    /// every time between tokens, ms, request after request
    pub samples: Vec<f64>,
}

/// Prefill of one prompt.
#[derive(Clone, Debug, Serialize)]
pub struct PrefillRow {
    /// always `tamp.bench.prefill`
    pub kind: &'static str,
    /// version of this record
    pub v: u32,
    /// prompt tokens ÷ median time from first forward to first token
    pub prefill_tok_s: f64,
    /// that time ÷ prompt tokens, median over requests
    pub median_token_ms: f64,
    /// 95th percentile over requests
    pub p95_token_ms: f64,
    /// receipt → first token, median
    pub ttft_ms: f64,
    /// weight bytes really read ÷ prompt tokens
    pub bytes_per_token: f64,
    /// the read ceiling of this run
    pub ceiling_gb_s: f64,
    /// weight bytes per second ÷ ceiling; prefill is bound by arithmetic, so this is small
    pub ceiling_fraction: f64,
    /// prompt tokens per request
    pub prompt_tokens: usize,
    /// where it was measured
    #[serde(flatten)]
    pub facts: Facts,
    /// the probe
    pub ceiling: Bracket,
    /// prefill time of every request, ms
    pub samples: Vec<f64>,
}

/// Runs one request to its full length.
pub(crate) fn ask<D: Device>(
    s: &mut Subject<'_, D>,
    prompt: Vec<Token>,
    tokens: usize,
) -> Result<(Vec<Token>, Timings), BenchError> {
    let received = Some(s.clock().now());
    let request =
        Request { prompt, max_tokens: Some(tokens), ignore_eos: true, received, ..Request::default() };
    let mut first = 0;
    let answer = s.engine.generate(request, &mut |e| first += matches!(e, Event::Token { .. }) as usize)?;
    if answer.failure.is_some() || first != tokens {
        return Err(BenchError::Ended(format!("{:?} after {first} tokens", answer.finish_reason)));
    }
    Ok((answer.tokens, answer.timings))
}

/// `repeats` requests of `tokens` new tokens behind a prompt of `depth` tokens, after one uncounted one.
pub fn decode<D: Device>(
    s: &mut Subject<'_, D>,
    text: &str,
    depth: usize,
    tokens: usize,
    repeats: usize,
) -> Result<DecodeRow, BenchError> {
    let ids = prompt::tokens(s.engine.tokenizer(), text, 0, depth)?;
    // The uncounted request is the prompt alone, so that its work can be taken off the others'.
    let start = s.engine.stats().work;
    ask(s, ids.clone(), 1)?;
    let before = s.engine.stats().work;
    let alone = since(before, start);
    let bytes = s.engine.model().weight_bytes();
    let pool = s.pool;
    let (ceiling, timings) = Bracket::around(pool, bytes, || {
        (0..repeats).map(|_| Ok(ask(s, ids.clone(), tokens)?.1)).collect::<Result<Vec<_>, BenchError>>()
    })?;
    let timings = timings?;
    let work = since(s.engine.stats().work, before);
    let samples: Vec<f64> = timings.iter().flat_map(|t| t.token_ns.iter().map(|&n| ms(n))).collect();
    let total_s = samples.iter().sum::<f64>() / 1e3;
    let rate = if total_s > 0.0 { samples.len() as f64 / total_s } else { 0.0 };
    // Forwards after the prompts': those of a long one read no head, and at depth they are many.
    let prompts = repeats as u64;
    let forwards = work.target_forwards.saturating_sub(prompts * alone.target_forwards).max(1) as f64;
    let read = work.weight_bytes.saturating_sub(prompts * alone.weight_bytes) as f64 / forwards;
    let kv =
        s.engine.plan().kv.bytes as f64 / (s.engine.plan().kv.pages * s.engine.plan().kv.page).max(1) as f64;
    let (ceiling_fraction, flag) = ceiling.fraction(rate * read / 1e9);
    Ok(DecodeRow {
        kind: "tamp.bench.decode",
        v: 1,
        decode_tok_s: rate,
        median_token_ms: median(&samples),
        p95_token_ms: quantile(&samples, 0.95),
        ttft_ms: median(&timings.iter().map(|t| ms(t.first_token_ns)).collect::<Vec<_>>()),
        prefill_ms: median(&timings.iter().map(|t| ms(t.prefill_ns)).collect::<Vec<_>>()),
        bytes_per_token: read,
        kv_bytes_per_token: kv * (ids.len() as f64 + tokens as f64 / 2.0),
        ceiling_gb_s: ceiling.gb_s(),
        ceiling_fraction,
        flag,
        prompt_tokens: ids.len(),
        tokens,
        facts: s.facts(),
        ceiling,
        samples,
    })
}

/// `repeats` prefills of a prompt of `tokens` tokens after one uncounted one.
pub fn prefill<D: Device>(
    s: &mut Subject<'_, D>,
    text: &str,
    tokens: usize,
    repeats: usize,
) -> Result<PrefillRow, BenchError> {
    let ids = prompt::tokens(s.engine.tokenizer(), text, 0, tokens)?;
    ask(s, ids.clone(), 1)?;
    let before = s.engine.stats().work;
    let bytes = s.engine.model().weight_bytes();
    let pool = s.pool;
    let (ceiling, timings) = Bracket::around(pool, bytes, || {
        (0..repeats).map(|_| Ok(ask(s, ids.clone(), 1)?.1)).collect::<Result<Vec<_>, BenchError>>()
    })?;
    let timings = timings?;
    let work = s.engine.stats().work;
    let samples: Vec<f64> = timings.iter().map(|t| ms(t.prefill_ns)).collect();
    let per_token: Vec<f64> = samples.iter().map(|t| t / tokens as f64).collect();
    let read = (work.weight_bytes - before.weight_bytes) as f64 / (repeats * tokens).max(1) as f64;
    let rate = if median(&samples) > 0.0 { tokens as f64 * 1e3 / median(&samples) } else { 0.0 };
    Ok(PrefillRow {
        kind: "tamp.bench.prefill",
        v: 1,
        prefill_tok_s: rate,
        median_token_ms: median(&per_token),
        p95_token_ms: quantile(&per_token, 0.95),
        ttft_ms: median(&timings.iter().map(|t| ms(t.first_token_ns)).collect::<Vec<_>>()),
        bytes_per_token: read,
        ceiling_gb_s: ceiling.gb_s(),
        ceiling_fraction: ceiling.fraction(rate * read / 1e9).0,
        prompt_tokens: tokens,
        facts: s.facts(),
        ceiling,
        samples,
    })
}
