//! Whole requests: one loaded engine, every iteration kept, load apart from warm-up, prefill apart from decode.

use serde::Serialize;
use tamp_base::count::Work;
use tamp_base::ids::Token;
use tamp_kernels::device::Device;

use crate::ceiling::Bracket;
use crate::single::ask;
use crate::stats::{median, ms, quantile, since};
use crate::{BenchError, Facts, Subject};

/// The whole-request benchmark. The keys of its text form are those of the field report it answers.
#[derive(Clone, Debug, Serialize)]
pub struct GenerateRow {
    /// always `tamp.bench.generate`
    pub kind: &'static str,
    /// version of this record
    pub v: u32,
    /// tokens after the first ÷ the time they took, over all counted iterations
    #[serde(rename = "tok/s")]
    pub tok_s: f64,
    /// repacking and plan of this process
    pub compile_ms: f64,
    /// matrices made in a second way (a bundle of another layout) or a second time (memory was short)
    pub compile_retries: u32,
    /// attempts at a matrix that failed
    pub compile_failures: u32,
    /// receipt → first token, median over counted iterations
    pub first_token_ms: f64,
    /// first forward → first token, median over counted iterations
    pub prefill_ms: f64,
    /// median time between tokens, all counted iterations
    pub median_token_ms: f64,
    /// 95th percentile
    pub p95_token_ms: f64,
    /// 99th percentile
    pub p99_token_ms: f64,
    /// the kernel that ran the head
    pub exact_head_backend: String,
    /// no plan and no matrix was made during the counted iterations
    pub cached_bindings_enabled: bool,
    /// plans made meanwhile
    pub plans_rebuilt: u64,
    /// matrices made meanwhile
    pub matrices_rebuilt: u64,
    /// weight bytes read ÷ tokens
    pub bytes_per_token: f64,
    /// the read ceiling of this run
    pub ceiling_gb_s: f64,
    /// weight bytes per second ÷ ceiling
    pub ceiling_fraction: f64,
    /// prompt tokens
    pub prompt_tokens: usize,
    /// new tokens per iteration
    pub max_tokens: usize,
    /// uncounted iterations
    pub warmup: usize,
    /// counted iterations
    pub iterations: usize,
    /// every counted iteration gave the same tokens
    pub tokens_identical: bool,
    /// work of the counted iterations
    pub work: Work,
    /// where it was measured
    #[serde(flatten)]
    pub facts: Facts,
    /// the probe
    pub ceiling: Bracket,
    /// times between tokens of each counted iteration, ms
    pub samples: Vec<Vec<f64>>,
    /// the tokens
    pub tokens: Vec<Token>,
}

/// What a run that uses what it has does not move.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Bindings {
    pub plans: u64,
    pub matrices: u64,
}

impl Bindings {
    pub fn now<D: Device>(s: &Subject<'_, D>) -> Self {
        Bindings { plans: tamp_engine::plan::made(), matrices: s.engine.model().device().made() }
    }
}

/// Runs `warmup` uncounted and `iterations` counted requests.
pub fn generate<D: Device>(
    s: &mut Subject<'_, D>,
    ids: &[Token],
    max_tokens: usize,
    warmup: usize,
    iterations: usize,
) -> Result<GenerateRow, BenchError> {
    for _ in 0..warmup {
        ask(s, ids.to_vec(), max_tokens)?;
    }
    let before = s.engine.stats().work;
    let pool = s.pool;
    let bytes = s.engine.model().weight_bytes();
    let bound = Bindings::now(s);
    let (ceiling, answers) = Bracket::around(pool, bytes, || {
        let mut all = Vec::new();
        for _ in 0..iterations {
            all.push(ask(s, ids.to_vec(), max_tokens)?);
        }
        Ok::<_, BenchError>(all)
    })?;
    let answers = answers?;
    let bound_after = Bindings::now(s);
    let made = s.engine.model().made();
    let after = s.engine.stats().work;
    let samples: Vec<Vec<f64>> =
        answers.iter().map(|(_, t)| t.token_ns.iter().map(|&n| ms(n)).collect()).collect();
    let all: Vec<f64> = samples.concat();
    let seconds = all.iter().sum::<f64>() / 1e3;
    let tok_s = if seconds > 0.0 { all.len() as f64 / seconds } else { 0.0 };
    let forwards = (after.target_forwards - before.target_forwards).max(1);
    let read = (after.weight_bytes - before.weight_bytes) as f64 / forwards as f64;
    let facts = s.facts();
    let head = facts.kernels.iter().find(|(stage, _)| stage == "head").map(|(_, k)| k.clone());
    Ok(GenerateRow {
        kind: "tamp.bench.generate",
        v: 1,
        tok_s,
        compile_ms: facts.load.repack_ms + facts.load.plan_ms,
        compile_retries: made.retried,
        compile_failures: made.failed,
        first_token_ms: median(&answers.iter().map(|(_, t)| ms(t.first_token_ns)).collect::<Vec<_>>()),
        prefill_ms: median(&answers.iter().map(|(_, t)| ms(t.prefill_ns)).collect::<Vec<_>>()),
        median_token_ms: median(&all),
        p95_token_ms: quantile(&all, 0.95),
        p99_token_ms: quantile(&all, 0.99),
        exact_head_backend: head.unwrap_or_default(),
        cached_bindings_enabled: bound == bound_after,
        plans_rebuilt: bound_after.plans - bound.plans,
        matrices_rebuilt: bound_after.matrices - bound.matrices,
        bytes_per_token: read,
        ceiling_gb_s: ceiling.gb_s(),
        ceiling_fraction: ceiling.fraction(tok_s * read / 1e9).0,
        prompt_tokens: ids.len(),
        max_tokens,
        warmup,
        iterations,
        tokens_identical: answers.windows(2).all(|w| w[0].0 == w[1].0),
        work: since(after, before),
        facts,
        ceiling,
        samples,
        tokens: answers.into_iter().next().map(|a| a.0).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tamp_base::clock::SystemClock;
    use tamp_base::settings::Settings;
    use tamp_engine::{Engine, EngineOptions};
    use tamp_formats::Kind;
    use tamp_kernels::cpu::Cpu;
    use tamp_kernels::pool::Pool;
    use tamp_weights::Weights;
    use tamp_weights::testing::{Arch, tiny};

    fn engine() -> (Engine<Cpu>, Arc<Pool>) {
        let weights = Weights::from_gguf_bytes(tiny(Arch::Llama, 1)).unwrap();
        let pool = Arc::new(Pool::new(1, false));
        let device = Arc::new(Cpu::new(pool.clone(), tamp_kernels::rung::find("auto").unwrap()));
        let tokenizer = Arc::new(tamp_text::Tokenizer::from_meta(&weights.meta).unwrap());
        let options = EngineOptions { ctx: 64, ..EngineOptions::default() };
        let clock = Arc::new(SystemClock::default());
        let engine = Engine::load(
            &weights,
            device,
            || Ok(tokenizer),
            &Settings::default(),
            options,
            clock,
            &mut |_, _| (),
        );
        (engine.unwrap(), pool)
    }

    fn row(engine: &mut Engine<Cpu>, pool: &Pool) -> GenerateRow {
        let mut s = Subject { engine, pool, load: crate::LoadTimes::default(), decision_grade: false };
        generate(&mut s, &[1, 40, 50], 8, 0, 2).unwrap()
    }

    #[test]
    fn a_matrix_or_a_plan_made_while_counting_shows_in_the_row() {
        let (mut e, pool) = engine();
        let quiet = row(&mut e, &pool);
        assert!(quiet.cached_bindings_enabled && quiet.matrices_rebuilt == 0 && quiet.plans_rebuilt == 0);
        assert_eq!((quiet.compile_retries, quiet.compile_failures), (0, 0));
        let device = e.model().device().clone();
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    device.linear(Kind::F32, 1, 16, &[0; 64]).unwrap();
                }
            });
            let busy = row(&mut e, &pool);
            stop.store(true, Ordering::Relaxed);
            assert!(!busy.cached_bindings_enabled && busy.matrices_rebuilt > 0 && busy.plans_rebuilt == 0);
        });
        stop.store(false, Ordering::Relaxed);
        std::thread::scope(|s| {
            s.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    engine();
                }
            });
            // An engine takes longer to make than a row of a tiny model: ask until one fell into it.
            let seen = (0..1000).map(|_| row(&mut e, &pool)).find(|r| r.plans_rebuilt > 0);
            stop.store(true, Ordering::Relaxed);
            assert!(!seen.unwrap().cached_bindings_enabled);
        });
    }
}
