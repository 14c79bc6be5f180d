//! The report over simulated ledgers: everything is on it, nothing from outside is, and hostile words stay words.
#![allow(clippy::unwrap_used)] // a helper of a test is a test

mod simulated;

use std::collections::BTreeSet;

use simulated::{Machine, ORDINARY, Truth, ledger, run, spec};
use tamp_lab::ledger::{Body, Ledger, Row};
use tamp_lab::record::Store;
use tamp_lab::report::html;
use tamp_lab::verdict::Verdict;

/// Elements that have no end tag.
const EMPTY: [&str; 4] = ["meta", "br", "input", "link"];
/// Elements that a paragraph cannot hold: a browser would end the paragraph there.
const BLOCKS: [&str; 17] = [
    "p", "div", "ul", "ol", "dl", "table", "pre", "figure", "h1", "h2", "h3", "h4", "h5", "section",
    "article", "details", "form",
];

/// A tag: name, attributes, and whether it ends itself.
type Tag<'a> = (&'a str, Vec<(&'a str, &'a str)>, bool);

fn tag(inner: &str) -> Result<Tag<'_>, String> {
    let own = inner.ends_with('/');
    let inner = inner.trim_end_matches('/');
    let (name, mut rest) = inner.split_at(inner.find(char::is_whitespace).unwrap_or(inner.len()));
    let mut attributes = Vec::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok((name, attributes, own));
        }
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        if key.is_empty() || !key.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
            return Err(format!("attribute {key:?} in <{inner}>"));
        }
        let Some(value) = after.strip_prefix("=\"") else {
            attributes.push((key, ""));
            rest = after;
            continue;
        };
        let end = value.find('"').ok_or(format!("open quote in <{inner}>"))?;
        attributes.push((key, &value[..end]));
        rest = &value[end + 1..];
    }
}

/// What a page is made of: every start tag with its attributes, and the text outside tags.
struct Parsed<'a> {
    tags: Vec<(&'a str, Vec<(&'a str, &'a str)>)>,
    text: String,
}

/// Takes a page apart; an error names what is not well-formed.
fn parse(page: &str) -> Result<Parsed<'_>, String> {
    let mut open: Vec<&str> = Vec::new();
    let mut found = Parsed { tags: Vec::new(), text: String::new() };
    let mut rest = page.strip_prefix("<!DOCTYPE html>").ok_or("no doctype")?;
    while let Some(at) = rest.find('<') {
        let words = &rest[..at];
        if words.contains('>') || words.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
            return Err(format!("unescaped {words:?}"));
        }
        found.text.push_str(words);
        let end = rest[at..].find('>').ok_or("a tag without its end")? + at;
        let inner = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = inner.strip_prefix('/') {
            match open.pop() {
                Some(o) if o == name => {}
                other => return Err(format!("</{name}> ends {other:?}")),
            }
            continue;
        }
        let (name, attributes, own) = tag(inner)?;
        if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric()) {
            return Err(format!("tag <{inner}>"));
        }
        if BLOCKS.contains(&name) && open.contains(&"p") {
            return Err(format!("<{name}> inside a paragraph"));
        }
        found.tags.push((name, attributes));
        if name == "style" || name == "script" {
            let close = format!("</{name}>");
            let end = rest.find(&close).ok_or(format!("no {close}"))?;
            rest = &rest[end + close.len()..];
        } else if !own && !EMPTY.contains(&name) {
            open.push(name);
        }
    }
    if open.is_empty() { Ok(found) } else { Err(format!("never closed: {open:?}")) }
}

/// Well-formed, with addresses that lead somewhere on the page, and drawings that can be read aloud.
fn sound(page: &str) -> Parsed<'_> {
    let p = parse(page).unwrap();
    let mut ids = BTreeSet::new();
    for (name, attributes) in &p.tags {
        for (k, v) in attributes {
            if *k == "id" {
                assert!(ids.insert(*v), "id {v} twice, second on <{name}>");
            }
            assert!(!k.starts_with("on"), "<{name} {k}>");
        }
    }
    let (mut drawings, mut named) = (0, 0);
    for (name, attributes) in &p.tags {
        let get = |key: &str| attributes.iter().find(|a| a.0 == key).map(|a| a.1);
        assert!(
            get("src").is_none() && !matches!(*name, "link" | "img" | "iframe" | "object"),
            "<{name}> is from outside"
        );
        if let Some(to) = get("href") {
            assert!(to.strip_prefix('#').is_some_and(|id| ids.contains(id)), "href {to} leads nowhere");
        }
        for id in get("aria-labelledby").into_iter().flat_map(str::split_whitespace) {
            assert!(ids.contains(id), "aria-labelledby {id} leads nowhere");
            named += usize::from(*name == "svg");
        }
        drawings += usize::from(*name == "svg" && get("aria-hidden").is_none());
    }
    assert_eq!(named, 2 * drawings, "every drawing has a title and a description");
    p
}

fn page(rows: &[Row], folder: &std::path::Path, now: u64) -> String {
    html(rows, &Store::new(folder), now).unwrap()
}

#[test]
fn the_checker_of_this_test_sees_broken_pages() {
    for bad in [
        "<p><div></div></p>",
        "<b><i></b></i>",
        "<p>",
        "a > b<br>",
        "<a title=\"x></a>",
        "<a <script>></a>",
        "\u{1b}<br>",
    ] {
        assert!(parse(&format!("<!DOCTYPE html>{bad}")).is_err(), "{bad}");
    }
    assert!(parse("<!DOCTYPE html><p title=\"a\">b<br>c</p>").is_ok());
}

#[test]
fn an_empty_ledger_gives_a_page_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let p = page(&[], dir.path(), 0);
    assert!(sound(&p).text.contains("No experiment is in this ledger yet"));
}

#[test]
fn every_decided_experiment_is_on_the_page_with_its_verdict_reason_and_row() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, now) = ledger(dir.path());
    let text = page(&rows, dir.path(), now);
    let p = sound(&text);
    let mut seen = BTreeSet::new();
    for row in &rows {
        let Body::Decided { spec, decision, .. } = &row.body else { continue };
        let verdict = decision.verdict.unwrap();
        seen.insert(verdict);
        let article = format!("<article class=\"x\" id=\"x-{}\"", &spec[..12]);
        let from = text.find(&article).unwrap_or_else(|| panic!("no article of {spec}"));
        let own = &text[from..from + text[from..].find("</article>").unwrap()];
        let reason = decision
            .reason
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&quot;")
            .replace('\'', "&#39;");
        assert!(own.contains(&reason), "{reason}");
        assert!(own.contains(&format!("</svg>{}</span>", verdict.word())), "{verdict}");
        assert!(own.contains(&format!("<code title=\"{}\">", row.hash)), "receipt of row {}", row.n);
        let line = |(name, a): &&(&str, Vec<(&str, &str)>)| {
            *name == "tr"
                && a.contains(&("data-verdict", verdict.word()))
                && a.contains(&("data-for", &format!("x-{}", &spec[..12])))
        };
        assert!(p.tags.iter().any(|t| line(&t)), "no line of {spec}");
        // Whatever has pairs has a plot of every process and one of the ratios, for both widths.
        if decision.pairs > 0 {
            assert!(own.matches("class=\"plot\"").count() >= 4, "{spec}");
        }
    }
    let all = [
        Verdict::Retain,
        Verdict::Reject,
        Verdict::Block,
        Verdict::Inconclusive,
        Verdict::NotMeasurable,
        Verdict::NotApplicable,
        Verdict::Void,
    ];
    assert!(all.iter().all(|v| seen.contains(v)), "the simulated ledger ends in {seen:?} only");
    for words in [
        "conditions differ",
        "Superseded",
        "Corrected",
        "the width table",
        "disturbed, does not count",
        "opening and closing control",
    ] {
        assert!(p.text.contains(words), "{words}");
    }
    assert_eq!(text, page(&rows, dir.path(), now), "the same ledger gives the same page");
}

#[test]
fn every_process_of_a_run_is_a_mark_in_its_plot() {
    let dir = tempfile::tempdir().unwrap();
    let mut m = Machine::new(1_795_000_000_000);
    m.bursts = 0.12;
    m.truths.insert("candidate".into(), Truth { speed: 1.2, lever: "x", ..Truth::default() });
    run(dir.path(), &mut m, &spec("marks", "\"t\"", 1.2, "", ORDINARY), None);
    let rows = Ledger::at(dir.path()).rows().unwrap();
    let store = Store::new(dir.path());
    let (mut counted, mut off) = (0, 0);
    for row in &rows {
        if let Body::Measured { records, void, what, .. } = &row.body {
            let n = store.get(records).unwrap().len();
            match (what.as_str(), void) {
                ("scout", _) => {}
                (_, None) => counted += n,
                (_, Some(_)) => off += n,
            }
        }
    }
    assert!(off > 0, "no block was disturbed; the seed must give one");
    let text = page(&rows, dir.path(), m.now);
    let plot = &text[text.find("-s0-w-t").unwrap()..];
    let plot = &plot[..plot.find("</svg>").unwrap()];
    let marks = |class: &str| {
        plot.matches(&format!("class=\"m a0{class}\"")).count()
            + plot.matches(&format!("class=\"m a1{class}\"")).count()
    };
    assert_eq!((marks(""), marks(" off")), (counted, off));
    assert_eq!(plot.matches("class=\"ring\"").count(), 2);
}

const HOSTILE: &str = "</title></style></script><script>alert(1)</script><img src=x onerror=alert(1)>\"' onclick='x' \u{1b}[31m\u{202e}&#x3c;b&#x3e;\u{0}]]>-->{{}}";

#[test]
fn hostile_words_in_every_field_stay_words() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, now) = ledger(dir.path());
    // Every text of every row that has no fixed vocabulary is replaced.
    fn poison(v: &mut serde_json::Value, key: &str) {
        let fixed = [
            "kind",
            "row",
            "lane",
            "revert",
            "metric",
            "direction",
            "stat",
            "op",
            "class",
            "state",
            "relation",
            "pred",
            "want_",
            "verdict",
            "claim",
            "spec",
            "records",
            "of",
            "hash",
            "prev",
            "program",
            "what",
            "calibration",
            "observable",
            "candidate_",
        ];
        match v {
            serde_json::Value::String(s) if !fixed.contains(&key) => *s = format!("{HOSTILE}{s}"),
            serde_json::Value::Array(a) => a.iter_mut().for_each(|v| poison(v, key)),
            serde_json::Value::Object(o) => {
                let fixed_here = o.contains_key("manipulation") && key == "value";
                for (k, v) in o.iter_mut() {
                    // Predicates are read, and names of arms join records to questions.
                    if !(fixed_here && matches!(k.as_str(), "manipulation" | "invariant" | "design")) {
                        poison(v, k);
                    }
                }
            }
            _ => {}
        }
    }
    let hostile: Vec<Row> = rows
        .iter()
        .map(|r| {
            let mut v = serde_json::to_value(r).unwrap();
            poison(&mut v, "");
            serde_json::from_value(v).unwrap()
        })
        .collect();
    let text = page(&hostile, dir.path(), now);
    let p = sound(&text);
    assert_eq!(p.tags.iter().filter(|t| t.0 == "script").count(), 1);
    assert_eq!(p.tags.iter().filter(|t| t.0 == "img").count(), 0);
    assert!(!text.contains(['\u{0}', '\u{1b}', '\u{202e}']));
    assert!(text.matches("&lt;script&gt;alert(1)&lt;/script&gt;").count() > 100);
    // The nonce is the hash of what lies around the script: words in the ledger cannot carry it.
    let nonce = text.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert_eq!(text.matches(nonce).count(), 2);
}

#[test]
fn hostile_answers_of_a_model_stay_words() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, now) = ledger(dir.path());
    let hostile: Vec<Row> = rows
        .into_iter()
        .map(|mut r| {
            if let Body::Decided { decision, .. } = &mut r.body
                && let Some(q) = &mut decision.quality
            {
                q.texts = [(HOSTILE.to_string(), [format!("a{HOSTILE}"), format!("aé{HOSTILE}")])].into();
            }
            r
        })
        .collect();
    let text = page(&hostile, dir.path(), now);
    sound(&text);
    assert!(text.contains("<mark>é&lt;/title&gt;"));
}

#[test]
fn a_row_whose_question_cannot_be_read_is_shown_and_damaged_records_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut rows, now) = ledger(dir.path());
    for r in &mut rows {
        if let Body::Opened { value, .. } = &mut r.body {
            value["a field of tomorrow"] = 1.into();
        }
    }
    let text = page(&rows, dir.path(), now);
    assert!(sound(&text).text.contains("cannot read the frozen question"));
    let other = tempfile::tempdir().unwrap();
    let text = page(&rows, other.path(), now);
    assert!(sound(&text).text.contains("record files are not beside this ledger"));
    let file = std::fs::read_dir(dir.path().join("records")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, b"no records").unwrap();
    let why = html(&rows, &Store::new(dir.path()), now).unwrap_err().to_string();
    assert!(why.contains(file.file_name().unwrap().to_str().unwrap()), "{why}");
}

/// `cargo test -p tamp-lab --test report -- --ignored` leaves the page of a simulated ledger in the build folder.
#[test]
#[ignore = "writes a page to look at"]
fn a_page_to_look_at() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, now) = ledger(dir.path());
    let out = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("report.html");
    std::fs::write(&out, page(&rows, dir.path(), now + 3_600_000)).unwrap();
    assert!(std::fs::metadata(&out).unwrap().len() > 10_000);
    println!("{}", out.display());
}
