//! `tamp bench …` and the counted command of `tamp generate`.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use tamp_bench::{batch, generate, prompt as text, single};

use crate::args::{BenchArgs, BenchBatchArgs, BenchCommand, BenchDecodeArgs, BenchGenerateArgs};
use crate::cmd::load::{Loaded, Wish, load};
use crate::cmd::{Ctx, bench_ops, bench_prefix, bench_sample, bench_serve, bench_vs, bench_width, prompt};
use crate::fail::{At, Code, Done, Fail};
use crate::say;

/// The usual prompt of a decode, tokens.
const SHORT: usize = 32;

/// Runs a workload.
pub fn run(ctx: &Ctx, command: &BenchCommand) -> Done {
    match command {
        BenchCommand::Sample(a) => bench_sample::run(ctx, a),
        BenchCommand::Prompts(a) => bench_sample::prompts(ctx, a),
        BenchCommand::Decode(a) => decode(ctx, a),
        BenchCommand::Prefill(a) => prefill(ctx, a),
        BenchCommand::Batch(a) => batches(ctx, a),
        BenchCommand::Generate(a) => whole(ctx, a),
        BenchCommand::Width(a) => bench_width::run(ctx, a),
        BenchCommand::Prefix(a) => bench_prefix::run(ctx, a),
        BenchCommand::Ops(a) => bench_ops::run(ctx, a),
        BenchCommand::Serve(a) => bench_serve::run(ctx, a),
        BenchCommand::Vs(a) => bench_vs::run(ctx, a),
    }
}

/// The prompts' text: a file, or the built-in prose.
pub fn read(file: Option<&Path>) -> Done<String> {
    file.map_or_else(|| Ok(text::PROSE.to_string()), |f| std::fs::read_to_string(f).at("read", f))
}

fn decode(ctx: &Ctx, d: &BenchDecodeArgs) -> Done {
    let a = &d.bench;
    let text = read(a.prompt_file.as_deref())?;
    let (depth, tokens) = (d.depth as usize, a.tokens as usize);
    // A depth says how much context is wanted; without one the usual context holds.
    let wish = Wish { ctx: (depth > SHORT).then_some(depth + tokens + 16), ..Wish::default() };
    let mut l = load(ctx, a.model.as_deref(), &a.load, wish)?;
    let row = single::decode(&mut l.subject(), &text, depth, tokens, a.repeats as usize)?;
    print(ctx, &l, &row)
}

fn prefill(ctx: &Ctx, a: &BenchArgs) -> Done {
    let text = read(a.prompt_file.as_deref())?;
    let mut l = load(ctx, a.model.as_deref(), &a.load, Wish::default())?;
    let row = single::prefill(&mut l.subject(), &text, a.tokens as usize, a.repeats as usize)?;
    print(ctx, &l, &row)
}

fn batches(ctx: &Ctx, a: &BenchBatchArgs) -> Done {
    let text = read(a.prompt_file.as_deref())?;
    let mut sizes: Vec<usize> = a.batch.iter().map(|&b| b as usize).collect();
    sizes.sort_unstable();
    sizes.dedup();
    // Room for the widest batch, and no more context than its streams need.
    let ctx_of = (a.tokens as usize + 64).max(128);
    let wish = Wish { batch: sizes.last().copied(), ctx: Some(ctx_of), ..Wish::default() };
    let mut l = load(ctx, a.model.as_deref(), &a.load, wish)?;
    let row = batch::batch(&mut l.subject(), &text, &sizes, a.tokens as usize)?;
    if ctx.json {
        return ctx.json(&row);
    }
    let last = ("step ms", "cost", "MB/token");
    say!(
        "{:>5}  {:>12}  {:>12}  {:>9}  {:>5}  {:>9}",
        "batch",
        "tokens/s",
        "per stream",
        last.0,
        last.1,
        last.2
    );
    for p in &row.points {
        let (total, each) = (p.total_tok_s, p.per_sequence_tok_s);
        let mb = p.bytes_per_token / 1e6;
        say!(
            "{:>5}  {total:>12.1}  {each:>12.1}  {:>9.3}  {:>5.2}  {mb:>9.1}",
            p.batch,
            p.step_ms,
            p.cost_ratio
        );
    }
    say!("ceiling_gb_s: {:.1}", row.ceiling_gb_s);
    say!("plan_hash: {}", row.facts.plan_hash);
    Ok(())
}

/// Whole requests.
pub fn whole(ctx: &Ctx, a: &BenchGenerateArgs) -> Done {
    let mut l = load(ctx, a.model.as_deref(), &a.load, Wish::default())?;
    let ids = prompt::raw(&a.prompt, l.engine.tokenizer());
    let (warmup, iterations) = (a.warmup as usize, a.iterations as usize);
    let row = generate::generate(&mut l.subject(), &ids, a.max_tokens as usize, warmup, iterations)?;
    print(ctx, &l, &row)
}

/// JSON, or one `key: value` line per figure, the kernels and the hash; raw samples only in the JSON.
fn print(ctx: &Ctx, l: &Loaded, row: &impl Serialize) -> Done {
    l.settle()?;
    crate::cmd::phantoms(l);
    if ctx.json {
        return ctx.json(row);
    }
    let Value::Object(fields) = serde_json::to_value(row).map_err(|e| Fail::new(Code::Other, e))? else {
        return Ok(());
    };
    for (key, value) in &fields {
        match value {
            Value::Number(n) if n.is_f64() => say!("{key}: {:.3}", n.as_f64().unwrap_or(0.0)),
            Value::Number(n) => say!("{key}: {n}"),
            Value::Bool(b) => say!("{key}: {b}"),
            Value::String(s) => say!("{key}: {s}"),
            Value::Array(a) if key == "kernels" => {
                for k in a {
                    let word = |i: usize| k[i].as_str().unwrap_or_default();
                    say!("kernel {}: {}", word(0), word(1));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
