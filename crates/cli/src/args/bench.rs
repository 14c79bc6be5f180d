//! The words of `tamp bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{BenchServeArgs, LoadArgs};

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// Waits until no other measurement runs on this machine, instead of going on beside it
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub wait: bool,
    /// The workload.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// Commands of `bench`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// One fresh process, one record: what `tamp lab` spawns
    Sample(BenchSampleArgs),
    /// The token ids of the pinned prompts, to give another engine the same
    Prompts(BenchPromptsArgs),
    /// Whole requests with one loaded engine
    Generate(BenchGenerateArgs),
    /// Tokens per second of one sequence
    Decode(BenchDecodeArgs),
    /// Tokens per second of a prompt
    Prefill(BenchArgs),
    /// Tokens per second of several sequences at once
    Batch(BenchBatchArgs),
    /// What more rows at once cost: every block format, or with MODEL the whole engine
    Width(BenchWidthArgs),
    /// What a prompt saves that begins like the one before it: 0 to 95 percent
    Prefix(BenchPrefixArgs),
    /// Callers of a server, ours or another: latencies, rates, errors, fairness
    Serve(Box<BenchServeArgs>),
    /// Another engine and ours in turn, on the same file and token ids
    Vs(BenchVsArgs),
    /// The 87 published operations: published, numpy, ours
    Ops(BenchOpsArgs),
}

impl BenchCommand {
    /// Whether it times anything, and so wants the machine to itself.
    pub fn measures(&self) -> bool {
        !matches!(self, BenchCommand::Prompts(_))
    }
}

/// Which prompts.
#[derive(Debug, Args, Clone)]
pub struct PromptArgs {
    /// Pinned prompts: short, prose, long, code-edit, chat
    #[arg(long, default_value = "short", value_delimiter = ',', value_name = "NAME,…")]
    pub prompts: Vec<String>,
    /// A text instead of the pinned prompts
    #[arg(long, value_name = "FILE", conflicts_with = "prompts")]
    pub prompt_file: Option<PathBuf>,
    /// Cuts each prompt to this many tokens; prose and long have some 6000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt_tokens: Option<u32>,
}

/// Arguments of `bench sample`.
#[derive(Debug, Args)]
pub struct BenchSampleArgs {
    /// A path, a name of the store, or hf:…
    pub model: Option<String>,
    /// Which prompts.
    #[command(flatten)]
    pub prompts: PromptArgs,
    /// Token ids instead of text: a JSON list, or what `bench prompts --json` printed, of which --prompts are taken
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt_file", "prompt_tokens"])]
    pub ids: Option<PathBuf>,
    /// Requests before counting starts
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub warmup: u32,
    /// Rounds over the prompts
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeats: u32,
    /// New tokens per request
    #[arg(short = 'n', long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// 0 always takes the likeliest token
    #[arg(short, long, default_value_t = 0.0, value_name = "T", allow_negative_numbers = true)]
    pub temperature: f32,
    /// The same seed gives the same tokens
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// The model's end token ends a request; without it each runs to its full length
    #[arg(long)]
    pub stop_at_eos: bool,
    /// Leaves out the read ceiling before and after
    #[arg(long)]
    pub no_ceiling: bool,
    /// Requests of different text side by side in one engine, so many at once; --prompts then only warm
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256), help_heading = "Side by side")]
    pub streams: Option<u32>,
    /// Requests in all [default: twice --streams]
    #[arg(long, value_name = "N", requires = "streams", value_parser = clap::value_parser!(u32).range(1..=100_000),
          help_heading = "Side by side")]
    pub requests: Option<u32>,
    /// Tokens that all of them begin with
    #[arg(long, default_value_t = 0, value_name = "N", requires = "streams", help_heading = "Side by side")]
    pub shared_tokens: u32,
    /// Tokens of each behind those
    #[arg(long, default_value = "16-160", value_name = "FEWEST-MOST", value_parser = super::range, requires = "streams",
          help_heading = "Side by side")]
    pub stream_tokens: (usize, usize),
    /// Who asks: share of the requests, and of the service
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAME=LOAD[:WEIGHT],…",
        requires = "streams",
        help_heading = "Side by side"
    )]
    pub tenants: Vec<String>,
    /// What is measured of the output beyond its tokens.
    #[command(flatten)]
    pub score: ScoreArgs,
    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// What is measured of the output beyond its tokens; uncounted, after the requests.
#[derive(Debug, Args, Clone)]
pub struct ScoreArgs {
    /// Scores this many tokens of the pinned held-out text: how likely each is
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub score: Option<u32>,
    /// Writes the logits at each scored position here, for another process to compare with
    #[arg(long, value_name = "FILE", requires = "score")]
    pub keep_reference: Option<PathBuf>,
    /// Compares the distributions with those of a reference
    #[arg(long, value_name = "FILE", requires = "score", conflicts_with = "keep_reference")]
    pub reference: Option<PathBuf>,
    /// Answers the graded items by likelihood
    #[arg(long)]
    pub task: bool,
}

/// Arguments of `bench prompts`.
#[derive(Debug, Args)]
pub struct BenchPromptsArgs {
    /// A path, a name of the store, or hf:…
    pub model: Option<String>,
    /// Pinned prompts [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub prompts: Vec<String>,
    /// Cuts each prompt to this many tokens; prose and long have some 6000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt_tokens: Option<u32>,
}

/// Arguments of `bench decode`.
#[derive(Debug, Args)]
pub struct BenchDecodeArgs {
    /// Those of `bench prefill`.
    #[command(flatten)]
    pub bench: BenchArgs,
    /// Prompt tokens that every new token attends to; beyond some 6000 give --prompt-file
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub depth: u32,
}

/// Arguments of `bench decode` and `bench prefill`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// A path, a name of the store, or hf:…
    pub model: Option<String>,
    /// Tokens per request
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens: u32,
    /// Counted requests, after one uncounted
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeats: u32,
    /// Text for the prompts instead of the built-in prose
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// Arguments of `bench batch`.
#[derive(Debug, Args)]
pub struct BenchBatchArgs {
    /// A path, a name of the store, or hf:…
    pub model: Option<String>,
    /// Tokens per sequence
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens: u32,
    /// Sequences at once
    #[arg(long, default_value = "1,2,4,8,16", value_delimiter = ',', value_name = "N,…",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: Vec<u32>,
    /// Text for the prompts instead of the built-in prose
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// Arguments of `bench width`.
#[derive(Debug, Args)]
pub struct BenchWidthArgs {
    /// A path, a name of the store, or hf:…; without it the block formats are measured
    pub model: Option<String>,
    /// Block formats [default: all]
    #[arg(long, value_delimiter = ',', value_name = "FORMAT,…", conflicts_with = "model")]
    pub formats: Vec<String>,
    /// Weights of each block format, more than the caches hold, MB
    #[arg(long, default_value_t = 256, value_name = "MB", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub bytes: u32,
    /// Rounds over all widths; costs are medians of ratios within a round
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Keeps the table of a model for `explain`, which then says from which acceptance on a draft pays
    #[arg(long, requires = "model")]
    pub save: bool,
    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// Arguments of `bench prefix`.
#[derive(Debug, Args)]
pub struct BenchPrefixArgs {
    /// A path, a name of the store, or hf:…
    pub model: Option<String>,
    /// Tokens of every prompt
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(32..))]
    pub tokens: u32,
    /// Percent of a prompt that the one before began with
    #[arg(long, default_value = "0,25,50,75,90,95", value_delimiter = ',', value_name = "PERCENT,…",
          value_parser = clap::value_parser!(u32).range(0..=100))]
    pub shares: Vec<u32>,
    /// Counted prompts per share
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeats: u32,
    /// Text for the prompts instead of the built-in prose
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// Arguments of `bench ops`.
#[derive(Debug, Args)]
pub struct BenchOpsArgs {
    /// Runs twins of the landed operations in the same run and prints the ratio
    #[arg(long, value_name = "WHAT")]
    pub vs: Option<Twins>,
    /// Worker threads [default: the cores this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
}

/// Whose twins.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Twins {
    /// python3 with numpy
    Numpy,
}

/// Arguments of `bench vs`.
#[derive(Debug, Args)]
pub struct BenchVsArgs {
    /// The other engine; all but llama-bench are Python packages
    pub engine: Engine,
    /// A path to a GGUF file, a name of the store, or hf:…
    pub model: Option<String>,
    /// What is measured (repeatable)
    #[arg(long, value_enum, value_delimiter = ',', default_value = "decode,prefill", value_name = "WORK,…")]
    pub work: Vec<VsWork>,
    /// Pairs, after one uncounted sample of each side
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub pairs: u32,
    /// New tokens per stream of decode, batch and context
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub tokens: u32,
    /// Prompt tokens of prefill
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt: u32,
    /// Prompt tokens of context
    #[arg(long, default_value_t = 4096, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub depth: u32,
    /// Streams of batch
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: u32,
    /// The binary of llama-bench [default: llama-bench on the path; for batch llama-batched-bench]
    #[arg(long, value_name = "PATH")]
    pub bin: Option<PathBuf>,
    /// What the other engine is called in the row, such as a fork behind --bin
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Passes an argument on to the binary (repeatable)
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub peer_arg: Vec<String>,
    /// The Python of the other engines
    #[arg(long, default_value = "python3", value_name = "PATH")]
    pub python: PathBuf,
    /// Text for the prompts instead of the built-in prose
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// How the model is loaded; --threads holds for both sides.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// Engines that tamp can be laid beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// llama.cpp through llama-cpp-python
    #[value(name = "llama.cpp")]
    LlamaCpp,
    /// A llama-bench binary, of llama.cpp or of a fork
    LlamaBench,
    /// mistral.rs
    Mistralrs,
    /// OpenVINO GenAI
    Openvino,
}

/// What `bench vs` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum VsWork {
    /// One stream
    Decode,
    /// A prompt
    Prefill,
    /// Several streams in the same steps
    Batch,
    /// One stream behind a long prompt
    Context,
}

/// Arguments of `bench generate`.
#[derive(Debug, Args)]
pub struct BenchGenerateArgs {
    /// A path, a name of the store, or hf:…
    pub model: Option<String>,
    /// The prompt, taken as it is
    #[arg(long, default_value = "Hello", value_name = "TEXT")]
    pub prompt: String,
    /// Tokens per request; the model's end token does not stop it
    #[arg(short = 'n', long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// Requests before counting starts
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub warmup: u32,
    /// Requests counted
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub iterations: u32,
    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArgs,
}
