//! One request on the engine: streamed text, the last line, the JSON contract. `run`, `chat` and `generate` share it.

use std::time::Instant;

use serde::Serialize;
use tamp_engine::{Answer, Cancel, Event, Request};
use tamp_sample::{FinishReason, Params};

use crate::args::SampleArgs;
use crate::cmd::Ctx;
use crate::cmd::ceiling::Ceiling;
use crate::cmd::load::Loaded;
use crate::fail::{Code, Done, Fail};
use crate::out::raw;

/// A request from flags. Without `--seed` one is drawn; the JSON says which.
pub fn request(prompt: Vec<u32>, a: &SampleArgs, cancel: &Cancel) -> Request {
    let params = Params {
        temperature: a.temperature,
        top_k: a.top_k as usize,
        top_p: a.top_p,
        min_p: a.min_p,
        repetition_penalty: a.repetition_penalty,
        presence_penalty: a.presence_penalty,
        frequency_penalty: a.frequency_penalty,
        seed: a.seed.unwrap_or_else(draw),
        ..Params::default()
    };
    Request {
        prompt,
        params,
        max_tokens: a.max_tokens.map(|n| n as usize),
        stop: a.stop.clone(),
        ignore_eos: a.ignore_eos,
        received: None,
        cancel: cancel.clone(),
        ..Request::default()
    }
}

/// A seed nobody chose: 53 bits, so that every JSON reader keeps it exact.
fn draw() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 11
}

/// Runs a request; text goes to stdout as it comes unless `quiet`.
pub fn stream(l: &mut Loaded, request: Request, quiet: bool) -> Done<Answer> {
    let mut ends_line = true;
    let first = &mut l.first_token;
    let answer = l.engine.generate(request, &mut |e| {
        if matches!(e, Event::Token { .. }) && first.is_none() {
            *first = Some(Instant::now());
        }
        if let Event::Token { text, .. } | Event::Text(text) = e
            && !quiet
            && !text.is_empty()
        {
            raw(text);
            ends_line = text.ends_with('\n');
        }
    })?;
    if !quiet && !ends_line {
        raw("\n");
    }
    match &answer.failure {
        Some(f) => Err(Fail::new(Code::Other, &f.message)),
        None => Ok(answer),
    }
}

/// When things happened, in milliseconds.
#[derive(Serialize)]
pub struct Timings {
    load_ms: f64,
    repack_ms: f64,
    start_to_first_token_ms: f64,
    queue_ms: f64,
    prefill_ms: f64,
    ttft_ms: f64,
    total_ms: f64,
    prefill_tok_s: f64,
    decode_tok_s: f64,
    median_token_ms: f64,
    p95_token_ms: f64,
    bytes_per_token: u64,
    ceiling_gb_s: f64,
    ceiling_fraction: f64,
    ceiling_age_s: u64,
    plan_hash: String,
    token_ms: Vec<f64>,
}

impl Timings {
    /// Of an answer.
    pub fn of(ctx: &Ctx, l: &Loaded, answer: &Answer) -> Self {
        use tamp_bench::stats::{median, ms, quantile};
        let t = &answer.timings;
        let token_ms: Vec<f64> = t.token_ns.iter().map(|&n| ms(n)).collect();
        let bytes = l.engine.plan().model.weight_bytes;
        let decode_tok_s = t.decode_tok_s();
        let gb_s = bytes as f64 * decode_tok_s / 1e9;
        let ceiling = Ceiling::known(ctx, l, gb_s);
        Self {
            start_to_first_token_ms: l.first_token.map_or(0.0, |at| (at - ctx.started).as_secs_f64() * 1e3),
            load_ms: l.times.load_ms,
            repack_ms: l.times.repack_ms,
            queue_ms: ms(t.queue_ns),
            prefill_ms: ms(t.prefill_ns),
            ttft_ms: ms(t.first_token_ns),
            total_ms: ms(t.total_ns),
            prefill_tok_s: if t.prefill_ns > 0 {
                t.prompt_rows as f64 * 1e9 / t.prefill_ns as f64
            } else {
                0.0
            },
            decode_tok_s,
            median_token_ms: median(&token_ms),
            p95_token_ms: quantile(&token_ms, 0.95),
            bytes_per_token: bytes,
            ceiling_gb_s: ceiling.gb_s,
            ceiling_fraction: if ceiling.gb_s > 0.0 { gb_s / ceiling.gb_s } else { 0.0 },
            ceiling_age_s: ceiling.age_s,
            plan_hash: l.engine.plan().hash.clone(),
            token_ms,
        }
    }

    /// The last line of `run`.
    pub fn line(&self) -> String {
        if self.token_ms.is_empty() {
            return format!("first token after {:.1} ms; too short for a rate", self.ttft_ms);
        }
        let share = match (self.ceiling_fraction, self.ceiling_age_s) {
            (0.0, _) => "read ceiling not measurable here".into(),
            (f, 0) => format!("{:.0} % of the read ceiling of {:.1} GB/s", f * 100.0, self.ceiling_gb_s),
            (f, age) => format!(
                "{:.0} % of the read ceiling of {:.1} GB/s, measured {} ago",
                f * 100.0,
                self.ceiling_gb_s,
                ago(age)
            ),
        };
        let (rate, ttft, p95) = (self.decode_tok_s, self.ttft_ms, self.p95_token_ms);
        format!("{rate:.1} tokens/s, first token after {ttft:.1} ms, p95 token {p95:.2} ms, {share}")
    }
}

fn ago(s: u64) -> String {
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min", s / 60),
        _ => format!("{} h", s / 3600),
    }
}

/// Memory of the process after the answer, bytes; 0 where the system does not say.
#[derive(Serialize)]
pub struct Memory {
    /// its own pages
    anonymous: u64,
    /// pages of mapped files, which the system can take back
    mapped: u64,
    /// most of both together
    peak: u64,
    /// what the plan said: own pages after load
    forecast_after_load: u64,
    /// what the plan said: own pages at full context and batch
    forecast_at_full: u64,
}

impl Memory {
    /// Of this moment; counting page by page takes milliseconds and is done when `exact`.
    pub fn now(l: &Loaded, exact: bool) -> Self {
        let rss = if exact { tamp_os::memory::rss_exact() } else { tamp_os::memory::rss() };
        let plan = l.engine.plan().memory;
        Self {
            anonymous: rss.anonymous,
            mapped: rss.file,
            peak: rss.peak,
            forecast_after_load: plan.after_load,
            forecast_at_full: plan.at_full,
        }
    }
}

/// The JSON contract of `run`.
#[derive(Serialize)]
pub struct Contract<'a> {
    text: &'a str,
    tokens: &'a [u32],
    prompt_tokens: &'a [u32],
    seed: u64,
    finish_reason: FinishReason,
    timings: &'a Timings,
    memory: Memory,
}

impl<'a> Contract<'a> {
    /// Of an answer, its timings, and the memory its engine took.
    pub fn of(a: &'a Answer, timings: &'a Timings, memory: Memory) -> Self {
        let (text, tokens, prompt_tokens) = (&a.text, &a.tokens, &a.prompt_tokens);
        let (seed, finish_reason) = (a.seed, a.finish_reason);
        Self { text, tokens, prompt_tokens, seed, finish_reason, timings, memory }
    }
}
