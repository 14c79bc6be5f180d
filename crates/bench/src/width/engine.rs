//! Cost of `t` rows in the whole engine: of the streams that stand ready, exactly `t` are listened to in a step.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;
use tamp_base::count::Work;
use tamp_engine::outlet::Outlet;
use tamp_engine::{Event, Request};
use tamp_kernels::device::Device;

use super::{WIDTHS, WidthPoint, points};
use crate::ceiling::Bracket;
use crate::stats::{median, ms, since};
use crate::{BenchError, Facts, Subject, prompt};

/// Prompt of each stream, tokens; different text for each.
const PROMPT: usize = 32;
/// Steps per width and round; their median is the round's sample.
const STEPS: usize = 3;

/// Streams that are needed.
pub const STREAMS: usize = WIDTHS[WIDTHS.len() - 1];

/// Positions per stream that `rounds` rounds need.
pub fn positions(rounds: usize) -> usize {
    // A round gives every stream its share of the steps, rounded up by one per width.
    let rows: usize = WIDTHS.iter().sum();
    PROMPT + 2 + (rounds + 1) * STEPS * (rows.div_ceil(STREAMS) + WIDTHS.len())
}

/// The whole engine.
#[derive(Clone, Debug, Serialize)]
pub struct EngineRow {
    /// always `tamp.bench.width.engine`
    pub kind: &'static str,
    /// version of this record
    pub v: u32,
    /// the widths, ascending; a sample is the median step of a round
    pub points: Vec<WidthPoint>,
    /// weight bytes of a forward ÷ median time of one row
    pub gb_s: f64,
    /// the read ceiling of this run
    pub ceiling_gb_s: f64,
    /// share of it that one row reached
    pub ceiling_fraction: f64,
    /// a word when the share cannot be right
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<&'static str>,
    /// work of the timed steps, the uncounted first round included
    pub work: Work,
    /// where it was measured
    #[serde(flatten)]
    pub facts: Facts,
    /// the probe
    pub ceiling: Bracket,
}

/// Which streams take part: `width` of them from `first` on, around the circle.
#[derive(Default)]
struct Window {
    first: AtomicUsize,
    width: AtomicUsize,
}

struct Seat {
    window: Arc<Window>,
    index: usize,
}

impl Outlet for Seat {
    fn ready(&self) -> bool {
        let first = self.window.first.load(Ordering::Relaxed);
        (self.index + STREAMS - first) % STREAMS < self.window.width.load(Ordering::Relaxed)
    }
    fn closed(&self) -> bool {
        false
    }
    fn give(&mut self, _: Event) {}
}

/// Measures every width in every round. The engine must have room for [`STREAMS`] sequences of [`positions`].
pub fn engine<D: Device>(s: &mut Subject<'_, D>, text: &str, rounds: usize) -> Result<EngineRow, BenchError> {
    let window = Arc::new(Window::default());
    window.width.store(STREAMS, Ordering::Relaxed);
    for index in 0..STREAMS {
        let ids = prompt::tokens(s.engine.tokenizer(), text, index * PROMPT, PROMPT)?;
        let request = Request { prompt: ids, ignore_eos: true, ..Request::default() };
        s.engine.submit(request, Box::new(Seat { window: window.clone(), index }))?;
    }
    // Prompts first, until a step gives every stream one token.
    while step(s, STREAMS)?.is_none() {}
    let before = s.engine.stats().work;
    let bytes = s.engine.model().weight_bytes();
    let pool = s.pool;
    let (ceiling, times) = Bracket::around(pool, bytes, || {
        let mut times = vec![Vec::new(); WIDTHS.len()];
        for round in 0..=rounds {
            for (&width, times) in WIDTHS.iter().zip(&mut times) {
                window.width.store(width, Ordering::Relaxed);
                let mut samples = Vec::new();
                for _ in 0..STEPS {
                    let took = step(s, width)?.ok_or_else(|| {
                        BenchError::Ended(format!("a step that was not {width} streams of one row"))
                    })?;
                    samples.push(took);
                    // The next streams in turn, so that all contexts grow alike.
                    let first = window.first.load(Ordering::Relaxed);
                    window.first.store((first + width) % STREAMS, Ordering::Relaxed);
                }
                // The first round warms what each width needs and is not counted.
                if round > 0 {
                    times.push(median(&samples));
                }
            }
        }
        Ok::<_, BenchError>(times)
    })?;
    let points = points(&WIDTHS, &times?);
    let gb_s = points.first().map_or(0.0, |p| bytes as f64 / p.ms / 1e6);
    let (ceiling_fraction, flag) = ceiling.fraction(gb_s);
    Ok(EngineRow {
        kind: "tamp.bench.width.engine",
        v: 1,
        points,
        gb_s,
        ceiling_gb_s: ceiling.gb_s(),
        ceiling_fraction,
        flag,
        work: since(s.engine.stats().work, before),
        facts: s.facts(),
        ceiling,
    })
}

/// One step; its time in ms if it was `width` streams of one row each.
fn step<D: Device>(s: &mut Subject<'_, D>, width: usize) -> Result<Option<f64>, BenchError> {
    let clock = s.clock();
    let start = clock.now();
    let turn = s.engine.step()?;
    let took = ms((clock.now() - start).as_nanos() as u64);
    if turn.parts.is_empty() {
        return Err(BenchError::Ended("nobody left to schedule".into()));
    }
    let alike = turn.parts.len() == width && turn.parts.iter().all(|p| p.rows == 1);
    Ok(alike.then_some(took))
}
