//! A queue runs in its order and survives stops and kills; code candidates are kept or gone; the files under `lab/` are
//! what the program reads.
#![allow(clippy::unwrap_used)] // a helper of a test is a test

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Fake, USUAL};
use tamp_lab::bench::{At, Bench};
use tamp_lab::host::Host;
use tamp_lab::ledger::{Body, Ledger, Row};
use tamp_lab::program::{Closed, Line, Queue};
use tamp_lab::record::{RunRecord, Stage, Store};
use tamp_lab::replay::replay;
use tamp_lab::run::{Ask, Lab, LabError, Outcome};
use tamp_lab::spec::{Arm, Frozen, SpecError};
use tamp_lab::verdict::Verdict;

/// A fake machine with a repository: a head that may move, and what was asked of it.
struct Repo<'a> {
    fake: Fake<'a>,
    head: String,
    pins: Vec<BTreeMap<String, String>>,
    settled: Vec<Option<String>>,
    dirty: bool,
    depends: BTreeMap<String, String>,
}

impl<'a> Repo<'a> {
    fn new(effect: f64) -> Self {
        Repo {
            fake: Fake::new(effect, 5),
            head: "sha-1".into(),
            pins: Vec::new(),
            settled: Vec::new(),
            dirty: false,
            depends: BTreeMap::new(),
        }
    }
}

impl Bench for Repo<'_> {
    fn prepare(&mut self, spec: &Frozen, arm: &Arm) -> Result<(), String> {
        self.fake.prepare(spec, arm)
    }
    fn sample(&mut self, spec: &Frozen, arm: &Arm, at: At) -> RunRecord {
        let mut r = self.fake.sample(spec, arm, at);
        r.binary = if arm.patch.is_some() { "patched".into() } else { "b".into() };
        r
    }
    fn wait_quiet(&mut self, spec: &Frozen) -> Result<(), String> {
        self.fake.wait_quiet(spec)
    }
    fn disturbed(&self, spec: &Frozen, record: &RunRecord) -> Option<String> {
        self.fake.disturbed(spec, record)
    }
    fn host(&self) -> Host {
        self.fake.host()
    }
    fn now_ms(&self) -> u64 {
        self.fake.now_ms()
    }
    fn dependency(&mut self, name: &str) -> String {
        self.depends.get(name).cloned().unwrap_or_else(|| "as it was".into())
    }
    fn resolve(&mut self, rev: &str) -> Result<String, String> {
        if rev == "HEAD" { Ok(self.head.clone()) } else { Err(format!("no revision {rev}")) }
    }
    fn clean(&mut self) -> Result<(), String> {
        if self.dirty { Err("there are uncommitted changes".into()) } else { Ok(()) }
    }
    fn pin(&mut self, revisions: BTreeMap<String, String>) {
        self.pins.push(revisions);
    }
    fn settle(&mut self, _: &Frozen, _: &Arm, row: Option<&str>) -> Result<Option<String>, String> {
        self.settled.push(row.map(String::from));
        Ok(row.map(|r| format!("commit for {r}")))
    }
}

fn lab<T>(dir: &Path, bench: &mut dyn Bench, work: impl FnOnce(&mut Lab<'_>) -> T) -> T {
    let (ledger, store) = (Ledger::at(dir), Store::new(dir));
    work(&mut Lab { ledger, store, bench, watch: &mut |_| (), stop: &|| false })
}

const BAR: &str = r#"
kind = "tamp.lab.program"
v = 1
title = "a queue on a machine whose truth is known"
question = "which levers work?"
baseline = "HEAD"
tooling_kept = ["the machine"]
next = ["another machine"]
queue = ["slow.toml", "then.toml", "after.toml", "fast.toml", "far.toml"]
[contract]
model = "fake"
prompts = ["short"]
max_tokens = 64
[[invariant]]
name = "the head runs where it was declared"
observable = "observed.backend.head"
pred = "== fast"
[design]
pairs = [8, 16]
[[success]]
metric = "decode_tok_s"
stat = "ci_low"
op = ">="
value = 1.01
[[kill]]
metric = "decode_tok_s"
stat = "ci_high"
op = "<"
value = 1.0
"#;

/// A spec that leaves the bar's sections out. The lever does what it says; without it the candidate is the control with
/// another name for the plan.
fn question(title: &str, confidence: f64, more: &str, sections: &str) -> String {
    format!(
        r#"
kind = "tamp.lab.spec"
v = 1
title = "{title}"
lane = "infra"
hypothesis = "the lever makes it faster"
mechanism = "simulated"
tags = ["{title}"]
change = "one lever"
confidence = {confidence}
revert = "flag"
{more}
[expected]
metric = "decode_tok_s"
direction = "up"
effect = 1.1
model = "the truth that was planted"
[control]
[candidate]
use = ["fake.lever=on"]
[[manipulation]]
observable = "plan.lever"
candidate = "== on"
{sections}
"#
    )
}

fn specs() -> BTreeMap<String, String> {
    [
        ("slow", question("slow", 0.9, "", "[[success]]\nmetric = \"decode_tok_s\"\nstat = \"ci_low\"\nop = \">=\"\nvalue = 3.0\n[[kill]]\nmetric = \"decode_tok_s\"\nstat = \"ci_high\"\nop = \"<\"\nvalue = 3.0")),
        ("then", question("then", 0.8, "requires = [\"fast.toml retain\"]", "")),
        ("after", question("after", 0.7, "requires = [\"slow.toml retain\"]", "")),
        ("fast", question("fast", 0.2, "", "")),
        ("far", question("far", 0.1, "blocked = [{ kind = \"hardware\", needs = \"a machine\" }, { kind = \"data\", needs = \"a corpus\" }]", "")),
    ]
    .map(|(n, t)| (format!("{n}.toml"), t))
    .into()
}

fn parsed(bar: &str, specs: &BTreeMap<String, String>) -> Result<Queue, SpecError> {
    Queue::parse(bar, "bar.toml", &|file| {
        specs.get(file).cloned().ok_or_else(|| SpecError::Rule(file.into(), "is not there".into()))
    })
}

fn run(dir: &Path, bench: &mut dyn Bench, queue: &Queue) -> Result<Closed, LabError> {
    let ask = Ask { file: "lab/programs/bar.toml".into(), ..Ask::default() };
    lab(dir, bench, |lab| lab.run_program(queue, &ask, &mut |_, _| ()))
}

fn titles(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|l| l.title.as_str()).collect()
}

fn opened(rows: &[Row]) -> Vec<String> {
    let file = |r: &Row| match &r.body {
        Body::Opened { file, .. } => Some(file.rsplit('/').next().unwrap().to_string()),
        _ => None,
    };
    rows.iter().filter_map(file).collect()
}

#[test]
fn a_spec_inherits_the_bar_it_leaves_out_and_its_id_covers_it() {
    let q = parsed(BAR, &specs()).unwrap();
    let of = |q: &Queue, file: &str| q.specs.iter().find(|s| s.0 == file).unwrap().1.clone();
    let fast = of(&q, "fast.toml");
    assert_eq!((fast.spec.contract.max_tokens, fast.spec.success[0].value), (64, 1.01));
    assert_eq!(of(&q, "slow.toml").spec.success[0].value, 3.0, "its own section stays");
    assert_eq!(Frozen::from_value(fast.value.clone(), "ledger").unwrap().id, fast.id);
    let other = parsed(&BAR.replace("max_tokens = 64", "max_tokens = 65"), &specs()).unwrap();
    assert_ne!(of(&other, "fast.toml").id, fast.id);
    assert_ne!(other.id, q.id);
    // A spec that changes makes another program of it, a remark does not.
    let mut changed = specs();
    changed.insert("far.toml".into(), question("far away", 0.1, "", ""));
    assert_ne!(parsed(BAR, &changed).unwrap().id, q.id);
    assert_eq!(parsed(&format!("# a remark\n{BAR}"), &specs()).unwrap().id, q.id);
}

#[test]
fn a_wrong_program_is_refused_with_the_place() {
    let wrong = |from: &str, to: &str| {
        assert!(BAR.contains(from));
        parsed(&BAR.replace(from, to), &specs()).unwrap_err().to_string()
    };
    assert!(wrong("v = 1", "v = 2").contains("v = 2"));
    assert!(wrong("max_tokens", "max_token").contains("max_token"));
    assert!(wrong("\"slow.toml\", ", "\"none.toml\", ").contains("none.toml"));
    assert!(wrong("\"slow.toml\", ", "\"fast.toml\", ").contains("twice"));
    assert!(wrong("question = \"which levers work?\"", "question = \" \"").contains("question"));
    assert!(
        wrong("[\"slow.toml\", \"then.toml\", \"after.toml\", \"fast.toml\", \"far.toml\"]", "[]")
            .contains("queue")
    );
    let mut same = specs();
    same.insert("far.toml".into(), same["fast.toml"].clone());
    assert!(parsed(BAR, &same).unwrap_err().to_string().contains("same question"));
}

#[test]
fn the_queue_runs_in_its_order_and_its_summary_is_made_of_the_verdicts() {
    let dir = tempfile::tempdir().unwrap();
    let q = parsed(BAR, &specs()).unwrap();
    let mut repo = Repo::new(1.2);
    let c = run(dir.path(), &mut repo, &q).unwrap();
    let s = &c.summary;
    // `then` waits for `fast` though its rank is higher; `after` is closed by what became of `slow`.
    let rows = Ledger::at(dir.path()).rows().unwrap();
    assert_eq!(opened(&rows), ["slow.toml", "fast.toml", "then.toml", "far.toml"]);
    assert_eq!(titles(&s.rejected), ["slow"]);
    assert_eq!(titles(&s.retained), ["then", "fast"]);
    assert_eq!(titles(&s.closed), ["after"]);
    assert!(
        s.closed[0].why.contains("slow.toml") && s.closed[0].why.contains("reject"),
        "{}",
        s.closed[0].why
    );
    assert_eq!(titles(&s.blocked), ["far", "far"]);
    assert_eq!(
        s.blocked.iter().map(|l| l.needs.clone().unwrap().needs).collect::<Vec<_>>(),
        ["a machine", "a corpus"]
    );
    assert!(s.waiting.is_empty() && s.undecided.is_empty() && s.cited.is_empty());
    assert_eq!((&s.tooling_kept, &s.next), (&q.program.tooling_kept, &q.program.next));
    assert!(repo.pins.iter().all(|p| p.get("HEAD").is_some_and(|s| s == "sha-1")));
    // Asked again, it says what it said, and measures nothing.
    let mut idle = Repo::new(1.2);
    let again = run(dir.path(), &mut idle, &q).unwrap();
    assert!(again.before && again.row == c.row && again.summary == c.summary);
    assert_eq!(idle.fake.ran, 0);
}

#[test]
fn who_requires_something_blocked_waits_and_is_not_closed() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = specs();
    all.insert("after.toml".into(), question("after", 0.7, "requires = [\"far.toml retain\"]", ""));
    let s = run(dir.path(), &mut Repo::new(1.2), &parsed(BAR, &all).unwrap()).unwrap().summary;
    assert_eq!((titles(&s.waiting), titles(&s.closed)), (vec!["after"], vec![]));
    assert!(s.waiting[0].why.contains("far.toml, which is block"), "{}", s.waiting[0].why);
}

#[test]
fn what_the_ledger_answers_is_cited_by_its_row_and_serves_who_requires_it() {
    let dir = tempfile::tempdir().unwrap();
    let q = parsed(BAR, &specs()).unwrap();
    let fast = q.specs.iter().find(|s| s.0 == "fast.toml").unwrap().1.clone();
    // Answered before under another title: another id, the same question.
    let mut value = fast.value.clone();
    value["title"] = "fast, in other words".into();
    let other = Frozen::from_value(value, "other").unwrap();
    let mut repo = Repo::new(1.2);
    let out = lab(dir.path(), &mut repo, |lab| lab.run(&other, &Ask::default())).unwrap();
    assert!(matches!(out, Outcome::Decided(_)));
    let rows = Ledger::at(dir.path()).rows().unwrap();
    let row = rows.last().unwrap().hash.clone();
    let s = run(dir.path(), &mut repo, &q).unwrap().summary;
    assert_eq!(titles(&s.cited), ["fast"]);
    assert_eq!((s.cited[0].row.as_str(), s.cited[0].verdict), (row.as_str(), Some(Verdict::Retain)));
    assert_eq!(titles(&s.retained), ["then"]);
}

#[test]
fn ideas_that_are_not_queued_are_cited_from_what_the_ledger_knows() {
    let dir = tempfile::tempdir().unwrap();
    let bar = BAR.replace("baseline = \"HEAD\"", "answered = [\"split runtime\", \"nothing of this\"]");
    let q = parsed(&bar, &specs()).unwrap();
    let priors = include_str!("../../../lab/priors.toml");
    tamp_lab::why::import(&Ledger::at(dir.path()), priors, "p", 1).unwrap();
    let s = run(dir.path(), &mut Repo::new(1.2), &q).unwrap().summary;
    assert_eq!(titles(&s.cited), ["split runtime", "nothing of this"]);
    assert!(s.cited[0].why.contains("external") && s.cited[0].row.len() == 64);
    assert!(s.cited[1].why.contains("nothing") && s.cited[1].row.is_empty());
}

#[test]
fn a_program_killed_after_any_row_goes_on_to_the_same_summary_at_the_same_revision() {
    let whole = tempfile::tempdir().unwrap();
    let q = parsed(BAR, &specs()).unwrap();
    let expected = run(whole.path(), &mut Repo::new(1.2), &q).unwrap().summary;
    let text = std::fs::read_to_string(Ledger::at(whole.path()).path()).unwrap();
    let rows = text.lines().count();
    assert!(rows > 20);
    for keep in 1..rows {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::at(dir.path());
        let cut: String = text.split_inclusive('\n').take(keep).collect();
        // A row that was being written when the kill came.
        std::fs::write(ledger.path(), format!("{cut}{{\"half\":")).unwrap();
        let records = Store::new(dir.path());
        let all = Store::new(whole.path());
        for row in ledger.rows().unwrap() {
            if let Body::Measured { records: hash, .. } = &row.body {
                records.put(&all.get(hash).unwrap()).unwrap();
            }
        }
        let mut repo = Repo { head: "sha-2".into(), ..Repo::new(1.2) };
        let s = run(dir.path(), &mut repo, &q).unwrap().summary;
        assert_eq!(s.pinned.as_deref(), Some("sha-1"), "after {keep} rows");
        let short = |l: &[Line]| -> Vec<(String, Option<Verdict>)> {
            l.iter().map(|l| (l.title.clone(), l.verdict)).collect()
        };
        for (a, b) in [
            (&s.retained, &expected.retained),
            (&s.rejected, &expected.rejected),
            (&s.blocked, &expected.blocked),
            (&s.closed, &expected.closed),
            (&s.cited, &expected.cited),
        ] {
            assert_eq!(short(a), short(b), "after {keep} rows");
        }
        let rows = ledger.rows().unwrap();
        assert_eq!(opened(&rows).len(), 4, "nothing is opened twice, after {keep} rows");
    }
}

/// The usual spec with a patch as its candidate.
fn patched() -> Frozen {
    common::spec(&USUAL.replace("[candidate]", "[candidate]\npatch = \"lab/x.patch\""))
}

#[test]
fn a_retained_patch_is_committed_and_its_commit_is_in_the_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let mut repo = Repo::new(1.2);
    let Outcome::Decided(all) = lab(dir.path(), &mut repo, |l| l.run(&patched(), &Ask::default())).unwrap()
    else {
        panic!()
    };
    assert_eq!(all[0].verdict, Some(Verdict::Retain), "{}", all[0].reason);
    let rows = Ledger::at(dir.path()).rows().unwrap();
    let [.., before, last] = &rows[..] else { panic!() };
    let Body::Decided { commit, .. } = &last.body else { panic!() };
    assert_eq!(commit.as_ref(), Some(&format!("commit for {}", before.hash)));
    assert!(rows.iter().all(|r| !matches!(&r.body, Body::Measured { what, .. } if what == "reverted")));
    assert_eq!(repo.pins.last().unwrap()["HEAD"], "sha-1");
}

#[test]
fn a_rejected_patch_is_removed_and_the_control_runs_once_more_before_the_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let mut repo = Repo::new(0.8);
    let s = patched();
    let Outcome::Decided(all) = lab(dir.path(), &mut repo, |l| l.run(&s, &Ask::default())).unwrap() else {
        panic!()
    };
    assert_eq!(all[0].verdict, Some(Verdict::Reject), "{}", all[0].reason);
    assert_eq!(repo.settled, [None]);
    let (ledger, store) = (Ledger::at(dir.path()), Store::new(dir.path()));
    let rows = ledger.rows().unwrap();
    let [.., reverted, last] = &rows[..] else { panic!() };
    let Body::Measured { what, records, .. } = &reverted.body else { panic!() };
    assert_eq!(what, "reverted");
    let records = store.get(records).unwrap();
    assert!(records.len() == 1 && records[0].arm == "control" && records[0].stage == Stage::Reverted);
    assert!(matches!(&last.body, Body::Decided { commit: None, .. }));
    assert!(replay(&rows, &store, last).unwrap().unwrap().identical, "the last control decides nothing");
    // Killed between that control and the verdict: it is not measured again.
    let text = std::fs::read_to_string(ledger.path()).unwrap();
    let cut: String = text.split_inclusive('\n').take(rows.len() - 1).collect();
    std::fs::write(ledger.path(), cut).unwrap();
    let mut later = Repo { head: "sha-2".into(), ..Repo::new(0.8) };
    assert!(matches!(
        lab(dir.path(), &mut later, |l| l.run(&s, &Ask::default())).unwrap(),
        Outcome::Decided(_)
    ));
    assert_eq!(later.fake.ran, 0);
    assert_eq!(later.pins.last().unwrap()["HEAD"], "sha-1", "a revision stays what it was at the opening");
    assert_eq!(ledger.rows().unwrap().len(), rows.len());
}

#[test]
fn a_dirty_tree_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut repo = Repo { dirty: true, ..Repo::new(1.2) };
    let e = lab(dir.path(), &mut repo, |l| l.run(&patched(), &Ask::default())).unwrap_err().to_string();
    assert!(e.contains("uncommitted"), "{e}");
    assert!(Ledger::at(dir.path()).rows().unwrap().is_empty());
    // Only code candidates ask for it.
    assert!(lab(dir.path(), &mut repo, |l| l.run(&common::spec(USUAL), &Ask::default())).is_ok());
}

#[test]
fn blocks_of_a_program_that_was_rebuilt_meanwhile_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let s = common::spec(USUAL);
    let attempts = |dir: &Path| -> Vec<u32> {
        let rows = Ledger::at(dir).rows().unwrap();
        rows.iter()
            .filter_map(|r| match &r.body {
                Body::Measured { attempt, .. } | Body::Decided { attempt, .. } => Some(*attempt),
                _ => None,
            })
            .collect()
    };
    let stopped = |repo: &mut Repo<'_>, after: u32| {
        let left = std::cell::Cell::new(after);
        let stop = || {
            left.set(left.get().saturating_sub(1));
            left.get() == 0
        };
        let (ledger, store) = (Ledger::at(dir.path()), Store::new(dir.path()));
        let mut lab = Lab { ledger, store, bench: repo, watch: &mut |_| (), stop: &stop };
        assert!(matches!(lab.run(&s, &Ask::default()), Err(LabError::Stopped(..))));
    };
    stopped(&mut Repo::new(1.2), 40);
    let before = attempts(dir.path());
    assert!(before.len() > 3 && before.iter().all(|a| *a == 0));
    let mut rebuilt = Repo::new(1.2);
    rebuilt.depends.insert("at:tamp".into(), "another build".into());
    assert!(lab(dir.path(), &mut rebuilt, |l| l.run(&s, &Ask::default())).is_ok());
    let after = attempts(dir.path());
    assert!(after[before.len()..].iter().all(|a| *a == 1) && after.len() > before.len() + 4);
    let (rows, store) = (Ledger::at(dir.path()).rows().unwrap(), Store::new(dir.path()));
    assert!(replay(&rows, &store, rows.last().unwrap()).unwrap().unwrap().identical);
}

/// Every TOML file under a folder of the repository's `lab/`.
fn files(folder: &str) -> Vec<std::path::PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../lab").join(folder);
    let (mut folders, mut out) = (vec![root], Vec::new());
    while let Some(f) = folders.pop() {
        for e in std::fs::read_dir(f).unwrap().flatten() {
            match e.path() {
                p if p.is_dir() => folders.push(p),
                p if p.extension().is_some_and(|e| e == "toml") => out.push(p),
                _ => {}
            }
        }
    }
    out
}

#[test]
fn every_question_of_this_repository_can_be_opened_and_all_differ() {
    let mut ids = BTreeMap::new();
    for path in files("specs") {
        let s = Frozen::read(&path).unwrap_or_else(|e| panic!("{e}"));
        if let Some(other) = ids.insert(tamp_lab::why::signature(&s.value), path.clone()) {
            panic!("{} and {} ask the same", other.display(), path.display());
        }
    }
    assert!(ids.len() >= 20);
    let queue =
        Queue::read(&files("programs").into_iter().find(|p| p.ends_with("stories.toml")).unwrap()).unwrap();
    assert_eq!(queue.specs.len(), 7);
    let all = tamp_lab::queue::queue(&[], &queue.specs, &mut |_, _| String::new());
    use tamp_lab::queue::State;
    let ready: Vec<&str> = all
        .iter()
        .filter(|e| matches!(e.state, State::Ready { again: None }))
        .map(|e| e.file.as_str())
        .collect();
    assert_eq!(ready, ["stories/1-context.toml"]);
    assert_eq!(all.iter().filter(|e| matches!(e.state, State::Blocked { .. })).count(), 5);
    let missing = tamp_lab::queue::blockers(&[], &queue.specs);
    assert!(missing.iter().any(|m| m.behind == ["Grouped keys and values, 10 and 8 layers"]));
}
