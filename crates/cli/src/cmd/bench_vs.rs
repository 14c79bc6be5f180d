//! `tamp bench vs`: another engine and ours in turn.

use std::path::{Path, PathBuf};
use std::process::Command;

use tamp_bench::vs::peer::{LlamaBench, Peer, Served};
use tamp_bench::vs::{Ask, Load, VsRow, Work, vs};

use crate::args::{BenchVsArgs, Engine, VsWork};
use crate::cmd::load::{Loaded, Wish, load};
use crate::cmd::{Ctx, bench};
use crate::fail::{At, Done, Fail};
use crate::say;

/// Prompt of decode and of each stream of a batch, tokens.
const SHORT: usize = 32;

/// What every Python peer shares.
const ROWS: &str = include_str!("../../../../bench/peers/tamp_rows.py");

/// One row per work, in the order asked.
pub fn run(ctx: &Ctx, a: &BenchVsArgs) -> Done {
    if a.engine != Engine::LlamaBench && (a.bin.is_some() || !a.peer_arg.is_empty()) {
        return Err(Fail::usage(
            "--bin and --peer-arg go with llama-bench, the only engine that is a binary",
        ));
    }
    let text = bench::read(a.prompt_file.as_deref())?;
    let loads: Vec<Load> = a.work.iter().map(|w| sizes(a, *w)).collect();
    let room = loads.iter().map(|l| l.prompt + l.tokens).max().unwrap_or(0) + 16;
    let streams = loads.iter().map(|l| l.streams).max().unwrap_or(1);
    let wish = Wish { batch: Some(streams), ctx: Some(room), ..Wish::default() };
    let mut l = load(ctx, a.model.as_deref(), &a.load, wish)?;
    for (i, load) in loads.into_iter().enumerate() {
        // The Python peers hold their memory for the sizes of one work.
        let mut peer = open(a, &l, load)?;
        let ask = Ask::new(&l.subject(), &text, load)?;
        let model = l.path.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let mut bar = ctx.ui.steps(load.work.name(), u64::from(a.pairs));
        let pairs = a.pairs as usize;
        let mut row = vs(&mut l.subject(), &mut *peer, &ask, model, pairs, &mut |n| bar.at(n as u64))?;
        drop(bar);
        if let Some(name) = &a.name {
            row.engine.clone_from(name);
        }
        if i == 0 && !ctx.json {
            heading();
        }
        print(ctx, &row)?;
    }
    Ok(())
}

fn heading() {
    let (ratio, share) = ("ratio (range)", "share");
    say!("{:<22} {:<9} {:>9} {:>10}  {ratio:<21} {share:>6} ceiling", "engine", "work", "tamp", "theirs");
}

fn print(ctx: &Ctx, r: &VsRow) -> Done {
    if ctx.json {
        return ctx.json(r);
    }
    let what = match r.work {
        "decode" => "decode".to_string(),
        "prefill" => format!("pre {}", r.prompt_tokens),
        "batch" => format!("batch {}", r.batch),
        _ => format!("ctx {}", r.prompt_tokens),
    };
    let ratio = format!("{:.2} ({:.2}–{:.2})", r.ratio, r.ratio_min, r.ratio_max);
    let share = r.ceiling_fraction.map_or("–".into(), |f| format!("{f:.2}"));
    let engine = format!("{} {}", r.engine, r.engine_version);
    let flag = r.flag.map_or(String::new(), |f| format!("  {f}"));
    let ids = if r.same_ids { "" } else { "  (other token ids)" };
    say!(
        "{engine:<22} {what:<9} {:>9.1} {:>10.1}  {ratio:<21} {share:>6} {:.1} GB/s{ids}{flag}",
        r.ours_tok_s,
        r.theirs_tok_s,
        r.ceiling_gb_s
    );
    Ok(())
}

fn sizes(a: &BenchVsArgs, work: VsWork) -> Load {
    let tokens = a.tokens as usize;
    match work {
        VsWork::Decode => Load { work: Work::Decode, prompt: SHORT, tokens, streams: 1 },
        VsWork::Prefill => Load { work: Work::Prefill, prompt: a.prompt as usize, tokens: 1, streams: 1 },
        VsWork::Batch => Load { work: Work::Batch, prompt: SHORT, tokens, streams: a.batch as usize },
        VsWork::Context => Load { work: Work::Context, prompt: a.depth as usize, tokens, streams: 1 },
    }
}

/// The peer of an engine, ready for `load`.
fn open(a: &BenchVsArgs, l: &Loaded, load: Load) -> Done<Box<dyn Peer>> {
    let threads = l.pool.threads();
    let script = match a.engine {
        Engine::LlamaBench => {
            let usual = if load.work == Work::Batch { "llama-batched-bench" } else { "llama-bench" };
            let bin = a.bin.clone().unwrap_or_else(|| PathBuf::from(usual));
            return Ok(Box::new(LlamaBench::new(bin, l.path.clone(), threads, a.peer_arg.clone())));
        }
        Engine::LlamaCpp => ("peer_llama_cpp.py", include_str!("../../../../bench/peers/peer_llama_cpp.py")),
        Engine::Mistralrs => ("peer_mistralrs.py", include_str!("../../../../bench/peers/peer_mistralrs.py")),
        Engine::Openvino => ("peer_openvino.py", include_str!("../../../../bench/peers/peer_openvino.py")),
    };
    let dir = tempfile::tempdir().at("create", Path::new("a temporary folder"))?;
    for (name, text) in [script, ("tamp_rows.py", ROWS)] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).at("write", &path)?;
    }
    let mut command = Command::new(&a.python);
    command.arg("-B").arg(dir.path().join(script.0)).arg(&l.path).arg("--serve");
    for (flag, n) in
        [("--threads", threads), ("--ctx", load.prompt + load.tokens + 16), ("--streams", load.streams)]
    {
        command.args([flag, &n.to_string()]);
    }
    // Once it has said that it is ready, it has read its files.
    Ok(Box::new(Served::start(command)?))
}
