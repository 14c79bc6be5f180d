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
        let bundle = l.bundle.as_ref().map(|b| {
            json!({ "layout": b.layout, "behavior_class": b.behavior, "hash": b.hash_words(), "draft": b.draft })
        });
        return ctx.json(
            &json!({ "kind": "tamp.explain", "v": 1, "path": path, "plan": plan, "mapped_bytes": mapped,
            "threads": threads, "bundle": bundle, "chat_template": template, "settings": settings, "load": l.times }),
        );
    }
    say!("file: {} ({})", l.path.display(), crate::out::human_bytes(l.file_bytes));
    if let Some(b) = &l.bundle {
        say!("bundle: layout {}, behaviour class {}, {}", b.layout, b.behavior, b.hash_words());
        if b.draft {
            say!("draft: in the bundle, and not run: this tamp does not run drafts of bundles yet");
        }
    }
    say!("{plan}");
    say!("threads: {}", l.pool.threads());
    say!(
        "chat template: {}",
        if l.template.is_some() { "the model's own" } else { "none; chat uses ChatML" }
    );
    for (key, value, from) in sources {
        say!("setting: {key} = {value} (from {from})");
    }
    let LoadTimes { load_ms, repack_ms, plan_ms, matrices_adopted, matrices_repacked } = l.times;
    say!(
        "load: {load_ms:.0} ms, of which weights {repack_ms:.0} ms ({matrices_adopted} matrices in place, \
         {matrices_repacked} repacked), plan {plan_ms:.0} ms"
    );
    l.settle()
}
