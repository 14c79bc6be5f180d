//! The words of the command line. Help and completions are printed from these.

mod bench;
mod bench_serve;
mod lab;
mod serve;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::fail::EXIT_CODES;

pub use bench::*;
pub use bench_serve::*;
pub use lab::*;
pub use serve::*;

/// Runs language models on your own machine, measures how fast, and says why.
#[derive(Debug, Parser)]
#[command(name = "tamp", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// The last line of stdout is one JSON object
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// Chooses a technique, such as --use spec.propose=none (repeatable)
    #[arg(long = "use", global = true, value_name = "ROOM=NAME", help_heading = "Everywhere")]
    pub uses: Vec<String>,
    /// Sets a knob of a technique, room.name.knob=value (repeatable)
    #[arg(long = "set", global = true, value_name = "KNOB=VALUE", help_heading = "Everywhere")]
    pub sets: Vec<String>,
    /// Reads this file instead of ./tamp.toml and the user's tamp.toml
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub config: Option<PathBuf>,
    /// Folder of the local models [default: TAMP_STORE, else the platform's data folder]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Everywhere")]
    pub store: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Streams an answer to one prompt
    Run(RunArgs),
    /// Talks with a model in the terminal
    Chat(ChatArgs),
    /// Serves models over HTTP: OpenAI's API, many callers at once
    Serve(ServeArgs),
    /// Makes keys for `serve`
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Measures: whole requests, decode, prefill, batches, what more rows cost
    Bench(Bench),
    /// Experiments that can fail: specs, runs, verdicts, the ledger, the report
    Lab(LabArgs),
    /// Shows the plan before it runs: kernels, formats, memory, settings and where they came from
    Explain(ExplainArgs),
    /// Fetches a model: smollm2, a name of --catalog, or hf:org/repo/file.gguf[@revision]
    Pull(PullArgs),
    /// Lists the models of the local store
    List,
    /// Converts a model (GGUF, safetensors folder, llama2.c .bin, ONNX folder, bundle) to a bundle, GGUF or safetensors
    Convert(ConvertArgs),
    /// Checks and describes bundles
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Writes a model with other block formats
    Quantize(QuantizeArgs),
    /// Prints the token ids of a text
    Tokenize(TokenizeArgs),
    /// Measures quality
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Lists the techniques, their claims and knobs
    Techniques(TechniquesArgs),
    /// Generates text, or measures whole requests with --benchmark-generate
    Generate(GenerateArgs),
    /// Prints a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// How the model is loaded.
#[derive(Debug, Args, Clone, Default)]
pub struct LoadArgs {
    /// Worker threads [default: the cores this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Context in tokens [default: the model's, or what fits]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
}

/// How tokens are chosen.
#[derive(Debug, Args, Clone)]
pub struct SampleArgs {
    /// Stops after this many tokens [default: until the model ends or the context is full]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// 0 always takes the likeliest token
    #[arg(short, long, default_value_t = 0.8, value_name = "T", allow_negative_numbers = true)]
    pub temperature: f32,
    /// Keeps the smallest set of tokens with this much probability; 1 keeps all
    #[arg(long, default_value_t = 0.95, value_name = "P", allow_negative_numbers = true)]
    pub top_p: f32,
    /// Keeps the k likeliest tokens; 0 keeps all
    #[arg(long, default_value_t = 40, value_name = "K")]
    pub top_k: u32,
    /// Drops tokens below this fraction of the likeliest one's probability; 0 drops none
    #[arg(long, default_value_t = 0.05, value_name = "P", allow_negative_numbers = true)]
    pub min_p: f32,
    /// Divides the logits of tokens already seen; 1 does nothing
    #[arg(long, default_value_t = 1.0, value_name = "X", allow_negative_numbers = true)]
    pub repetition_penalty: f32,
    /// Subtracted from logits of tokens already generated
    #[arg(long, default_value_t = 0.0, value_name = "X", allow_hyphen_values = true)]
    pub presence_penalty: f32,
    /// Subtracted once per time a token was generated
    #[arg(long, default_value_t = 0.0, value_name = "X", allow_hyphen_values = true)]
    pub frequency_penalty: f32,
    /// The same seed gives the same tokens [default: drawn anew]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Stops before this text (repeatable)
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Goes on after the model's end token
    #[arg(long)]
    pub ignore_eos: bool,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// [MODEL] "prompt": a path, a name of the store, or hf:…; the default model when there is only a prompt.
    /// `-` or no prompt reads it from stdin
    #[arg(value_name = "MODEL] [PROMPT", num_args = 0..=2)]
    pub words: Vec<String>,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sample: SampleArgs,
    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArgs,
    /// The system message [default: "You are a helpful assistant."]; empty: none, so the template's own applies
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,
    /// The prompt is taken as it is, without a chat template
    #[arg(long)]
    pub raw: bool,
    /// So many answers to the one prompt, which is computed once
    #[arg(long = "n", default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub answers: u32,
}

/// Arguments of `chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// A path, a name of the store, or hf:…
    pub model: Option<String>,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sample: SampleArgs,
    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArgs,
    /// The system message [default: "You are a helpful assistant."]; empty: none, so the template's own applies
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
}

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The prompt
    pub prompt: String,
    /// A model: a path, a name of the store, or hf:…
    #[arg(long, alias = "model", value_name = "MODEL")]
    pub bundle: Option<String>,
    /// Measures whole requests instead of answering
    #[arg(long)]
    pub benchmark_generate: bool,
    /// Requests before counting starts
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub compare_warmup: u32,
    /// Requests counted
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub compare_iterations: u32,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sample: SampleArgs,
    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArgs,
    /// The system message [default: "You are a helpful assistant."]; empty: none, so the template's own applies
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,
    /// The prompt is taken as it is, without a chat template
    #[arg(long)]
    pub raw: bool,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A path, a name of the store, or hf:…
    pub model: Option<String>,
    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Sequences at once, for the second memory figure [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: Option<u32>,
}

/// Arguments of `pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// smollm2, a name of the catalogue, or hf:org/repo/file.gguf[@revision]
    pub name: String,
    /// A catalogue file with more names
    #[arg(long, value_name = "FILE")]
    pub catalog: Option<PathBuf>,
}

/// Arguments of `convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// A path, a name of the store, or hf:…
    pub input: String,
    /// The bundle (.tamp), file (.gguf) or folder (safetensors) to write
    pub output: PathBuf,
    /// How a bundle holds its matrices: packed for this machine's kernels, or as rows that any machine repacks at load
    #[arg(long, value_enum, default_value_t = LayoutArg::Packed)]
    pub layout: LayoutArg,
}

/// How a bundle holds its matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LayoutArg {
    /// tiles: loads by a map alone
    Packed,
    /// file order: portable
    Rows,
}

/// Commands of `bundle`.
#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Holds every section of a bundle to its hash
    Verify(BundleArgs),
    /// Shows what a bundle says of itself
    Show(BundleArgs),
}

/// Arguments of the commands of `bundle`.
#[derive(Debug, Args)]
pub struct BundleArgs {
    /// A .tamp file, or the name of one in the store
    pub file: String,
}

/// Arguments of `quantize`.
#[derive(Debug, Args)]
pub struct QuantizeArgs {
    /// A path, a name of the store, or hf:…
    pub input: String,
    /// The GGUF file to write
    pub output: PathBuf,
    /// Format or recipe, such as q4_k or q4_k_m
    #[arg(long, value_name = "FORMAT")]
    pub to: String,
    /// Threads [default: the cores this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
}

/// Arguments of `tokenize`.
#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// A path, a name of the store, or hf:…
    pub model: Option<String>,
    /// The text
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    pub text: Option<String>,
    /// A file with the text; `-` is stdin
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Without the tokens the model wants at the ends (BOS, EOS)
    #[arg(long)]
    pub plain: bool,
    /// Special tokens written in the text, such as <|im_end|>, stay text
    #[arg(long)]
    pub no_special: bool,
}

/// Commands of `eval`.
#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// Perplexity of a text, with llama-perplexity's windows
    Ppl(PplArgs),
}

/// Arguments of `eval ppl`.
#[derive(Debug, Args)]
pub struct PplArgs {
    /// A path, a name of the store, or hf:…
    pub model: Option<String>,
    /// A file with the text
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Tokens per window; the second half of each is scored
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(8..))]
    pub ctx: u32,
    /// Stops after this many windows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub chunks: Option<u32>,
    /// Writes the logits of the scored positions as raw little-endian f32, row after row
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
    /// Worker threads [default: the cores this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
}

/// Arguments of `techniques`.
#[derive(Debug, Args)]
pub struct TechniquesArgs {
    /// One technique: a name, or room.name
    pub name: Option<String>,
    /// As the page docs/techniques.md
    #[arg(long)]
    pub markdown: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_counted_command_of_the_field_is_understood_word_for_word() {
        let words = "tamp generate --bundle M --max-tokens 64 --benchmark-generate --compare-warmup 1 \
                     --compare-iterations 3 Hello";
        let Command::Generate(g) = Cli::try_parse_from(words.split_whitespace()).unwrap().command else {
            panic!()
        };
        assert!(g.benchmark_generate && g.prompt == "Hello" && g.bundle.as_deref() == Some("M"));
        assert_eq!((g.sample.max_tokens, g.compare_warmup, g.compare_iterations), (Some(64), 1, 3));
    }

    #[test]
    fn a_slip_in_a_flag_is_answered_with_the_near_one() {
        let e = Cli::try_parse_from(["tamp", "run", "--temprature", "0", "x"]).unwrap_err().to_string();
        assert!(e.contains("--temperature"), "{e}");
    }
}
