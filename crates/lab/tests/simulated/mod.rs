//! A ledger of experiments on a machine that does not exist: real specs through the real runner, samples from a small
//! model of a machine instead of processes. For tests of what comes after measuring, and for a look at the page.
#![allow(dead_code, clippy::unwrap_used)] // each user takes a part, and a helper of a test is a test

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use tamp_base::count::Acts;
use tamp_base::record::{Ceiling, EngineId, RequestRun, SAMPLE, Sample};
use tamp_lab::bench::{At, Bench};
use tamp_lab::host::{Host, Quiet};
use tamp_lab::ledger::{Body, Ledger, Row};
use tamp_lab::record::{RUN, RunRecord, Stage, Store};
use tamp_lab::run::{Ask, Lab, Outcome};
use tamp_lab::spec::{Arm, Frozen};
use tamp_lab::stats::rng::Rng;

/// What is true of an arm.
#[derive(Clone, Debug)]
pub struct Truth {
    /// times the base speed
    pub speed: f64,
    /// lost per hour, of this arm alone
    pub fades: f64,
    /// what its plan says
    pub lever: &'static str,
    /// which answers it gives
    pub answers: u64,
    /// card → how often it was asked and acted
    pub acts: Option<(&'static str, u64, u64)>,
    /// exit status and reason of every process
    pub fails: Option<(i32, &'static str)>,
    /// name and version of a foreign engine
    pub engine: Option<(&'static str, &'static str)>,
}

impl Default for Truth {
    fn default() -> Truth {
        Truth { speed: 1.0, fades: 0.0, lever: "plain", answers: 1, acts: None, fails: None, engine: None }
    }
}

/// The machine.
pub struct Machine {
    /// ms since 1970
    pub now: u64,
    /// standard deviation of a process
    pub noise: f64,
    /// lost per hour by all
    pub drift: f64,
    /// chance that something else runs beside a process
    pub bursts: f64,
    /// by arm; others are plain
    pub truths: BTreeMap<String, Truth>,
    rng: Rng,
    began: u64,
}

const TEXT: [&str; 4] = [
    "The lighthouse keeper counted the ships each evening and wrote the number in a blue notebook. On the day the fog came he wrote a question mark.",
    "def merge(left, right):\n    out = []\n    while left and right:\n        out.append((left if left[0] <= right[0] else right).pop(0))\n    return out + left + right",
    "The lighthouse keeper counted the ships each evening and wrote the number on the wall. Nobody read the wall until the tide did.",
    "the the the the the the the the the the the the the the the the the the",
];

impl Machine {
    /// One that begins at `now`.
    pub fn new(now: u64) -> Machine {
        Machine {
            now,
            noise: 0.02,
            drift: 0.03,
            bursts: 0.0,
            truths: BTreeMap::new(),
            rng: Rng::keyed(7, 7),
            began: now,
        }
    }

    fn normal(&mut self) -> f64 {
        // Twelve uniform numbers: close enough to normal for a picture.
        (0..12).map(|_| (self.rng.bits() >> 11) as f64 / (1u64 << 53) as f64).sum::<f64>() - 6.0
    }

    fn chance(&mut self, p: f64) -> bool {
        ((self.rng.bits() >> 11) as f64 / (1u64 << 53) as f64) < p
    }

    fn sample_of(&mut self, spec: &Frozen, arm: &Arm, truth: &Truth, slower: f64) -> Sample {
        let rate = 180.0 * truth.speed / slower;
        let mut requests = Vec::new();
        for (i, prompt) in spec.spec.contract.prompts.iter().enumerate() {
            let gaps: Vec<u64> =
                (0..23).map(|_| (1e9 / rate * (1.0 + 0.03 * self.normal()).max(0.2)) as u64).collect();
            let first = (8e9 / rate) as u64;
            let repeating = truth.answers == 9;
            requests.push(RequestRun {
                prompt: prompt.clone(),
                prompt_hash: blake3_of(prompt),
                prompt_tokens: 12 + 40 * i,
                tokens: (0..24u64)
                    .map(|t| if repeating { 7 } else { (t * 2_654_435_761 + truth.answers * 97) as u32 >> 9 })
                    .collect(),
                text: TEXT[if repeating { 3 } else { (i + 2 * usize::from(truth.answers != 1)) % 3 }].into(),
                first_token_ns: first,
                prefill_ns: first - first / 9,
                total_ns: first + gaps.iter().sum::<u64>(),
                token_ns: gaps,
                finish: "length".into(),
                ..RequestRun::default()
            });
        }
        let threads = arm.threads.or(spec.spec.contract.threads).unwrap_or(2) as usize;
        let (name, version) = truth.engine.unwrap_or(("tamp", "0.1.0"));
        let lever = json!({"ctx": 2048, "lever": truth.lever, "threads": threads, "kernels": {"head": "avx512.q8_0"}});
        let own = truth.engine.is_none();
        Sample {
            kind: SAMPLE.into(),
            v: 1,
            engine: EngineId {
                name: name.into(),
                version: version.into(),
                revision: if own { "2aad6dc41f0e9b7755aa10cc3e0a2dd61bb0c3f2".into() } else { String::new() },
                dirty: false,
            },
            plan_hash: if own { blake3_of(&lever.to_string()) } else { String::new() },
            plan: own.then_some(lever),
            threads,
            phases_ms: BTreeMap::from([("load".into(), 210.0 * slower)]),
            ceiling: Some(Ceiling {
                before_gb_s: 71.0 * (1.0 + 0.02 * self.normal()),
                after_gb_s: 70.0,
                weight_bytes: 145_000_000,
            }),
            requests,
            counters: truth
                .acts
                .map(|(c, asked, acted)| (c.to_string(), Acts { asked, declined: asked - acted, acted }))
                .into_iter()
                .collect(),
            observed: BTreeMap::from([
                ("backend.head".into(), json!("avx512.q8_0")),
                ("fallbacks".into(), json!(0)),
            ]),
            memory_peak: Some(412_000_000),
            decision_grade: true,
            ..Sample::default()
        }
    }
}

fn blake3_of(text: &str) -> String {
    tamp_lab::spec::hash(&json!(text))
}

impl Bench for Machine {
    fn prepare(&mut self, _: &Frozen, _: &Arm) -> Result<(), String> {
        Ok(())
    }

    fn sample(&mut self, spec: &Frozen, arm: &Arm, at: At) -> RunRecord {
        let truth = self.truths.get(&arm.name).cloned().unwrap_or_default();
        let hours = (self.now - self.began) as f64 / 3.6e6;
        let burst = at.stage == Stage::Block && self.chance(self.bursts);
        let slot = if at.position == 0 { 1.03 } else { 1.0 };
        let noise = (self.noise * self.normal()).exp();
        let slower =
            slot * noise * (1.0 + (self.drift + truth.fades) * hours) * if burst { 1.4 } else { 1.0 };
        let sample = self.sample_of(spec, arm, &truth, slower);
        let took = 9_000.0 * slower / truth.speed.max(0.2);
        let started_ms = self.now;
        self.now += took as u64 + 1_500;
        let mut argv: Vec<String> = [
            "tamp",
            "bench",
            "sample",
            &spec.spec.contract.model,
            "--json",
            "--prompts",
            &spec.spec.contract.prompts.join(","),
        ]
        .map(String::from)
        .to_vec();
        argv.extend(arm.uses.iter().flat_map(|u| ["--use".to_string(), u.clone()]));
        argv.extend(arm.sets.iter().flat_map(|u| ["--set".to_string(), u.clone()]));
        RunRecord {
            kind: RUN.into(),
            v: 1,
            spec: spec.id.clone(),
            arm: arm.name.clone(),
            stage: at.stage,
            block: at.block,
            position: at.position,
            started_ms,
            took_ms: took,
            argv,
            binary: blake3_of("binary"),
            model: blake3_of("model"),
            host: self.host(),
            quiet: Quiet {
                foreign_cpu: Some(if burst { 0.8 } else { 0.03 }),
                steal: Some(0.0),
                throttled: None,
                load: Some(0.4),
            },
            locked: true,
            exit: Some(truth.fails.map_or(0, |f| f.0)),
            failed: truth.fails.map(|f| f.1.into()),
            stderr: String::new(),
            samples: if truth.fails.is_some() { Vec::new() } else { vec![sample] },
        }
    }

    fn wait_quiet(&mut self, _: &Frozen) -> Result<(), String> {
        Ok(())
    }

    fn disturbed(&self, _: &Frozen, record: &RunRecord) -> Option<String> {
        tamp_lab::host::Gate::default().broken(&record.quiet)
    }

    fn host(&self) -> Host {
        Host {
            cpu: "Simulated CPU, no such machine".into(),
            cores: 2,
            memory_gb: 24,
            kernel: "linux 6.1".into(),
            governor: "performance".into(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.now
    }

    fn dependency(&mut self, name: &str) -> String {
        blake3_of(name)
    }
}

/// A spec of one candidate. `more` is put before the tables, `tail` behind them.
pub fn spec(title: &str, tags: &str, effect: f64, more: &str, tail: &str) -> String {
    format!(
        r#"kind = "tamp.lab.spec"
v = 1
title = {title:?}
lane = "shipping"
hypothesis = "Decoding is bound by reading weights, so whatever reads fewer bytes per token is faster by as much."
mechanism = "The lever of this question leaves out work that the answer does not need."
tags = [{tags}]
change = "One setting; everything else is as in the control."
confidence = 0.6
assumptions = 2
revert = "flag"
depends = ["crate:kernels", "model", "machine"]
expected = {{ metric = "decode_tok_s", direction = "up", effect = {effect:?}, model = "bytes read" }}
{more}
[contract]
model = "smollm2"
prompts = ["short", "code"]
max_tokens = 24
threads = 2
[[invariant]]
name = "no fallback"
observable = "observed.fallbacks"
pred = "== 0"
[[prior]]
entry = "the literature on speculative decoding"
relation = "external"
why = "gains of 1.3 to 2 on accelerators"
{tail}"#
    )
}

/// The arms and gates of an ordinary question.
pub const ORDINARY: &str = r#"
[control]
use = ["spec.propose=none"]
[candidate]
use = ["spec.propose=suffix"]
set = ["spec.propose.suffix.max=8"]
[design]
pairs = [6, 16]
mde = 0.03
[[manipulation]]
observable = "plan.lever"
candidate = "differs"
[[success]]
metric = "decode_tok_s"
stat = "ci_low"
op = ">="
value = 1.02
[[success]]
metric = "ttft_ms"
stat = "ci_low"
op = ">="
value = 0.9
[[kill]]
metric = "decode_tok_s"
stat = "ci_high"
op = "<"
value = 1.0
"#;

/// Runs one question in `folder`.
pub fn run(folder: &Path, machine: &mut Machine, text: &str, program: Option<&str>) -> Frozen {
    let spec = Frozen::parse(text, "simulated.toml").unwrap();
    let (mut watch, stop) = (|_: tamp_lab::run::Event<'_>| (), || false);
    let mut lab = Lab {
        ledger: Ledger::at(folder),
        store: Store::new(folder),
        bench: machine,
        watch: &mut watch,
        stop: &stop,
    };
    let ask = Ask {
        again: true,
        file: "lab/specs/simulated.toml".into(),
        program: program.map(String::from),
        ..Ask::default()
    };
    let outcome = lab.run(&spec, &ask).unwrap();
    assert!(matches!(outcome, Outcome::Decided(_)));
    machine.now += 400_000;
    spec
}

/// Runs one question with this truth of the candidate.
fn ask(folder: &Path, m: &mut Machine, truth: Truth, text: &str) -> Frozen {
    m.truths.insert("candidate".into(), truth);
    m.began = m.now;
    run(folder, m, text, None)
}

/// A ledger with every kind of end: the folder's `ledger.jsonl` and `records`. Gives its rows and its clock.
pub fn ledger(folder: &Path) -> (Vec<Row>, u64) {
    let mut m = Machine::new(1_795_000_000_000);
    let s = |title: &str, tags: &str, effect: f64, more: &str| spec(title, tags, effect, more, ORDINARY);
    let lever = |speed: f64| Truth {
        speed,
        lever: "suffix",
        acts: Some(("spec.propose.suffix", 900, 610)),
        ..Truth::default()
    };
    let null = ORDINARY.split("[candidate]").next().unwrap().to_string()
        + "[design]\nkind = \"aa\"\npairs = [8, 12]\n";
    run(
        folder,
        &mut m,
        &spec("Two identical arms: what does this machine show?", "\"null\"", 1.0, "", &null),
        None,
    );
    let first = ask(
        folder,
        &mut m,
        lever(1.19),
        &s("Suffix drafting on code edits", "\"spec.propose.suffix\", \"copy-heavy\"", 1.4, ""),
    );
    m.bursts = 0.2;
    ask(
        folder,
        &mut m,
        Truth { lever: "two threads", ..lever(1.62) },
        &s("A second thread while somebody else works on this machine", "\"threads\"", 1.8, ""),
    );
    m.bursts = 0.0;
    let slow = ask(
        folder,
        &mut m,
        lever(0.962),
        &s("Draft four tokens always, whatever the text", "\"spec.propose.suffix\"", 1.15, ""),
    );
    ask(
        folder,
        &mut m,
        Truth { answers: 2, ..lever(1.3) },
        &s("A smaller head that gives other words", "\"head\", \"quality\"", 1.25, ""),
    );
    ask(
        folder,
        &mut m,
        Truth { lever: "plain", ..lever(1.0) },
        &s("Context of 128 or 256 for four tokens", "\"context\"", 1.12, ""),
    );
    ask(
        folder,
        &mut m,
        Truth { acts: Some(("spec.propose.suffix", 900, 0)), ..lever(1.0) },
        &s("A lever that silently does nothing", "\"broken\"", 1.2, ""),
    );
    ask(
        folder,
        &mut m,
        Truth {
            fails: Some((5, "context 64 is too small for 4 prompt tokens and 64 new ones; give at least 68")),
            ..lever(1.0)
        },
        &s("Context of 64", "\"context\"", 1.05, ""),
    );
    ask(
        folder,
        &mut m,
        Truth { fails: Some((101, "the process was killed for memory")), ..lever(1.0) },
        &s("Keep the cache in f32 on a full machine", "\"kv\"", 1.01, ""),
    );
    ask(
        folder,
        &mut m,
        Truth { fades: 5.0, ..lever(1.12) },
        &s("An arm that heats up while it runs", "\"broken\", \"drift\"", 1.1, ""),
    );
    ask(folder, &mut m, lever(1.028), &s("Prefetch two lines further", "\"kernels\"", 1.03, ""));
    // A day later, so that what the machine can resolve is measured again.
    m.now += 90_000_000;
    m.noise = 0.2;
    ask(
        folder,
        &mut m,
        lever(1.01),
        &s(
            "The same prefetch while the machine is restless",
            "\"kernels\"",
            1.03,
            "tests = [\"kernels::prefetch\"]",
        ),
    );
    m.noise = 0.02;
    let engine = ORDINARY
        .replace(
            "use = [\"spec.propose=suffix\"]\nset = [\"spec.propose.suffix.max=8\"]",
            "engine = \"llama.cpp\"",
        )
        .replace("plan.lever", "engine.name");
    ask(
        folder,
        &mut m,
        Truth { speed: 0.58, engine: Some(("llama.cpp", "b6012 (0c1e570)")), ..lever(1.0) },
        &spec("llama.cpp beside tamp, same token ids", "\"foreign\"", 1.0, "claim = \"not_worse\"", &engine),
    );
    let many = ORDINARY.replace("[candidate]\nuse = [\"spec.propose=suffix\"]\nset = [\"spec.propose.suffix.max=8\"]", "[[candidates]]\nname = \"max-2\"\nset = [\"spec.propose.suffix.max=2\"]\n[[candidates]]\nname = \"max-4\"\nset = [\"spec.propose.suffix.max=4\"]\n[[candidates]]\nname = \"max-8\"\nset = [\"spec.propose.suffix.max=8\"]").replace("[design]", "[design]\nkind = \"latin\"");
    for (name, speed) in [("max-2", 1.06), ("max-4", 1.11), ("max-8", 1.005)] {
        m.truths.insert(name.into(), Truth { lever: "suffix of some length", ..lever(speed) });
    }
    run(
        folder,
        &mut m,
        &spec("How long should a suffix draft be?", "\"spec.propose.suffix\"", 1.1, "", &many),
        None,
    );
    let l = Ledger::at(folder);
    let program = |what: &str, value: serde_json::Value| Body::Program {
        program: blake3_of("program"),
        value,
        what: what.into(),
        file: "lab/programs/field-report-1.toml".into(),
    };
    l.add(m.now, program("opened", json!({"kind": "tamp.lab.program", "v": 1, "title": "The first field report, asked again", "question": "Which of its seven queue entries hold on a machine like this one?", "baseline": "HEAD", "pinned": "2aad6dc41f0e9b7755aa10cc3e0a2dd61bb0c3f2"}))).unwrap();
    let mut waiting = Vec::new();
    for (kind, title, needs) in [
        (
            "contract",
            "Two tokens for one pass of the trunk",
            "a target that takes two positions in one pass and says which it accepted",
        ),
        (
            "artifact",
            "A draft head trained on the rows it is served",
            "a draft head trained on normalised rows",
        ),
        ("hardware", "The head on a second device", "an accelerator of its own memory"),
    ] {
        let text = s(
            title,
            "\"field report\"",
            1.5,
            &format!("blocked = [{{ kind = \"{kind}\", needs = \"{needs}\" }}]"),
        );
        let asked = run(folder, &mut m, &text, Some(&blake3_of("program")));
        waiting.push(json!({ "file": "simulated.toml", "spec": asked.id, "title": title, "why": needs }));
    }
    l.add(m.now, program("closed", json!({"retained": [], "rejected": [], "blocked": waiting, "tooling_kept": ["the width table"], "not_rerun": [], "next": ["train the head on served rows"]}))).unwrap();
    l.add(
        m.now,
        Body::External {
            name: "two tokens per pass at 400 tok/s".into(),
            tags: vec!["spec".into(), "headline".into()],
            verdict: "not comparable".into(),
            note: "Another machine, another model, and two passes of the target where the name says one."
                .into(),
            source: "first field report".into(),
            predicted: "at most 1.52 tokens per pass at an acceptance of 0.52".into(),
        },
    )
    .unwrap();
    let rows = l.rows().unwrap();
    let of = |id: &str| {
        rows.iter()
            .find(|r| matches!(&r.body, Body::Decided { spec, .. } if spec == id))
            .unwrap()
            .hash
            .clone()
    };
    l.add(
        m.now,
        Body::Corrected {
            of: of(&first.id),
            note: "the prompt \"code\" was cut at 512 tokens; the ratio stands, the absolute figures do not"
                .into(),
        },
    )
    .unwrap();
    l.add(
        m.now,
        Body::Superseded { of: of(&slow.id), reason: "asked again with a governor that declines".into() },
    )
    .unwrap();
    (l.rows().unwrap(), m.now)
}
