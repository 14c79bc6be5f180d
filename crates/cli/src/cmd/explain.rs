//! `tamp explain [MODEL]`: what would run, with which memory, where each setting came from, what else could act, and
//! what a draft would have to be worth. Its JSON is the contract by which the lab learns of techniques.

use serde_json::{Value, json};
use tamp_base::card::{Card, CardError};
use tamp_base::wall::{StepCost, WidthTable, Widths};
use tamp_bench::LoadTimes;
use tamp_kernels::rung;

use crate::args::ExplainArgs;
use crate::cmd::load::{Loaded, Wish, load};
use crate::cmd::{Ctx, techniques, widths};
use crate::fail::Done;
use crate::say;

/// Acceptance rates that the wall is shown for.
const RATES: [f64; 3] = [0.5, 0.7, 0.9];

/// Loads the model and prints the accepted plan: facts are read off what stands, not off intentions.
pub fn run(ctx: &Ctx, a: &ExplainArgs) -> Done {
    let l = load(
        ctx,
        a.model.as_deref(),
        &a.load,
        Wish { batch: a.batch.map(|b| b as usize), ..Wish::default() },
    )?;
    let table = widths::find(ctx, &widths::Key::of(&l));
    let wall = table.as_ref().and_then(|t| Some((t, t.widths().ok()?)));
    if ctx.json {
        return ctx.json(&whole(&l, wall.as_ref().map(|(t, w)| (*t, w))));
    }
    let plan = l.engine.plan();
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
    for (key, value, from) in l.settings.all() {
        say!("setting: {key} = {value} (from {from})");
    }
    for c in cards(&l) {
        if let Some(why) = c["why"].as_str() {
            say!("not applicable: {why}");
        }
    }
    match &wall {
        Some((table, widths)) => show(&l, table, widths),
        None => say!(
            "verify wall: not measured for this model, processor and {} threads; `tamp bench width {} --save` does",
            l.pool.threads(),
            a.model.as_deref().unwrap_or("MODEL")
        ),
    }
    let LoadTimes { load_ms, repack_ms, plan_ms, matrices_adopted, matrices_repacked } = l.times;
    say!(
        "load: {load_ms:.0} ms, of which weights {repack_ms:.0} ms ({matrices_adopted} matrices in place, \
         {matrices_repacked} repacked), plan {plan_ms:.0} ms"
    );
    l.settle()
}

fn whole(l: &Loaded, wall: Option<(&WidthTable, &Widths)>) -> Value {
    let setting =
        |(key, value, from): (&str, &str, &str)| json!({ "key": key, "value": value, "from": from });
    let settings: Vec<Value> = l.settings.all().map(setting).collect();
    let bundle = l.bundle.as_ref().map(|b| {
        json!({ "layout": b.layout, "behavior_class": b.behavior, "hash": b.hash_words(), "draft": b.draft })
    });
    let wall = wall.map(|(t, widths)| {
        let points: Vec<Value> = widths
            .rows()
            .map(|rows| json!({ "rows": rows, "cost": widths.at(rows), "break_even": widths.break_even(rows, 1, 0.0) }))
            .collect();
        json!({ "measured_ms": t.measured_ms, "plan_hash": t.plan_hash, "decision_grade": t.decision_grade,
            "draft_cost": 0.0, "widths": points })
    });
    json!({ "kind": "tamp.explain", "v": 1, "path": l.path, "plan": l.engine.plan(), "mapped_bytes": l.file_bytes,
        "threads": l.pool.threads(), "bundle": bundle, "chat_template": l.template.is_some(), "settings": settings,
        "cards": cards(l), "wall": wall, "load": l.times })
}

/// Every card of every room: what it is, whether it is chosen, whether it could act here, and if not why.
fn cards(l: &Loaded) -> Vec<Value> {
    let mut all = Vec::new();
    for room in tamp_engine::rooms() {
        let alone = room.cards.len() == 1;
        for card in room.cards {
            let why = applies(l, room.name, card).err().map(|e| e.to_string());
            let mut v = techniques::as_json(room.name, card);
            v["chosen"] = json!(alone || chosen(l, room.name, card));
            v["applicable"] = json!(why.is_none());
            v["why"] = json!(why);
            all.push(v);
        }
    }
    all
}

fn chosen(l: &Loaded, room: &str, card: &Card) -> bool {
    match l.engine.plan().techniques.iter().find(|t| t.room == room) {
        Some(t) => t.name == card.name,
        None => l.settings.used(room).map_or_else(|| is_first(room, card), |name| name == card.name),
    }
}

/// The first of a room is used when nothing is chosen.
fn is_first(room: &str, card: &Card) -> bool {
    tamp_engine::rooms()
        .iter()
        .any(|r| r.name == room && r.cards.first().is_some_and(|c| c.name == card.name))
}

fn applies(l: &Loaded, room: &str, card: &'static Card) -> Result<(), CardError> {
    if room == "kernels.isa" && rung::find(card.name).is_none() {
        let why = "this machine does not have these instructions".to_string();
        return Err(CardError::Refused { card: format!("{room}.{}", card.name), why });
    }
    l.engine.applies(room, card)
}

fn show(l: &Loaded, table: &WidthTable, widths: &Widths) {
    let plan = if table.plan_hash == l.engine.plan().hash { "" } else { ", with another plan" };
    let grade = if table.decision_grade { "" } else { ", beside another measurement" };
    say!(
        "verify wall: measured {}{plan}{grade}; S is tokens per second against plain, drafts for nothing",
        widths::age(table)
    );
    let rates: Vec<String> = RATES.iter().map(|r| format!("S at {r}")).collect();
    say!("{:>5}  {:>5}  {:>11}  {}", "rows", "cost", "breaks even", rates.join("  "));
    for rows in widths.rows().filter(|&r| r > 1) {
        let even = widths.break_even(rows, 1, 0.0).map_or("never".into(), |a| format!("{a:.2}"));
        let gains: Vec<String> =
            RATES.iter().map(|&r| format!("{:>8.2}", widths.speedup(r, rows, 1, 0.0))).collect();
        say!("{rows:>5}  {:>5.2}  {even:>11}  {}", widths.at(rows), gains.join("  "));
    }
}
