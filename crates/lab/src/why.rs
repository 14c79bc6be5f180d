//! What is already known. An answer counts while everything it was declared to depend on is as it was; a verdict that
//! says nothing about the idea (void, blocked, not measurable) does not answer it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::ledger::{Body, Row};
use crate::spec::{Frozen, hash};
use crate::verdict::{Decision, Verdict};

/// Something known.
#[derive(Clone, Debug, Serialize)]
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expired: Option<String>,
    /// rows that correct this one
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub corrections: Vec<String>,
    /// what our predictor says, or the source of what others found
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Two specs ask the same when mechanism tags, contract and arms are the same, whatever their prose.
pub fn signature(value: &Value) -> String {
    let mut tags: Vec<String> =
        value["tags"].as_array().into_iter().flatten().map(Value::to_string).collect();
    tags.sort();
    let unnamed = |v: &Value| {
        let mut v = v.clone();
        if let Some(o) = v.as_object_mut() {
            o.remove("name");
        }
        v
    };
    let arms: Vec<Value> =
        ["control", "candidate", "candidates"].iter().map(|k| unnamed(&value[*k])).collect();
    hash(&json!({ "tags": tags, "contract": value["contract"], "arms": arms }))
}

/// The questions, the decisions, and what was said about them later.
struct Book<'r> {
    opened: BTreeMap<&'r str, (&'r Value, &'r BTreeMap<String, String>)>,
    superseded: BTreeMap<&'r str, &'r str>,
    corrected: BTreeMap<&'r str, Vec<String>>,
}

impl<'r> Book<'r> {
    fn read(rows: &'r [Row]) -> Self {
        let mut b = Book { opened: BTreeMap::new(), superseded: BTreeMap::new(), corrected: BTreeMap::new() };
        for row in rows {
            match &row.body {
                Body::Opened { spec, value, depends, .. } => {
                    b.opened.insert(spec, (value, depends));
                }
                Body::Superseded { of, reason } => {
                    b.superseded.insert(of, reason);
                }
                Body::Corrected { of, note } => b.corrected.entry(of).or_default().push(note.clone()),
                _ => {}
            }
        }
        b
    }
}

/// Whether a verdict says something about the idea.
fn answers(d: &Decision) -> bool {
    matches!(
        d.verdict,
        Some(
            Verdict::Retain
                | Verdict::Reject
                | Verdict::Revert
                | Verdict::Inconclusive
                | Verdict::NotApplicable
        )
    )
}

/// The row that answers `spec`, with a sentence; `hash_of` gives today's hash of a dependency.
pub fn answer(rows: &[Row], spec: &Frozen, hash_of: &mut dyn FnMut(&str) -> String) -> Option<(Row, String)> {
    let book = Book::read(rows);
    let wanted = signature(&spec.value);
    for row in rows.iter().rev() {
        let Body::Decided { spec: id, decision, .. } = &row.body else { continue };
        let Some((value, depends)) = book.opened.get(id.as_str()) else { continue };
        let same = *id == spec.id || signature(value) == wanted;
        if !same || !answers(decision) || book.superseded.contains_key(row.hash.as_str()) {
            continue;
        }
        if depends.iter().any(|(name, old)| hash_of(name) != *old) {
            continue;
        }
        let verdict = decision.verdict.map_or("open", Verdict::word);
        let which = if *id == spec.id { "this question" } else { "the same question in other words" };
        return Some((row.clone(), format!("{which} was answered: {verdict} ({})", decision.reason)));
    }
    None
}

/// Everything known under a word: a tag, a part of one, or a word of a title. Newest first, our own before others'.
/// `hash_of` gives today's hash of a dependency of a spec.
pub fn look_up(rows: &[Row], word: &str, hash_of: &mut dyn FnMut(&str, &str) -> String) -> Vec<Known> {
    let book = Book::read(rows);
    let word = word.to_lowercase();
    let fits = |tags: &[String], title: &str| {
        title.to_lowercase().contains(&word) || tags.iter().any(|t| t.to_lowercase().contains(&word))
    };
    let mut out = Vec::new();
    for row in rows.iter().rev() {
        let corrections = book.corrected.get(row.hash.as_str()).cloned().unwrap_or_default();
        match &row.body {
            Body::Decided { spec: id, decision, .. } => {
                let Some((value, depends)) = book.opened.get(id.as_str()) else { continue };
                let list = value["tags"].as_array().into_iter().flatten();
                let tags: Vec<String> = list.filter_map(|t| t.as_str().map(String::from)).collect();
                let title = value["title"].as_str().unwrap_or_default().to_string();
                if !fits(&tags, &title) {
                    continue;
                }
                let moved = depends.iter().find(|(name, old)| hash_of(id, name) != **old);
                let expired = match book.superseded.get(row.hash.as_str()) {
                    Some(why) => Some(format!("superseded: {why}")),
                    None => moved.map(|(name, _)| format!("{name} has changed since")),
                };
                out.push(Known {
                    row: row.hash.clone(),
                    at_ms: row.at_ms,
                    id: id.clone(),
                    title,
                    tags,
                    candidate: decision.candidate.clone(),
                    verdict: decision.verdict.map_or("open", Verdict::word).into(),
                    reason: decision.reason.clone(),
                    external: false,
                    expired,
                    corrections,
                    note: String::new(),
                });
            }
            Body::External { name, tags, verdict, note, source, predicted } if fits(tags, name) => {
                out.push(Known {
                    row: row.hash.clone(),
                    at_ms: row.at_ms,
                    id: name.clone(),
                    title: name.clone(),
                    tags: tags.clone(),
                    candidate: String::new(),
                    verdict: verdict.clone(),
                    reason: note.clone(),
                    external: true,
                    expired: book.superseded.get(row.hash.as_str()).map(|why| format!("superseded: {why}")),
                    corrections,
                    note: if predicted.is_empty() {
                        source.clone()
                    } else {
                        format!("{source}; {predicted}")
                    },
                })
            }
            _ => {}
        }
    }
    out.sort_by_key(|k| k.external);
    out
}
