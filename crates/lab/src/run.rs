//! One experiment from question to verdict: frozen, looked up, bracketed, measured in blocks, decided, written down.
//! Everything measured is in the ledger before the next thing starts, so a run that is stopped or killed goes on where
//! it was.

use std::collections::BTreeMap;

mod calibrate;
mod notes;

pub use calibrate::{CALIBRATION_HOURS, calibration_key, null_estimates};
use notes::edited;
pub use notes::torn_words;

use crate::bench::{At, Bench};
use crate::ledger::{Body, Ledger, LedgerError, Row};
use crate::queue::Names;
use crate::record::{RunRecord, Stage, Store, StoreError};
use crate::spec::{Arm, Frozen, PROGRAM, SpecError};
use crate::stats::design;
use crate::stats::null::Null;
use crate::verdict::{Decision, Evidence, Verdict, blocked, decide, looks, seed};
use crate::why::FIXED;

/// Disturbed blocks that are measured again before the run gives up.
const DISTURBED: usize = 12;

/// Why a run ended without a verdict.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A record file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The spec.
    #[error(transparent)]
    Spec(#[from] crate::spec::SpecError),
    /// Stopped by the user; what was measured is in the ledger.
    #[error("stopped; {0} of at most {1} pairs are in the ledger, and the same command goes on from there")]
    Stopped(usize, usize),
    /// Other programs would not let go.
    #[error("the machine is not quiet: {0}; close what runs beside, or allow more with design.foreign_cpu")]
    Busy(String),
    /// The question needs an answer that is not there yet.
    #[error("{0}")]
    Waits(String),
    /// A code candidate could not be kept or removed.
    #[error("{0}; no verdict is written yet, and the same command goes on from there")]
    Code(String),
}

/// What happens meanwhile, for a live line.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A stage begins.
    Stage(&'a str),
    /// A process ended.
    Sample {
        /// its record
        record: &'a RunRecord,
        /// processes so far, of this run
        done: usize,
        /// processes it takes at most
        of: usize,
    },
    /// A block does not count.
    Voided(&'a str),
    /// Something the user should know.
    Note(&'a str),
    /// A look at the figures.
    Look(&'a Decision),
}

/// The parts a run works with.
pub struct Lab<'a> {
    /// what is known
    pub ledger: Ledger,
    /// the records
    pub store: Store,
    /// where samples come from
    pub bench: &'a mut dyn Bench,
    /// who watches
    pub watch: &'a mut dyn FnMut(Event<'_>),
    /// whether the user wants it to stop
    pub stop: &'a dyn Fn() -> bool,
}

/// How a run is asked for.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// answers that are there do not count
    pub again: bool,
    /// where the spec came from
    pub file: String,
    /// the program it is part of
    pub program: Option<String>,
    /// place in the queue
    pub rank: u32,
    /// revision that arms without one of their own run, instead of the running program
    pub pinned: Option<String>,
    /// ids of specs by the file they are in, as `requires` may name them
    pub names: Names,
}

/// How it ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The ledger has the answer; the row that holds it.
    Answered(Box<Row>, String),
    /// A verdict for each candidate.
    Decided(Vec<Decision>),
}

/// Where an attempt at a question stands in the ledger.
#[derive(Debug, Default)]
struct Standing {
    /// a question was opened and not every candidate has its verdict
    open: bool,
    attempt: u32,
    /// dependencies at its opening
    depends: BTreeMap<String, String>,
    /// candidates that have their verdict
    decided: Vec<String>,
    records: Vec<RunRecord>,
    blocks: usize,
    voided: usize,
    closed: bool,
}

impl Lab<'_> {
    /// Runs an experiment.
    pub fn run(&mut self, spec: &Frozen, ask: &Ask) -> Result<Outcome, LabError> {
        let rows = self.ledger.rows()?;
        let torn = self.ledger.torn()?;
        if torn > 0 {
            (self.watch)(Event::Note(&torn_words(torn)));
        }
        let mut at = self.standing(&rows, spec)?;
        if !at.open
            && !ask.again
            && let Some((row, why)) = self.answered(&rows, spec)
        {
            return Ok(Outcome::Answered(Box::new(row), why));
        }
        crate::queue::ready(&rows, &ask.names, spec).map_err(|w| LabError::Waits(w.to_string()))?;
        if at.open && self.moved(&at) {
            // Samples of two programs are no sample of either.
            at.open = false;
            at.attempt += 1;
        }
        if !at.open {
            if let Some(why) = edited(&rows, spec, &ask.file) {
                (self.watch)(Event::Note(&why));
            }
            at = self.open(spec, ask, at.attempt)?;
        }
        let pins =
            at.depends.iter().filter_map(|(n, sha)| Some((n.strip_prefix(FIXED)?.into(), sha.clone())));
        self.bench.pin(pins.collect());
        let tried = if spec.spec.is_null() { vec![spec.spec.arms().remove(1)] } else { spec.spec.tried() };
        if let Some(by) = spec.spec.blocked.first() {
            let all = tried.iter().map(|a| blocked(spec, &a.name, by)).collect();
            return self.finish(spec, &mut at, None, all);
        }
        self.scout(spec, &mut at)?;
        // What cannot count is decided before anybody waits for it.
        let look = |at: &Standing, null: Option<&Null>, last: bool| -> Vec<Decision> {
            let e = |tried| Evidence { spec, tried, records: &at.records, voided: at.voided, null, last };
            (0..tried.len()).map(|i| decide(e(i))).collect()
        };
        let first = look(&at, None, false);
        // What two processes at once lose is worth showing, though it decides nothing.
        let final_now = |d: &Decision| !d.check.is_empty() && d.check != "lock";
        if first.iter().all(final_now) {
            return self.finish(spec, &mut at, None, first);
        }
        let null = if spec.spec.is_null() { None } else { Some(self.calibration(spec, &rows, &at)?) };
        let null = null.as_ref();
        let [_, most] = spec.spec.pairs();
        let looks = looks(spec);
        let arms = spec.spec.arms();
        let per = design::pairs_per_block(arms.len());
        if !at.records.iter().any(|r| r.stage == Stage::Opening) {
            self.bracket(spec, &arms[0], Stage::Opening, &mut at)?;
        }
        (self.watch)(Event::Stage("measuring"));
        loop {
            let pairs = (at.blocks - at.voided) * per;
            let all = look(&at, null.map(|n| &n.1), false);
            let due = looks.contains(&pairs);
            if due {
                all.iter().for_each(|d| (self.watch)(Event::Look(d)));
            }
            // A verdict of the checks needs no more pairs; one of the figures falls at a look.
            let settled = all.iter().all(|d| d.verdict.is_some() && (due || final_now(d)));
            if settled || pairs >= most {
                break;
            }
            if at.voided >= DISTURBED + most / per.max(1) {
                return Err(LabError::Busy(format!("{} blocks were disturbed", at.voided)));
            }
            if (self.stop)() {
                return Err(LabError::Stopped(pairs, most));
            }
            self.block(spec, &arms, &mut at)?;
        }
        if !at.closed {
            self.bracket(spec, &arms[0], Stage::Closing, &mut at)?;
        }
        let all = look(&at, null.map(|n| &n.1), true);
        self.finish(spec, &mut at, null.map(|n| n.0.clone()), all)
    }

    fn add(&mut self, body: Body) -> Result<Row, LabError> {
        Ok(self.ledger.add(self.bench.now_ms(), body)?)
    }

    fn answered(&mut self, rows: &[Row], spec: &Frozen) -> Option<(Row, String)> {
        let bench = &mut *self.bench;
        crate::why::answer(rows, spec, &mut |name| bench.dependency(name))
    }

    /// Freezes a question, with what it depends on as that is now.
    fn open(&mut self, spec: &Frozen, ask: &Ask, attempt: u32) -> Result<Standing, LabError> {
        spec.spec.opening().map_err(|why| SpecError::Rule(ask.file.clone(), why))?;
        if spec.spec.arms().iter().any(|a| a.patch.is_some()) {
            self.bench.clean().map_err(LabError::Waits)?;
        }
        let mut depends = BTreeMap::new();
        for name in spec.spec.dependencies(ask.pinned.is_some()) {
            let fixed = name.strip_prefix(FIXED).filter(|rev| *rev != PROGRAM);
            let hash = match (fixed, &ask.pinned) {
                (Some("HEAD"), Some(sha)) => sha.clone(),
                (Some(rev), _) => self.bench.resolve(rev).map_err(LabError::Waits)?,
                (None, _) => self.bench.dependency(&name),
            };
            depends.insert(name, hash);
        }
        self.add(Body::Opened {
            spec: spec.id.clone(),
            value: spec.value.clone(),
            file: ask.file.clone(),
            program: ask.program.clone(),
            rank: ask.rank,
            depends: depends.clone(),
        })?;
        Ok(Standing { open: true, attempt, depends, ..Standing::default() })
    }

    /// Whether what an unfinished attempt was measured with is no longer there. What a revision's name means is not
    /// looked at: it stays what it was at the opening.
    fn moved(&mut self, at: &Standing) -> bool {
        let bench = &mut *self.bench;
        let same = |(name, old): (&String, &String)| {
            let rev = name.strip_prefix(FIXED).is_some_and(|n| n != PROGRAM);
            rev || bench.dependency(name) == *old
        };
        !at.depends.iter().all(same)
    }

    /// What an unfinished attempt has already measured.
    fn standing(&self, rows: &[Row], wanted: &Frozen) -> Result<Standing, LabError> {
        let mut at = Standing::default();
        let mut opened = 0;
        let tried = wanted.spec.tried().len().max(1);
        let mut measured: Vec<(u32, &str, &str, bool)> = Vec::new();
        for row in rows {
            match &row.body {
                Body::Opened { spec, depends, .. } if *spec == wanted.id => {
                    at = Standing { open: true, attempt: opened, depends: depends.clone(), ..at };
                    at.decided.clear();
                    opened += 1;
                }
                Body::Decided { spec, decision, .. } if *spec == wanted.id => {
                    at.decided.push(decision.candidate.clone());
                }
                Body::Measured { spec, what, records, void, attempt } if *spec == wanted.id => {
                    measured.push((*attempt, what, records, void.is_some()));
                }
                _ => {}
            }
        }
        if at.decided.len() >= tried {
            at.open = false;
            at.attempt = opened;
            at.decided.clear();
        }
        for (_, what, records, void) in measured.into_iter().filter(|m| m.0 == at.attempt) {
            at.blocks += usize::from(what.starts_with("block"));
            at.closed |= what == "closing";
            if !void {
                at.records.extend(self.store.get(records)?);
            } else if what.starts_with("block") {
                at.voided += 1;
            }
        }
        Ok(at)
    }

    fn keep(
        &mut self,
        spec: &Frozen,
        at: &mut Standing,
        what: &str,
        records: Vec<RunRecord>,
        void: Option<String>,
    ) -> Result<(), LabError> {
        let hash = self.store.put(&records)?;
        if let Some(why) = &void {
            (self.watch)(Event::Voided(why));
        }
        let voided = void.is_some();
        self.add(Body::Measured {
            spec: spec.id.clone(),
            what: what.into(),
            records: hash,
            void,
            attempt: at.attempt,
        })?;
        if !voided {
            at.records.extend(records);
        } else if what.starts_with("block") {
            at.voided += 1;
        }
        Ok(())
    }

    fn sample(&mut self, spec: &Frozen, arm: &Arm, slot: At, at: &Standing) -> RunRecord {
        let record = self.bench.sample(spec, arm, slot);
        let arms = spec.spec.arms().len();
        let [_, most] = spec.spec.pairs();
        let of = arms + 2 + most * if arms == 2 { 2 } else { arms };
        (self.watch)(Event::Sample {
            record: &record,
            done: at.records.len() + slot.position as usize + 1,
            of,
        });
        record
    }

    fn scout(&mut self, spec: &Frozen, at: &mut Standing) -> Result<(), LabError> {
        let looked = at.records.iter().any(|r| r.stage == Stage::Scout);
        let mut records = Vec::new();
        for (i, arm) in spec.spec.arms().iter().enumerate() {
            (self.watch)(Event::Stage(&format!("one look at {}", arm.name)));
            match self.bench.prepare(spec, arm) {
                Ok(()) if looked => continue,
                Ok(()) => {
                    let slot = At { stage: Stage::Scout, block: 0, position: i as u32 };
                    records.push(self.sample(spec, arm, slot, at));
                }
                Err(why) if looked => return Err(LabError::Waits(why)),
                Err(why) => {
                    let (host, now) = (self.bench.host(), self.bench.now_ms());
                    records.push(RunRecord::unstarted(&spec.id, &arm.name, host, now, why));
                }
            }
            if (self.stop)() {
                return Err(LabError::Stopped(0, spec.spec.pairs()[1]));
            }
        }
        if looked { Ok(()) } else { self.keep(spec, at, "scout", records, None) }
    }

    fn bracket(
        &mut self,
        spec: &Frozen,
        control: &Arm,
        stage: Stage,
        at: &mut Standing,
    ) -> Result<(), LabError> {
        let what = match stage {
            Stage::Opening => "opening",
            Stage::Reverted => "reverted",
            _ => "closing",
        };
        (self.watch)(Event::Stage(what));
        self.bench.wait_quiet(spec).map_err(LabError::Busy)?;
        let record = self.sample(spec, control, At { stage, block: 0, position: 0 }, at);
        if (self.stop)() {
            return Err(LabError::Stopped(0, spec.spec.pairs()[1]));
        }
        // A disturbed bracket is kept out of the drift test, not measured again: time has moved on.
        let void = self.bench.disturbed(spec, &record);
        self.keep(spec, at, what, vec![record], void)?;
        at.closed |= stage == Stage::Closing;
        Ok(())
    }

    fn block(&mut self, spec: &Frozen, arms: &[Arm], at: &mut Standing) -> Result<(), LabError> {
        self.bench.wait_quiet(spec).map_err(LabError::Busy)?;
        let block = at.blocks;
        let mut records = Vec::new();
        let mut void = None;
        for (position, arm) in design::block_order(arms.len(), seed(&spec.id), block).into_iter().enumerate()
        {
            let slot = At { stage: Stage::Block, block: block as u32, position: position as u32 };
            let record = self.sample(spec, &arms[arm], slot, at);
            if (self.stop)() {
                // A block that was not finished was not measured.
                let pairs = (at.blocks - at.voided) * design::pairs_per_block(arms.len());
                return Err(LabError::Stopped(pairs, spec.spec.pairs()[1]));
            }
            void = void.or_else(|| self.bench.disturbed(spec, &record));
            records.push(record);
        }
        self.keep(spec, at, &format!("block {block}"), records, void)?;
        at.blocks += 1;
        Ok(())
    }

    /// Keeps or removes code candidates, then writes the verdicts. What is done about code is done before its verdict is
    /// written, so that a run that is killed between the two does it again, to the same end.
    fn finish(
        &mut self,
        spec: &Frozen,
        at: &mut Standing,
        calibration: Option<String>,
        all: Vec<Decision>,
    ) -> Result<Outcome, LabError> {
        let mut commits = Vec::new();
        for d in &all {
            let arm = spec.spec.tried().into_iter().find(|a| a.name == d.candidate && a.patch.is_some());
            let mut commit = None;
            if let Some(arm) = &arm {
                let keep = d.verdict == Some(Verdict::Retain);
                (self.watch)(Event::Stage(if keep { "keeping the code" } else { "removing the code" }));
                let rows = self.ledger.rows()?;
                let row = rows.last().filter(|_| keep).map(|r| r.hash.as_str());
                commit = self.bench.settle(spec, arm, row).map_err(LabError::Code)?;
            }
            let undone = arm.is_some() && d.verdict == Some(Verdict::Reject);
            if undone && !at.records.iter().any(|r| r.stage == Stage::Reverted) {
                let control = spec.spec.arms().remove(0);
                self.bracket(spec, &control, Stage::Reverted, at)?;
            }
            commits.push(commit);
        }
        for (d, commit) in all.iter().zip(commits) {
            if at.decided.contains(&d.candidate) {
                continue;
            }
            let action = d.verdict.and_then(|v| {
                let name = Verdict::NAMES[v as usize];
                spec.spec.on.get(name).cloned()
            });
            self.add(Body::Decided {
                spec: spec.id.clone(),
                attempt: at.attempt,
                calibration: calibration.clone(),
                decision: Box::new(d.clone()),
                commit,
                action: action.unwrap_or_default(),
            })?;
        }
        Ok(Outcome::Decided(all))
    }
}
