//! `tamp explain [MODEL]`: what would run, with which memory, and where each setting came from.

use serde_json::json;
use tamp_bench::LoadTimes;

use crate::args::ExplainArgs;
use crate::cmd::Ctx;
use crate::cmd::load::{Wish, load};
use crate::fail::Done;
use crate::say;

/// Loads the model and prints the accepted plan: facts are read off what stands, not off intentions.
pub fn run(ctx: &Ctx, a: &ExplainArgs) -> Done {
    let l = load(ctx, a.model.as_deref(), &a.load, Wish { batch: a.batch.map(|b| b as usize), ctx: None })?;
    let plan = l.engine.plan();
    let sources: Vec<(&str, &str, &str)> = l.settings.all().collect();
    if ctx.json {
        let settings: Vec<_> = sources
            .iter()
            .map(|(key, value, from)| json!({ "key": key, "value": value, "from": from }))
            .collect();
        let (path, mapped, threads) = (&l.path, l.file_bytes, l.pool.threads());
        let template = l.template.is_some();
        return ctx.json(
            &json!({ "kind": "tamp.explain", "v": 1, "path": path, "plan": plan, "mapped_bytes": mapped,
            "threads": threads, "chat_template": template, "settings": settings, "load": l.times }),
        );
    }
    say!("file: {} ({})", l.path.display(), crate::out::human_bytes(l.file_bytes));
    say!("{plan}");
    say!("threads: {}", l.pool.threads());
    say!(
        "chat template: {}",
        if l.template.is_some() { "the model's own" } else { "none; chat uses ChatML" }
    );
    for (key, value, from) in sources {
        say!("setting: {key} = {value} (from {from})");
    }
    let LoadTimes { load_ms, repack_ms, plan_ms } = l.times;
    say!("load: {load_ms:.0} ms, of which repacking {repack_ms:.0} ms, plan {plan_ms:.0} ms");
    Ok(())
}
