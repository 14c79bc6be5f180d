//! The tables of fields that several routes share. Ranges are those of the engine; the defaults are OpenAI's.

use serde_json::{Value, json};

use super::form::{Field, What, field};

/// Answers per request.
pub const MOST_CHOICES: i64 = 64;
/// Likeliest tokens per position.
pub const MOST_LOGPROBS: i64 = 64;
/// Stop strings, and bytes of each.
pub const MOST_STOPS: (usize, usize) = (16, 512);

fn strings() -> Value {
    json!({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
}

fn texts() -> Value {
    json!({"type": "array", "items": {"type": "string"}})
}

fn biases() -> Value {
    json!({"type": "object", "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}})
}

fn stream_options() -> Value {
    json!({"type": "object", "additionalProperties": false, "properties": {"include_usage": {"type": "boolean"}}})
}

/// Every request says which model.
pub static MODEL: &[Field] =
    &[field("model", What::Text(256), "name of the model; may be left out where only one is served")];

/// How tokens are chosen and when the answer ends.
pub static SAMPLING: &[Field] = &[
    field("temperature", What::Num(0.0, 100.0), "0 always takes the likeliest token [1]"),
    field("top_p", What::Above(0.0, 1.0), "keeps the smallest set of tokens with this much probability [1]"),
    field("top_k", What::Int(-1, 1 << 20), "keeps the k likeliest tokens; 0 and -1 keep all [0]"),
    field(
        "min_p",
        What::Num(0.0, 1.0),
        "drops tokens below this fraction of the likeliest one's probability [0]",
    ),
    field("repetition_penalty", What::Above(0.0, 100.0), "divides the logits of tokens already seen [1]"),
    field(
        "presence_penalty",
        What::Num(-10.0, 10.0),
        "subtracted from logits of tokens already generated [0]",
    ),
    field("frequency_penalty", What::Num(-10.0, 10.0), "subtracted once per time a token was generated [0]"),
    field("logit_bias", What::Own(biases), "token id → number from -100 to 100, added to its logit"),
    field(
        "seed",
        What::Int(i64::MIN, i64::MAX),
        "the same seed gives the same tokens [drawn, and told in the answer]",
    ),
    field(
        "top_n_sigma",
        What::Num(0.0, 100.0),
        "keeps tokens within so many standard deviations of the best logit; 0 keeps all [0]",
    ),
    field(
        "typical_p",
        What::Above(0.0, 1.0),
        "keeps the tokens whose surprise is nearest to the expected one [1]",
    ),
    field("xtc_probability", What::Num(0.0, 1.0), "how often the likeliest tokens are left out [0]"),
    field(
        "xtc_threshold",
        What::Num(0.0, 0.5),
        "the probability that makes a token one of the likeliest [0.1]",
    ),
    field(
        "dry_multiplier",
        What::Num(0.0, 100.0),
        "punishes what would prolong a repeated sequence; 0 does not [0]",
    ),
    field("dry_base", What::Num(1.0, 100.0), "the punishment grows by this factor with each token [1.75]"),
    field("dry_allowed_length", What::Int(1, 1 << 20), "repetitions shorter than this are free, tokens [2]"),
    field("dry_last_n", What::Int(0, 1 << 24), "how many of the last tokens are searched [all]"),
    field(
        "dry_sequence_breakers",
        What::Own(texts),
        "no repetition runs across a token that holds one of these [newline, `:`, `\"`, `*`]",
    ),
    field(
        "mirostat",
        What::Int(0, 2),
        "2 keeps the surprise of the answer at mirostat_tau, in place of the filters; 1 is not known [0]",
    ),
    field("mirostat_tau", What::Above(0.0, 100.0), "the surprise aimed at, bits per token [5]"),
    field("mirostat_eta", What::Num(0.0, 1.0), "how fast it is corrected [0.1]"),
    field(
        "stop",
        What::Own(strings),
        "up to 16 texts of at most 512 bytes that end the answer and are not part of it",
    ),
    field("ignore_eos", What::Bool, "go on after the model's end token [false]"),
    field("max_tokens", What::Int(1, 1 << 24), "new tokens at most [to the end of the context]"),
    field(
        "deadline_ms",
        What::Int(1, 86_400_000),
        "an answer not done by then ends with finish_reason `deadline`",
    ),
    field(
        "explain_cache",
        What::Bool,
        "`usage.cache_miss` says why no more of the prompt was cached [false]",
    ),
    field(
        "cache_salt",
        What::Text(256),
        "narrows whose prefix cache is shared: only requests with the same salt",
    ),
];

/// How the answer is sent.
pub static SENDING: &[Field] = &[
    field("n", What::Int(1, MOST_CHOICES), "answers to one prompt [1]"),
    field("stream", What::Bool, "send tokens as they come, as server-sent events [false]"),
    field("stream_options", What::Own(stream_options), "`include_usage`: a last event with the usage"),
];

/// Fields that some clients send by default and that change nothing here.
pub static IDLE: &[Field] = &[field("user", What::Idle, "without effect: tenants are known by their key")];
