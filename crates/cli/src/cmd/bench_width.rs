//! `tamp bench width`: what more rows at once cost.

use std::sync::Arc;

use tamp_base::clock::SystemClock;
use tamp_bench::prompt::PROSE;
use tamp_bench::width::formats::{FormatRow, FormatsPlan, formats};
use tamp_bench::width::{WIDTHS, engine};
use tamp_engine::EngineOptions;
use tamp_formats::Kind;
use tamp_kernels::cpu::Cpu;
use tamp_kernels::pool::Pool;

use crate::args::BenchWidthArgs;
use crate::cmd::load::{Wish, load, rung};
use crate::cmd::{Ctx, Graded, cores, widths};
use crate::fail::{Done, Fail, nearest};
use crate::out::note;
use crate::say;

/// The whole engine when a model is named, else the block formats.
pub fn run(ctx: &Ctx, a: &BenchWidthArgs) -> Done {
    match &a.model {
        Some(model) => whole(ctx, a, model),
        None => by_format(ctx, a),
    }
}

fn whole(ctx: &Ctx, a: &BenchWidthArgs, model: &str) -> Done {
    let rounds = a.rounds as usize;
    let wish = Wish { batch: Some(engine::STREAMS), ctx: Some(engine::positions(rounds)), ..Wish::default() };
    let mut l = load(ctx, Some(model), &a.load, wish)?;
    let row = engine::engine(&mut l.subject(), PROSE, rounds)?;
    l.settle()?;
    let key = widths::Key::of(&l);
    let table = key.stamp(&row)?;
    if a.save {
        let file = widths::save(ctx, &key, &table)?;
        note(format_args!("kept for `tamp explain` in {}", file.display()));
    }
    if ctx.json {
        return ctx.json(&table);
    }
    say!("{:>5}  {:>9}  {:>6}  {:>13}", "rows", "step ms", "cost", "range");
    for p in &row.points {
        say!("{:>5}  {:>9.3}  {:>6.2}  {:>6.2}–{:<6.2}", p.rows, p.ms, p.cost, p.cost_min, p.cost_max);
    }
    say!("one row: {:.1} GB/s, {:.2} of {:.1} GB/s", row.gb_s, row.ceiling_fraction, row.ceiling_gb_s);
    if let Some(flag) = row.flag {
        say!("flag: {flag}");
    }
    say!("plan_hash: {}", row.facts.plan_hash);
    Ok(())
}

fn by_format(ctx: &Ctx, a: &BenchWidthArgs) -> Done {
    let plan =
        FormatsPlan { kinds: kinds(&a.formats)?, bytes: (a.bytes as usize) << 20, rounds: a.rounds as usize };
    let threads = match a.load.threads {
        Some(n) => n as usize,
        None => EngineOptions::read(&ctx.settings)?.threads,
    };
    let pool = Arc::new(Pool::new(if threads == 0 { cores() } else { threads }, true));
    let device = Cpu::new(pool.clone(), rung(&ctx.settings)?);
    if !ctx.json {
        let widths: Vec<String> = WIDTHS[1..].iter().map(|w| format!("{w:>6}")).collect();
        say!("{:<7} {:>5} {:>8} {:>6} {:>6} {}", "format", "MB", "ms", "GB/s", "share", widths.concat());
    }
    let row = formats(&device, &pool, &SystemClock::default(), &plan, &mut |f| {
        if !ctx.json {
            line(f);
        }
    })?;
    ctx.json(&Graded { row: &row, decision_grade: ctx.decision_grade })
}

fn line(f: &FormatRow) {
    let one = f.points.first().map_or(0.0, |p| p.ms);
    let costs: Vec<String> = f.points.iter().skip(1).map(|p| format!("{:>6.2}", p.cost)).collect();
    let (mb, flag) = (f.bytes / 1_000_000, f.flag.unwrap_or_default());
    let costs = costs.concat();
    say!("{:<7} {mb:>5} {one:>8.3} {:>6.1} {:>6.2} {costs} {flag}", f.format, f.gb_s, f.ceiling_fraction);
}

fn kinds(names: &[String]) -> Done<Vec<Kind>> {
    if names.is_empty() {
        return Ok(Kind::ALL.to_vec());
    }
    names
        .iter()
        .map(|name| {
            Kind::from_name(name).ok_or_else(|| {
                let known: Vec<&str> = Kind::ALL.iter().map(|k| k.name()).collect();
                let near = nearest(&name.to_lowercase(), known.iter().copied());
                let fail =
                    Fail::usage(format!("there is no block format `{name}`; known: {}", known.join(", ")));
                match near {
                    Some(near) => fail.hint(format!("did you mean {near}?")),
                    None => fail,
                }
            })
        })
        .collect()
}
