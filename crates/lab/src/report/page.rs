//! The page around everything: head, order of the sections, and what each word means.

use std::collections::BTreeSet;

use super::book::Book;
use super::experiment::Entry;
use super::text::{Raw, html, short, utc};
use super::{index, rest};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("filter.js");

/// What the eight verdicts mean, for a reader who meets them here first.
const WORDS: [(&str, &str); 8] = [
    ("retain", "The claim holds: the low end of the interval clears the gate and what identical arms show."),
    (
        "reject",
        "It does not: the high end lies under the gate, the output is not good enough, or the candidate failed.",
    ),
    ("revert", "It was kept once and had to be undone."),
    ("block", "Something it needs does not exist; named and typed. Nothing is said about the idea."),
    ("inconclusive", "All pairs are spent and the interval still crosses the gate."),
    ("not measurable", "This machine, as noisy as it was, cannot resolve the effect that was asked about."),
    ("not applicable", "Under this contract the question does not arise; the plan refuses it."),
    ("void", "It was not measured: a check failed, so its figures mean nothing."),
];

fn section(id: &str, title: &str, inner: Raw) -> Raw {
    if inner.is_empty() {
        inner
    } else {
        html!(
            "<section id=\"{}\" aria-labelledby=\"{}-h\"><h2 id=\"{}-h\">{}</h2>{}</section>\n",
            id,
            id,
            id,
            title,
            inner
        )
    }
}

/// Puts it together.
pub fn page(book: &Book<'_>, entries: &[Entry<'_>], rows: usize, last: &str, now_ms: u64) -> String {
    let stale: BTreeSet<&str> =
        book.remarks.iter().filter(|(_, r)| r.iter().any(|r| r.superseded)).map(|(of, _)| *of).collect();
    let processes: usize = entries.iter().map(|e| e.processes).sum();
    let meaning: Raw =
        WORDS.iter().map(|(w, m)| html!("<dt>{}</dt><dd>{}</dd>", super::parts::badge(w), *m)).collect();
    let articles: Raw = entries.iter().map(|e| e.article.clone()).collect();
    let sections = [
        ("questions", "Questions", index::list(entries, &stale)),
        ("programs", "Programs", rest::programs(book)),
        ("experiments", "Experiments", articles),
        ("others", "What others found", rest::externals(book)),
        ("machine", "What this machine can resolve", rest::calibrations(book, now_ms)),
        ("remarks", "Corrections and superseded rows", rest::corrections(book)),
    ];
    let links: Raw = sections
        .iter()
        .filter(|s| !s.2.is_empty())
        .map(|(id, title, _)| html!("<a href=\"#{}\">{}</a> ", *id, *title))
        .collect();
    let seal = if last.is_empty() {
        Raw::new()
    } else {
        html!(" · sealed by <code title=\"{}\">{}</code>", last, short(last))
    };
    let body = html!(
        "<a class=\"skip\" href=\"#questions\">To the questions</a>\n<header class=\"top\"><p class=\"brand\">tamp lab</p><h1>What was asked, what was seen, what follows</h1>\
         <p class=\"lede\">{} experiments, {} measured processes, {} ledger rows{}. Written {} UTC.</p>{}<nav aria-label=\"Sections\">{}</nav></header>\n\
         <main>\n<details class=\"meaning\"><summary>What the verdicts mean, and how to read the plots</summary><dl>{}</dl>\
         <p>A ratio is candidate over control, paired within a block and oriented so that more than 1 is better, whatever the metric. Its interval comes from the pairs alone. The A/A floor is what two identical arms differ by on the same machine; a gain counts only above it. Marks have a colour and a shape: circles are the control, diamonds the candidate.</p></details>\n",
        entries.len(),
        processes,
        rows,
        seal,
        utc(now_ms),
        index::tally(entries),
        links,
        meaning
    );
    let sections: Raw = sections.into_iter().map(|(id, title, inner)| section(id, title, inner)).collect();
    let body = html!(
        "{}{}</main>\n<footer><p>Written by <code>tamp lab report</code> from an append-only ledger. <code>tamp lab replay</code> works every verdict out again from its records.</p></footer>\n",
        body,
        sections
    );
    // Only a script that carries the hash of everything else on the page runs: text in the ledger cannot know it.
    let nonce = &blake3::hash(body.text().as_bytes()).to_hex()[..32];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'\"/>\n\
         <title>tamp lab report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{}<script nonce=\"{nonce}\">\n{SCRIPT}</script>\n</body>\n</html>\n",
        body.text()
    )
}
