//! One experiment on the page: what was asked, what was done, what was seen, what follows.

use serde_json::Value;

use super::book::{Attempt, Book, Decided, Experiment};
use super::facts::Facts;
use super::parts::{badge, checks, code, figures, folded, key, remarks, swatch};
use super::ratios;
use super::text::{Raw, clock, html, interval, ratio, short, span, utc};
use crate::record::{Store, StoreError};
use crate::spec::{Arm, Spec};
use crate::verdict::{Decision, Verdict};

/// Widths of a drawing for wide and for narrow screens; the page shows one of the two.
const WIDE: f64 = 720.0;
const NARROW: f64 = 340.0;

/// An experiment as the page and its index need it.
pub struct Entry<'r> {
    /// from the ledger
    pub experiment: &'r Experiment<'r>,
    /// the whole article
    pub article: Raw,
    /// processor, cores, memory; empty when nothing ran
    pub machine: String,
    /// processes of all attempts
    pub processes: usize,
}

/// Builds the article.
pub fn entry<'r>(e: &'r Experiment<'r>, book: &Book<'r>, store: &Store) -> Result<Entry<'r>, StoreError> {
    let mut bodies = Vec::new();
    let (mut processes, mut machine) = (0, String::new());
    for (n, attempt) in &e.attempts {
        let facts = Facts::read(e, attempt, store)?;
        processes += facts.processes;
        if let Some(h) = &facts.host {
            machine = h.class();
        }
        bodies.push((*n, attempt, facts));
    }
    let newest = bodies.pop();
    let mut body = Raw::new();
    if let Some((n, attempt, facts)) = &newest {
        body.add(measured(e, *n, attempt, facts, book));
    } else {
        body.add(Raw::of("<p class=\"note\">Opened, and nothing measured yet.</p>"));
    }
    for (n, attempt, facts) in bodies.iter().rev() {
        let words: Vec<String> = attempt.decided.iter().map(|d| word(d.decision).to_string()).collect();
        let title = format!(
            "Attempt {}: {}",
            n + 1,
            if words.is_empty() { "no verdict".into() } else { words.join(", ") }
        );
        let inner = html!("{}{}", verdicts(e, attempt, book), measured(e, *n, attempt, facts, book));
        body.add(folded(&title, "attempt", inner));
    }
    let verdict = newest.as_ref().map_or_else(Raw::new, |(_, a, _)| verdicts(e, a, book));
    let nothing = Facts::default();
    let asked = html!("{}<h4>Arms</h4>{}", question(e), arms(e, newest.as_ref().map_or(&nothing, |n| &n.2)));
    let begun = e.opened.map_or_else(String::new, |r| utc(r.at_ms));
    let article = html!(
        "<article class=\"x\" id=\"{}\" aria-labelledby=\"{}-h\">\n<header><p class=\"eyebrow\"><a class=\"id\" href=\"#{}\">{}</a><span>{} lane</span><span>opened {} UTC</span></p>\n\
         <h3 id=\"{}-h\">{}</h3>{}</header>\n{}<div class=\"cols\"><div class=\"asked\">{}</div>\n<div class=\"found\">{}</div></div>\n</article>\n",
        e.anchor,
        e.anchor,
        e.anchor,
        short(e.id),
        e.lane(),
        begun,
        e.anchor,
        e.title(),
        e.opened.map_or_else(Raw::new, |r| remarks(book.remarks(&r.hash))),
        verdict,
        asked,
        body
    );
    Ok(Entry { experiment: e, article, machine, processes })
}

/// The verdict's word; `open` without one.
pub fn word(d: &Decision) -> &'static str {
    d.verdict.map_or("open", |v| v.word())
}

/// A verdict and its reason for each candidate.
fn verdicts(e: &Experiment<'_>, attempt: &Attempt<'_>, book: &Book<'_>) -> Raw {
    let many = attempt.decided.len() > 1;
    if attempt.decided.is_empty() {
        return html!(
            "<div class=\"ruling v-open\">{}<p class=\"reason\">No verdict yet: measuring was not finished.</p></div>\n",
            badge("open")
        );
    }
    let one = |d: &Decided<'_>| {
        let c = d.decision;
        let name = if many { html!("<b>{}</b> ", c.candidate) } else { Raw::new() };
        let mut more = Raw::new();
        if let Some(b) = &c.blocker {
            let kind = serde_json::to_value(b.kind)
                .ok()
                .and_then(|v| v.as_str().map(String::from))
                .unwrap_or_default();
            more.add(html!("<p class=\"note\">Missing {}: {}</p>", kind, b.needs));
        }
        if !d.action.is_empty() {
            more.add(html!("<p class=\"note\">Follows: {}</p>", d.action));
        }
        if let Some(commit) = d.commit {
            more.add(html!("<p class=\"note\">Commit {}</p>", code(commit)));
        }
        html!(
            "<div class=\"ruling v-{}\">{}<div><p class=\"reason\">{}{}</p>{}{}{}</div></div>\n",
            word(c).replace(' ', "-"),
            badge(word(c)),
            name,
            c.reason,
            predicted(e, c),
            more,
            remarks(book.remarks(&d.row.hash))
        )
    };
    attempt.decided.iter().map(one).collect()
}

/// What was predicted beside what was measured.
fn predicted(e: &Experiment<'_>, d: &Decision) -> Raw {
    let Some(spec) = &e.spec else { return Raw::new() };
    let Some(m) = d.estimates.get(&spec.expected.metric) else {
        return html!(
            "<p class=\"note num\">Predicted {}×; no ratio was measured.</p>",
            ratio(d.predicted, 1.0)
        );
    };
    if d.verdict == Some(Verdict::Void) {
        let figure = interval(m.ratio, m.low, m.high);
        return html!(
            "<p class=\"note num\">Predicted {}×. The figures below, {} among them, do not count.</p>",
            ratio(d.predicted, 1.0),
            figure
        );
    }
    let place = match d.predicted {
        p if p > m.high => "above the interval",
        p if p < m.low => "below the interval",
        _ => "inside the interval",
    };
    html!(
        "<p class=\"note num\">Predicted {}×, measured {}: the prediction lies {}.</p>",
        ratio(d.predicted, 1.0),
        interval(m.ratio, m.low, m.high),
        place
    )
}

/// The question as it was frozen.
fn question(e: &Experiment<'_>) -> Raw {
    let text = |k: &str| e.value[k].as_str().unwrap_or_default().to_string();
    let mut rows = Raw::new();
    let mut put = |name: &'static str, value: Raw| {
        if !value.is_empty() {
            rows.add(html!("<dt>{}</dt><dd>{}</dd>", name, value));
        }
    };
    for (name, field) in
        [("Hypothesis", "hypothesis"), ("Mechanism", "mechanism"), ("What changes", "change")]
    {
        put(name, html!("{}", text(field)));
    }
    if let Some(s) = &e.spec {
        let x = &s.expected;
        put(
            "Predicted",
            html!("{}× {} <span class=\"dim\">by {}</span>", ratio(x.effect, 1.0), x.metric, x.model),
        );
        let kind = if s.is_null() {
            "null"
        } else if s.claim == crate::stats::Claim::NotWorse {
            "not worse"
        } else {
            "superior"
        };
        put(
            "Claim",
            html!("{}, confidence {}, assumptions {}", kind, format!("{:.2}", s.confidence), s.assumptions),
        );
        put("Contract", contract(s));
    }
    let prior = |p: &Value| {
        let of = |k: &str| p[k].as_str().unwrap_or_default();
        html!("<li><b>{}</b> {}: {}</li>", of("relation"), of("entry"), of("why"))
    };
    let priors: Raw = e.value["prior"].as_array().into_iter().flatten().map(prior).collect();
    put("Known before", if priors.is_empty() { priors } else { html!("<ul>{}</ul>", priors) });
    let list = |k: &str| -> Raw {
        e.value[k]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(|t| html!("<span class=\"tag\">{}</span>", t))
            .collect()
    };
    put("Waits for", list("requires"));
    put("Tests", list("tests"));
    put("Tags", list("tags"));
    html!("<h4>The question</h4><dl>{}</dl>", rows)
}

fn contract(s: &Spec) -> Raw {
    let c = &s.contract;
    let threads = c.threads.map_or("default".to_string(), |n| n.to_string());
    html!(
        "{} · prompts {} · {} new tokens · temperature {} · seed {} · threads {}",
        c.model,
        c.prompts.join(", "),
        c.max_tokens,
        c.temperature.to_string(),
        c.seed,
        threads
    )
}

/// What an attempt measured and how it was judged.
fn measured(e: &Experiment<'_>, n: u32, attempt: &Attempt<'_>, facts: &Facts, book: &Book<'_>) -> Raw {
    let id = format!("{}-{n}", e.anchor);
    let mut out = Raw::new();
    if !facts.missing.is_empty() {
        out.add(html!(
            "<p class=\"warn\">{} of the record files are not beside this ledger ({}…); their samples are not drawn.</p>",
            facts.missing.len(), short(&facts.missing[0])
        ));
    }
    out.add(plots(&id, attempt, facts, e));
    for (i, d) in attempt.decided.iter().enumerate() {
        let many = attempt.decided.len() > 1;
        let rows = rows(e, d.decision);
        let picture = both(|w, end| ratios::svg(format!("{id}-r{i}-{end}"), &rows, w));
        if many && (!picture.is_empty() || !d.decision.gates.is_empty()) {
            out.add(html!(
                "<h4 class=\"one-of\">{} {}</h4>",
                swatch(arm(e, &d.decision.candidate)),
                d.decision.candidate
            ));
        }
        if !picture.is_empty() {
            let floor = if d.decision.floors.is_empty() {
                ""
            } else {
                " The band around 1 is what identical arms show on this machine."
            };
            out.add(html!(
                "<figure>{}<figcaption>Dots: single pairs, top to bottom in the order they ran. Bar: {} interval of the look that decided; tick: its centre.{}</figcaption></figure>",
                picture, coverage(d.decision.level), floor
            ));
        }
        out.add(figures(d.decision, arm(e, &d.decision.candidate)));
        out.add(checks(e.spec.as_deref(), d.decision));
    }
    out.add(folded("Receipts", "receipts", receipts(e, attempt, facts, book)));
    out
}

/// Coverage of an interval of this level.
fn coverage(level: f64) -> String {
    let p = 100.0 * (1.0 - level);
    if p > 99.0 { format!("{p:.2} %") } else { format!("{p:.1} %") }
}

/// A drawing in both widths.
fn both(mut draw: impl FnMut(f64, &str) -> Option<Raw>) -> Raw {
    match (draw(WIDE, "w"), draw(NARROW, "n")) {
        (Some(w), Some(n)) => html!("<div class=\"wide\">{}</div><div class=\"narrow\">{}</div>", w, n),
        _ => Raw::new(),
    }
}

fn arm(e: &Experiment<'_>, name: &str) -> usize {
    e.arms().iter().position(|a| a == name).unwrap_or(1)
}

fn rows<'a>(e: &'a Experiment<'_>, d: &'a Decision) -> Vec<ratios::Row<'a>> {
    let Some(s) = &e.spec else { return Vec::new() };
    let mut names: Vec<&String> = d.estimates.keys().collect();
    // The metric the verdict is about stands first.
    names.sort_by_key(|n| **n != s.expected.metric);
    names
        .into_iter()
        .map(|n| ratios::Row {
            metric: n,
            estimate: &d.estimates[n],
            floor: d.floors.get(n),
            success: &s.success,
            kill: &s.kill,
            predicted: (*n == s.expected.metric && !s.is_null()).then_some(d.predicted),
            arm: arm(e, &d.candidate),
        })
        .collect()
}

fn plots(id: &str, attempt: &Attempt<'_>, facts: &Facts, e: &Experiment<'_>) -> Raw {
    let mut out = Raw::new();
    let mut more = Raw::new();
    for (i, strip) in facts.strips.iter().enumerate() {
        let picture = both(|w, end| strip.svg(format!("{id}-s{i}-{end}"), w, end == "w"));
        if picture.is_empty() {
            continue;
        }
        let caption = html!(
            "<figcaption>{}Every process where it stood in time; the vertical axis does not begin at 0. Dashed: medians of the counted blocks.</figcaption>",
            key(&strip.arms, !strip.shades.is_empty())
        );
        let figure = html!("<figure>{}{}{}</figure>", picture, caption, voided(strip));
        if i == 0 { out.add(figure) } else { more.add(figure) }
    }
    if !more.is_empty() {
        out.add(folded("The other metrics in time order", "more", more));
    }
    if out.is_empty() && facts.processes > 0 {
        out.add(html!("<p class=\"note\">Decided after one look at each arm ({} processes); nothing was timed for a verdict.</p>", facts.processes));
    } else if out.is_empty() && facts.missing.is_empty() && !attempt.decided.is_empty() {
        out.add(Raw::of("<p class=\"note\">Decided without a measurement.</p>"));
    }
    if e.spec.is_none() {
        out.add(Raw::of("<p class=\"warn\">This version of tamp cannot read the frozen question; the verdict is shown as it was written.</p>"));
    }
    out
}

/// Why blocks do not count.
fn voided(strip: &super::strip::Strip) -> Raw {
    // The same disturbance is told once, with all its times.
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for s in &strip.shades {
        match reasons.iter_mut().find(|r| r.0 == s.why) {
            Some(r) => r.1.push(clock(s.from_to[0])),
            None => reasons.push((&s.why, vec![clock(s.from_to[0])])),
        }
    }
    let lines: Raw =
        reasons.iter().map(|(why, times)| html!("<li>{} at {} UTC</li>", *why, times.join(", "))).collect();
    if lines.is_empty() { lines } else { html!("<ul class=\"voids\">{}</ul>", lines) }
}

/// What makes an arm itself.
fn differs(a: &Arm) -> Vec<String> {
    let mut w: Vec<String> = Vec::new();
    w.extend(a.uses.iter().map(|u| format!("--use {u}")));
    w.extend(a.sets.iter().map(|s| format!("--set {s}")));
    if !a.args.is_empty() {
        w.push(a.args.join(" "));
    }
    w.extend(a.threads.map(|n| format!("threads {n}")));
    w.extend(a.model.as_ref().map(|m| format!("model {m}")));
    w.extend(a.rev.as_ref().map(|r| format!("revision {r}")));
    w.extend(a.patch.as_ref().map(|p| format!("patch {}", p.display())));
    w.extend(a.engine.as_ref().map(|x| format!("engine {x}")));
    if !a.wrap.is_empty() {
        w.push(format!("under {}", a.wrap.join(" ")));
    }
    w.extend(a.parallel.map(|n| format!("{n} processes at once")));
    w
}

fn arms(e: &Experiment<'_>, facts: &Facts) -> Raw {
    let declared = e.spec.as_ref().map(|s| s.arms()).unwrap_or_default();
    let one = |(i, a): (usize, &Arm)| {
        let words = differs(a);
        let what: Raw = match words.len() {
            0 => Raw::of("<span class=\"dim\">nothing special</span>"),
            _ => words.iter().map(|w| html!("<span class=\"tag\">{}</span>", w)).collect(),
        };
        let seen = facts.arms.iter().find(|s| s.0 == a.name).map(|s| &s.1);
        let argv = seen
            .filter(|s| !s.argv.is_empty())
            .map_or_else(Raw::new, |s| html!("<pre tabindex=\"0\">{}</pre>", s.argv.join(" ")));
        let failed = seen
            .and_then(|s| s.failed.as_ref())
            .map_or_else(Raw::new, |f| html!("<p class=\"warn\">{}</p>", f));
        html!("<li><p>{} <b>{}</b> {}</p>{}{}</li>", swatch(i), a.name, what, argv, failed)
    };
    html!("<ul class=\"arms\">{}</ul>", declared.iter().enumerate().map(one).collect::<Raw>())
}

fn receipts(e: &Experiment<'_>, attempt: &Attempt<'_>, facts: &Facts, book: &Book<'_>) -> Raw {
    let mut rows = Raw::new();
    let mut put = |name: &str, value: Raw| rows.add(html!("<dt>{}</dt><dd>{}</dd>", name, value));
    put("Question", html!("{} from {}", code(e.id), e.file));
    if let Some(r) = e.opened {
        put("Opened in row", html!("{} {}", r.n, code(&r.hash)));
    }
    if let Some(h) = &facts.host {
        put(
            "Machine",
            html!(
                "{} · {}{}",
                h.class(),
                h.kernel,
                if h.governor.is_empty() { String::new() } else { format!(" · governor {}", h.governor) }
            ),
        );
    }
    if let Some([a, b]) = facts.from_to {
        put(
            "Measured",
            html!(
                "{} UTC, {}, {} processes, {} of them counted",
                utc(a),
                span(b.saturating_sub(a) as f64),
                facts.processes,
                facts.counted
            ),
        );
    }
    for (name, s) in &facts.arms {
        let mut words = html!("{} · {} threads", s.engine, s.threads);
        for (what, hash) in [("program", &s.binary), ("model", &s.model), ("plan", &s.plan)] {
            if !hash.is_empty() {
                words.add(html!(" · {} {}", what, code(hash)));
            }
        }
        put(&format!("Arm {name}"), words);
    }
    let prompts: std::collections::BTreeMap<_, _> = facts.arms.iter().flat_map(|(_, s)| &s.prompts).collect();
    for (prompt, (hash, tokens)) in prompts {
        put(&format!("Prompt {prompt}"), html!("{} tokens {}", *tokens, code(hash)));
    }
    for (name, hash) in e.depends.into_iter().flatten() {
        put(&format!("Depends on {name}"), code(hash));
    }
    for d in &attempt.decided {
        put(
            "Decided in row",
            html!(
                "{} {} at {} UTC, statistics {} with seed {}",
                d.row.n,
                code(&d.row.hash),
                utc(d.row.at_ms),
                d.decision.stats_version,
                d.decision.seed
            ),
        );
        if let Some(row) = d.calibration.and_then(|c| book.rows.get(c)) {
            put("Calibration", html!("row {} {} of {} UTC", row.n, code(&row.hash), utc(row.at_ms)));
        }
    }
    let files: Raw = attempt
        .measured
        .iter()
        .map(|m| {
            html!(
                "<li>{} {}{}</li>",
                m.what,
                code(m.records),
                if m.void.is_some() { " (does not count)" } else { "" }
            )
        })
        .collect();
    if !files.is_empty() {
        put("Record files", html!("<ul>{}</ul>", files));
    }
    html!("<dl class=\"receipt\">{}</dl>", rows)
}
