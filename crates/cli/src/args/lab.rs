//! The words of `tamp lab`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Arguments of every `lab` command.
#[derive(Debug, Args)]
pub struct LabArgs {
    /// Folder of ledger and records [default: ./lab when it is there, else the platform's data folder]
    #[arg(long, global = true, value_name = "DIR")]
    pub ledger: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: LabCommand,
}

/// Commands of `lab`.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Writes a spec to fill in: a question with its gates
    New(LabNewArgs),
    /// Runs a spec or a program, or goes on where it was stopped
    Run(LabRunArgs),
    /// Who runs next, and why in that order
    Queue(LabQueueArgs),
    /// What is missing, and who waits for it
    Blockers(LabBlockersArgs),
    /// Every verdict, newest first
    List,
    /// A verdict with everything it rests on
    Show {
        /// Id of a spec, or its beginning
        id: String,
    },
    /// What is already known under a tag or a word
    Why {
        /// A tag, a part of one, or a word of a title
        tag: String,
    },
    /// Works verdicts out again from their records
    Replay {
        /// Id of a spec, or its beginning [default: all]
        id: Option<String>,
    },
    /// Takes in what others found, from a file of priors
    Import {
        /// TOML file of priors
        file: PathBuf,
    },
    /// Says that a row no longer counts, or what is wrong in it
    Correct(LabCorrectArgs),
    /// Writes one HTML page of everything
    Report {
        /// Where to
        #[arg(long, default_value = "lab-report.html", value_name = "FILE")]
        out: PathBuf,
    },
    /// Runs simulated experiments through the lab's own statistics and says how often it is wrong
    SelfTest {
        /// 200 nulls of each kind instead of a few
        #[arg(long)]
        full: bool,
        /// Seed of the simulation
        #[arg(long, default_value_t = 1, value_name = "N")]
        seed: u64,
    },
}

/// Arguments of `lab new`.
#[derive(Debug, Args)]
pub struct LabNewArgs {
    /// The question in a line
    pub title: String,
    /// The model
    #[arg(long, default_value = "smollm2", value_name = "MODEL")]
    pub model: String,
    /// The metric the verdict is about
    #[arg(long, default_value = "decode_tok_s", value_name = "METRIC")]
    pub metric: String,
    /// What the candidate chooses (repeatable); the control is left as it is
    #[arg(long = "try", value_name = "ROOM=NAME|KNOB=VALUE")]
    pub tries: Vec<String>,
    /// Where to write it [default: lab/specs/<title>.toml]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Arguments of `lab run`.
#[derive(Debug, Args)]
pub struct LabRunArgs {
    /// A spec or a program (TOML)
    pub file: PathBuf,
    /// Measures again what the ledger already answers
    #[arg(long)]
    pub again: bool,
    /// Engines that are not ours [default: lab/engines.toml]
    #[arg(long, value_name = "FILE")]
    pub engines: Option<PathBuf>,
}

/// Arguments of `lab queue`.
#[derive(Debug, Args)]
pub struct LabQueueArgs {
    /// A program, or a folder of specs [default: lab/specs]
    pub what: Option<PathBuf>,
    /// Says what the ledger already answers
    #[arg(long)]
    pub audit: bool,
}

/// Arguments of `lab blockers`.
#[derive(Debug, Args)]
pub struct LabBlockersArgs {
    /// A program, or a folder of specs [default: lab/specs]
    pub what: Option<PathBuf>,
}

/// Arguments of `lab correct`.
#[derive(Debug, Args)]
pub struct LabCorrectArgs {
    /// Hash of the row, or its beginning
    pub row: String,
    /// What is wrong in it, or why it no longer counts
    pub note: String,
    /// The row no longer counts
    #[arg(long)]
    pub supersede: bool,
}
