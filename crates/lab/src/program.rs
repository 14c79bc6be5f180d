//! A queue of questions under one bar: a pinned revision, a contract, invariants and gates that every experiment
//! inherits, an order, and a summary that is made from the verdicts when the queue is through.
//!
//! A program is a TOML file that names spec files. A spec leaves out what the bar says; the bar is merged in before its
//! id is made, so that a frozen question is whole. The id of a program covers its own fields and its merged specs: when
//! one of them changes it is another program, and the questions that did not change are answered already.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::ledger::{Body, Row};
use crate::queue::{Names, Wait, ordered, ready};
use crate::run::{Ask, Lab, LabError, Outcome};
use crate::spec::{Blocker, Contract, Design, Frozen, Invariant, Quality, SpecError, hash, said};
use crate::stats::Gate;
use crate::verdict::Verdict;
use crate::why::Index;

/// `kind` of a program.
pub const PROGRAM: &str = "tamp.lab.program";
/// Sections of the bar.
const BAR: [&str; 6] = ["contract", "invariant", "quality", "design", "success", "kill"];
/// Specs that a program may have.
const MOST: usize = 1000;

/// A program as its author wrote it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// always [`PROGRAM`]
    pub kind: String,
    /// version of this record, 1
    pub v: u32,
    /// one line
    pub title: String,
    /// what the program is to find out
    pub question: String,
    /// the revision that arms without one run; its commit is fixed at the opening. Without it they run this program
    #[serde(default)]
    pub baseline: Option<String>,
    /// spec files, named from the program's folder
    pub queue: Vec<String>,
    /// ideas that are not queued because they are answered: words to find them by
    #[serde(default)]
    pub answered: Vec<String>,
    /// what is kept whatever the verdicts
    #[serde(default)]
    pub tooling_kept: Vec<String>,
    /// what would come after this queue
    #[serde(default)]
    pub next: Vec<String>,
    /// of the bar: what every process does
    #[serde(default)]
    pub contract: Option<Contract>,
    /// of the bar: facts that must hold
    #[serde(default)]
    pub invariant: Vec<Invariant>,
    /// of the bar: what the output must still be
    #[serde(default)]
    pub quality: Option<Quality>,
    /// of the bar: how it is measured
    #[serde(default)]
    pub design: Option<Design>,
    /// of the bar: all must hold to retain
    #[serde(default)]
    pub success: Vec<Gate>,
    /// of the bar: any rejects
    #[serde(default)]
    pub kill: Vec<Gate>,
}

/// A program with its specs, and the value its id is made of.
#[derive(Clone, Debug)]
pub struct Queue {
    /// blake3 over fields and specs
    pub id: String,
    /// the typed form
    pub program: Program,
    /// fields, and the id of each spec under `specs`
    pub value: Value,
    /// file (as the program names it) and merged spec, in the program's order
    pub specs: Vec<(String, Frozen)>,
}

/// Whether a TOML text is a program rather than a spec.
pub fn is_program(text: &str) -> bool {
    toml::from_str::<toml::Table>(text).is_ok_and(|t| t.get("kind").and_then(|k| k.as_str()) == Some(PROGRAM))
}

impl Queue {
    /// Reads a program and its specs.
    pub fn read(path: &Path) -> Result<Queue, SpecError> {
        let text = std::fs::read_to_string(path).map_err(|e| SpecError::Read(path.into(), e))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Queue::parse(&text, &path.display().to_string(), &|file| {
            let path = folder.join(file);
            std::fs::read_to_string(&path).map_err(|e| SpecError::Read(path, e))
        })
    }

    /// Parses a program; `spec` gives the text of a spec file, `from` names the program in errors.
    pub fn parse(
        text: &str,
        from: &str,
        spec: &dyn Fn(&str) -> Result<String, SpecError>,
    ) -> Result<Queue, SpecError> {
        let syntax = |e: toml::de::Error| SpecError::Syntax(from.into(), said(text, &e));
        let program: Program = toml::from_str(text).map_err(syntax)?;
        let table: toml::Value = toml::from_str(text).map_err(syntax)?;
        let mut value =
            serde_json::to_value(table).map_err(|e| SpecError::Syntax(from.into(), e.to_string()))?;
        program.check().map_err(|why| SpecError::Rule(from.into(), why))?;
        let mut specs = Vec::new();
        for file in &program.queue {
            specs.push((file.clone(), merged(&spec(file)?, file, &value)?));
        }
        for (i, (file, s)) in specs.iter().enumerate() {
            if let Some((other, _)) = specs[..i].iter().find(|(_, o)| o.id == s.id) {
                return Err(SpecError::Rule(
                    from.into(),
                    format!("{file} and {other} are the same question"),
                ));
            }
        }
        value["specs"] = specs.iter().map(|(f, s)| (f.clone(), json!(s.id))).collect::<Map<_, _>>().into();
        Ok(Queue { id: hash(&value), program, value, specs })
    }

    /// First digits of the id, as people type it.
    pub fn short(&self) -> &str {
        &self.id[..12]
    }
}

impl Program {
    fn check(&self) -> Result<(), String> {
        let say = |ok: bool, why: &str| if ok { Ok(()) } else { Err(why.to_string()) };
        say(self.kind == PROGRAM, &format!("kind is {:?}; a program says kind = \"{PROGRAM}\"", self.kind))?;
        say(self.v == 1, &format!("v = {} is not known here; this tamp reads v = 1", self.v))?;
        say(!self.title.trim().is_empty(), "title is empty; say it in a line")?;
        say(!self.question.trim().is_empty(), "question is empty; say what the program is to find out")?;
        say(!self.queue.is_empty(), "queue is empty; name spec files")?;
        say(self.queue.len() <= MOST, &format!("queue has {} specs, {MOST} is the most", self.queue.len()))?;
        let twice = self.queue.iter().enumerate().find(|(i, f)| self.queue[..*i].contains(f));
        say(twice.is_none(), &format!("{} is queued twice", twice.map_or("", |t| t.1)))
    }
}

/// A spec with the sections it leaves out taken from the bar.
fn merged(text: &str, file: &str, bar: &Value) -> Result<Frozen, SpecError> {
    let table: toml::Value =
        toml::from_str(text).map_err(|e| SpecError::Syntax(file.into(), said(text, &e)))?;
    let mut value = serde_json::to_value(table).map_err(|e| SpecError::Syntax(file.into(), e.to_string()))?;
    if let Some(spec) = value.as_object_mut() {
        for section in BAR {
            if let Some(inherited) = bar.get(section) {
                spec.entry(section).or_insert_with(|| inherited.clone());
            }
        }
    }
    Frozen::from_value(value, file)
}

/// A spec of the queue and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// its file
    pub file: String,
    /// id of its spec
    pub spec: String,
    /// title
    pub title: String,
    /// name of the candidate, where there are several
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub candidate: String,
    /// the verdict; absent when it never ran
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// reason of the verdict, or why it never ran
    pub why: String,
    /// ledger row that says so
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub row: String,
    /// what is missing
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Blocker>,
    /// commit that was kept
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// What a program found out, made from the verdicts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// the program's title
    pub title: String,
    /// the commit that arms without a revision ran
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<String>,
    /// claims that hold
    pub retained: Vec<Line>,
    /// claims that do not
    pub rejected: Vec<Line>,
    /// what cannot be asked yet; each with what it needs
    pub blocked: Vec<Line>,
    /// asked and not decided: inconclusive, not measurable, not applicable, void
    pub undecided: Vec<Line>,
    /// never asked, because what it requires has another verdict
    pub closed: Vec<Line>,
    /// never asked, because what it requires has no verdict
    pub waiting: Vec<Line>,
    /// answered before: cited, not measured again
    pub cited: Vec<Line>,
    /// what is kept whatever the verdicts
    pub tooling_kept: Vec<String>,
    /// what would come after this queue
    pub next: Vec<String>,
}

/// What a program's ledger rows say of it.
struct Standing {
    /// place of the last opening
    since: u64,
    /// what its baseline meant then
    pinned: Option<String>,
    /// row and summary, when it was closed since
    closed: Option<(String, Summary)>,
}

fn standing(rows: &[Row], id: &str) -> Option<Standing> {
    let mut found: Option<Standing> = None;
    for row in rows {
        let Body::Program { program, value, what, .. } = &row.body else { continue };
        if program != id {
            continue;
        }
        if what == "opened" {
            let pinned = value["pinned"].as_str().map(String::from);
            found = Some(Standing { since: row.n, pinned, closed: None });
        } else if let (Some(s), Ok(summary)) = (&mut found, Summary::deserialize(value)) {
            s.closed = Some((row.hash.clone(), summary));
        }
    }
    found
}

/// What became of a question since row `since`: a line per candidate, empty when it has no verdict since.
fn decided(rows: &[Row], since: u64, file: &str, spec: &Frozen) -> Vec<Line> {
    let tried = spec.spec.tried().len().max(1);
    let mut lines = Vec::new();
    let mut newest = None;
    for row in &rows[rows.len().min(since as usize)..] {
        let Body::Decided { spec: id, attempt, decision, commit, .. } = &row.body else { continue };
        if *id != spec.id {
            continue;
        }
        if newest != Some(*attempt) {
            lines.clear();
            newest = Some(*attempt);
        }
        let mut line = bare(file, spec, decision.reason.clone());
        line.candidate = if tried > 1 { decision.candidate.clone() } else { String::new() };
        (line.verdict, line.row) = (decision.verdict, row.hash.clone());
        (line.needs, line.commit) = (decision.blocker.clone(), commit.clone());
        lines.push(line);
    }
    // A run that was killed between two candidates is not through.
    if lines.len() < tried { Vec::new() } else { lines }
}

fn bare(file: &str, spec: &Frozen, why: String) -> Line {
    Line {
        file: file.into(),
        spec: spec.id.clone(),
        title: spec.spec.title.clone(),
        candidate: String::new(),
        verdict: None,
        why,
        row: String::new(),
        needs: None,
        commit: None,
    }
}

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Closed {
    /// hash of the row that closes it
    pub row: String,
    /// what it found out
    pub summary: Summary,
    /// it had been closed before
    pub before: bool,
}

impl Lab<'_> {
    /// Runs a program's queue to its end and closes it; a run that was stopped or killed goes on where it was. `each`
    /// hears which spec is next.
    pub fn run_program(
        &mut self,
        queue: &Queue,
        ask: &Ask,
        each: &mut dyn FnMut(usize, &Frozen),
    ) -> Result<Closed, LabError> {
        let rows = self.ledger.rows()?;
        let (since, pinned) = match standing(&rows, &queue.id) {
            Some(Standing { closed: Some((row, summary)), .. }) if !ask.again => {
                return Ok(Closed { row, summary, before: true });
            }
            Some(Standing { since, pinned, closed: None }) => (since, pinned),
            _ => self.open_program(queue, ask)?,
        };
        let folder = Path::new(&ask.file).parent().unwrap_or(Path::new("")).to_path_buf();
        let mut names: Names = queue.specs.iter().map(|(f, s)| (f.clone(), s.id.clone())).collect();
        let mut cited: BTreeMap<String, Line> = BTreeMap::new();
        let mut left: Vec<(usize, &(String, Frozen))> =
            ordered(&queue.specs).into_iter().enumerate().collect();
        loop {
            let rows = self.ledger.rows()?;
            left.retain(|(_, (file, spec))| {
                decided(&rows, since, file, spec).is_empty() && !cited.contains_key(&spec.id)
            });
            // What is blocked is written down as such even while it waits for another, or nobody would see it.
            let next =
                left.iter().find(|(_, (_, s))| !s.spec.blocked.is_empty() || ready(&rows, &names, s).is_ok());
            let Some(&(rank, (file, spec))) = next else { break };
            each(rank, spec);
            let ask = Ask {
                again: ask.again,
                file: folder.join(file).display().to_string(),
                program: Some(queue.id.clone()),
                rank: rank as u32,
                pinned: pinned.clone(),
                names: names.clone(),
            };
            if let Outcome::Answered(row, why) = self.run(spec, &ask)? {
                let mut line = bare(file, spec, why);
                line.row.clone_from(&row.hash);
                if let Body::Decided { spec: id, decision, .. } = &row.body {
                    line.verdict = decision.verdict;
                    // Who requires this file is served by the question that answered it.
                    names.insert(file.clone(), id.clone());
                }
                cited.insert(spec.id.clone(), line);
            }
        }
        let rows = self.ledger.rows()?;
        let summary = summary(queue, &rows, since, pinned, &names, &cited);
        let value = serde_json::to_value(&summary).map_err(|e| LabError::Waits(e.to_string()))?;
        let row = self.note_program(queue, ask, value, "closed")?;
        Ok(Closed { row: row.hash, summary, before: false })
    }

    fn open_program(&mut self, queue: &Queue, ask: &Ask) -> Result<(u64, Option<String>), LabError> {
        let pinned = match &queue.program.baseline {
            Some(rev) => Some(self.bench.resolve(rev).map_err(LabError::Waits)?),
            None => None,
        };
        let mut value = queue.value.clone();
        if let (Some(sha), Some(v)) = (&pinned, value.as_object_mut()) {
            v.insert("pinned".into(), json!(sha));
        }
        let row = self.note_program(queue, ask, value, "opened")?;
        Ok((row.n, pinned))
    }

    fn note_program(&mut self, queue: &Queue, ask: &Ask, value: Value, what: &str) -> Result<Row, LabError> {
        let program = queue.id.clone();
        let body = Body::Program { program, value, what: what.into(), file: ask.file.clone() };
        Ok(self.ledger.add(self.bench.now_ms(), body)?)
    }
}

fn summary(
    queue: &Queue,
    rows: &[Row],
    since: u64,
    pinned: Option<String>,
    names: &Names,
    cited: &BTreeMap<String, Line>,
) -> Summary {
    let p = &queue.program;
    let mut s = Summary {
        title: p.title.clone(),
        pinned,
        tooling_kept: p.tooling_kept.clone(),
        next: p.next.clone(),
        ..Summary::default()
    };
    for (file, spec) in ordered(&queue.specs) {
        if let Some(line) = cited.get(&spec.id) {
            s.cited.push(line.clone());
            continue;
        }
        let lines = decided(rows, since, file, spec);
        if lines.is_empty() {
            let wait = ready(rows, names, spec).err();
            let line = bare(file, spec, wait.as_ref().map_or("it did not run".into(), Wait::to_string));
            if matches!(wait, Some(Wait::Closed(..))) { s.closed.push(line) } else { s.waiting.push(line) }
        }
        for line in lines {
            match line.verdict {
                Some(Verdict::Retain) => s.retained.push(line),
                Some(Verdict::Reject | Verdict::Revert) => s.rejected.push(line),
                Some(Verdict::Block) => s.blocked.push(line),
                _ => s.undecided.push(line),
            }
        }
    }
    // A question with several missing things is blocked by each of them.
    let mut more = Vec::new();
    for line in &s.blocked {
        let named = queue.specs.iter().find(|(_, q)| q.id == line.spec).map(|(_, q)| &q.spec.blocked);
        let others = named.into_iter().flatten().filter(|b| line.needs.as_ref() != Some(*b));
        more.extend(others.map(|b| Line {
            needs: Some(b.clone()),
            why: format!("needs {}", b.needs),
            ..line.clone()
        }));
    }
    s.blocked.extend(more);
    let index = Index::of(rows);
    for word in &p.answered {
        let known = index.look_up(word, &mut |_| String::new());
        // Nothing may be said to be answered that the ledger does not answer.
        let mut line = Line {
            file: String::new(),
            spec: String::new(),
            title: word.clone(),
            candidate: String::new(),
            verdict: None,
            why: "the ledger knows nothing of it".into(),
            row: String::new(),
            needs: None,
            commit: None,
        };
        if let Some(k) = known.iter().find(|k| k.external).or(known.first()) {
            let whose = if k.external { "external, conditions differ" } else { "ours" };
            line.why = format!("{} ({whose}): {}", k.verdict, k.reason);
            line.row.clone_from(&k.row);
        }
        s.cited.push(line);
    }
    s
}
