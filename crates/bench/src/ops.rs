//! The published operations: 87 rows with their published and reproduced times, beside ours.
//!
//! The rows are data (`data/ops.tsv`). Ours is filled in by a [`Landed`] entry that calls the function the engine
//! itself calls; a row without one is not built.

use std::time::Duration;

use serde::Serialize;
use tamp_base::clock::Clock;
use tamp_kernels::pool::Pool;

use crate::BenchError;
use crate::ceiling::Bracket;
use crate::stats::median;

const TABLE: &str = include_str!("../data/ops.tsv");

/// Shortest sample; shorter operations are repeated within one.
const SAMPLE: Duration = Duration::from_millis(2);
/// Most samples of a row.
const SAMPLES: usize = 31;
/// Time for the samples of a row; at least three are taken.
const BUDGET: Duration = Duration::from_millis(500);

/// One published operation.
#[derive(Clone, Debug, Serialize)]
pub struct Op {
    /// wave it was published in
    pub wave: &'static str,
    /// published module
    pub module: &'static str,
    /// published operation with its shape
    pub operation: &'static str,
    /// published time, µs
    pub published_us: f64,
    /// the original code on one x86-64 core, median, µs
    pub numpy_here_us: f64,
    /// its minimum, µs
    pub numpy_here_min_us: f64,
    /// what the original timed, where that is not what its name says
    pub caveat: &'static str,
}

/// The 87 operations in published order.
pub fn table() -> Result<Vec<Op>, BenchError> {
    let lines = TABLE.lines().enumerate().filter(|(_, l)| !l.starts_with('#'));
    lines.map(|(at, line)| op(line).ok_or(BenchError::Ops(at + 1))).collect()
}

fn op(line: &'static str) -> Option<Op> {
    let mut cells = line.split('\t');
    let op = Op {
        wave: cells.next()?,
        module: cells.next()?,
        operation: cells.next()?,
        published_us: cells.next()?.parse().ok()?,
        numpy_here_us: cells.next()?.parse().ok()?,
        numpy_here_min_us: cells.next()?.parse().ok()?,
        caveat: cells.next()?,
    };
    cells.next().is_none().then_some(op)
}

/// An operation that is ready to be timed.
pub struct Ready {
    /// does it once
    pub run: Box<dyn FnMut()>,
    /// bytes that doing it must read from memory; 0 when bytes do not bound it
    pub bytes: u64,
}

/// The engine's own function for a published operation.
pub struct Landed<'a> {
    /// published module
    pub module: &'a str,
    /// published operation
    pub operation: &'a str,
    /// what is timed, in a few words
    pub note: &'a str,
    /// prepares it
    pub open: &'a dyn Fn() -> Result<Ready, BenchError>,
}

/// One row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct OpRow {
    /// the published operation
    #[serde(flatten)]
    pub op: Op,
    /// our median, µs; none when it is not built
    pub ours_us: Option<f64>,
    /// samples it is the median of, µs
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<f64>,
    /// what ours timed; `not built`; or the original's caveat
    pub note: String,
    /// share of the read ceiling of this run, for rows that bytes bound
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling_fraction: Option<f64>,
    /// that ceiling
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling_gb_s: Option<f64>,
    /// the numpy twin in this run, µs
    #[serde(skip_serializing_if = "Option::is_none")]
    pub twin_us: Option<f64>,
    /// twin ÷ ours
    #[serde(skip_serializing_if = "Option::is_none")]
    pub twin_ratio: Option<f64>,
}

/// The whole table.
#[derive(Clone, Debug, Serialize)]
pub struct OpsRow {
    /// always `tamp.bench.ops`
    pub kind: &'static str,
    /// version of this record
    pub v: u32,
    /// worker threads of ours
    pub threads: usize,
    /// the device and its instruction set
    pub device: String,
    /// all operations in published order
    pub rows: Vec<OpRow>,
}

/// Times every landed operation; the others say that they are not built.
pub fn ops(
    pool: &Pool,
    device: String,
    clock: &dyn Clock,
    landed: &[Landed<'_>],
    done: &mut dyn FnMut(&OpRow),
) -> Result<OpsRow, BenchError> {
    let mut rows = Vec::new();
    for op in table()? {
        let mut row = OpRow {
            op,
            ours_us: None,
            samples: Vec::new(),
            note: "not built".into(),
            ceiling_fraction: None,
            ceiling_gb_s: None,
            twin_us: None,
            twin_ratio: None,
        };
        let own = landed.iter().find(|l| l.module == row.op.module && l.operation == row.op.operation);
        if let Some(l) = own {
            let mut ready = (l.open)()?;
            if ready.bytes > 0 {
                let (ceiling, samples) = Bracket::around(pool, ready.bytes, || time(clock, &mut ready.run))?;
                let gb_s = ready.bytes as f64 / median(&samples) / 1e3;
                row.ceiling_fraction = Some(ceiling.fraction(gb_s).0);
                row.ceiling_gb_s = Some(ceiling.gb_s());
                row.samples = samples;
            } else {
                row.samples = time(clock, &mut ready.run);
            }
            row.ours_us = Some(median(&row.samples));
            row.note = l.note.into();
        }
        done(&row);
        rows.push(row);
    }
    Ok(OpsRow { kind: "tamp.bench.ops", v: 1, threads: pool.threads(), device, rows })
}

impl OpRow {
    /// Sets what the twin took in this run.
    pub fn beside(&mut self, twin_us: f64) {
        self.twin_us = Some(twin_us);
        self.twin_ratio = self.ours_us.filter(|&o| o > 0.0).map(|ours| twin_us / ours);
    }
}

/// µs per call, one figure per sample.
fn time(clock: &dyn Clock, run: &mut dyn FnMut()) -> Vec<f64> {
    let mut calls = 1u32;
    // The first call warms; then as many per sample as make it long enough to be read off a clock.
    run();
    loop {
        let took = timed(clock, calls, run);
        if took >= SAMPLE || calls >= 1 << 20 {
            break;
        }
        calls = (calls * 2)
            .max((calls as f64 * 1.2 * SAMPLE.as_secs_f64() / took.as_secs_f64().max(1e-9)) as u32);
        calls = calls.min(1 << 20);
    }
    let begun = clock.now();
    let mut samples = Vec::new();
    while samples.len() < 3 || (samples.len() < SAMPLES && clock.now() - begun < BUDGET) {
        samples.push(timed(clock, calls, run).as_secs_f64() * 1e6 / f64::from(calls));
    }
    samples
}

fn timed(clock: &dyn Clock, calls: u32, run: &mut dyn FnMut()) -> Duration {
    let start = clock.now();
    for _ in 0..calls {
        run();
    }
    clock.now() - start
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;
    use std::rc::Rc;
    use std::sync::Arc;

    use tamp_base::clock::ManualClock;

    use super::*;

    /// Operations published for each technique, in published order.
    #[rustfmt::skip]
    const PUBLISHED: [(&str, usize); 47] = [
        ("TreeVerifier", 1), ("KVCompressor", 2), ("DynamicNTKScaler", 2), ("QuantSpecDecoder", 2),
        ("SparseAttnIndex", 2), ("MixedPrecisionKVCache", 3), ("BubbleEliminator", 2), ("LayerwiseDecoder", 2),
        ("KVCodec", 3), ("AttentionDeduplicator", 2), ("FlashPrefillKernel", 1), ("BudgetSpecDecoder", 2),
        ("RetentionKernel", 2), ("KVRouter", 1), ("TenantScheduler", 2), ("RequestRouter", 1),
        ("CacheWarmupPredictor", 2), ("TokenBudgetGate", 2), ("SpanCollector", 2), ("PrefixCoalescer", 2),
        ("AdaptiveQuantizer", 4), ("InferenceHealthMonitor", 2), ("FaultHandler", 2), ("ModelPool", 1),
        ("ChunkedStreamer", 2), ("RequestCostEstimator", 1), ("SLAMonitor", 2), ("PersistentContextCache", 2),
        ("AdaServe", 2), ("ConfSpec", 2), ("SeqPacking", 2), ("MetaReasoner", 2), ("YOCO", 2), ("DiffKV", 2),
        ("ParisKV", 3), ("KVTuner", 1), ("CLA", 1), ("Dovetail", 1), ("PIPO", 1), ("MobileMoE", 2),
        ("OnlineSD", 1), ("LookaheadReasoning", 1), ("SparseSpec", 2), ("FRSpec", 3), ("LongSpec", 1),
        ("ForeLen", 2), ("RASD", 2),
    ];

    #[test]
    fn the_table_holds_the_87_published_operations_under_their_names() {
        let ops = table().unwrap();
        assert_eq!(ops.len(), 87);
        let mut at = 0;
        for (module, count) in PUBLISHED {
            for op in &ops[at..at + count] {
                assert_eq!(op.module, module, "{}", op.operation);
            }
            at += count;
        }
        assert_eq!(at, 87);
        let names: BTreeSet<_> = ops.iter().map(|o| (o.module, o.operation)).collect();
        assert_eq!(names.len(), 87, "a row is found by its name");
        // Sums over both reports: a figure changed by accident does not go unseen.
        let sum = |f: fn(&Op) -> f64| ops.iter().map(f).sum::<f64>();
        assert!((sum(|o| o.published_us) - 87_074.1).abs() < 1e-6);
        assert!((sum(|o| o.numpy_here_us) - 87_079.41).abs() < 1e-6);
        assert!(ops.iter().all(|o| o.numpy_here_min_us <= o.numpy_here_us));
    }

    #[test]
    fn a_landed_row_is_timed_by_really_calling_it_and_every_other_row_says_not_built() {
        let clock = Arc::new(ManualClock::default());
        let calls = Rc::new(Cell::new(0u64));
        let open = {
            let (clock, calls) = (clock.clone(), calls.clone());
            move || {
                let (clock, calls) = (clock.clone(), calls.clone());
                // Each call takes 250 µs of the clock that is read.
                let run = move || {
                    calls.set(calls.get() + 1);
                    clock.advance(Duration::from_micros(250));
                };
                Ok(Ready { run: Box::new(run), bytes: 0 })
            }
        };
        let landed =
            [Landed { module: "RASD", operation: "build_retrieval_tree()", note: "it", open: &open }];
        let pool = Pool::new(1, false);
        let out = ops(&pool, "here".into(), &*clock, &landed, &mut |_| ()).unwrap();
        let (mut row, rest): (Vec<_>, Vec<_>) = out.rows.into_iter().partition(|r| r.ours_us.is_some());
        assert_eq!((row.len(), rest.len()), (1, 86));
        assert!(rest.iter().all(|r| r.note == "not built" && r.samples.is_empty()));
        assert_eq!((row[0].op.operation, row[0].note.as_str()), ("build_retrieval_tree()", "it"));
        assert!((row[0].ours_us.unwrap() - 250.0).abs() < 1e-9);
        assert_eq!(calls.get(), (clock.now().as_micros() / 250) as u64);
        assert!(calls.get() > row[0].samples.len() as u64 && row[0].samples.len() == SAMPLES);
        row[0].beside(1000.0);
        assert_eq!(row[0].twin_ratio, Some(4.0));
    }
}
