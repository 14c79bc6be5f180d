//! `tamp bench sample`: one process, one record. `tamp bench prompts`: the token ids that it asks with.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use tamp_base::record::{EngineId, Sample};
use tamp_bench::prompt::{self, PINNED, Prompt};
use tamp_bench::sample::{Ask, Process, Together, sample};
use tamp_engine::Params;
use tamp_text::Tokenizer;
use tamp_weights::Weights;

use crate::args::{BenchPromptsArgs, BenchSampleArgs};
use crate::cmd::load::{Wish, load, named};
use crate::cmd::{Ctx, bench, tokenize};
use crate::fail::{At, Done, Fail};
use crate::say;

/// `kind` of what `bench prompts` prints.
const PROMPTS: &str = "tamp.bench.prompts";

/// Measures and prints.
pub fn run(ctx: &Ctx, a: &BenchSampleArgs) -> Done {
    let together = together(a)?;
    let wish = together.as_ref().map_or_else(Wish::default, |t| Wish {
        batch: Some(t.streams),
        ctx: Some(t.positions(a.max_tokens as usize) + 16),
        ..Wish::default()
    });
    let mut l = load(ctx, a.model.as_deref(), &a.load, wish)?;
    let ask = Ask {
        prompts: chosen(a, l.engine.tokenizer())?,
        repeats: a.repeats as usize,
        warmup: a.warmup as usize,
        max_tokens: a.max_tokens as usize,
        params: Params { temperature: a.temperature, seed: a.seed, ..Params::default() },
        stop_at_eos: a.stop_at_eos,
        ceiling: !a.no_ceiling,
        together,
    };
    let file = l.path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let mut observed: BTreeMap<String, Value> =
        [("model_file", json!(file)), ("model_bytes", json!(l.file_bytes)), ("warmup", json!(a.warmup))]
            .map(|(name, value)| (name.to_string(), value))
            .into();
    if let Some(b) = &l.bundle {
        observed.insert("bundle_layout".into(), json!(b.layout));
        observed.insert("bundle_hash".into(), json!(b.hash_words()));
    }
    let process = Process {
        engine: this(),
        settings: l.settings.all().map(|(key, value, _)| format!("{key}={value}")).collect(),
        observed,
        since_start_ms: &|| ctx.started.elapsed().as_secs_f64() * 1e3,
        peak: &|| Some(tamp_os::memory::rss().peak).filter(|&p| p > 0),
        forget_peak: &tamp_os::memory::reset_peak,
    };
    let row = sample(&mut l.subject(), &ask, process)?;
    l.settle()?;
    crate::cmd::phantoms(&l);
    if ctx.json {
        return ctx.json(&row);
    }
    show(&row);
    Ok(())
}

/// This program, as a record names it.
fn this() -> EngineId {
    EngineId {
        name: "tamp".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        revision: env!("TAMP_REVISION").into(),
        dirty: env!("TAMP_DIRTY") == "true",
    }
}

/// What `--streams` asks for.
fn together(a: &BenchSampleArgs) -> Done<Option<Together>> {
    let Some(streams) = a.streams.map(|n| n as usize) else { return Ok(None) };
    Ok(Some(Together {
        streams,
        requests: a.requests.map_or(2 * streams, |n| n as usize),
        shared: a.shared_tokens as usize,
        own: a.stream_tokens,
        callers: a.tenants.iter().map(|t| t.parse()).collect::<Result<_, _>>()?,
    }))
}

fn chosen(a: &BenchSampleArgs, t: &Tokenizer) -> Done<Vec<Prompt>> {
    let tokens = a.prompts.prompt_tokens.map(|n| n as usize);
    if let Some(file) = &a.ids {
        return ids(file, &a.prompts.prompts);
    }
    if let Some(file) = &a.prompts.prompt_file {
        let text = bench::read(Some(file))?;
        return Ok(vec![Prompt { name: stem(file), ids: prompt::cut(t, &text, 0, tokens)? }]);
    }
    a.prompts.prompts.iter().map(|name| Ok(prompt::pinned(t, name, tokens)?)).collect()
}

fn stem(file: &Path) -> String {
    file.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

/// A list of ids, or a record of [`PROMPTS`] of which the named ones are taken.
fn ids(file: &Path, names: &[String]) -> Done<Vec<Prompt>> {
    let text = std::fs::read_to_string(file).at("read", file)?;
    let wrong = |why: String| Fail::usage(format!("{}: {why}", file.display()));
    let value: Value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let list = |v: &Value| -> Done<Vec<u32>> {
        serde_json::from_value(v.clone())
            .map_err(|e| wrong(format!("a prompt must be a list of token ids ({e})")))
    };
    if value.is_array() {
        return Ok(vec![Prompt { name: stem(file), ids: list(&value)? }]);
    }
    let (Some(PROMPTS), Some(1), Some(all)) =
        (value["kind"].as_str(), value["v"].as_u64(), value["prompts"].as_object())
    else {
        return Err(wrong(format!("neither a list of token ids nor a record of kind {PROMPTS}, v 1")));
    };
    let known = || all.keys().cloned().collect::<Vec<_>>().join(", ");
    names
        .iter()
        .map(|name| {
            let v = all.get(name).ok_or_else(|| wrong(format!("no prompt `{name}`; it has {}", known())))?;
            Ok(Prompt { name: name.clone(), ids: list(v)? })
        })
        .collect()
}

/// The token ids of the pinned prompts; loads no weights.
pub fn prompts(ctx: &Ctx, a: &BenchPromptsArgs) -> Done {
    let path = ctx.finder().find(a.model.as_deref())?;
    let weights = Weights::open(&path).map_err(|e| named(e.into(), &path))?;
    let t = tokenize::tokenizer(&weights).map_err(|e| named(e.into(), &path))?;
    let names: Vec<&str> = match a.prompts.is_empty() {
        true => PINNED.iter().map(|p| p.name).collect(),
        false => a.prompts.iter().map(String::as_str).collect(),
    };
    let tokens = a.prompt_tokens.map(|n| n as usize);
    // Cut to a length, a prompt that is shorter is left out unless it was named.
    let all: Vec<Prompt> = names
        .iter()
        .map(|name| prompt::pinned(&t, name, tokens))
        .filter(|p| p.is_ok() || !a.prompts.is_empty())
        .collect::<Result<_, _>>()?;
    if ctx.json {
        let map = |of: fn(&Prompt) -> Value| -> Map<String, Value> {
            all.iter().map(|p| (p.name.clone(), of(p))).collect()
        };
        let (prompts, hashes) = (map(|p| json!(p.ids)), map(|p| json!(prompt::hash(&p.ids))));
        return ctx.json(&json!({ "kind": PROMPTS, "v": 1, "prompts": prompts, "hashes": hashes }));
    }
    for p in &all {
        let about = PINNED.iter().find(|q| q.name == p.name).map_or("", |q| q.about);
        say!("{:<10} {:>5} tokens  {}  {about}", p.name, p.ids.len(), &prompt::hash(&p.ids)[..16]);
    }
    Ok(())
}

fn show(row: &Sample) {
    say!(
        "{:<12} {:>7} {:>6} {:>10} {:>11} {:>10}  end",
        "prompt",
        "tokens",
        "new",
        "ttft ms",
        "prefill ms",
        "tokens/s"
    );
    for r in &row.requests {
        let (ms, spent) = (|ns: u64| ns as f64 / 1e6, r.token_ns.iter().sum::<u64>());
        let rate = if spent > 0 { r.token_ns.len() as f64 * 1e9 / spent as f64 } else { 0.0 };
        let (tokens, new) = (r.prompt_tokens, r.tokens.len());
        let (first, fill) = (ms(r.first_token_ns), ms(r.prefill_ns));
        say!("{:<12} {tokens:>7} {new:>6} {first:>10.2} {fill:>11.2} {rate:>10.1}  {}", r.prompt, r.finish);
    }
    for (name, value) in row.metrics() {
        say!("{name}: {value:.3}");
    }
    for (name, value) in &row.observed {
        say!("{name}: {}", value.as_str().map_or_else(|| value.to_string(), str::to_string));
    }
    for (name, acts) in &row.counters {
        say!("{name}: asked {}, declined {}, acted {}", acts.asked, acts.declined, acts.acted);
    }
    let e = &row.engine;
    let revision = if e.revision.is_empty() { "unknown" } else { &e.revision };
    say!("revision: {revision}{}", if e.dirty { ", and changed since" } else { "" });
    say!("plan_hash: {}", row.plan_hash);
    say!("decision_grade: {}", row.decision_grade);
}
