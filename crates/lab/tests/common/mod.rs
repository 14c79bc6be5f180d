//! A machine whose truth is known: processes take simulated time, so a whole experiment runs in milliseconds.
#![allow(clippy::unwrap_used)] // a helper of a test is a test
#![allow(dead_code)]

use std::cell::Cell;
use std::path::Path;

use serde_json::json;
use tamp_base::record::{EngineId, RequestRun, SAMPLE, Sample};
use tamp_lab::bench::{At, Bench};
use tamp_lab::host::{Gate, Host, Quiet};
use tamp_lab::ledger::Ledger;
use tamp_lab::record::{RUN, RunRecord, Store};
use tamp_lab::run::{Ask, Lab, LabError, Outcome};
use tamp_lab::spec::{Arm, Frozen};
use tamp_lab::stats::rng::Rng;
use tamp_lab::verdict::Decision;

/// A spec of the fake machine; `extra` is put at its end.
pub fn spec(extra: &str) -> Frozen {
    let text = format!(
        r#"
kind = "tamp.lab.spec"
v = 1
title = "a lever on a machine whose truth is known"
lane = "infra"
hypothesis = "the lever makes it faster"
mechanism = "simulated"
tags = ["fake.lever"]
change = "one lever"
confidence = 0.5
revert = "flag"
depends = ["machine"]

[expected]
metric = "decode_tok_s"
direction = "up"
effect = 1.1
model = "the truth that was planted"

[control]

[contract]
model = "fake"
prompts = ["short"]
max_tokens = 64

[[invariant]]
name = "the head runs where it was declared"
observable = "observed.backend.head"
pred = "== fast"
{extra}
"#
    );
    Frozen::parse(&text, "fake.toml").unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The usual candidate, gates and manipulation check.
pub const USUAL: &str = r#"
[candidate]
use = ["fake.lever=on"]
[[manipulation]]
observable = "plan.lever"
candidate = "== on"
control = "== off"
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

/// What happens to a record before it is handed out.
pub type Twist<'a> = dyn Fn(&mut RunRecord, &Arm, At, u64) + 'a;

/// The machine.
pub struct Fake<'a> {
    /// candidate's speed ÷ control's
    pub effect: f64,
    /// standard deviation of one process
    pub noise: f64,
    /// what happens to records
    pub twist: Box<Twist<'a>>,
    /// why an arm cannot be made ready
    pub unready: Option<(String, String)>,
    /// processes so far
    pub ran: u64,
    /// hash of a dependency
    pub depends: String,
    /// simulated time
    pub now: Cell<u64>,
    seed: u64,
}

impl<'a> Fake<'a> {
    pub fn new(effect: f64, seed: u64) -> Self {
        Fake {
            effect,
            noise: 0.01,
            twist: Box::new(|_, _, _, _| ()),
            unready: None,
            ran: 0,
            depends: "as it was".into(),
            now: Cell::new(1_000_000_000),
            seed,
        }
    }

    pub fn twisted(effect: f64, seed: u64, twist: impl Fn(&mut RunRecord, &Arm, At, u64) + 'a) -> Self {
        Fake { twist: Box::new(twist), ..Fake::new(effect, seed) }
    }

    fn record(&mut self, spec: &Frozen, arm: &Arm, at: At) -> RunRecord {
        self.ran += 1;
        let mut rng = Rng::keyed(self.seed, self.ran);
        // The sum of twelve uniform numbers less six is normal enough.
        let normal: f64 = (0..12).map(|_| rng.bits() as f64 / u64::MAX as f64).sum::<f64>() - 6.0;
        let on = arm.uses.iter().any(|u| u == "fake.lever=on");
        let speed = 100.0 * if on { self.effect } else { 1.0 } * (1.0 + self.noise * normal);
        let gap = (1e9 / speed) as u64;
        let tokens: Vec<u32> = (0..64u32).map(|i| i.wrapping_mul(2_654_435_761) >> 8).collect();
        let request = RequestRun {
            prompt: "short".into(),
            prompt_hash: "p".into(),
            prompt_tokens: 4,
            text: "a text".into(),
            first_token_ns: 2 * gap,
            prefill_ns: gap,
            token_ns: vec![gap; tokens.len() - 1],
            total_ns: 65 * gap,
            tokens,
            finish: "length".into(),
            ..RequestRun::default()
        };
        let word = if on { "on" } else { "off" };
        let mut sample = Sample {
            kind: SAMPLE.into(),
            v: 1,
            engine: EngineId { name: "fake".into(), version: "1".into(), ..EngineId::default() },
            plan_hash: word.into(),
            plan: Some(json!({ "lever": word, "hash": word })),
            threads: 2,
            requests: vec![request],
            decision_grade: true,
            ..Sample::default()
        };
        sample.observed.insert("backend.head".into(), json!("fast"));
        let acts = tamp_base::count::Acts { asked: 64, declined: 0, acted: 64 };
        if on {
            sample.counters.insert("fake.lever.on".into(), acts);
        }
        let started = self.now.get();
        self.now.set(started + 60_000);
        let mut r = RunRecord {
            kind: RUN.into(),
            v: 1,
            spec: spec.id.clone(),
            arm: arm.name.clone(),
            stage: at.stage,
            block: at.block,
            position: at.position,
            started_ms: started,
            took_ms: 60_000.0,
            argv: vec!["fake".into()],
            binary: "b".into(),
            model: "m".into(),
            host: Host::default(),
            quiet: Quiet { foreign_cpu: Some(0.0), ..Quiet::default() },
            locked: true,
            exit: Some(0),
            failed: None,
            stderr: String::new(),
            samples: vec![sample],
        };
        (self.twist)(&mut r, arm, at, self.ran);
        r
    }
}

impl Bench for Fake<'_> {
    fn prepare(&mut self, _: &Frozen, arm: &Arm) -> Result<(), String> {
        match &self.unready {
            Some((name, why)) if *name == arm.name => Err(why.clone()),
            _ => Ok(()),
        }
    }

    fn sample(&mut self, spec: &Frozen, arm: &Arm, at: At) -> RunRecord {
        self.record(spec, arm, at)
    }

    fn wait_quiet(&mut self, _: &Frozen) -> Result<(), String> {
        Ok(())
    }

    fn disturbed(&self, _: &Frozen, record: &RunRecord) -> Option<String> {
        Gate::default().broken(&record.quiet)
    }

    fn host(&self) -> Host {
        Host::default()
    }

    fn now_ms(&self) -> u64 {
        self.now.get()
    }

    fn dependency(&mut self, _: &str) -> String {
        self.depends.clone()
    }
}

/// Slows every gap of a record's tokens by a factor.
pub fn slow(r: &mut RunRecord, by: f64) {
    for gap in r.samples.iter_mut().flat_map(|s| &mut s.requests).flat_map(|q| &mut q.token_ns) {
        *gap = (*gap as f64 * by) as u64;
    }
}

/// Runs a spec on a fake machine.
pub fn run(dir: &Path, bench: &mut dyn Bench, spec: &Frozen, again: bool) -> Result<Outcome, LabError> {
    let mut lab =
        Lab { ledger: Ledger::at(dir), store: Store::new(dir), bench, watch: &mut |_| (), stop: &|| false };
    lab.run(spec, &Ask { again, ..Ask::default() })
}

/// Runs and gives the only decision.
pub fn decided(bench: &mut dyn Bench, spec: &Frozen) -> Decision {
    let dir = tempfile::tempdir().unwrap();
    match run(dir.path(), bench, spec, false).unwrap() {
        Outcome::Decided(mut all) => all.remove(0),
        other => panic!("{other:?}"),
    }
}
