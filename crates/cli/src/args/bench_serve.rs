//! The words of `tamp bench serve`.

use std::path::PathBuf;

use clap::Args;

use super::LoadArgs;

/// Arguments of `bench serve`.
#[derive(Debug, Args)]
pub struct BenchServeArgs {
    /// A model for a server of our own: a path, a name of the store, or hf:…
    #[arg(conflicts_with_all = ["url", "server"])]
    pub model: Option<String>,
    /// A server that runs already, such as http://127.0.0.1:8080
    #[arg(long, value_name = "URL", help_heading = "Which server")]
    pub url: Option<String>,
    /// Starts another server and ends it: a command with {port} where its port belongs
    #[arg(long, value_name = "COMMAND", conflicts_with = "url", help_heading = "Which server")]
    pub server: Option<String>,
    /// Starts `tamp serve MODEL`; so it is without --url and --server
    #[arg(long, conflicts_with_all = ["url", "server"], help_heading = "Which server")]
    pub spawn: bool,
    /// Passes a word on to `tamp serve` (repeatable)
    #[arg(long, value_name = "WORD", allow_hyphen_values = true, conflicts_with_all = ["url", "server"],
          help_heading = "Which server")]
    pub serve_arg: Vec<String>,
    /// Seconds a server may take to be ready
    #[arg(long, default_value_t = 120, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=86400),
          help_heading = "Which server")]
    pub ready_timeout: u32,
    /// The field `model` of every request [default: the first of the server's /v1/models]
    #[arg(long, value_name = "NAME", help_heading = "Which server")]
    pub name: Option<String>,
    /// A key, or env:VARIABLE that holds one, and its share of the requests (repeatable)
    #[arg(long, value_name = "KEY[@LOAD]", help_heading = "Which server")]
    pub key: Vec<String>,
    /// A TOML file with [[tenant]] entries: name, key, load, weight
    #[arg(long, value_name = "FILE", conflicts_with = "key", help_heading = "Which server")]
    pub tenants: Option<PathBuf>,

    /// Closed loop: so many callers, each waiting for its answer [default: 8]
    #[arg(short, long, value_name = "N", help_heading = "How requests are sent")]
    pub concurrency: Option<usize>,
    /// Open loop: so many requests a second, whatever became of those before
    #[arg(long, value_name = "R", conflicts_with = "concurrency", help_heading = "How requests are sent")]
    pub rate: Option<f64>,
    /// How they arrive: poisson, constant, burst, gamma:SHAPE
    #[arg(
        long,
        default_value = "poisson",
        value_name = "ARRIVAL",
        requires = "rate",
        help_heading = "How requests are sent"
    )]
    pub arrival: String,
    /// Counted requests [default: 64 without --duration]
    #[arg(short = 'r', long, value_name = "N", help_heading = "How requests are sent")]
    pub requests: Option<usize>,
    /// Seconds in which requests begin
    #[arg(long, value_name = "S", help_heading = "How requests are sent")]
    pub duration: Option<f64>,
    /// Requests before counting starts
    #[arg(long, default_value_t = 4, value_name = "N", help_heading = "How requests are sent")]
    pub warmup: usize,
    /// Requests under way at once in an open loop, most; one that waits for its turn waits on its own account
    #[arg(long, default_value_t = 1000, value_name = "N", help_heading = "How requests are sent")]
    pub max_in_flight: usize,
    /// Seconds of silence after which a request counts as lost
    #[arg(long, default_value_t = 120.0, value_name = "S", help_heading = "How requests are sent")]
    pub timeout: f64,
    /// The same requests one after another and together, in turn: prints the ratio
    #[arg(long, conflicts_with_all = ["rate", "duration"], help_heading = "How requests are sent")]
    pub vs_sequential: bool,
    /// Rounds of --vs-sequential
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000),
          requires = "vs_sequential", help_heading = "How requests are sent")]
    pub rounds: u32,

    /// What is asked
    #[arg(long, value_enum, default_value_t = ServeWork::Chat, value_name = "WORK", help_heading = "What is asked")]
    pub workload: ServeWork,
    /// Tokens of what a user says, about
    #[arg(long, default_value = "32-256", value_name = "FEWEST-MOST", value_parser = super::range,
          help_heading = "What is asked")]
    pub prompt_tokens: (usize, usize),
    /// New tokens
    #[arg(short = 'n', long, default_value = "32-128", value_name = "FEWEST-MOST", value_parser = super::range,
          help_heading = "What is asked")]
    pub max_tokens: (usize, usize),
    /// Turns of a conversation of the workload agent
    #[arg(long, default_value_t = 4, value_name = "N", help_heading = "What is asked")]
    pub turns: usize,
    /// Text for the prompts instead of the built-in ones
    #[arg(long, value_name = "FILE", help_heading = "What is asked")]
    pub prompt_file: Option<PathBuf>,
    /// Whole answers instead of streams
    #[arg(long, overrides_with = "stream", help_heading = "What is asked")]
    pub no_stream: bool,
    /// Answers token by token; so it is without --no-stream
    #[arg(long, help_heading = "What is asked")]
    pub stream: bool,
    /// Asks for answers of full length (`ignore_eos`, which not every server knows)
    #[arg(long, help_heading = "What is asked")]
    pub ignore_eos: bool,
    /// 0 always takes the likeliest token
    #[arg(
        short,
        long,
        default_value_t = 0.0,
        value_name = "T",
        allow_negative_numbers = true,
        help_heading = "What is asked"
    )]
    pub temperature: f64,
    /// Of lengths, texts, arrivals and the server's sampler
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "What is asked")]
    pub seed: u64,
    /// More fields of every request, as JSON
    #[arg(long, value_name = "{…}", help_heading = "What is asked")]
    pub body: Option<String>,

    /// Limits of a good request: ttft=TIME,itl=TIME,e2e=TIME, as 200ms or 2s
    #[arg(long, value_name = "LIMITS", help_heading = "How callers behave and what they expect")]
    pub slo: Option<String>,
    /// Share of requests that are left before their end
    #[arg(
        long,
        default_value_t = 0.0,
        value_name = "P",
        help_heading = "How callers behave and what they expect"
    )]
    pub hang_up: f64,
    /// The first N sessions stop reading for so many seconds after their first chunk
    #[arg(long, value_name = "N:SECONDS", help_heading = "How callers behave and what they expect")]
    pub stall: Option<String>,
    /// Most tokens that one chunk may hold; more is an error of counting
    #[arg(
        long,
        default_value_t = 1,
        value_name = "N",
        help_heading = "How callers behave and what they expect"
    )]
    pub chunk_tokens: usize,
    /// How the model of `tamp serve` is loaded.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// What `bench serve` asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ServeWork {
    /// One question per conversation
    Chat,
    /// A text to go on with
    Completion,
    /// Conversations that resend system, tools and history each turn
    Agent,
    /// Questions behind one system prompt of 1 000 tokens
    SharedPrefix,
    /// Short questions while another caller sends prompts of 4 096 tokens
    LongPrompt,
}

/// `A-B`, or `A` for both.
pub fn range(s: &str) -> Result<(usize, usize), String> {
    let number =
        |t: &str| t.parse::<usize>().map_err(|_| format!("`{s}` is neither FEWEST-MOST nor a number"));
    let (lo, hi) = s.split_once('-').unwrap_or((s, s));
    let (lo, hi) = (number(lo)?, number(hi)?);
    if lo == 0 || lo > hi {
        return Err(format!("`{s}` must say 1 ≤ FEWEST ≤ MOST"));
    }
    Ok((lo, hi))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_two_numbers_or_one_and_never_empty() {
        assert_eq!((range("3-9"), range("7")), (Ok((3, 9)), Ok((7, 7))));
        for bad in ["", "-", "9-3", "0-3", "a-b", "1-2-3", "-1"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
