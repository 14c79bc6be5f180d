//! What became of one request.

use std::time::Duration;

use super::Ask;
use super::script::Kind;

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Error {
    /// no connection could be opened
    Refused,
    /// a status of 400 to 499 but 429
    Status4xx,
    /// the status 429
    Status429,
    /// a status of 500 to 599, or another that is no success
    Status5xx,
    /// a failure that the server reported inside an answer
    Server,
    /// the connection or the stream ended before the answer did
    Cut,
    /// an answer that is not what the API says
    BadJson,
    /// nothing came for too long
    Timeout,
    /// usage, chunks and what was asked for disagree about the number of tokens
    Count,
}

impl Error {
    /// The kind of a status that is not 200.
    pub(super) fn of(status: u16) -> Error {
        match status {
            429 => Error::Status429,
            400..=499 => Error::Status4xx,
            _ => Error::Status5xx,
        }
    }

    /// Its name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Error::Refused => "refused",
            Error::Status4xx => "4xx",
            Error::Status429 => "429",
            Error::Status5xx => "5xx",
            Error::Server => "in_answer",
            Error::Cut => "cut",
            Error::BadJson => "bad_json",
            Error::Timeout => "timeout",
            Error::Count => "count",
        }
    }
}

/// One request. Times count from the start of the load.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// of its session
    pub index: usize,
    /// turn within the session
    pub turn: usize,
    pub tenant: usize,
    pub kind: Kind,
    /// when it was meant to be sent; latencies count from here
    pub intended: Duration,
    /// when it was handed to a connection
    pub sent: Duration,
    /// first token
    pub first: Option<Duration>,
    /// arrival of each chunk that stands for tokens, ns
    pub at: Vec<u64>,
    pub end: Duration,
    pub status: u16,
    /// seconds after which the server asks to be asked again
    pub retry_after: Option<u64>,
    pub error: Option<Error>,
    pub why: String,
    pub request_bytes: usize,
    pub max_tokens: usize,
    pub prompt_tokens: Option<u64>,
    pub cached: Option<u64>,
    /// completion tokens as `usage` says
    pub usage: Option<u64>,
    /// chunks that stand for tokens
    pub chunks: u64,
    pub text: String,
    pub finish: String,
    pub hung_up: bool,
    pub stalled: bool,
}

impl Outcome {
    pub(super) fn new(index: usize, turn: usize, tenant: usize, intended: Duration) -> Outcome {
        Outcome {
            index,
            turn,
            tenant,
            kind: Kind::Usual,
            intended,
            sent: intended,
            first: None,
            at: Vec::new(),
            end: intended,
            status: 0,
            retry_after: None,
            error: None,
            why: String::new(),
            request_bytes: 0,
            max_tokens: 0,
            prompt_tokens: None,
            cached: None,
            usage: None,
            chunks: 0,
            text: String::new(),
            finish: String::new(),
            hung_up: false,
            stalled: false,
        }
    }

    /// A token came.
    pub(super) fn token_at(&mut self, now: Duration) {
        self.first.get_or_insert(now);
        self.at.push(now.as_nanos() as u64);
        self.chunks += 1;
    }

    /// It was answered to its end, and right.
    pub(super) fn ok(&self) -> bool {
        self.error.is_none() && !self.hung_up
    }

    /// Its latencies say something about the server: answered, by a reader that read.
    pub(super) fn timed(&self) -> bool {
        self.ok() && !self.stalled
    }

    /// New tokens: what `usage` counts, else chunks.
    pub(super) fn tokens(&self) -> u64 {
        self.usage.unwrap_or(self.chunks)
    }

    /// Intended time → first token.
    pub(super) fn ttft(&self) -> Option<Duration> {
        self.first.map(|f| f.saturating_sub(self.intended))
    }

    /// Intended time → last token.
    pub(super) fn e2e(&self) -> Duration {
        self.last().saturating_sub(self.intended)
    }

    /// The last token, or the end where there is none.
    pub(super) fn last(&self) -> Duration {
        self.at.last().map_or(self.end, |&ns| Duration::from_nanos(ns))
    }

    /// Mean time between tokens, of an answer with two or more.
    pub(super) fn mean_gap(&self) -> Option<Duration> {
        let (first, more) = (self.first?, self.tokens().checked_sub(1).filter(|&n| n > 0)?);
        Some(self.last().saturating_sub(first) / u32::try_from(more).unwrap_or(u32::MAX))
    }
}

/// Why the counts of an answer cannot be right. What is compared:
///
/// | rule | because |
/// |---|---|
/// | usage is there for an answer that is no stream | nothing else counts its tokens |
/// | `finish_reason` length → usage = what was asked for | that is what it means |
/// | usage ≤ what was asked for | nobody asked for more |
/// | chunks with text ≤ usage | each holds a token at least |
/// | usage ≤ chunks × `--chunk-tokens`, an end token, and three per character beyond ASCII | those are the tokens without a chunk; not looked at with `--ignore-eos`, which makes tokens without text |
pub(super) fn miscounted(o: &Outcome, ask: &Ask) -> Option<String> {
    let most = o.max_tokens as u64;
    let Some(usage) = o.usage else {
        let chunks = o.chunks;
        return if !ask.stream {
            Some("the answer has no usage".into())
        } else {
            (chunks > most).then(|| format!("{chunks} chunks for {most} tokens"))
        };
    };
    if usage > most || (o.finish == "length" && usage != most) {
        return Some(format!("usage says {usage} tokens of {most}, finish_reason `{}`", o.finish));
    }
    if o.chunks > usage {
        return Some(format!("{} chunks with text, and usage says {usage} tokens", o.chunks));
    }
    let wide = o.text.chars().filter(|c| !c.is_ascii()).count() as u64;
    let end = u64::from(o.finish != "length");
    let explained = o.chunks * ask.chunk_tokens as u64 + 3 * wide + end;
    (ask.stream && !ask.ignore_eos && usage > explained).then(|| {
        format!(
            "usage says {usage} tokens, and {} chunks came (--chunk-tokens {})",
            o.chunks, ask.chunk_tokens
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::tests::ask;

    #[test]
    fn counts_that_cannot_be_right_are_found_and_those_that_can_are_not() {
        let a = ask();
        let o = |chunks, usage, finish: &str, text: &str| Outcome {
            chunks,
            usage,
            finish: finish.into(),
            text: text.into(),
            max_tokens: 10,
            ..Outcome::new(0, 0, 0, Duration::ZERO)
        };
        let good = [
            o(10, Some(10), "length", "a"),
            o(5, Some(6), "stop", "a"),
            o(6, Some(6), "stop", "a"),
            o(7, Some(10), "length", "🦀"),
            o(4, None, "stop", "a"),
        ];
        for g in good {
            assert_eq!(miscounted(&g, &a), None, "{g:?}");
        }
        let bad = [
            o(9, Some(9), "length", "a"),
            o(9, Some(10), "length", "a"),
            o(10, Some(11), "stop", "a"),
            o(6, Some(5), "stop", "a"),
            o(5, Some(7), "stop", "a"),
            o(0, Some(3), "stop", ""),
            o(11, None, "stop", "a"),
        ];
        for b in bad {
            assert!(miscounted(&b, &a).is_some(), "{b:?}");
        }
        // Several tokens may come in one chunk where that is said.
        let four = Ask { chunk_tokens: 4, ..ask() };
        assert_eq!(miscounted(&o(3, Some(10), "length", "a"), &four), None);
        assert!(miscounted(&o(2, Some(10), "length", "a"), &four).is_some());
        let whole = Ask { stream: false, ..ask() };
        assert_eq!(miscounted(&o(0, Some(10), "length", "a"), &whole), None);
        assert!(miscounted(&o(0, None, "length", "a"), &whole).is_some());
    }
}
