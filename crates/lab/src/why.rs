//! What is already known. An answer counts while everything it was declared to depend on is as it was; a verdict that
//! says nothing about the idea (void, blocked, not measurable) does not answer it.
//!
//! Looking up a word in a long ledger reads an index beside it. The index is made from rows that were all verified, and
//! holds as long as the ledger has the length and the last hash it had then.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::ledger::{Body, Ledger, LedgerError, Row};
use crate::spec::{Frozen, hash};
use crate::verdict::{Decision, Verdict};

/// `kind` of an index.
pub const INDEX: &str = "tamp.lab.index";
/// `kind` of a file of priors.
pub const PRIORS: &str = "tamp.lab.priors";
/// Dependencies that begin so were fixed at the opening and are not compared with today's: what a revision's name
/// meant, which program ran.
pub const FIXED: &str = "at:";

/// Why priors cannot be taken in.
#[derive(Debug, thiserror::Error)]
pub enum PriorsError {
    /// Not TOML, an unknown key, a missing one.
    #[error("{0}: {1}")]
    Syntax(String, String),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Something known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// ledger row
    pub row: String,
    /// ms since 1970
    pub at_ms: u64,
    /// id of the spec, or the name of what others found
    pub id: String,
    /// title
    pub title: String,
    /// tags
    pub tags: Vec<String>,
    /// candidate
    pub candidate: String,
    /// verdict
    pub verdict: String,
    /// reason, or figures and conditions of what others found
    pub reason: String,
    /// measured by others under other conditions
    pub external: bool,
    /// why it no longer counts
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired: Option<String>,
    /// rows that correct this one
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub corrections: Vec<String>,
    /// what our predictor says, or the source of what others found
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Fields of a spec that are prose, or say when it may run; what is left is the question.
const PROSE: &[&str] = &[
    "title",
    "lane",
    "hypothesis",
    "mechanism",
    "change",
    "tests",
    "confidence",
    "assumptions",
    "revert",
    "requires",
    "blocked",
    "prior",
    "depends",
    "on",
];

/// Two specs ask the same when everything but their prose is the same: tags, contract, arms, metric, gates, quality, design.
pub fn signature(value: &Value) -> String {
    let mut asked = value.clone();
    if let Some(o) = asked.as_object_mut() {
        o.retain(|k, _| !PROSE.contains(&k.as_str()));
    }
    asked["expected"] = json!([value["expected"]["metric"], value["expected"]["direction"]]);
    if let Some(tags) = asked["tags"].as_array_mut() {
        tags.sort_by_key(Value::to_string);
    }
    let unnamed = |v: &Value| {
        let mut v = v.clone();
        if let Some(o) = v.as_object_mut() {
            o.remove("name");
        }
        v
    };
    for arm in ["control", "candidate", "candidates"] {
        asked[arm] = unnamed(&value[arm]);
    }
    hash(&asked)
}

/// A verdict with the question as it stood when it was opened for that attempt.
struct Judged<'r> {
    row: &'r Row,
    id: &'r str,
    value: &'r Value,
    depends: &'r BTreeMap<String, String>,
    decision: &'r Decision,
}

/// The verdicts, what others found, and what was said about both later.
struct Book<'r> {
    judged: Vec<Judged<'r>>,
    external: Vec<&'r Row>,
    superseded: BTreeMap<&'r str, &'r str>,
    corrected: BTreeMap<&'r str, Vec<String>>,
}

impl<'r> Book<'r> {
    fn read(rows: &'r [Row]) -> Self {
        let mut opened = BTreeMap::new();
        let mut b = Book {
            judged: Vec::new(),
            external: Vec::new(),
            superseded: BTreeMap::new(),
            corrected: BTreeMap::new(),
        };
        for row in rows {
            match &row.body {
                Body::Opened { spec, value, depends, .. } => {
                    opened.insert(spec.as_str(), (value, depends));
                }
                Body::Decided { spec, decision, .. } => {
                    if let Some(&(value, depends)) = opened.get(spec.as_str()) {
                        b.judged.push(Judged { row, id: spec, value, depends, decision });
                    }
                }
                Body::External { .. } => b.external.push(row),
                Body::Superseded { of, reason } => {
                    b.superseded.insert(of, reason);
                }
                Body::Corrected { of, note } => b.corrected.entry(of).or_default().push(note.clone()),
                _ => {}
            }
        }
        b
    }

    fn corrections(&self, row: &Row) -> Vec<String> {
        self.corrected.get(row.hash.as_str()).cloned().unwrap_or_default()
    }

    fn superseded(&self, row: &Row) -> Option<String> {
        self.superseded.get(row.hash.as_str()).map(|why| format!("superseded: {why}"))
    }
}

/// The first dependency that is no longer what it was.
fn moved(depends: &BTreeMap<String, String>, hash_of: &mut dyn FnMut(&str) -> String) -> Option<String> {
    let compared = depends.iter().filter(|(name, _)| !name.starts_with(FIXED));
    compared.into_iter().find(|(name, old)| hash_of(name) != **old).map(|(name, _)| name.clone())
}

/// The row that answers `spec`, with a sentence; `hash_of` gives today's hash of a dependency.
pub fn answer(rows: &[Row], spec: &Frozen, hash_of: &mut dyn FnMut(&str) -> String) -> Option<(Row, String)> {
    let book = Book::read(rows);
    let wanted = signature(&spec.value);
    let found = book.judged.iter().rev().find(|j| {
        let same = j.id == spec.id || signature(j.value) == wanted;
        same && j.decision.verdict.is_some_and(Verdict::answers)
            && book.superseded(j.row).is_none()
            && moved(j.depends, hash_of).is_none()
    })?;
    let verdict = found.decision.verdict.map_or("open", Verdict::word);
    let which = if found.id == spec.id { "this question" } else { "the same question in other words" };
    Some((found.row.clone(), format!("{which} was answered: {verdict} ({})", found.decision.reason)))
}

/// Why a question that was asked before may be asked again, by the newest attempt at it: what it rests on has moved, the
/// verdict was no answer, the row was taken back, or the run was stopped. Nothing for a question that was never asked,
/// or that is answered.
pub fn again(rows: &[Row], spec: &Frozen, hash_of: &mut dyn FnMut(&str) -> String) -> Option<String> {
    let book = Book::read(rows);
    let wanted = signature(&spec.value);
    let same = |id: &str, value: &Value| id == spec.id || signature(value) == wanted;
    let asked = rows.iter().rev().find(|r| match &r.body {
        Body::Opened { spec, value, .. } => same(spec, value),
        _ => false,
    })?;
    let Some(last) = book.judged.iter().rev().find(|j| same(j.id, j.value)).filter(|j| j.row.n > asked.n)
    else {
        return Some("was opened and stopped before its verdict; it goes on from there".into());
    };
    let verdict = last.decision.verdict.map_or("open", Verdict::word);
    let before = format!("asked before: {verdict}, row {}", &last.row.hash[..12]);
    let because = if let Some(why) = book.superseded(last.row) {
        why
    } else if !last.decision.verdict.is_some_and(Verdict::answers) {
        format!("{verdict} is no answer ({})", last.decision.reason)
    } else {
        format!("{} has changed since", moved(last.depends, hash_of)?)
    };
    Some(format!("{before}; {because}"))
}

/// One entry of an index: what is known, and what it depends on.
#[derive(Serialize, Deserialize)]
struct Fact {
    #[serde(flatten)]
    known: Known,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    depends: BTreeMap<String, String>,
}

impl Fact {
    /// Lower-case title and tags, a tab, the fact: so that only what fits has to be parsed.
    fn line(&self) -> String {
        let words = [&self.known.title].into_iter().chain(&self.known.tags);
        let key: Vec<String> = words.map(|w| w.to_lowercase().replace(['\t', '\n'], " ")).collect();
        format!("{}\t{}\n", key.join("\u{1f}"), serde_json::to_string(self).unwrap_or_default())
    }
}

/// The first line of an index.
#[derive(Serialize, Deserialize)]
struct Header {
    kind: String,
    v: u32,
    /// length of the ledger
    bytes: u64,
    /// hash of its last row
    last: String,
    /// blake3 of the other lines
    body: String,
}

/// Everything known, ready to be looked up: our own verdicts newest first, then what others found.
pub struct Index {
    lines: String,
}

impl Index {
    /// From rows.
    pub fn of(rows: &[Row]) -> Index {
        let book = Book::read(rows);
        let mut lines = String::new();
        for j in book.judged.iter().rev() {
            let list = j.value["tags"].as_array().into_iter().flatten();
            let known = Known {
                row: j.row.hash.clone(),
                at_ms: j.row.at_ms,
                id: j.id.to_string(),
                title: j.value["title"].as_str().unwrap_or_default().to_string(),
                tags: list.filter_map(|t| t.as_str().map(String::from)).collect(),
                candidate: j.decision.candidate.clone(),
                verdict: j.decision.verdict.map_or("open", Verdict::word).into(),
                reason: j.decision.reason.clone(),
                external: false,
                expired: book.superseded(j.row),
                corrections: book.corrections(j.row),
                note: String::new(),
            };
            lines.push_str(&Fact { known, depends: j.depends.clone() }.line());
        }
        for row in book.external.iter().rev() {
            let Body::External { name, tags, verdict, note, source, predicted } = &row.body else { continue };
            let ours = if predicted.is_empty() { String::new() } else { format!("; predicted: {predicted}") };
            let known = Known {
                row: row.hash.clone(),
                at_ms: row.at_ms,
                id: name.clone(),
                title: name.clone(),
                tags: tags.clone(),
                candidate: String::new(),
                verdict: verdict.clone(),
                reason: note.clone(),
                external: true,
                expired: book.superseded(row),
                corrections: book.corrections(row),
                note: format!("{source}{ours}"),
            };
            lines.push_str(&Fact { known, depends: BTreeMap::new() }.line());
        }
        Index { lines }
    }

    /// The index of a ledger: the one beside it where that holds, else made from verified rows and put there. A folder
    /// that cannot be written to only makes the next look-up slow again.
    pub fn open(ledger: &Ledger) -> Result<Index, LedgerError> {
        let path = ledger.path().with_extension("index");
        let now = seen(ledger);
        if let Some(found) = now.as_ref().and_then(|n| Index::read(&path, n)) {
            return Ok(found);
        }
        let rows = ledger.rows()?;
        let index = Index::of(&rows);
        if let (Some((bytes, last)), Some(row)) = (now, rows.last())
            && last == row.hash
        {
            let body = blake3::hash(index.lines.as_bytes()).to_hex().to_string();
            let header = Header { kind: INDEX.into(), v: 1, bytes, last, body };
            let _ = index.write(&path, &header);
        }
        Ok(index)
    }

    fn read(path: &PathBuf, now: &(u64, String)) -> Option<Index> {
        let text = std::fs::read_to_string(path).ok()?;
        let (first, lines) = text.split_once('\n')?;
        let h: Header = serde_json::from_str(first).ok()?;
        let holds = h.kind == INDEX
            && h.v == 1
            && (h.bytes, &h.last) == (now.0, &now.1)
            && blake3::hash(lines.as_bytes()).to_hex().as_str() == h.body;
        holds.then(|| Index { lines: lines.to_string() })
    }

    fn write(&self, path: &PathBuf, header: &Header) -> std::io::Result<()> {
        let folder = path.parent().ok_or(std::io::ErrorKind::NotFound)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        writeln!(file, "{}", serde_json::to_string(header)?)?;
        file.write_all(self.lines.as_bytes())?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    }

    /// Everything known under a word: a tag, a part of one, or a part of a title. `hash_of` gives today's hash of a
    /// dependency; it is asked once for each.
    pub fn look_up(&self, word: &str, hash_of: &mut dyn FnMut(&str) -> String) -> Vec<Known> {
        let word = word.to_lowercase();
        let mut today: BTreeMap<String, String> = BTreeMap::new();
        let mut out = Vec::new();
        for line in self.lines.lines() {
            let Some((key, fact)) = line.split_once('\t') else { continue };
            if !key.contains(&word) {
                continue;
            }
            let Ok(Fact { mut known, depends }) = serde_json::from_str(fact) else { continue };
            if known.expired.is_none() {
                let mut cached =
                    |name: &str| today.entry(name.to_string()).or_insert_with(|| hash_of(name)).clone();
                known.expired = moved(&depends, &mut cached).map(|name| format!("{name} has changed since"));
            }
            out.push(known);
        }
        out
    }
}

/// Length of a ledger and the hash that its last line holds; nothing when it does not end in a whole row.
fn seen(ledger: &Ledger) -> Option<(u64, String)> {
    let mut file = File::open(ledger.path()).ok()?;
    let bytes = file.seek(SeekFrom::End(0)).ok()?;
    let mut tail = 1 << 16;
    loop {
        let from = bytes.saturating_sub(tail);
        file.seek(SeekFrom::Start(from)).ok()?;
        let mut end = Vec::new();
        Read::by_ref(&mut file).take(bytes - from).read_to_end(&mut end).ok()?;
        let line = end.strip_suffix(b"\n")?;
        let begins = line.iter().rposition(|&b| b == b'\n');
        if begins.is_some() || from == 0 {
            let row: Value = serde_json::from_slice(&line[begins.map_or(0, |i| i + 1)..]).ok()?;
            return Some((bytes, row["hash"].as_str()?.to_string()));
        }
        tail *= 8;
    }
}

/// A file of what others found.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Priors {
    kind: String,
    v: u32,
    #[serde(default)]
    prior: Vec<Finding>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Finding {
    name: String,
    tags: Vec<String>,
    verdict: String,
    note: String,
    source: String,
    #[serde(default)]
    predicted: String,
}

/// Takes in priors that the ledger does not have yet, word for word, and says how many those were. A prior that was
/// reworded is added, and the row it had before is superseded.
pub fn import(ledger: &Ledger, text: &str, from: &str, at_ms: u64) -> Result<usize, PriorsError> {
    let wrong = |why: String| PriorsError::Syntax(from.into(), why);
    let file: Priors = toml::from_str(text).map_err(|e| wrong(crate::spec::said(text, &e)))?;
    if file.kind != PRIORS || file.v != 1 {
        return Err(wrong(format!("{} v {} is not {PRIORS} v 1", file.kind, file.v)));
    }
    for (i, p) in file.prior.iter().enumerate() {
        if !Verdict::known(&p.verdict) {
            let known = Verdict::NAMES.join(", ");
            return Err(wrong(format!("{}: {:?} is no verdict; known: {known}", p.name, p.verdict)));
        }
        if file.prior[..i].iter().any(|q| q.name == p.name) {
            return Err(wrong(format!("{} is there twice", p.name)));
        }
    }
    let rows = ledger.rows()?;
    let mut added = 0;
    for p in file.prior {
        let body = Body::External {
            name: p.name.clone(),
            tags: p.tags,
            verdict: p.verdict,
            note: p.note,
            source: p.source,
            predicted: p.predicted,
        };
        let before =
            rows.iter().rev().find(|r| matches!(&r.body, Body::External { name, .. } if *name == p.name));
        let text = |b: &Body| serde_json::to_value(b).unwrap_or_default();
        if before.is_some_and(|r| text(&r.body) == text(&body)) {
            continue;
        }
        ledger.add(at_ms, body)?;
        if let Some(old) = before {
            ledger.add(
                at_ms,
                Body::Superseded { of: old.hash.clone(), reason: "reworded in its file".into() },
            )?;
        }
        added += 1;
    }
    Ok(added)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::tests::{decided, opened, row, spec};

    fn rows(bodies: Vec<Body>) -> Vec<Row> {
        bodies.into_iter().enumerate().map(|(n, b)| row(n as u64, b)).collect()
    }

    fn opened_on(s: &Frozen, on: &[(&str, &str)]) -> Body {
        let mut body = opened(s, "f.toml");
        if let Body::Opened { depends, .. } = &mut body {
            *depends = on.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        }
        body
    }

    #[test]
    fn a_changed_dependency_expires_an_answer_and_one_fixed_at_opening_does_not() {
        let s = spec("idea", 0.5, "");
        let on = [("crate:kernels", "k1"), ("at:HEAD", "sha")];
        let ledger = rows(vec![opened_on(&s, &on), decided(&s, 0, Verdict::Reject)]);
        let answered = |k: &str| answer(&ledger, &s, &mut |_| k.to_string()).map(|a| a.0.n);
        assert_eq!(answered("k1"), Some(1));
        assert_eq!(answered("k2"), None);
        let known = |k: &str| Index::of(&ledger).look_up("idea", &mut |_| k.to_string()).remove(0).expired;
        assert_eq!(known("k1"), None);
        assert_eq!(known("k2").unwrap(), "crate:kernels has changed since");
    }

    #[test]
    fn an_answer_is_held_against_what_its_own_attempt_depended_on() {
        let s = spec("idea", 0.5, "");
        let ledger = rows(vec![
            opened_on(&s, &[("crate:kernels", "k1")]),
            decided(&s, 0, Verdict::Reject),
            opened_on(&s, &[("crate:kernels", "k2")]),
            decided(&s, 1, Verdict::Retain),
        ]);
        let answered = |k: &str| answer(&ledger, &s, &mut |_| k.to_string()).map(|a| a.0.n);
        assert_eq!((answered("k1"), answered("k2"), answered("k3")), (Some(1), Some(3), None));
    }

    #[test]
    fn a_verdict_that_says_nothing_of_the_idea_does_not_answer_it() {
        let s = spec("idea", 0.5, "");
        for (v, says) in [
            (Verdict::Retain, true),
            (Verdict::Reject, true),
            (Verdict::Revert, true),
            (Verdict::Inconclusive, true),
            (Verdict::NotApplicable, true),
            (Verdict::Void, false),
            (Verdict::Block, false),
            (Verdict::NotMeasurable, false),
        ] {
            let ledger = rows(vec![opened(&s, "f"), decided(&s, 0, v)]);
            assert_eq!(answer(&ledger, &s, &mut |_| String::new()).is_some(), says, "{v}");
        }
    }

    #[test]
    fn the_same_question_in_other_words_is_answered_and_another_contract_is_not() {
        let s = spec("idea", 0.5, "");
        let ledger = rows(vec![opened(&s, "f"), decided(&s, 0, Verdict::Reject)]);
        let asked = |from: &str, to: &str| {
            let text = crate::spec::tests::EXAMPLE.replace("[\"threads\", \"engine.core\"]", "[\"idea\"]");
            let other = Frozen::parse(&text.replace(from, to), "x").unwrap();
            assert_ne!(other.id, s.id);
            answer(&ledger, &other, &mut |_| String::new())
        };
        assert!(
            asked("two threads decode", "a second thread makes it decode").unwrap().1.contains("other words")
        );
        assert!(asked("max_tokens = 64", "max_tokens = 65").is_none());
        assert!(asked("threads = 2", "threads = 3").is_none());
    }

    #[test]
    fn a_superseded_row_no_longer_answers_and_a_correction_is_shown() {
        let s = spec("idea", 0.5, "");
        let mut bodies = vec![opened(&s, "f"), decided(&s, 0, Verdict::Reject)];
        let of = rows(bodies.clone())[1].hash.clone();
        bodies.push(Body::Corrected { of: of.clone(), note: "the title says two and means three".into() });
        let first = Index::of(&rows(bodies.clone())).look_up("idea", &mut |_| String::new());
        assert_eq!(first[0].corrections.len(), 1);
        bodies.push(Body::Superseded { of, reason: "the clock was wrong".into() });
        let ledger = rows(bodies);
        assert!(answer(&ledger, &s, &mut |_| String::new()).is_none());
        let known = Index::of(&ledger).look_up("IDEA", &mut |_| String::new());
        assert!(known[0].expired.as_ref().unwrap().contains("clock"));
        assert!(Index::of(&ledger).look_up("another", &mut |_| String::new()).is_empty());
    }

    const FILE: &str = r#"
kind = "tamp.lab.priors"
v = 1
[[prior]]
name = "split runtime"
tags = ["draft"]
verdict = "reject"
note = "28.3 against 30.5"
source = "a report"
predicted = "1.12 at best"
"#;

    #[test]
    fn what_others_found_is_taken_in_once_and_answers_by_name_and_tag() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::at(dir.path());
        assert_eq!(import(&ledger, FILE, "p.toml", 7).unwrap(), 1);
        assert_eq!(import(&ledger, FILE, "p.toml", 8).unwrap(), 0);
        assert_eq!(ledger.rows().unwrap().len(), 1);
        for word in ["Split", "draft"] {
            let k = Index::open(&ledger).unwrap().look_up(word, &mut |_| String::new());
            assert!(k.len() == 1 && k[0].external && k[0].note.contains("1.12"), "{word}");
        }
        // A reworded one replaces what it was.
        assert_eq!(import(&ledger, &FILE.replace("30.5", "30.6"), "p.toml", 9).unwrap(), 1);
        let k = Index::open(&ledger).unwrap().look_up("split", &mut |_| String::new());
        assert_eq!(k.iter().filter(|k| k.expired.is_none()).count(), 1);
        let wrong = |from: &str, to: &str| {
            import(&ledger, &FILE.replace(from, to), "p.toml", 9).unwrap_err().to_string()
        };
        assert!(wrong("\"reject\"", "\"bad\"").contains("retain"));
        assert!(wrong("note", "notes").contains("line 8"));
        assert!(wrong("v = 1", "v = 2").contains("v 2"));
    }

    #[test]
    fn the_priors_of_this_repository_say_what_the_predictor_says() {
        use tamp_base::wall::{gain, tokens_per_step};
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::at(dir.path());
        let text = include_str!("../../../lab/priors.toml");
        assert!(import(&ledger, text, "lab/priors.toml", 1).unwrap() >= 7);
        let index = Index::open(&ledger).unwrap();
        let says = |word: &str, figure: f64, places: usize| {
            let k = index.look_up(word, &mut |_| String::new());
            let figure = format!("{figure:.places$}");
            assert!(
                k.iter().any(|k| k.external && k.note.contains(&figure)),
                "{word}: {figure} is not there"
            );
        };
        says("two-token", 121.88 * gain(tokens_per_step(1.0, 2), 1.0, 0.0), 1);
        says("two-token", 400.0 / 121.88, 2);
        says("unconditioned future head", gain(1.193, 1.0, 0.11), 2);
        for (layers, accepted) in [(4.0, 0.49), (6.0, 0.52), (8.0, 0.64), (9.0, 0.68)] {
            says("split runtime", gain(tokens_per_step(accepted, 2), 1.0, layers / 12.0), 2);
        }
        says("second-runtime", gain(1.0, 1.0, 6.0 / 12.0), 2);
        says("factored head", 1.0 / (1.0 - 0.94 / 8.4), 2);
        for word in ["prepared pair", "naive truncation"] {
            assert_eq!(index.look_up(word, &mut |_| String::new()).len(), 1, "{word}");
        }
    }

    #[test]
    fn an_index_holds_only_for_the_ledger_it_was_made_from() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::at(dir.path());
        let look = || Index::open(&ledger).map(|i| i.look_up("split", &mut |_| String::new()).len());
        assert_eq!(look().unwrap(), 0);
        import(&ledger, FILE, "p", 1).unwrap();
        let path = ledger.path().with_extension("index");
        assert_eq!(look().unwrap(), 1);
        assert!(path.exists());
        // Rows that come later are seen.
        import(&ledger, &FILE.replace("split runtime", "split again"), "p", 2).unwrap();
        assert_eq!(look().unwrap(), 2);
        // A changed index is not believed.
        let good = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, good.replace("split again", "gone again!")).unwrap();
        assert_eq!(look().unwrap(), 2);
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(look().unwrap(), 2);
        // A ledger whose end was changed is read whole, and found out.
        let text = std::fs::read_to_string(ledger.path()).unwrap();
        std::fs::write(ledger.path(), text.trim_end()).unwrap();
        assert_eq!(look().unwrap(), 1, "an unfinished row was never told");
        std::fs::write(ledger.path(), text.replace("28.3", "82.3")).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Index::open(&ledger), Err(LedgerError::Tampered(..))));
    }

    /// A ledger of `n` rows, half of them verdicts with their questions, written at once.
    fn long(dir: &std::path::Path, n: u64) -> Ledger {
        let ledger = Ledger::at(dir);
        let (mut text, mut prev) = (Vec::new(), "0".repeat(64));
        for i in 0..n {
            let s = spec(&format!("idea {}", i / 2), 0.5, "");
            let body = if i % 2 == 0 { opened(&s, "f.toml") } else { decided(&s, 0, Verdict::Reject) };
            let mut r = serde_json::to_value(Row { prev, ..row(i, body) }).unwrap();
            r.as_object_mut().unwrap().remove("hash");
            prev = hash(&r);
            r["hash"] = prev.clone().into();
            text.extend(serde_json_canonicalizer::to_vec(&r).unwrap());
            text.push(b'\n');
        }
        std::fs::write(ledger.path(), text).unwrap();
        ledger
    }

    #[test]
    fn a_word_is_found_in_ten_thousand_rows_without_verifying_them_again() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = long(dir.path(), 10_000);
        let look = || {
            let start = std::time::Instant::now();
            let found = Index::open(&ledger).unwrap().look_up("idea 4321", &mut |_| String::new());
            assert_eq!(found.len(), 1);
            start.elapsed()
        };
        let first = look();
        let next = (0..5).map(|_| look()).min().unwrap();
        println!("first {first:?}, then {next:?}");
        assert!(next * 4 < first, "the index saves nothing: {first:?}, then {next:?}");
    }
}
