//! Parts that several sections of the page use: badges, swatches, tables of figures and of checks.

use super::book::Remark;
use super::svg::shape;
use super::text::{Raw, html, interval, metric, number, percent, probability, short, utc};
use crate::check::Shown;
use crate::quality;
use crate::quality::bounds::Held;
use crate::spec::Spec;
use crate::stats::drift::State;
use crate::verdict::Decision;

/// A verdict as word, sign and colour.
pub fn badge(word: &str) -> Raw {
    let sign = match word {
        "retain" => "M3 8.5l3.2 3.2l6.8 -7.4",
        "reject" => "M4 4l8 8M12 4l-8 8",
        "revert" => "M6 3l-3.5 3.5l3.5 3.5M3 6.5h6.5a3.5 3.5 0 0 1 0 7h-3",
        "block" => "M3.5 3.5h9v9h-9zM6 6l4 4",
        "inconclusive" => "M2.5 9c1.8 -4 3.7 -4 5.5 -1s3.7 3 5.5 -1",
        "not measurable" => "M2.5 8h11M5 4.5v7M8 6v4M11 4.5v7",
        "not applicable" => "M3.5 8h9",
        "void" => "M8 2.8a5.2 5.2 0 1 0 .01 0M4.4 11.6l7.2 -7.2",
        _ => "M8 4v4l2.6 2M8 2.5a5.5 5.5 0 1 0 .01 0",
    };
    html!(
        "<span class=\"badge v-{}\"><svg viewBox=\"0 0 16 16\" width=\"14\" height=\"14\" aria-hidden=\"true\"><path d=\"{}\"/></svg>{}</span>",
        word.replace(' ', "-"),
        sign,
        word
    )
}

/// An arm's mark.
pub fn swatch(arm: usize) -> Raw {
    html!(
        "<svg class=\"swatch\" viewBox=\"0 0 14 14\" width=\"14\" height=\"14\" aria-hidden=\"true\"><path class=\"m a{}\" d=\"{}\"/></svg>",
        arm % 6,
        shape(arm, [7.0, 7.0])
    )
}

/// What the marks of a plot mean.
pub fn key(arms: &[String], shaded: bool) -> Raw {
    let mut out: Raw =
        arms.iter().enumerate().map(|(i, a)| html!("<span>{}{}</span> ", swatch(i), a)).collect();
    out.add(Raw::of("<span><svg class=\"swatch\" viewBox=\"0 0 14 14\" width=\"14\" height=\"14\" aria-hidden=\"true\"><circle class=\"ring\" cx=\"7\" cy=\"7\" r=\"5.5\"/></svg>opening and closing control</span> "));
    if shaded {
        out.add(Raw::of("<span><svg class=\"swatch\" viewBox=\"0 0 14 14\" width=\"14\" height=\"14\" aria-hidden=\"true\"><rect class=\"void\" x=\"1\" y=\"1\" width=\"12\" height=\"12\"/></svg>disturbed, does not count</span> "));
    }
    html!("<span class=\"key\">{}</span>", out)
}

/// Something long or raw, in the type of code; a hash by its beginning, whole in its title.
pub fn code(hash: &str) -> Raw {
    let plain = hash.len() >= 32 && hash.bytes().all(|c| c.is_ascii_hexdigit());
    if plain {
        html!("<code title=\"{}\">{}</code>", hash, short(hash))
    } else {
        html!("<code>{}</code>", hash)
    }
}

/// A part that opens on demand.
pub fn folded(title: &str, class: &str, inner: Raw) -> Raw {
    html!("<details class=\"{}\"><summary>{}</summary>{}</details>\n", class, title, inner)
}

/// What was said later.
pub fn remarks(all: &[Remark<'_>]) -> Raw {
    let one = |r: &Remark<'_>| {
        let what = if r.superseded { "Superseded" } else { "Corrected" };
        html!(
            "<p class=\"remark\"><b>{}</b> {} UTC, row {}: {}</p>",
            what,
            utc(r.row.at_ms),
            r.row.n,
            r.words
        )
    };
    all.iter().map(one).collect()
}

/// A table that scrolls inside its own box.
pub fn table(label: &str, class: &str, head: &[&str], body: Raw) -> Raw {
    let head: Raw = head.iter().map(|h| html!("<th scope=\"col\">{}</th>", h)).collect();
    html!(
        "<div class=\"scroll\" role=\"region\" aria-label=\"{}\" tabindex=\"0\"><table class=\"{}\"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>\n",
        label,
        class,
        head,
        body
    )
}

/// Medians, ratios and what could have been seen, by metric; the share of the ceiling below.
pub fn figures(d: &Decision, arm: usize) -> Raw {
    let row = |(name, e): (&String, &crate::stats::Estimate)| {
        let (plain, unit) = metric(name);
        let m = d.medians.get(name).copied().unwrap_or([f64::NAN; 2]);
        let floor = d.floors.get(name).map_or("–".to_string(), |f| percent(f.floor));
        html!(
            "<tr><th scope=\"row\">{} <span class=\"dim\">{}</span></th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            plain,
            unit,
            number(m[0]),
            number(m[1]),
            interval(e.ratio, e.low, e.high),
            probability(e.permutation_p),
            floor,
            percent(e.mde),
            e.pairs
        )
    };
    let rows: Raw = d.estimates.iter().map(row).collect();
    if rows.is_empty() {
        return rows;
    }
    let head = [
        "metric",
        "control",
        "candidate",
        "ratio (interval)",
        "permutation p",
        "A/A floor",
        "would find",
        "pairs",
    ];
    html!(
        "{}{}",
        table("Figures", "figures", &head, rows),
        d.ceiling.map_or_else(Raw::new, |c| ceiling(c, &d.candidate, arm))
    )
}

/// How much of the machine's read ceiling each arm used.
fn ceiling(share: [f64; 2], candidate: &str, arm: usize) -> Raw {
    let bar = |arm: usize, name: &str, f: f64| {
        let wide = format!("{:.1}", 100.0 * f.clamp(0.0, 1.0));
        html!(
            "<li><span>{}{}</span><span class=\"meter\"><i class=\"a{}\" style=\"width:{}%\"></i></span><span class=\"num\">{}</span></li>",
            swatch(arm),
            name,
            arm % 6,
            wide,
            percent(f)
        )
    };
    let low = if share.iter().any(|f| *f < 0.15) {
        Raw::of("<p class=\"warn\">Under 15 % of the ceiling: is this the path you meant?</p>")
    } else {
        Raw::new()
    };
    html!(
        "<div class=\"ceiling\"><p class=\"lead\">Share of the read ceiling measured in the same processes</p><ul>{}{}</ul>{}</div>",
        bar(0, "control", share[0]),
        bar(arm, candidate, share[1]),
        low
    )
}

/// Every demand with what was seen.
pub fn checks(spec: Option<&Spec>, d: &Decision) -> Raw {
    let mut body = Raw::new();
    let mut group = |title: &str, rows: Vec<(String, String, String, Mark)>| {
        if rows.is_empty() {
            return;
        }
        body.add(html!("<tr class=\"group\"><th scope=\"rowgroup\" colspan=\"4\">{}</th></tr>", title));
        for (name, want, seen, mark) in rows {
            let (class, words) = mark.words();
            body.add(html!(
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td class=\"mark {}\">{}</td></tr>",
                name,
                want,
                seen,
                class,
                words
            ));
        }
    };
    let shown = |s: &Shown| (s.name.clone(), s.want.clone(), s.seen.clone(), Mark::of(s.pass));
    // The first gates are those of success; a kill gate that holds is the bad news.
    let first = spec.map_or(d.gates.len(), |s| s.success.len()).min(d.gates.len());
    group("Gates to retain", d.gates[..first].iter().map(shown).collect());
    let kill = |s: &Shown| {
        (s.name.clone(), s.want.clone(), s.seen.clone(), if s.pass { Mark::Killed } else { Mark::Quiet })
    };
    group("Gates that end the idea", d.gates[first..].iter().map(kill).collect());
    group("Manipulation: do the arms differ as they should", d.manipulation.iter().map(shown).collect());
    group(
        "Differences nobody declared",
        d.undeclared.iter().map(|u| (u.clone(), "same".into(), "differs".into(), Mark::Fails)).collect(),
    );
    group("Invariants", d.invariants.iter().map(shown).collect());
    let engaged = |e: &crate::check::Engaged| {
        let want = if e.must_act { "asked and acted" } else { "asked" };
        let seen = format!("asked {}, declined {}, acted {}", e.acts.asked, e.acts.declined, e.acts.acted);
        (e.card.clone(), want.to_string(), seen, Mark::of(e.missing().is_none()))
    };
    group("Engaged: did the mechanism run", d.engaged.iter().map(engaged).collect());
    if let Some(x) = &d.drift {
        // Over the run: a slope of less than a minute says nothing about an hour.
        let over = |per_hour: f64| 100.0 * ((1.0 + per_hour).max(0.0).powf(x.hours) - 1.0);
        let trend = x.controls.map_or("no trend to be had".to_string(), |t| {
            format!(
                "controls {:+.1} % over the run ({:+.1} to {:+.1})",
                over(t.per_hour),
                over(t.low),
                over(t.high)
            )
        });
        let mark = match x.state {
            State::Stable => Mark::Holds,
            State::Drifting => Mark::Noted,
            State::Void => Mark::Fails,
        };
        group("Drift", vec![(x.reason.clone(), "cancelled by the design".into(), trend, mark)]);
    }
    let quality = d.quality.as_ref().map_or_else(Raw::new, texts);
    if let Some(q) = &d.quality {
        let want =
            serde_json::to_value(q.class).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default();
        let seen = match (&q.fails, q.flips) {
            (Some(why), _) => why.clone(),
            (None, 0) => format!("{} requests with the same answers", q.requests),
            (None, n) => format!(
                "{n} of {} requests differ, common beginning at least {}",
                q.requests,
                percent(q.min_prefix)
            ),
        };
        let mut rows = vec![("tokens".to_string(), want, seen, Mark::of(q.fails.is_none()))];
        let g = &q.degeneration;
        let most = spec.and_then(|s| s.quality.max_run).unwrap_or(quality::RUN);
        if g.tokens > 0 {
            let seen = format!(
                "longest run {}, {} in cycles, {} one 8-gram, {} coherent tokens first",
                g.longest_run,
                percent(g.cycle_share),
                percent(g.gram_share),
                g.coherent_prefix
            );
            rows.push((
                "repetition, worst answer".into(),
                "no collapse the control has not".into(),
                seen,
                match g.bad(most) {
                    Some(_) if q.control_too => Mark::Noted,
                    bad => Mark::of(bad.is_none()),
                },
            ));
        }
        for b in q.bounds.iter().flat_map(|b| &b.bounds) {
            let seen = format!(
                "{} {:.6} ({:.6} to {:.6}) over {}; {}",
                b.about, b.seen.mean, b.seen.low, b.seen.high, b.over, b.beside
            );
            rows.push((
                b.name.clone(),
                format!("all of it at most {}", b.most),
                seen,
                Mark::of(b.held == Held::Within),
            ));
        }
        if let Some(why) = q.missing() {
            rows.push(("bounds".into(), "measured".into(), why, Mark::Fails));
        }
        group("Quality", rows);
    }
    if d.voided > 0 {
        group(
            "Quiet machine",
            vec![(
                format!("{} blocks", d.voided),
                "undisturbed".into(),
                "disturbed, left out".into(),
                Mark::Noted,
            )],
        );
    }
    if body.is_empty() {
        return quality;
    }
    html!("{}{}", table("Checks", "checks", &["check", "demanded", "seen", ""], body), quality)
}

/// How a check came out.
#[derive(Clone, Copy)]
enum Mark {
    Holds,
    Fails,
    Killed,
    Quiet,
    Noted,
}

impl Mark {
    fn of(pass: bool) -> Mark {
        if pass { Mark::Holds } else { Mark::Fails }
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Mark::Holds => ("ok", "✓ holds"),
            Mark::Fails => ("no", "✕ fails"),
            Mark::Killed => ("no", "✕ reached"),
            Mark::Quiet => ("ok", "✓ not reached"),
            Mark::Noted => ("so", "· noted"),
        }
    }
}

/// Answers of both arms side by side, with the place where they part.
fn texts(q: &quality::Report) -> Raw {
    let one = |(prompt, [a, b]): (&String, &[String; 2])| {
        let same: usize =
            a.chars().zip(b.chars()).take_while(|(x, y)| x == y).map(|(c, _)| c.len_utf8()).sum();
        let side = |title: &str, arm: usize, t: &str| {
            let (head, tail) = t.split_at(same.min(t.len()));
            let tail = if tail.is_empty() { Raw::new() } else { html!("<mark>{}</mark>", tail) };
            html!(
                "<div><p class=\"lead\">{}{}</p><pre class=\"answer\" tabindex=\"0\">{}{}</pre></div>",
                swatch(arm),
                title,
                head,
                tail
            )
        };
        let equal = if a == b { "the same text" } else { "they part at the mark" };
        html!(
            "<h5>Prompt {} <span class=\"dim\">{}</span></h5><div class=\"texts\">{}{}</div>",
            prompt,
            equal,
            side("control", 0, a),
            side("candidate", 1, b)
        )
    };
    let all: Raw = q.texts.iter().map(one).collect();
    if all.is_empty() { all } else { folded("Answers side by side", "answers", all) }
}
