//! The question, frozen: what an experiment claims, how it could fail, and what makes its figures count.
//!
//! A spec is a TOML file. Its id is blake3 over the RFC 8785 JSON of the fields present in it; defaults are never filled
//! in, so that a new default does not change an old question. Once opened in a ledger it cannot be changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod frozen;
mod rules;

pub use frozen::{Frozen, hash};
pub(crate) use frozen::{said, shortened};

use crate::observe::Pred;
use crate::stats::{Claim, Direction, Gate};

/// `kind` of a spec.
pub const SPEC: &str = "tamp.lab.spec";

/// How the running program is called among what is fixed at an opening.
pub const PROGRAM: &str = "tamp";

/// Why a spec cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// Not TOML, an unknown key, a wrong type.
    #[error("{0}: {1}")]
    Syntax(String, String),
    /// A rule of experiments is broken.
    #[error("{0}: {1}")]
    Rule(String, String),
}

/// An experiment as its author wrote it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// always [`SPEC`]
    pub kind: String,
    /// version of this record, 1
    pub v: u32,
    /// one line
    pub title: String,
    /// what the number is for; a figure carries its lane
    pub lane: Lane,
    /// what is believed and may turn out false
    pub hypothesis: String,
    /// by what it would work
    pub mechanism: String,
    /// what is already known is found by these
    pub tags: Vec<String>,
    /// what differs between the arms, minimal
    pub change: String,
    /// tests that guard the mechanism
    #[serde(default)]
    pub tests: Vec<String>,
    /// 0…1, before measuring
    pub confidence: f64,
    /// how many things must hold beside the mechanism
    #[serde(default)]
    pub assumptions: u32,
    /// what undoing takes
    pub revert: Revert,
    /// `ID VERDICT` of experiments this one waits for
    #[serde(default)]
    pub requires: Vec<String>,
    /// capabilities that must exist first, typed; an experiment with one is blocked until it is removed from the spec
    #[serde(default)]
    pub blocked: Vec<Blocker>,
    /// the effect that is predicted, and by which model
    pub expected: Expected,
    /// what is known
    #[serde(default)]
    pub prior: Vec<Prior>,
    /// the reference
    pub control: Arm,
    /// what is tried
    #[serde(default)]
    pub candidate: Option<Arm>,
    /// several that are tried, instead of `candidate`
    #[serde(default)]
    pub candidates: Vec<Arm>,
    /// what every process does
    pub contract: Contract,
    /// observed differences that must separate candidate from control
    #[serde(default)]
    pub manipulation: Vec<Manipulation>,
    /// facts that must hold
    #[serde(default)]
    pub invariant: Vec<Invariant>,
    /// paths of the plan that may differ beside the manipulated ones, such as `plan.kv`
    #[serde(default)]
    pub differs: Vec<String>,
    /// what the output must still be
    #[serde(default)]
    pub quality: Quality,
    /// how it is measured
    #[serde(default)]
    pub design: Design,
    /// superior (default) or not worse
    #[serde(default)]
    pub claim: Claim,
    /// all must hold to retain
    #[serde(default)]
    pub success: Vec<Gate>,
    /// any rejects
    #[serde(default)]
    pub kill: Vec<Gate>,
    /// `crate:kernels`, `card:kv.codec.f16`, `model`, `machine`, `file:PATH`: a change expires the verdict
    #[serde(default)]
    pub depends: Vec<String>,
    /// what follows from a verdict
    #[serde(default)]
    pub on: BTreeMap<String, String>,
}

/// What a number is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// what users run
    Shipping,
    /// what is shown to others
    Publication,
    /// a look
    Probe,
    /// a part alone
    Microbench,
    /// the tools themselves
    Infra,
}

/// What undoing takes; later is dearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Revert {
    /// leaving out a flag
    Flag,
    /// deleting a file
    Delete,
    /// reverting a commit
    Revert,
}

/// What was predicted before measuring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// the metric the verdict is about
    pub metric: String,
    /// which way is better
    pub direction: Direction,
    /// ratio, oriented so that more than 1 is better
    pub effect: f64,
    /// where that figure comes from
    pub model: String,
}

/// Something known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prior {
    /// ledger id, paper or report
    pub entry: String,
    /// supports, falsifies, equivalent, external
    pub relation: String,
    /// in a sentence
    pub why: String,
}

/// A missing capability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocker {
    /// what kind of thing is missing
    pub kind: BlockerKind,
    /// what exactly
    pub needs: String,
}

/// Kinds of missing things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockerKind {
    /// a contract between parts
    Contract,
    /// something the program cannot do
    Runtime,
    /// a file
    Artifact,
    /// a machine
    Hardware,
    /// data
    Data,
}

/// One configuration. Empty fields mean the control's revision, engine, model and nothing special.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// what it is called in records [default: `control`, `candidate`]
    #[serde(default)]
    pub name: String,
    /// `--use` words
    #[serde(default, rename = "use")]
    pub uses: Vec<String>,
    /// `--set` words
    #[serde(default, rename = "set")]
    pub sets: Vec<String>,
    /// other words of `tamp bench sample`, such as `--ctx`, `2048`
    #[serde(default)]
    pub args: Vec<String>,
    /// worker threads, instead of the contract's
    #[serde(default)]
    pub threads: Option<u32>,
    /// a model, instead of the contract's
    #[serde(default)]
    pub model: Option<String>,
    /// a git revision; the tool builds it in a worktree
    #[serde(default)]
    pub rev: Option<String>,
    /// a patch file applied on top of the revision, in a worktree: a code candidate
    #[serde(default)]
    pub patch: Option<PathBuf>,
    /// an engine of `engines.toml`
    #[serde(default)]
    pub engine: Option<String>,
    /// a program put before the command, for faults and limits
    #[serde(default)]
    pub wrap: Vec<String>,
    /// processes started at once; more than one is never decision-grade
    #[serde(default)]
    pub parallel: Option<u32>,
}

/// What every process does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// a path, a name of the store, or hf:…
    pub model: String,
    /// names of pinned prompts
    pub prompts: Vec<String>,
    /// cuts each prompt to this many tokens
    #[serde(default)]
    pub prompt_tokens: Option<u32>,
    /// blake3 of each prompt's token ids; checked against every sample when given
    #[serde(default)]
    pub prompt_hashes: Vec<String>,
    /// new tokens per request
    pub max_tokens: u32,
    /// 0 takes the likeliest
    #[serde(default)]
    pub temperature: f64,
    /// seed of the sampler
    #[serde(default = "one")]
    pub seed: u64,
    /// worker threads [default: every core this process may use]
    #[serde(default)]
    pub threads: Option<u32>,
    /// positions a foreign engine makes room for [default: what prompts and answers need]
    #[serde(default)]
    pub ctx: Option<u32>,
    /// uncounted requests of each process
    #[serde(default)]
    pub warmup: Option<u32>,
    /// counted rounds over the prompts of each process
    #[serde(default)]
    pub repeats: Option<u32>,
    /// an arm without a ceiling probe is quicker, and prints no fraction
    #[serde(default)]
    pub ceiling: Option<bool>,
    /// seconds a process may take
    #[serde(default)]
    pub timeout_s: Option<u32>,
}

fn one() -> u64 {
    1
}

/// An observed difference. See [`crate::observe`] for paths and predicates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manipulation {
    /// path of the observable
    pub observable: String,
    /// what the candidate must show
    #[serde(default)]
    pub candidate: Option<Pred>,
    /// what the control must show
    #[serde(default)]
    pub control: Option<Pred>,
}

/// A fact that must hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invariant {
    /// in words
    pub name: String,
    /// `token_identity`, or a predicate on `observable`
    pub pred: Pred,
    /// path of the observable; not for `token_identity`
    #[serde(default)]
    pub observable: Option<String>,
    /// whose samples are looked at
    #[serde(default)]
    pub arms: Arms,
    /// when it does not hold: the run is void, or blocked by this
    #[serde(default)]
    pub block: Option<Blocker>,
}

/// Whose samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arms {
    /// all
    #[default]
    Both,
    /// the control's
    Control,
    /// the candidate's
    Candidate,
}

/// What the output must still be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// exact: the same tokens. near-exact: a bounded divergence from the control, and a bounded share of requests that
    /// differ. approximate: a bounded loss on a held-out text or graded items. Always: no collapse into repetition
    #[serde(default)]
    pub class: Class,
    /// near-exact: largest share of requests whose tokens differ from the control's
    #[serde(default)]
    pub max_flips: Option<f64>,
    /// largest KL(control ‖ candidate) over the pinned positions, nats per token; a near-exact spec declares it
    #[serde(default)]
    pub max_kl: Option<f64>,
    /// bits per byte of the pinned held-out text that may be needed more; an approximate spec declares this,
    /// `max_task_loss` or both
    #[serde(default)]
    pub max_bits: Option<f64>,
    /// share of the graded items that may be lost, less those that are gained
    #[serde(default)]
    pub max_task_loss: Option<f64>,
    /// tokens of the held-out text that are scored [default: 384]
    #[serde(default)]
    pub positions: Option<u32>,
    /// share of each request's tokens that must equal the control's from the start
    #[serde(default)]
    pub min_prefix: Option<f64>,
    /// longest run of one token that is not degenerate
    #[serde(default)]
    pub max_run: Option<usize>,
    /// prompts that each arm answers once before anything counts [default: short, long]
    #[serde(default)]
    pub rollout: Option<Vec<String>>,
}

/// Behaviour classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// every token equal
    #[default]
    Exact,
    /// hardly another distribution
    NearExact,
    /// others are allowed
    Approximate,
}

/// How it is measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Design {
    /// `abba` (default), `latin` for more arms, `aa` for a null
    #[serde(default)]
    pub kind: Option<String>,
    /// fewest and most pairs
    #[serde(default)]
    pub pairs: Option<[u32; 2]>,
    /// false verdicts allowed
    #[serde(default)]
    pub alpha: Option<f64>,
    /// effect that must be resolvable, as ratio − 1
    #[serde(default)]
    pub mde: Option<f64>,
    /// always true; `false` is refused until levers can be switched inside one engine
    #[serde(default)]
    pub process_per_sample: Option<bool>,
    /// share of one core that others may use during a block
    #[serde(default)]
    pub foreign_cpu: Option<f64>,
}

impl Quality {
    /// Whether a bound beyond tokens is declared.
    pub fn bounded(&self) -> bool {
        self.max_kl.is_some() || self.max_bits.is_some() || self.max_task_loss.is_some()
    }
}

impl Spec {
    /// The candidates, one or more, named.
    pub fn tried(&self) -> Vec<Arm> {
        let all: Vec<&Arm> = self.candidate.iter().chain(&self.candidates).collect();
        let many = all.len() > 1;
        all.into_iter()
            .enumerate()
            .map(|(i, a)| {
                let mut a = a.clone();
                if a.name.is_empty() {
                    a.name = if many { format!("candidate-{}", i + 1) } else { "candidate".into() };
                }
                a
            })
            .collect()
    }

    /// Control first, then the candidates; of a null, the control a second time.
    pub fn arms(&self) -> Vec<Arm> {
        let mut control = self.control.clone();
        if control.name.is_empty() {
            control.name = "control".into();
        }
        let again =
            self.is_null().then(|| Arm { name: format!("{}-again", control.name), ..control.clone() });
        std::iter::once(control).chain(again).chain(self.tried()).collect()
    }

    /// An experiment that compares the control with itself, on purpose.
    pub fn is_null(&self) -> bool {
        self.design.kind.as_deref() == Some("aa")
    }

    /// Fewest and most pairs.
    pub fn pairs(&self) -> [usize; 2] {
        let [lo, hi] = self.design.pairs.unwrap_or([8, 24]);
        [lo as usize, hi as usize]
    }

    /// Everything a verdict on this depends on: what the author declared, the machine, the model of each arm, patches,
    /// and what was fixed at the opening: what each revision's name meant, and the running program where an arm is
    /// that. With `pinned`, arms without a revision run the one that HEAD then was.
    pub fn dependencies(&self, pinned: bool) -> BTreeSet<String> {
        let declared = self.depends.iter().filter(|d| *d != "model").cloned();
        let mut all: BTreeSet<String> = declared.chain(["machine".to_string()]).collect();
        for arm in self.arms() {
            all.insert(format!("model:{}", arm.model.as_ref().unwrap_or(&self.contract.model)));
            all.extend(arm.patch.iter().map(|p| format!("file:{}", p.display())));
            if arm.engine.is_none() {
                let name = self.revision(&arm, pinned).unwrap_or(PROGRAM);
                all.insert(format!("{}{name}", crate::why::FIXED));
            }
        }
        all
    }

    /// The revision an arm is built from, by name; none where it is the running program or another engine. Beside a code
    /// candidate everything is built, so that what differs is the patch.
    pub fn revision<'s>(&self, arm: &'s Arm, pinned: bool) -> Option<&'s str> {
        if arm.engine.is_some() {
            return None;
        }
        let built = pinned || self.arms().iter().any(|a| a.patch.is_some());
        arm.rev.as_deref().or(built.then_some("HEAD"))
    }

    /// False verdicts allowed.
    pub fn alpha(&self) -> f64 {
        self.design.alpha.unwrap_or(0.05)
    }
}

#[cfg(test)]
pub(crate) mod tests;
