//! Cost of `t` rows by block format: the down projection as the engine calls it, over more bytes than the caches hold.

use serde::Serialize;
use tamp_base::clock::Clock;
use tamp_base::ids::PageId;
use tamp_formats::Kind;
use tamp_kernels::device::{BufShape, Device, FfnWeights, Pairing, Projection, Rope, RowMap, SeqRows};
use tamp_kernels::pool::Pool;

use super::{WIDTHS, WidthPoint, points};
use crate::BenchError;
use crate::ceiling::Bracket;
use crate::stats::ms;

/// Output rows and input columns of every matrix: the down projection of a model of a few billion weights.
pub const ROWS: usize = 2048;
/// See [`ROWS`].
pub const COLS: usize = 8192;
/// Rows that are encoded; the rest of a matrix repeats them, which no kernel can tell.
const FRESH: usize = 16;

/// All formats.
#[derive(Clone, Debug, Serialize)]
pub struct FormatsRow {
    /// always `tamp.bench.width`
    pub kind: &'static str,
    /// version of this record
    pub v: u32,
    /// the device and its instruction set
    pub device: String,
    /// worker threads
    pub threads: usize,
    /// output rows of a matrix
    pub rows: usize,
    /// input columns of a matrix
    pub cols: usize,
    /// one entry per format
    pub formats: Vec<FormatRow>,
}

/// One format.
#[derive(Clone, Debug, Serialize)]
pub struct FormatRow {
    /// the format
    pub format: &'static str,
    /// the kernel that ran
    pub kernel: String,
    /// matrices multiplied in turn
    pub matrices: usize,
    /// their bytes as packed, all together
    pub bytes: usize,
    /// bytes ÷ median time of one row
    pub gb_s: f64,
    /// the read ceiling measured around this format
    pub ceiling_gb_s: f64,
    /// share of it that one row reached
    pub ceiling_fraction: f64,
    /// a word when the share cannot be right
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<&'static str>,
    /// the widths, ascending; a sample is one pass over all matrices
    pub points: Vec<WidthPoint>,
}

/// How much is measured.
#[derive(Clone, Debug)]
pub struct FormatsPlan {
    /// the formats
    pub kinds: Vec<Kind>,
    /// bytes of weights of each format, at least one matrix
    pub bytes: usize,
    /// rounds over all widths
    pub rounds: usize,
}

/// Measures every format of the plan; `done(row)` sees each as it is ready.
pub fn formats<D: Device>(
    device: &D,
    pool: &Pool,
    clock: &dyn Clock,
    plan: &FormatsPlan,
    done: &mut dyn FnMut(&FormatRow),
) -> Result<FormatsRow, BenchError> {
    let mut rows = Vec::new();
    for &kind in &plan.kinds {
        let mut work = Work::new(device, kind, plan.bytes)?;
        let (ceiling, times) = Bracket::around(pool, work.bytes as u64, || work.measure(clock, plan.rounds))?;
        let points = points(&WIDTHS, &times);
        let gb_s = points.first().map_or(0.0, |p| work.bytes as f64 / p.ms / 1e6);
        let (ceiling_fraction, flag) = ceiling.fraction(gb_s);
        let row = FormatRow {
            format: kind.name(),
            kernel: work.kernel(),
            matrices: work.matrices.len(),
            bytes: work.bytes,
            gb_s,
            ceiling_gb_s: ceiling.gb_s(),
            ceiling_fraction,
            flag,
            points,
        };
        done(&row);
        rows.push(row);
    }
    Ok(FormatsRow {
        kind: "tamp.bench.width",
        v: 1,
        device: device.name(),
        threads: pool.threads(),
        rows: ROWS,
        cols: COLS,
        formats: rows,
    })
}

/// Matrices of one format, and activations to multiply them with.
struct Work<'a, D: Device> {
    device: &'a D,
    matrices: Vec<FfnWeights<D>>,
    buf: D::Buf,
    bytes: usize,
}

impl<'a, D: Device> Work<'a, D> {
    fn new(device: &'a D, kind: Kind, bytes: usize) -> Result<Self, BenchError> {
        let source = matrix(kind, ROWS, COLS);
        let count = bytes.div_ceil(source.len()).max(1);
        let tiny = || device.linear(Kind::F32, 1, 1, &[0; 4]);
        let mut matrices = Vec::new();
        let mut packed = 0;
        for _ in 0..count {
            let w = device.linear(kind, ROWS, COLS, &source)?;
            packed += device.linear_bytes(&w);
            matrices.push(FfnWeights {
                norm: device.vector(&[1.0])?,
                gate: Projection { w: tiny()?, bias: None },
                up: Projection { w: tiny()?, bias: None },
                down: Projection { w, bias: None },
                eps: 1e-5,
            });
        }
        let widest = WIDTHS[WIDTHS.len() - 1];
        let mut buf = device.buf(&BufShape {
            rows: widest,
            d: ROWS,
            q: 16,
            kv: 16,
            heads: 1,
            kv_heads: 1,
            head_dim: 16,
            ff: COLS,
            vocab: widest,
            logits: 0,
            ctx: 16,
        })?;
        activate(device, widest, &mut buf)?;
        Ok(Work { device, matrices, buf, bytes: packed })
    }

    fn kernel(&self) -> String {
        self.matrices.first().map(|m| self.device.linear_kernel(&m.down.w)).unwrap_or_default()
    }

    /// `[width][round]` ms of a pass over all matrices. Widths take turns, so that all of them meet the same drift.
    fn measure(&mut self, clock: &dyn Clock, rounds: usize) -> Vec<Vec<f64>> {
        let mut times = vec![Vec::new(); WIDTHS.len()];
        for round in 0..=rounds {
            for (width, times) in WIDTHS.iter().zip(&mut times) {
                let map = map(*width);
                let start = clock.now();
                for m in &self.matrices {
                    self.device.phase_e(m, &map, &mut self.buf);
                }
                let took = ms((clock.now() - start).as_nanos() as u64);
                // The first round touches scratch for the first time and is not counted.
                if round > 0 {
                    times.push(took);
                }
            }
        }
        times
    }
}

/// Fills the feed-forward activations of every row with something other than zeros, by the phases that write them.
fn activate<D: Device>(device: &D, rows: usize, buf: &mut D::Buf) -> Result<(), BenchError> {
    let gate = || -> Result<_, BenchError> {
        Ok(Projection {
            w: device.linear(Kind::Q8_0, COLS, ROWS, &matrix(Kind::Q8_0, COLS, ROWS))?,
            bias: None,
        })
    };
    let tiny = device.linear(Kind::F32, 1, 1, &[0; 4])?;
    let w = FfnWeights {
        norm: device.vector(&[1.0; ROWS])?,
        gate: gate()?,
        up: gate()?,
        down: Projection { w: tiny, bias: None },
        eps: 1e-5,
    };
    let table = device.linear(Kind::F32, rows, ROWS, &matrix(Kind::F32, rows, ROWS))?;
    let tokens: Vec<u32> = (0..rows as u32).collect();
    let rope = Rope { freq: Vec::new(), scale: 1.0, pairing: Pairing::Half };
    let map = map(rows);
    device.embed(&table, &tokens, &map, &rope, buf);
    device.phase_d(&w, &map, buf);
    Ok(())
}

/// `rows` sequences of one row each, at position 0.
fn map(rows: usize) -> RowMap {
    let one = |r| SeqRows { first: r, count: 1, committed: 0, table: r };
    RowMap {
        pos: vec![0; rows],
        seq: (0..rows as u32).collect(),
        seqs: (0..rows).map(one).collect(),
        table: (0..rows as u32).map(PageId).collect(),
        path: Vec::new(),
        path_at: vec![None; rows],
        alike: vec![],
    }
}

/// A matrix of small values in a format; the same bytes in every process.
fn matrix(kind: Kind, rows: usize, cols: usize) -> Vec<u8> {
    let fresh = FRESH.min(rows);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut values = vec![0f32; fresh * cols];
    for v in &mut values {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *v = ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 0.05;
    }
    let mut once = vec![0; fresh * cols / kind.block() * kind.bytes()];
    (kind.row().encode)(&values, &mut once);
    let row = once.len() / fresh;
    let mut out = Vec::with_capacity(rows * row);
    while out.len() < rows * row {
        let take = once.len().min(rows * row - out.len());
        out.extend_from_slice(&once[..take]);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tamp_base::clock::SystemClock;
    use tamp_kernels::cpu::Cpu;
    use tamp_kernels::device::Read;
    use tamp_kernels::rung;

    use super::*;

    fn device() -> (Arc<Pool>, Cpu) {
        let pool = Arc::new(Pool::new(1, false));
        (pool.clone(), Cpu::new(pool, rung::available().next().unwrap()))
    }

    #[test]
    fn every_format_gets_whole_matrices_of_finite_values_that_differ() {
        for kind in Kind::ALL {
            let bytes = matrix(kind, 40, 512);
            assert_eq!(bytes.len(), 40 * kind.row_bytes(512).unwrap(), "{kind}");
            let mut row = vec![0.0; 512];
            (kind.row().decode)(&bytes[..kind.row_bytes(512).unwrap()], &mut row);
            let (low, high) = row.iter().fold((0f32, 0f32), |(l, h), &v| (l.min(v), h.max(v)));
            assert!(row.iter().all(|v| v.is_finite()) && low < -0.02 && high > 0.02, "{kind}: {low} {high}");
        }
    }

    #[test]
    fn a_pass_multiplies_live_activations_of_every_row_with_every_matrix() {
        let (_, cpu) = device();
        let mut work = Work::new(&cpu, Kind::Q4_0, 10 << 20).unwrap();
        assert!(work.matrices.len() == 2 && work.bytes >= 10 << 20);
        let widest = WIDTHS[WIDTHS.len() - 1];
        let state = |work: &Work<'_, Cpu>| -> Vec<Vec<f32>> {
            (0..widest)
                .map(|r| {
                    let mut x = Vec::new();
                    cpu.wait(cpu.read_back(&work.buf, Read::Hidden(r)), &mut x);
                    x
                })
                .collect()
        };
        let before = state(&work);
        for m in &work.matrices {
            cpu.phase_e(m, &map(widest), &mut work.buf);
        }
        for (r, (a, b)) in before.iter().zip(state(&work)).enumerate() {
            let changed = a.iter().zip(&b).filter(|(a, b)| a != b).count();
            assert!(changed > ROWS / 2, "row {r}: {changed} of {ROWS} outputs changed");
        }
    }

    #[test]
    fn a_row_has_every_width_with_one_sample_per_round_and_rates_from_the_packed_bytes() {
        let (pool, cpu) = device();
        let plan = FormatsPlan { kinds: vec![Kind::Q4_0], bytes: 1, rounds: 2 };
        let mut seen = 0;
        let row = formats(&cpu, &pool, &SystemClock::default(), &plan, &mut |_| seen += 1).unwrap();
        let f = &row.formats[0];
        assert_eq!((seen, row.formats.len(), f.matrices, f.format), (1, 1, 1, "q4_0"));
        assert_eq!(f.points.iter().map(|p| p.rows).collect::<Vec<_>>(), WIDTHS);
        assert!(f.points.iter().all(|p| p.samples.len() == 2 && p.ms > 0.0));
        assert!((f.gb_s - f.bytes as f64 / f.points[0].ms / 1e6).abs() < 1e-9 && f.ceiling_gb_s > 0.0);
        assert!(f.kernel.contains("q4_0"), "{}", f.kernel);
    }
}
