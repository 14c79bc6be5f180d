//! Workloads that print rows. A row means what it says (definitions after each field) and carries its raw samples,
//! the plan's hash and the ceiling measured in the same process before and after.
//!
//! | module | workload |
//! |---|---|
//! | [`single`] | one stream: prefill, decode |
//! | [`batch`] | several streams in one step |
//! | [`generate`] | whole requests, the field's benchmark with honest semantics |
//! | [`sample`] | one process, one record: what the lab spawns |
//! | [`score`] | likelihoods, divergences and graded answers, for the lab's bounds of quality |
//! | [`serve`] | callers of a server, over HTTP |
//! | [`prefix`] | what a shared beginning saves |
//! | [`ops`] | the published operations, ours beside them |
//! | [`vs`] | another engine in turn with ours, on the same file and token ids |
//! | [`width`] | what more rows cost, by block format and in the whole engine |
//! | [`ceiling`], [`stats`], [`prompt`] | what they share |
#![forbid(unsafe_code)]

pub mod batch;
pub mod ceiling;
pub mod generate;
pub mod ops;
pub mod prefix;
pub mod prompt;
pub mod sample;
pub mod score;
pub mod serve;
pub mod single;
pub mod stats;
pub mod vs;
pub mod width;

use std::sync::Arc;

use serde::Serialize;
use tamp_base::clock::Clock;
use tamp_engine::{Engine, EngineError};
use tamp_kernels::device::Device;
use tamp_kernels::pool::Pool;
use tamp_model::Made;

/// What a workload runs on: a loaded engine, its workers, and what loading took.
pub struct Subject<'a, D: Device> {
    /// the engine
    pub engine: &'a mut Engine<D>,
    /// its workers, for the ceiling
    pub pool: &'a Pool,
    /// what loading took
    pub load: LoadTimes,
    /// the lock of the machine is held while this is measured
    pub decision_grade: bool,
}

/// Milliseconds from the file to a ready engine.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LoadTimes {
    /// all of it: open, tokenizer, repacking, plan
    pub load_ms: f64,
    /// repacking the weights alone
    pub repack_ms: f64,
    /// checking the plan and making the KV memory
    pub plan_ms: f64,
    /// matrices used where a bundle holds them
    pub matrices_adopted: u32,
    /// matrices packed from file order
    pub matrices_repacked: u32,
}

/// Why a workload could not run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The model failed during a measured request.
    #[error("a measured request ended with {0} instead of its full length")]
    Ended(String),
    /// The pinned text is too short for the prompt asked for.
    #[error("the text has {have} tokens, {want} are asked for; give a longer one with --prompt-file")]
    Text {
        /// tokens there
        have: usize,
        /// tokens asked
        want: usize,
    },
    /// Logits that are no distribution.
    #[error("position {at}: {why}")]
    Logits {
        /// scored position, from 0
        at: usize,
        /// in words
        why: String,
    },
    /// A reference that cannot be written, or is none of this text and model.
    #[error("reference {}: {why}", .path.display())]
    Reference {
        /// its file
        path: std::path::PathBuf,
        /// in words
        why: String,
    },
    /// A line of the graded items that cannot be read.
    #[error("line {0} of the graded items is not a context and at least two answers between tabs")]
    Items(usize),
    /// No such pinned prompt.
    #[error("there is no prompt `{name}`; known: {known}")]
    Prompt {
        /// what was asked
        name: String,
        /// the known ones
        known: String,
    },
    /// The other engine failed.
    #[error("{0}")]
    Peer(String),
    /// The other engine is not there.
    #[error("{0}")]
    NoPeer(String),
    /// A load that cannot be asked.
    #[error("{0}")]
    Ask(String),
    /// A server that does not start, or does not end.
    #[error("{0}")]
    Server(String),
    /// A line of the operations' table that cannot be read.
    #[error("line {0} of the table of operations is not seven cells with times in the fourth to sixth")]
    Ops(usize),
    /// The device refused a matrix or a buffer of a workload.
    #[error(transparent)]
    Device(#[from] tamp_kernels::device::DeviceError),
    /// No memory for the probe of the ceiling, or no process, thread or socket for a load.
    #[error("the system refused: {0}")]
    Probe(#[from] std::io::Error),
}

/// What every row says about where it was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// weight bytes read per forward pass
    pub weight_bytes: u64,
    /// stage → kernel that ran
    pub kernels: Vec<(String, String)>,
    /// hash of the accepted plan
    pub plan_hash: String,
    /// worker threads
    pub threads: usize,
    /// what loading took
    #[serde(flatten)]
    pub load: LoadTimes,
    /// taken while the lock of the machine was held
    pub decision_grade: bool,
}

impl LoadTimes {
    /// With what the loader counted.
    pub fn counted(self, made: Made) -> Self {
        LoadTimes { matrices_adopted: made.adopted, matrices_repacked: made.repacked, ..self }
    }
}

impl<D: Device> Subject<'_, D> {
    /// The facts of this engine.
    pub fn facts(&self) -> Facts {
        let plan = self.engine.plan();
        Facts {
            weight_bytes: self.engine.model().weight_bytes(),
            kernels: plan.kernels.clone(),
            plan_hash: plan.hash.clone(),
            threads: self.pool.threads(),
            load: self.load,
            decision_grade: self.decision_grade,
        }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.engine.clock().clone()
    }
}
