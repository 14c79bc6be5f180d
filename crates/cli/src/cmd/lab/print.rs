//! What the lab tells a terminal.

use std::collections::BTreeMap;

use serde_json::json;
use tamp_lab::check::Shown;
use tamp_lab::ledger::{Body, Row};
use tamp_lab::program::{Closed, Line};
use tamp_lab::queue::{Entry, Missing, State};
use tamp_lab::spec::Frozen;
use tamp_lab::verdict::Decision;
use tamp_lab::why::Known;

use crate::cmd::Ctx;
use crate::fail::{Done, Fail};
use crate::say;

/// The spec a row is about.
pub fn subject(row: &Row) -> &str {
    match &row.body {
        Body::Opened { spec, .. } | Body::Measured { spec, .. } | Body::Decided { spec, .. } => spec,
        _ => "",
    }
}

/// Every question of a ledger, by id.
pub fn opened(rows: &[Row]) -> BTreeMap<String, Frozen> {
    let spec = |r: &Row| match &r.body {
        Body::Opened { spec, value, .. } => {
            Some((spec.clone(), Frozen::from_value(value.clone(), spec).ok()?))
        }
        _ => None,
    };
    rows.iter().filter_map(spec).collect()
}

/// One line per verdict, newest first.
pub fn list(ctx: &Ctx, rows: &[Row]) -> Done {
    let specs = opened(rows);
    let decided = rows.iter().rev().filter_map(|r| match &r.body {
        Body::Decided { spec, decision, .. } => Some((r, spec, decision)),
        _ => None,
    });
    let superseded: Vec<&str> = rows
        .iter()
        .filter_map(|r| match &r.body {
            Body::Superseded { of, .. } => Some(of.as_str()),
            _ => None,
        })
        .collect();
    let mut all = Vec::new();
    let mut said = 0;
    for (row, spec, d) in decided {
        said += 1;
        let gone = superseded.contains(&row.hash.as_str());
        let title = specs.get(spec).map_or("", |s| s.spec.title.as_str());
        let verdict = d.verdict.map_or("open", |v| v.word());
        if ctx.json {
            all.push(json!({ "row": row.hash, "spec": spec, "candidate": d.candidate, "title": title,
                "verdict": d.verdict, "reason": d.reason, "superseded": gone }));
        } else {
            let gone = if gone { "  (superseded)" } else { "" };
            say!(
                "{}  row {}  {verdict:<14}  {title}{}{gone}",
                &spec[..12],
                &row.hash[..12],
                named(&d.candidate)
            );
        }
    }
    if said == 0 && !ctx.json {
        say!("no verdicts yet; begin with `tamp lab new`");
    }
    ctx.json(&json!({ "kind": "tamp.lab.list", "v": 1, "rows": all }))
}

fn named(candidate: &str) -> String {
    if candidate == "candidate" { String::new() } else { format!(" [{candidate}]") }
}

/// The newest verdicts on a spec.
pub fn show(ctx: &Ctx, rows: &[Row], id: &str) -> Done {
    let specs = opened(rows);
    // A row's hash leads to its question.
    let row = rows.iter().find(|r| id.len() >= 6 && r.hash.starts_with(id) && !subject(r).is_empty());
    let id = row.map_or(id, subject);
    let mut fits = specs.iter().filter(|(s, _)| !id.is_empty() && s.starts_with(id));
    let (Some((id, spec)), None) = (fits.next(), fits.next()) else {
        let many = specs.keys().filter(|s| s.starts_with(id)).count();
        return Err(Fail::usage(format!("{many} specs and no row begin with {id:?}; exactly one must"))
            .hint("`tamp lab list` shows them"));
    };
    let newest = rows.iter().filter_map(|r| match &r.body {
        Body::Decided { spec, attempt, .. } if spec == id => Some(*attempt),
        _ => None,
    });
    let attempt = newest.max();
    let decided: Vec<(&Row, &Decision)> = rows
        .iter()
        .filter_map(|r| match &r.body {
            Body::Decided { spec, attempt: a, decision, .. } if spec == id && Some(*a) == attempt => {
                Some((r, &**decision))
            }
            _ => None,
        })
        .collect();
    if ctx.json {
        let all: Vec<_> = decided.iter().map(|(r, d)| json!({ "row": r.hash, "decision": d })).collect();
        return ctx.json(
            &json!({ "kind": "tamp.lab.show", "v": 1, "spec": id, "value": spec.value, "decided": all }),
        );
    }
    say!("{}", spec.spec.title);
    say!("  {}", spec.spec.hypothesis);
    if decided.is_empty() {
        say!("  no verdict yet");
    }
    for (row, d) in decided {
        decision(spec, row, d);
    }
    Ok(())
}

fn decision(spec: &Frozen, row: &Row, d: &Decision) {
    say!("");
    say!("{}{}: {}", d.verdict.map_or("open", |v| v.word()).to_uppercase(), named(&d.candidate), d.reason);
    if let Some(b) = &d.blocker {
        say!("  needs ({:?}): {}", b.kind, b.needs);
    }
    for (metric, e) in &d.estimates {
        let [a, b] = d.medians.get(metric).copied().unwrap_or([f64::NAN; 2]);
        let floor =
            d.floors.get(metric).map_or(String::new(), |f| format!(", A/A floor ±{:.1} %", 100.0 * f.floor));
        say!(
            "  {metric:<18} {a:>10.3} → {b:>10.3}   × {:.4} ({:.4}–{:.4}), {} pairs, finds {:.1} %{floor}",
            e.ratio,
            e.low,
            e.high,
            e.pairs,
            100.0 * e.mde
        );
    }
    if spec.spec.candidate.is_some() || !spec.spec.candidates.is_empty() {
        say!("  predicted × {:.2} ({})", d.predicted, spec.spec.expected.model);
    }
    if let Some([a, b]) = d.ceiling {
        say!("  share of the read ceiling {:.2} → {:.2}", a, b);
    }
    if let Some(loose) =
        spec.spec.design.foreign_cpu.filter(|f| *f > tamp_lab::host::Gate::default().foreign_cpu)
    {
        say!(
            "  beware: this spec lets other programs use {loose} of a core, so the figures may have been disturbed"
        );
    }
    if d.voided > 0 {
        say!("  {} blocks were disturbed and do not count", d.voided);
    }
    checks("manipulation", &d.manipulation);
    checks("invariant", &d.invariants);
    let (success, kill) = d.gates.split_at(spec.spec.success.len().min(d.gates.len()));
    checks("gate", success);
    for k in kill {
        // A kill gate that holds is the bad news.
        let mark = if k.pass { "✗ holds" } else { "✓ does not hold" };
        say!("  kill gate     {mark}: {} {} (seen: {})", k.name, k.want, k.seen);
    }
    for e in &d.engaged {
        say!(
            "  engaged       {}: asked {}, declined {}, acted {}",
            e.card,
            e.acts.asked,
            e.acts.declined,
            e.acts.acted
        );
    }
    if let Some(q) = &d.quality {
        let first =
            q.first.as_ref().map_or(String::new(), |(p, at)| format!(", first at token {at} of {p:?}"));
        say!("  quality       {} of {} requests gave other tokens{first}", q.flips, q.requests);
        for b in q.bounds.iter().flat_map(|b| &b.bounds) {
            let mark = if b.held == tamp_lab::quality::bounds::Held::Within { "✓" } else { "✗" };
            let s = b.seen;
            say!(
                "  quality       {mark} {}: {} {:.6} ({:.6} to {:.6}) over {}, at most {}; {}",
                b.name,
                b.about,
                s.mean,
                s.low,
                s.high,
                b.over,
                b.most,
                b.beside
            );
        }
        if let Some(why) = q.missing() {
            say!("  quality       ✗ not measured: {why}");
        }
    }
    say!("  row {}", &row.hash[..12]);
}

fn checks(kind: &str, all: &[Shown]) {
    for s in all {
        let mark = if s.pass { "✓" } else { "✗" };
        say!("  {kind:<13} {mark} {}: {} (seen: {})", s.name, s.want, s.seen);
    }
}

/// What is known under a word.
pub fn known(all: &[Known], tag: &str) {
    if all.is_empty() {
        say!("nothing is known under {tag:?}");
    }
    for k in all {
        let day = tamp_lab::report::date(k.at_ms);
        let who = if k.external { "external, conditions differ" } else { &k.id[..k.id.len().min(12)] };
        say!("{:<14} {}{}  ({who}, {day})", k.verdict, k.title, named_or_none(&k.candidate));
        say!("    {}", k.reason);
        if !k.note.is_empty() {
            say!("    {}", k.note);
        }
        if let Some(why) = &k.expired {
            say!("    expired: {why}");
        }
        for c in &k.corrections {
            say!("    corrected: {c}");
        }
    }
}

fn named_or_none(candidate: &str) -> String {
    if candidate.is_empty() { String::new() } else { named(candidate) }
}

/// The order and where each stands; with `audit` only what the ledger already answers.
pub fn queue(ctx: &Ctx, all: &[Entry], audit: bool) -> Done {
    if ctx.json {
        return ctx.json(&json!({ "kind": "tamp.lab.queue", "v": 1, "queue": all }));
    }
    let mut said = 0;
    for (n, e) in all.iter().enumerate() {
        let (word, why) = match &e.state {
            State::Ready { again } => ("ready", again.clone().unwrap_or_default()),
            State::Answered { row, why } => ("answered", format!("{why}; row {}", &row[..12])),
            State::Blocked { by } => (
                "blocked",
                by.iter().map(|b| format!("{:?}: {}", b.kind, b.needs)).collect::<Vec<_>>().join("; "),
            ),
            State::Waits { why } => ("waits", why.clone()),
            State::Closed { why } => ("closed", why.clone()),
        };
        if audit && !matches!(e.state, State::Answered { .. }) {
            continue;
        }
        said += 1;
        say!("{:>2}. {word:<8} {}  {}", n + 1, &e.id[..12], e.title);
        say!("      {}", e.rank);
        if !why.is_empty() {
            say!("      {why}");
        }
    }
    if said == 0 {
        say!("{}", if audit { "the ledger answers none of these" } else { "the queue is empty" });
    }
    Ok(())
}

/// What is missing, and who waits for it.
pub fn blockers(ctx: &Ctx, all: &[Missing]) -> Done {
    if ctx.json {
        return ctx.json(&json!({ "kind": "tamp.lab.blockers", "v": 1, "blockers": all }));
    }
    if all.is_empty() {
        say!("nothing is missing");
    }
    for m in all {
        say!("{:?}: {}", m.kind, m.needs);
        for title in &m.blocks {
            say!("    blocks  {title}");
        }
        for title in &m.behind {
            say!("    behind  {title}");
        }
    }
    Ok(())
}

/// How a program ended.
pub fn summary(ctx: &Ctx, c: &Closed) -> Done {
    let s = &c.summary;
    if ctx.json {
        return ctx.json(&json!({ "kind": "tamp.lab.program", "v": 1, "row": c.row, "summary": s }));
    }
    say!("{}{}", s.title, if c.before { " (closed before; --again opens it anew)" } else { "" });
    let part = |name: &str, lines: &[Line]| {
        for l in lines {
            let verdict = l.verdict.map_or(name, |v| v.word());
            say!("  {verdict:<14} {}{}", l.title, named_or_none(&l.candidate));
            say!("                 {}", l.why);
        }
    };
    part("retained", &s.retained);
    part("rejected", &s.rejected);
    part("blocked", &s.blocked);
    part("undecided", &s.undecided);
    part("closed", &s.closed);
    part("waiting", &s.waiting);
    part("cited", &s.cited);
    for (word, list) in [("tooling kept", &s.tooling_kept), ("next", &s.next)] {
        list.iter().for_each(|l| say!("  {word:<14} {l}"));
    }
    say!("  row {}", &c.row[..12]);
    Ok(())
}
