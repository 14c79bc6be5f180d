//! What is not an experiment: programs, what others found, what the machine can resolve, remarks on old rows.

use serde_json::Value;

use super::book::{Book, Experiment};
use super::experiment::word;
use super::parts::{badge, code, remarks, table};
use super::text::{Raw, html, metric, percent, span, utc};
use crate::ledger::{Body, Row};
use crate::stats::Floor;

/// Programs with their queues and summaries.
pub fn programs(book: &Book<'_>) -> Raw {
    book.programs.iter().map(|(id, rows)| program(book, id, rows)).collect()
}

fn program(book: &Book<'_>, id: &str, rows: &[&Row]) -> Raw {
    let of = |wanted: &str| {
        rows.iter().rev().find_map(|r| match &r.body {
            Body::Program { value, what, .. } if what == wanted => Some((*r, value)),
            _ => None,
        })
    };
    let opened = of("opened");
    let field = |k: &str| opened.and_then(|(_, v)| v[k].as_str()).unwrap_or_default();
    let title = if field("title").is_empty() { "Program" } else { field("title") };
    let mut items: Vec<(u32, &Experiment<'_>)> =
        book.experiments.iter().filter(|e| e.program == Some(id)).map(|e| (rank(e), e)).collect();
    items.sort_by_key(|i| i.0);
    let row = |(rank, e): &(u32, &Experiment<'_>)| {
        let decided = e.newest().map(|a| a.decided.as_slice()).unwrap_or_default();
        let verdict: Raw = match decided.len() {
            0 => badge("open"),
            _ => decided.iter().map(|d| badge(word(d.decision))).collect(),
        };
        let reason: Vec<&str> = decided.iter().map(|d| d.decision.reason.as_str()).collect();
        html!(
            "<tr><td class=\"num\">{}</td><td>{}</td><th scope=\"row\"><a href=\"#{}\">{}</a></th><td>{}</td></tr>",
            *rank,
            verdict,
            e.anchor,
            e.title(),
            reason.join(" · ")
        )
    };
    let body: Raw = items.iter().map(row).collect();
    let queue = if body.is_empty() {
        Raw::of("<p class=\"note\">Nothing of its queue was opened yet.</p>")
    } else {
        table("Queue", "queue", &["rank", "verdict", "question", "reason"], body)
    };
    let summary = of("closed").map_or_else(
        || Raw::of("<p class=\"note\">Not closed yet.</p>"),
        |(r, v)| html!("<h4>Closed {} UTC</h4>{}", utc(r.at_ms), fields(book, v, 0)),
    );
    let revision = if field("pinned").is_empty() { field("baseline") } else { field("pinned") };
    let base = if revision.is_empty() { Raw::new() } else { html!(" · baseline {}", code(revision)) };
    let when = opened.map_or_else(String::new, |(r, _)| format!("opened {} UTC", utc(r.at_ms)));
    let said: Raw = rows.iter().map(|r| remarks(book.remarks(&r.hash))).collect();
    html!(
        "<article class=\"program\"><h3>{}</h3><p class=\"note\">{}{} · {}</p>{}<p class=\"reason\">{}</p>{}{}</article>\n",
        title,
        when,
        base,
        code(id),
        said,
        field("question"),
        queue,
        summary
    )
}

fn rank(e: &Experiment<'_>) -> u32 {
    match e.opened.map(|r| &r.body) {
        Some(Body::Opened { rank, .. }) => *rank,
        _ => 0,
    }
}

/// Any JSON as a list to read; a line of a summary as a link to its question. Nesting deeper than a few levels is shown
/// as it is written.
fn fields(book: &Book<'_>, v: &Value, depth: usize) -> Raw {
    let text = |k: &str| v[k].as_str().unwrap_or_default();
    match v {
        Value::Object(o) if depth > 0 && o.contains_key("spec") && o.contains_key("title") => {
            let on_page = book.experiments.iter().find(|e| e.id == text("spec"));
            let title = on_page.map_or_else(
                || html!("{}", text("title")),
                |e| html!("<a href=\"#{}\">{}</a>", e.anchor, text("title")),
            );
            html!("{} {} <span class=\"dim\">{}</span>", title, text("candidate"), text("why"))
        }
        Value::Object(o) if depth < 4 => {
            let shown = o.iter().filter(|(k, _)| depth > 0 || !matches!(k.as_str(), "kind" | "v"));
            let row = |(k, v): (&String, &Value)| {
                html!("<dt>{}</dt><dd>{}</dd>", k.replace('_', " "), fields(book, v, depth + 1))
            };
            html!("<dl class=\"plain\">{}</dl>", shown.map(row).collect::<Raw>())
        }
        Value::Array(a) if a.is_empty() => Raw::of("<span class=\"dim\">none</span>"),
        Value::Array(a) if depth < 4 => {
            let items: Raw = a.iter().map(|v| html!("<li>{}</li>", fields(book, v, depth + 1))).collect();
            html!("<ul>{}</ul>", items)
        }
        Value::String(s) => html!("{}", s),
        Value::Null => Raw::of("<span class=\"dim\">none</span>"),
        other => html!("{}", other.to_string()),
    }
}

/// What others found, under their conditions.
pub fn externals(book: &Book<'_>) -> Raw {
    let one = |row: &&Row| {
        let Body::External { name, tags, verdict, note, source, predicted } = &row.body else {
            return Raw::new();
        };
        let tags: Raw = tags.iter().map(|t| html!("<span class=\"tag\">{}</span>", t)).collect();
        let ours = if predicted.is_empty() {
            Raw::new()
        } else {
            html!("<p class=\"note\">Our predictor: {}</p>", predicted)
        };
        html!(
            "<li data-text=\"{}\"><p><span class=\"badge v-ext\">others’ figures, conditions differ</span> <b>{}</b> <span class=\"dim\">{}</span></p>{}<p>{}</p>{}<p class=\"note\">{} {}</p></li>",
            name.to_lowercase(),
            name,
            verdict,
            remarks(book.remarks(&row.hash)),
            note,
            ours,
            source,
            tags
        )
    };
    let all: Raw = book.externals.iter().map(one).collect();
    if all.is_empty() { all } else { html!("<ul class=\"ext\">{}</ul>", all) }
}

/// What the machine could resolve, and when that was measured.
pub fn calibrations(book: &Book<'_>, now_ms: u64) -> Raw {
    let one = |row: &&Row| {
        let Body::Calibrated { host, null, records, .. } = &row.body else { return Raw::new() };
        let pairs = null.runs.values().flatten().map(|e| e.pairs).max().unwrap_or(0);
        let floors = null.floors(pairs.max(1));
        let cell = |(name, f): (&String, &Floor)| {
            html!(
                "<li>{} {} <span class=\"dim\">finds {}</span></li>",
                metric(name).0,
                percent(f.floor),
                percent(f.mde)
            )
        };
        let wanted = ["decode_tok_s", "prefill_tok_s", "ttft_ms", "load_ms", "start_to_ready_ms"];
        let main: Raw = floors.iter().filter(|f| wanted.contains(&f.0.as_str())).map(cell).collect();
        html!(
            "<tr><td>{} UTC<br><span class=\"dim\">{} old</span></td><td>{}</td><td class=\"num\">{}</td><td><ul class=\"bare\">{}</ul></td><td>{} · {} files</td></tr>",
            utc(row.at_ms),
            span(now_ms.saturating_sub(row.at_ms) as f64),
            host.class(),
            pairs,
            main,
            code(&row.hash),
            records.len()
        )
    };
    let body: Raw = book.calibrations.iter().map(one).collect();
    if body.is_empty() {
        body
    } else {
        table("Calibrations", "cal", &["when", "machine", "pairs", "identical arms differ by", "row"], body)
    }
}

/// Remarks in the order they were made, with what they are about.
pub fn corrections(book: &Book<'_>) -> Raw {
    let mut all: Vec<_> =
        book.remarks.iter().flat_map(|(of, list)| list.iter().map(move |r| (*of, r))).collect();
    all.sort_by_key(|(_, r)| r.row.n);
    let one = |(of, r): &(&str, &super::book::Remark<'_>)| {
        let target = book.rows.get(of);
        let place = target.map_or("a row that is not here".to_string(), |t| format!("row {}", t.n));
        let spec = target.and_then(|t| match &t.body {
            Body::Opened { spec, .. } | Body::Measured { spec, .. } | Body::Decided { spec, .. } => {
                Some(spec)
            }
            _ => None,
        });
        let link = spec
            .and_then(|s| book.experiments.iter().find(|e| e.id == s))
            .map_or_else(Raw::new, |e| html!(" of <a href=\"#{}\">{}</a>", e.anchor, e.title()));
        let what = if r.superseded { "superseded" } else { "corrected" };
        html!(
            "<li>{} UTC: {} {}{}: {} {}</li>",
            utc(r.row.at_ms),
            place,
            what,
            link,
            r.words,
            code(&r.row.hash)
        )
    };
    let list: Raw = all.iter().map(one).collect();
    if list.is_empty() { list } else { html!("<ul class=\"log\">{}</ul>", list) }
}
