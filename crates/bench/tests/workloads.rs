//! The workloads on a lively tiny model: what they claim to have run is what the engine counted.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use tamp_base::clock::SystemClock;
use tamp_base::settings::Settings;
use tamp_bench::prompt::PROSE;
use tamp_bench::width::{WIDTHS, engine};
use tamp_bench::{LoadTimes, Subject};
use tamp_engine::{Engine, EngineOptions};
use tamp_kernels::cpu::Cpu;
use tamp_kernels::pool::Pool;
use tamp_kernels::rung;
use tamp_text::Tokenizer;
use tamp_weights::Weights;
use tamp_weights::testing::{Arch, tiny};

/// An engine for `batch` streams of `ctx` positions, and its pool.
fn subject(ctx: usize, batch: usize) -> (Engine<Cpu>, Arc<Pool>) {
    let weights = Weights::from_gguf_bytes(tiny(Arch::Qwen2, 7)).unwrap();
    let pool = Arc::new(Pool::new(1, false));
    let device = Arc::new(Cpu::new(pool.clone(), rung::available().next().unwrap()));
    let tokenizer = Arc::new(Tokenizer::from_meta(&weights.meta).unwrap());
    let options = EngineOptions { ctx, batch, ..EngineOptions::default() };
    let clock = Arc::new(SystemClock::default());
    let e = Engine::load(&weights, device, tokenizer, &Settings::default(), options, clock, &mut |_, _| ());
    (e.unwrap(), pool)
}

#[test]
fn each_width_is_steps_of_exactly_that_many_streams_in_every_round() {
    let rounds = 2;
    let (mut e, pool) = subject(engine::positions(rounds), engine::STREAMS);
    let mut s = Subject { engine: &mut e, pool: &pool, load: LoadTimes::default() };
    let row = engine::engine(&mut s, PROSE, rounds).unwrap();
    assert_eq!(row.points.iter().map(|p| p.rows).collect::<Vec<_>>(), WIDTHS);
    assert!(row.points.iter().all(|p| p.samples.len() == rounds && p.ms > 0.0));
    // Three steps of each width in each round and in the uncounted one.
    let steps = (rounds + 1) * 3;
    assert_eq!(row.work.target_forwards as usize, steps * WIDTHS.len());
    assert_eq!(row.work.target_positions as usize, steps * WIDTHS.iter().sum::<usize>());
    assert_eq!(e.stats().finished, 0, "a stream that ends would change the width");
    assert_eq!(e.stats().preemptions, 0);
}
