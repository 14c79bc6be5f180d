//! Several streams in one step: what company costs.

use serde::Serialize;
use tamp_base::ids::Token;
use tamp_engine::outlet::Outlet;
use tamp_engine::{Event, Request};
use tamp_kernels::device::Device;

use crate::ceiling::Bracket;
use crate::stats::{median, ms};
use crate::{BenchError, Facts, Subject, prompt};

/// Prompt of each stream, tokens; different text for each.
const PROMPT: usize = 32;

/// One batch size.
#[derive(Clone, Debug, Serialize)]
pub struct BatchPoint {
    /// streams decoding together
    pub batch: usize,
    /// tokens per second of all streams: batch ÷ median step
    pub total_tok_s: f64,
    /// the same per stream
    pub per_sequence_tok_s: f64,
    /// median time of a step in which every stream decodes one token
    pub step_ms: f64,
    /// step time ÷ step time of one stream
    pub cost_ratio: f64,
    /// weight bytes really read ÷ tokens
    pub bytes_per_token: f64,
    /// every such step, ms
    pub samples: Vec<f64>,
}

/// The batch workload.
#[derive(Clone, Debug, Serialize)]
pub struct BatchRow {
    /// always `tamp.bench.batch`
    pub kind: &'static str,
    /// version of this record
    pub v: u32,
    /// the batch sizes, ascending
    pub points: Vec<BatchPoint>,
    /// the read ceiling of this run
    pub ceiling_gb_s: f64,
    /// where it was measured
    #[serde(flatten)]
    pub facts: Facts,
    /// the probe
    pub ceiling: Bracket,
}

struct Nobody;

impl Outlet for Nobody {
    fn ready(&self) -> bool {
        true
    }
    fn closed(&self) -> bool {
        false
    }
    fn give(&mut self, _: Event) {}
}

/// Decodes `tokens` tokens in every stream, for each batch size.
pub fn batch<D: Device>(
    s: &mut Subject<'_, D>,
    text: &str,
    sizes: &[usize],
    tokens: usize,
) -> Result<BatchRow, BenchError> {
    let bytes = s.engine.model().weight_bytes();
    let pool = s.pool;
    let (ceiling, points) = Bracket::around(pool, bytes, || {
        let mut points: Vec<BatchPoint> = Vec::new();
        for &size in sizes {
            let mut p = point(s, text, size, tokens)?;
            p.cost_ratio = p.step_ms / points.first().map_or(p.step_ms, |one| one.step_ms);
            points.push(p);
        }
        Ok::<_, BenchError>(points)
    })?;
    Ok(BatchRow {
        kind: "tamp.bench.batch",
        v: 1,
        points: points?,
        ceiling_gb_s: ceiling.gb_s(),
        facts: s.facts(),
        ceiling,
    })
}

fn point<D: Device>(
    s: &mut Subject<'_, D>,
    text: &str,
    size: usize,
    tokens: usize,
) -> Result<BatchPoint, BenchError> {
    let cut = |i| prompt::tokens(s.engine.tokenizer(), text, i * PROMPT, PROMPT);
    let prompts = (0..size).map(cut).collect::<Result<Vec<_>, _>>()?;
    streams(s, &prompts, tokens)
}

/// Decodes `tokens` tokens behind each prompt, all streams together; the cost ratio is left at 1.
pub(crate) fn streams<D: Device>(
    s: &mut Subject<'_, D>,
    prompts: &[Vec<Token>],
    tokens: usize,
) -> Result<BatchPoint, BenchError> {
    let size = prompts.len();
    for ids in prompts {
        let request =
            Request { prompt: ids.clone(), max_tokens: Some(tokens), ignore_eos: true, ..Request::default() };
        s.engine.submit(request, Box::new(Nobody))?;
    }
    let clock = s.clock();
    let mut samples = Vec::new();
    let (mut read, mut forwards) = (0, 0);
    while !s.engine.is_idle() {
        let (start, before) = (clock.now(), s.engine.stats().work);
        let turn = s.engine.step()?;
        let took = ms((clock.now() - start).as_nanos() as u64);
        if turn.parts.is_empty() {
            break; // only cancelled or failed sequences were left
        }
        // Full decode steps only: every stream in it with one row.
        if turn.parts.len() == size && turn.parts.iter().all(|p| p.rows == 1) {
            samples.push(took);
            read += s.engine.stats().work.weight_bytes - before.weight_bytes;
            forwards += 1;
        }
    }
    let step_ms = median(&samples);
    let total = if step_ms > 0.0 { size as f64 * 1e3 / step_ms } else { 0.0 };
    Ok(BatchPoint {
        batch: size,
        total_tok_s: total,
        per_sequence_tok_s: total / size as f64,
        step_ms,
        cost_ratio: 1.0,
        bytes_per_token: read as f64 / (forwards * size).max(1) as f64,
        samples,
    })
}
