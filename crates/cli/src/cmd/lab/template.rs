//! `tamp lab new`: a spec that asks for what is missing.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tamp_base::card::Effect;
use tamp_base::settings::Settings;
use tamp_lab::spec::{Frozen, Spec};

use crate::args::LabNewArgs;
use crate::cmd::Ctx;
use crate::fail::{At, Done, Fail};
use crate::say;

/// Writes it; a file that is there is left alone.
pub fn write(ctx: &Ctx, a: &LabNewArgs) -> Done {
    let slug: String =
        a.title.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let words: Vec<&str> = slug.split('-').filter(|w| !w.is_empty()).collect();
    let path =
        a.out.clone().unwrap_or_else(|| PathBuf::from("lab/specs").join(format!("{}.toml", words.join("-"))));
    if path.exists() {
        return Err(Fail::usage(format!("{} is there already", path.display())).hint("give another --out"));
    }
    let text = text(a)?;
    // What is written is what `run` takes: a template that is refused would be a trap.
    Frozen::parse(&text, "the template")?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).at("create", folder)?;
    }
    std::fs::write(&path, text).at("write", &path)?;
    ctx.json(&json!({ "kind": "tamp.lab.new", "v": 1, "file": path }))?;
    if !ctx.json {
        say!("{}", path.display());
        say!("fill in what it asks for, then: tamp lab run {}", path.display());
    }
    Ok(())
}

/// What the template says where only its reader knows.
const HYPOTHESIS: &str = "what you believe and what could turn out false";
const MECHANISM: &str = "by what it would work";

const IDENTICAL: &str = "name = \"tokens identical\"\npred = \"token_identity\"";
const UNREBUILT: &str = "name = \"no plan is made while it is measured\"\nobservable = \"observed.plans_rebuilt\"\npred = \"== 0\"";

/// The first field that was left as the template has it.
pub fn untouched(spec: &Spec) -> Option<&'static str> {
    match () {
        () if spec.hypothesis == HYPOTHESIS => Some("hypothesis"),
        () if spec.mechanism == MECHANISM => Some("mechanism"),
        () => None,
    }
}

/// Paths of the plan that the tried words move, seen by asking for both plans; none when the model is not here.
fn moved(a: &LabNewArgs, uses: &[&String], sets: &[&String]) -> Vec<String> {
    let plan = |words: &[(&str, &&String)]| -> Option<Value> {
        let mut c = Command::new(std::env::current_exe().ok()?);
        c.args(["explain", &a.model, "--json"]).stdin(Stdio::null());
        words.iter().for_each(|(flag, word)| {
            c.args([flag, word.as_str()]);
        });
        let out = c.output().ok().filter(|o| o.status.success())?;
        let line = String::from_utf8_lossy(&out.stdout).lines().last()?.to_string();
        Some(serde_json::from_str::<Value>(&line).ok()?["plan"].clone())
    };
    let words: Vec<(&str, &&String)> =
        uses.iter().map(|u| ("--use", u)).chain(sets.iter().map(|s| ("--set", s))).collect();
    let (Some(control), Some(candidate)) = (plan(&[]), plan(&words)) else { return Vec::new() };
    let paths = tamp_lab::observe::differences(&control, &candidate, "plan");
    paths.into_iter().filter(|p| p != "plan.hash" && !p.starts_with("plan.memory")).collect()
}

fn text(a: &LabNewArgs) -> Done<String> {
    let quote = |s: &str| toml::Value::String(s.to_string()).to_string();
    let list = |v: &[&String]| format!("[{}]", v.iter().map(|s| quote(s)).collect::<Vec<_>>().join(", "));
    let rooms = tamp_engine::rooms();
    let is_use = |t: &&String| t.split('=').next().is_some_and(|key| rooms.iter().any(|r| r.name == key));
    if let Some(bad) = a.tries.iter().find(|t| !t.contains('=')) {
        return Err(Fail::usage(format!(
            "--try {bad:?} is not ROOM=NAME or KNOB=VALUE; see `tamp techniques`"
        )));
    }
    if a.tries.is_empty() {
        return Err(Fail::usage("--try is missing: name what the candidate does differently")
            .hint("such as --try engine.core.chunk=512; `tamp techniques` lists rooms and names"));
    }
    let uses: Vec<&String> = a.tries.iter().filter(is_use).collect();
    let sets: Vec<&String> = a.tries.iter().filter(|t| !is_use(t)).collect();
    let mut words = Settings::default();
    for u in &uses {
        words.add_use(u, "--try")?;
    }
    for s in &sets {
        words.add_set(s, "--try")?;
    }
    words.check(&rooms)?;
    let chosen = |u: &&String| {
        let (room, name) = u.split_once('=')?;
        rooms.iter().find(|r| r.name == room)?.cards.iter().find(|c| c.name == name).map(|c| c.effect)
    };
    let lossy = uses.iter().filter_map(chosen).any(|e| e == Effect::Lossy);
    let differs = moved(a, &uses, &sets);
    // The fact itself where one is known; threads are not part of the plan.
    let observable = match differs.first() {
        Some(path) => path.clone(),
        None if sets.iter().any(|s| s.contains(".threads=")) => "threads".into(),
        None => "plan_hash".into(),
    };
    let tags: Vec<String> = a.tries.iter().filter_map(|t| t.split('=').next()).map(String::from).collect();
    let tags = if tags.is_empty() { vec!["untagged".to_string()] } else { tags };
    let title = quote(&a.title);
    let up = matches!(tamp_lab::verdict::direction(&a.metric), tamp_lab::stats::Direction::Up);
    let direction = if up { "up" } else { "down" };
    Ok(format!(
        r#"# An experiment: https://toml.io, one key per line. Ratios are oriented so that more than 1 is better.
# Its id is a hash of these fields; once it has run, a changed file is another question.
kind = "tamp.lab.spec"
v = 1
title = {title}
lane = "probe"             # shipping, publication, probe, microbench, infra
hypothesis = {hypothesis}
mechanism = {mechanism}
tags = {tags}
change = "what differs between the arms, minimal"
confidence = 0.5           # before measuring
assumptions = 1            # what must hold beside the mechanism
revert = "flag"            # flag, delete, revert
depends = ["machine", "model", "crate:kernels", "crate:engine"]

# Paths of the plan that may differ between the arms; anything else that does voids the run. `tamp explain` shows the plan.
differs = {differs}

[expected]                 # say it before you measure; the report lays it beside what was measured
metric = {metric}
direction = "{direction}"
effect = 1.1
model = "where that figure comes from"

[control]                  # as tamp is

[candidate]                # use = ["room=name"], set = ["card.knob=value"], args = ["--ctx", "512"], threads, model, rev
use = {uses}
set = {sets}

[contract]                 # what every process does
model = {model}
prompts = ["prose"]        # short, prose, long, code-edit, chat
max_tokens = 64
temperature = 0
seed = 1

[[manipulation]]           # an observed fact that separates the arms; without it a lever that does nothing looks like "no effect"
observable = {observable}   # plan.…, observed.…, counter.CARD.acted, metric.…, threads
candidate = "differs"

[[invariant]]
{invariant}

[quality]
class = "{class}"            # exact, near-exact (max_kl), approximate (max_bits, max_task_loss); short and long are always rolled out too
{flips}
[design]
kind = "abba"
pairs = [8, 24]            # fewest, most

[[success]]                # all must hold to retain
metric = {metric}
stat = "ci_low"
op = ">="
value = 1.02

[[kill]]                   # any ends the idea
metric = {metric}
stat = "ci_high"
op = "<"
value = 1.0
"#,
        tags = list(&tags.iter().collect::<Vec<_>>()),
        metric = quote(&a.metric),
        uses = list(&uses),
        sets = list(&sets),
        hypothesis = quote(HYPOTHESIS),
        mechanism = quote(MECHANISM),
        differs = list(&differs.iter().collect::<Vec<_>>()),
        observable = quote(&observable),
        invariant = if lossy { UNREBUILT } else { IDENTICAL },
        class = if lossy { "near-exact" } else { "exact" },
        flips = if lossy {
            "max_kl = 0.01              # mean divergence from the control's distributions, nats per token\nmax_flips = 0.5            # share of requests whose tokens may differ\n"
        } else {
            ""
        },
        model = quote(&a.model),
    ))
}
