//! The list of all experiments: one line per verdict, with words to narrow it down.

use std::collections::{BTreeMap, BTreeSet};

use super::experiment::{Entry, word};
use super::parts::badge;
use super::ratios;
use super::text::{Raw, date, html, interval, percent, ratio, short};
use crate::ledger::Row;
use crate::verdict::{Decision, Verdict};

/// How often each verdict was given, in the order of [`Verdict::NAMES`], questions without one last.
pub fn tally(entries: &[Entry<'_>]) -> Raw {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, d) in entries.iter().flat_map(lines) {
        *count.entry(d.map_or("open", word)).or_default() += 1;
    }
    let known = Verdict::NAMES.map(|n| n.replace('_', " "));
    let all = known.iter().map(String::as_str).chain(["open"]);
    let item = |w: &str| count.get(w).map_or_else(Raw::new, |n| html!("<li><b>{}</b>{}</li>", *n, badge(w)));
    html!("<ul class=\"tally\">{}</ul>", all.map(item).collect::<Raw>())
}

/// Verdicts of the newest attempt; a question without one is a line too.
fn lines<'a>(e: &'a Entry<'_>) -> Vec<(Option<&'a Row>, Option<&'a Decision>)> {
    let decided = e.experiment.newest().map(|a| a.decided.as_slice()).unwrap_or_default();
    if decided.is_empty() {
        vec![(None, None)]
    } else {
        decided.iter().map(|d| (Some(d.row), Some(d.decision))).collect()
    }
}

/// The list with its filters; filters work where scripts run, the list everywhere.
pub fn list(entries: &[Entry<'_>], stale: &BTreeSet<&str>) -> Raw {
    if entries.is_empty() {
        return Raw::of(
            "<p class=\"note\">No experiment is in this ledger yet. <code>tamp lab new</code> writes a question to start from, <code>tamp lab run</code> answers it.</p>",
        );
    }
    let mut words: [BTreeSet<String>; 4] = Default::default();
    let mut body = Raw::new();
    let mut n = 0;
    for e in entries {
        let all = lines(e);
        let many = all.len() > 1;
        for (row, d) in all {
            n += 1;
            let verdict = d.map_or("open", word);
            let tags = e.experiment.tags();
            words[0].insert(verdict.into());
            words[1].insert(e.experiment.lane().into());
            words[2].extend(tags.iter().map(|t| t.to_string()));
            if !e.machine.is_empty() {
                words[3].insert(e.machine.clone());
            }
            body.add(line(e, row, d, many, n, row.is_some_and(|r| stale.contains(r.hash.as_str()))));
        }
    }
    let select = |name: &str, title: &str, all: &BTreeSet<String>| {
        let options: Raw = all.iter().map(|o| html!("<option>{}</option>", o)).collect();
        html!(
            "<label>{} <select name=\"{}\"><option value=\"\">all</option>{}</select></label>",
            title,
            name,
            options
        )
    };
    html!(
        "<form class=\"filters\" role=\"search\" hidden><label class=\"grow\">Find <input name=\"text\" type=\"search\" placeholder=\"words of a question, tag, id\"></label>{}{}{}{}<output aria-live=\"polite\"></output></form>\n\
         <table class=\"index\"><thead><tr><th scope=\"col\">verdict</th><th scope=\"col\">question</th><th scope=\"col\">ratio, ½ to 2</th><th scope=\"col\">measured</th><th scope=\"col\">predicted</th><th scope=\"col\">A/A floor</th><th scope=\"col\">when</th></tr></thead><tbody>{}</tbody></table>\n",
        select("verdict", "Verdict", &words[0]),
        select("lane", "Lane", &words[1]),
        select("tag", "Tag", &words[2]),
        select("machine", "Machine", &words[3]),
        body
    )
}

fn line(e: &Entry<'_>, row: Option<&Row>, d: Option<&Decision>, many: bool, n: usize, stale: bool) -> Raw {
    let x = e.experiment;
    let spec = x.spec.as_deref();
    let main = spec.map(|s| s.expected.metric.as_str()).unwrap_or_default();
    let estimate = d.and_then(|d| d.estimates.get(main));
    let floor = d.and_then(|d| d.floors.get(main));
    let picture = estimate.map_or_else(
        || Raw::of("<span class=\"dim\">–</span>"),
        |m| ratios::small(format!("i{n}"), m, floor),
    );
    let figure = estimate.map_or("–".to_string(), |m| interval(m.ratio, m.low, m.high));
    let hoped = match (d, spec) {
        (Some(d), Some(s)) if !s.is_null() => format!("{}×", ratio(d.predicted, 1.0)),
        _ => "–".to_string(),
    };
    let floor = floor.map_or("–".to_string(), |f| percent(f.floor));
    let candidate = if many {
        html!(" <span class=\"dim\">{}</span>", d.map_or("", |d| d.candidate.as_str()))
    } else {
        Raw::new()
    };
    let old = if stale { Raw::of(" <span class=\"badge v-ext\">superseded</span>") } else { Raw::new() };
    let verdict = d.map_or("open", word);
    let tags = x.tags();
    let text = format!("{} {} {} {}", x.title(), tags.join(" "), x.id, d.map_or("", |d| d.reason.as_str()))
        .to_lowercase();
    let when = row.or(x.opened).map_or_else(String::new, |r| date(r.at_ms));
    html!(
        "<tr data-verdict=\"{}\" data-lane=\"{}\" data-tags=\"{}\" data-machine=\"{}\" data-text=\"{}\" data-for=\"{}\"><td>{}</td><th scope=\"row\"><a href=\"#{}\">{}</a>{}{}<span class=\"sub\">{} · {} · {}</span></th>\
         <td class=\"pic\">{}</td><td class=\"num\" data-name=\"measured\">{}</td><td class=\"num\" data-name=\"predicted\">{}</td><td class=\"num\" data-name=\"A/A floor\">{}</td><td class=\"num\" data-name=\"when\">{}</td></tr>\n",
        verdict,
        x.lane(),
        tags.join("\n"),
        e.machine,
        text,
        x.anchor,
        badge(verdict),
        x.anchor,
        x.title(),
        candidate,
        old,
        x.lane(),
        tags.join(", "),
        short(x.id),
        picture,
        figure,
        hoped,
        floor,
        when
    )
}
