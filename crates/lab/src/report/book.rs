//! The ledger sorted by question: what was asked, every attempt at it, what was said about it later.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::ledger::{Body, Row};
use crate::spec::Spec;
use crate::verdict::Decision;

/// One measured row.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'r> {
    /// `scout`, `opening`, `block N`, `closing`, `reverted`
    pub what: &'r str,
    /// record file
    pub records: &'r str,
    /// why it does not count
    pub void: Option<&'r str>,
}

/// One verdict.
#[derive(Clone, Copy, Debug)]
pub struct Decided<'r> {
    /// the row
    pub row: &'r Row,
    /// the verdict and all it rests on
    pub decision: &'r Decision,
    /// hash of the calibration row
    pub calibration: Option<&'r str>,
    /// commit that was kept, or undone
    pub commit: Option<&'r str>,
    /// what was done about it
    pub action: &'r str,
}

/// One attempt at a question.
#[derive(Clone, Debug, Default)]
pub struct Attempt<'r> {
    /// in the order they were measured
    pub measured: Vec<Measured<'r>>,
    /// one per candidate
    pub decided: Vec<Decided<'r>>,
}

/// A question and all that was done about it.
#[derive(Clone, Debug)]
pub struct Experiment<'r> {
    /// id of the spec
    pub id: &'r str,
    /// unique on the page
    pub anchor: String,
    /// when it was frozen; absent when the ledger has no such row
    pub opened: Option<&'r Row>,
    /// the spec's fields as they were frozen
    pub value: &'r Value,
    /// the same, typed; absent when this tamp cannot read them
    pub spec: Option<Box<Spec>>,
    /// file it came from
    pub file: &'r str,
    /// program it is part of
    pub program: Option<&'r str>,
    /// dependencies and their hashes
    pub depends: Option<&'r BTreeMap<String, String>>,
    /// from the first to the newest
    pub attempts: BTreeMap<u32, Attempt<'r>>,
}

impl<'r> Experiment<'r> {
    /// Its title.
    pub fn title(&self) -> String {
        let words = self.value["title"].as_str().unwrap_or_default();
        if words.trim().is_empty() {
            format!("untitled {}", super::text::short(self.id))
        } else {
            words.into()
        }
    }

    /// Its tags.
    pub fn tags(&self) -> Vec<&'r str> {
        self.value["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Its lane.
    pub fn lane(&self) -> &'r str {
        self.value["lane"].as_str().unwrap_or("–")
    }

    /// Names of the arms, the control first.
    pub fn arms(&self) -> Vec<String> {
        self.spec.as_ref().map(|s| s.arms().into_iter().map(|a| a.name).collect()).unwrap_or_default()
    }

    /// The newest attempt.
    pub fn newest(&self) -> Option<&Attempt<'r>> {
        self.attempts.values().next_back()
    }
}

/// What was said later about a row.
#[derive(Clone, Copy, Debug)]
pub struct Remark<'r> {
    /// the row that says it
    pub row: &'r Row,
    /// the row no longer counts
    pub superseded: bool,
    /// in words
    pub words: &'r str,
}

/// The ledger by question.
#[derive(Clone, Debug, Default)]
pub struct Book<'r> {
    /// in the order they were opened
    pub experiments: Vec<Experiment<'r>>,
    /// calibration rows
    pub calibrations: Vec<&'r Row>,
    /// rows of what others found
    pub externals: Vec<&'r Row>,
    /// program id → its rows
    pub programs: Vec<(&'r str, Vec<&'r Row>)>,
    /// hash of a row → remarks on it
    pub remarks: BTreeMap<&'r str, Vec<Remark<'r>>>,
    /// by hash
    pub rows: BTreeMap<&'r str, &'r Row>,
}

static NOTHING: Value = Value::Null;

impl<'r> Book<'r> {
    /// Sorts the rows.
    pub fn read(rows: &'r [Row]) -> Book<'r> {
        let mut b = Book::default();
        let mut places: BTreeMap<&'r str, usize> = BTreeMap::new();
        for row in rows {
            b.rows.insert(&row.hash, row);
            match &row.body {
                Body::Opened { spec, value, file, program, depends, .. } => {
                    let e = b.experiment(&mut places, spec);
                    if e.opened.is_none() {
                        (e.opened, e.value, e.file, e.program, e.depends) =
                            (Some(row), value, file, program.as_deref(), Some(depends));
                        e.spec = Spec::deserialize(value).ok().map(Box::new);
                    }
                }
                Body::Measured { spec, what, records, void, attempt } => {
                    let m = Measured { what, records, void: void.as_deref() };
                    b.experiment(&mut places, spec).attempts.entry(*attempt).or_default().measured.push(m);
                }
                Body::Decided { spec, attempt, calibration, decision, commit, action } => {
                    let d = Decided {
                        row,
                        decision,
                        calibration: calibration.as_deref(),
                        commit: commit.as_deref(),
                        action,
                    };
                    b.experiment(&mut places, spec).attempts.entry(*attempt).or_default().decided.push(d);
                }
                Body::Calibrated { .. } => b.calibrations.push(row),
                Body::External { .. } => b.externals.push(row),
                Body::Superseded { of, reason } => {
                    b.remarks.entry(of).or_default().push(Remark { row, superseded: true, words: reason });
                }
                Body::Corrected { of, note } => {
                    b.remarks.entry(of).or_default().push(Remark { row, superseded: false, words: note });
                }
                Body::Program { program, .. } => match b.programs.iter_mut().find(|p| p.0 == program) {
                    Some(p) => p.1.push(row),
                    None => b.programs.push((program, vec![row])),
                },
            }
        }
        b
    }

    fn experiment(&mut self, places: &mut BTreeMap<&'r str, usize>, id: &'r str) -> &mut Experiment<'r> {
        let at = *places.entry(id).or_insert_with(|| {
            let n = self.experiments.len();
            // An id is a hash; whatever else a row says cannot be part of an address.
            let plain = id.len() >= 12 && id.bytes().all(|c| c.is_ascii_hexdigit());
            let anchor = if plain { format!("x-{}", &id[..12]) } else { format!("x-n{n}") };
            let anchor = if self.experiments.iter().any(|e| e.anchor == anchor) {
                format!("{anchor}-{n}")
            } else {
                anchor
            };
            self.experiments.push(Experiment {
                id,
                anchor,
                opened: None,
                value: &NOTHING,
                spec: None,
                file: "",
                program: None,
                depends: None,
                attempts: BTreeMap::new(),
            });
            n
        });
        &mut self.experiments[at]
    }

    /// Remarks on a row.
    pub fn remarks(&self, hash: &str) -> &[Remark<'r>] {
        self.remarks.get(hash).map_or(&[], Vec::as_slice)
    }
}
