//! `tamp bench ops`: the published operations, ours beside them, and numpy in the same run when asked.

mod engine;
mod landed;
mod server;

use std::process::Command;
use std::sync::Arc;

use serde::Deserialize;
use tamp_base::clock::SystemClock;
use tamp_bench::ops::{Landed, OpRow, ops};
use tamp_engine::EngineOptions;
use tamp_kernels::cpu::Cpu;
use tamp_kernels::pool::Pool;

use crate::args::BenchOpsArgs;
use crate::cmd::load::rung;
use crate::cmd::{Ctx, Graded, cores};
use crate::fail::Done;
use crate::out::note;
use crate::say;

/// The numpy twins, run as a child.
const TWINS: &str = include_str!("../../../../bench/peers/ops_numpy.py");

/// What a twin says.
#[derive(Deserialize)]
struct Twin {
    module: String,
    operation: String,
    us: f64,
}

/// Prints the table.
pub fn run(ctx: &Ctx, a: &BenchOpsArgs) -> Done {
    let threads = match a.threads {
        Some(n) => n as usize,
        None => EngineOptions::read(&ctx.settings)?.threads,
    };
    let pool = Arc::new(Pool::new(if threads == 0 { cores() } else { threads }, true));
    let cpu = Arc::new(Cpu::new(pool.clone(), rung(&ctx.settings)?));
    let opens: Vec<_> = landed::landed().map(|l| (l, || (l.3)(&cpu))).collect();
    let landed: Vec<Landed<'_>> =
        opens.iter().map(|(l, open)| Landed { module: l.0, operation: l.1, note: l.2, open }).collect();
    let device = tamp_kernels::device::Device::name(&*cpu);
    let mut bar = ctx.ui.steps("operations", 87);
    let mut at = 0;
    let mut row = ops(&pool, device, &SystemClock::default(), &landed, &mut |_| {
        at += 1;
        bar.at(at);
    })?;
    drop(bar);
    if a.vs.is_some() {
        match twins(pool.threads()) {
            Ok(twins) => {
                for r in &mut row.rows {
                    if let Some(t) =
                        twins.iter().find(|t| t.module == r.op.module && t.operation == r.op.operation)
                    {
                        r.beside(t.us);
                    }
                }
            }
            Err(why) => note(format_args!("numpy is left out: {why}")),
        }
    }
    if ctx.json {
        return ctx.json(&Graded { row: &row, decision_grade: ctx.decision_grade });
    }
    let vs = a.vs.is_some();
    let extra = if vs { format!(" {:>10} {:>7}", "numpy µs", "ratio") } else { String::new() };
    say!(
        "{:<23} {:<43} {:>10} {:>10} {:>10}{extra}  note",
        "module",
        "operation",
        "published",
        "numpy here",
        "ours µs"
    );
    row.rows.iter().for_each(|r| line(r, vs));
    Ok(())
}

fn line(r: &OpRow, vs: bool) {
    let us = |v: Option<f64>| v.map_or("–".to_string(), |v| format!("{v:.2}"));
    let extra = match vs {
        true => {
            let ratio = r.twin_ratio.map_or("–".into(), |x| format!("{x:.1}×"));
            format!(" {:>10} {ratio:>7}", us(r.twin_us))
        }
        false => String::new(),
    };
    let share = r.ceiling_fraction.map_or(String::new(), |f| format!("{f:.2} of the read ceiling; "));
    let caveat = if r.op.caveat.is_empty() { String::new() } else { format!(" (original: {})", r.op.caveat) };
    let (module, operation, published, here) =
        (r.op.module, r.op.operation, r.op.published_us, r.op.numpy_here_us);
    say!(
        "{module:<23} {operation:<43} {published:>10.2} {here:>10.2} {:>10}{extra}  {share}{}{caveat}",
        us(r.ours_us),
        r.note
    );
}

/// Runs the twins; the reason in one phrase when they cannot run.
fn twins(threads: usize) -> Result<Vec<Twin>, String> {
    let threads = threads.to_string();
    let mut python = Command::new("python3");
    python.args(["-c", TWINS]);
    for name in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"] {
        python.env(name, &threads);
    }
    let out = python.output().map_err(|e| format!("python3 did not start ({e})"))?;
    if !out.status.success() {
        let err = String::from_utf8_lossy(&out.stderr);
        return Err(err.trim().lines().last().unwrap_or("python3 failed without a word").to_string());
    }
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .map(|l| serde_json::from_str(l).map_err(|e| format!("its line `{l}` is not a row ({e})")))
        .collect()
}
