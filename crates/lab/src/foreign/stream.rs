//! From the chunks of a stream and their times to one [`RequestRun`].
//!
//! A chunk need not be a token: an engine may put several into one, hold some back until their text is whole, or send
//! none. So tokens are counted by the ids an engine tells, or else by its usage; chunks count as tokens only where one
//! of the two agrees, and the row says so where it does not.

use serde_json::Value;
use tamp_base::record::RequestRun;

use super::Prompt;
use super::sse::Event;

/// An engine may count, and send, the token that ends the text beside those it was asked for.
const SPARE: usize = 1;

/// A chunk that brought something, or the end.
#[derive(Debug)]
struct Piece {
    /// since receipt of the request, ns
    at: u64,
    ids: Vec<u32>,
    text: bool,
}

/// How times between tokens were found, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Times {
    /// every token came in a chunk of its own
    Each,
    /// some chunks held several tokens: a chunk's time is spread evenly over them
    Spread,
    /// only the number of tokens is known: the mean
    Mean,
    /// nothing confirms that a chunk is a token
    Chunks,
}

impl Times {
    /// Its word in rows.
    pub(super) fn word(self) -> &'static str {
        match self {
            Times::Each => "each",
            Times::Spread => "spread",
            Times::Mean => "mean",
            Times::Chunks => "chunks",
        }
    }
}

/// One answered request, and what is to be known about how it was counted.
#[derive(Debug)]
pub(super) struct Done {
    /// the record
    pub run: RequestRun,
    /// how its times were found
    pub times: Times,
    /// every new token's id was told
    pub ids_told: bool,
    /// the engine saw other prompt tokens than ours, or another number of them
    pub other_prompt: bool,
    /// chunks that were read together with the one before, whose distance is therefore unknown
    pub read_together: usize,
}

/// Adds chunks up.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pieces: Vec<Piece>,
    /// time of the chunk that said why it ended
    end: Option<u64>,
    text: String,
    finish: String,
    prompt_tokens: Option<u64>,
    new_tokens: Option<u64>,
    cached: u64,
    prompt_ms: Option<f64>,
    prompt_ids: Option<Vec<u32>>,
    done: bool,
}

impl Tally {
    /// Takes an event that arrived `at` ns after the request was sent; true when nothing may follow. The error is what
    /// the engine reported, or what is wrong with its chunk.
    pub(super) fn take(&mut self, event: &Event, at: u64, max_tokens: usize) -> Result<bool, String> {
        if event.data.trim_ascii() == b"[DONE]" {
            self.done = true;
            return Ok(true);
        }
        let v: Value = serde_json::from_slice(&event.data)
            .map_err(|e| format!("a chunk is no JSON ({e}): {}", glimpse(&event.data)))?;
        let reported = v.get("error").filter(|e| !e.is_null());
        if reported.is_some() || event.kind == b"error" {
            let e = reported.unwrap_or(&v);
            let said = e.get("message").and_then(Value::as_str).map_or_else(|| e.to_string(), str::to_string);
            return Err(format!("the engine reported: {}", glimpse(said.as_bytes())));
        }
        self.counts(&v);
        if let Some(choices) = v.get("choices").and_then(Value::as_array) {
            for c in choices {
                if c.get("index").and_then(Value::as_u64).unwrap_or(0) != 0 {
                    return Err("it answers with more than one choice".into());
                }
                self.choice(&v, c, at);
            }
        } else if let Some(text) = v.get("content").and_then(Value::as_str) {
            self.piece(text, ids(v.get("tokens")), at);
            if v.get("stop") == Some(&Value::Bool(true)) {
                let why = v.get("stop_type").and_then(Value::as_str).unwrap_or("stop");
                self.finish = match why {
                    "limit" => "length".into(),
                    "eos" | "word" | "none" => "stop".into(),
                    other => other.to_string(),
                };
                self.end = Some(at);
                // llama.cpp's own endpoint sends no [DONE].
                self.done = true;
            }
        }
        // What it may send without being asked is bounded: four chunks a token and some.
        let tokens: usize = self.pieces.iter().map(|p| p.ids.len().max(usize::from(p.text))).sum();
        if tokens > max_tokens.saturating_add(SPARE)
            || self.pieces.len() > max_tokens.saturating_mul(4).saturating_add(64)
        {
            return Err(format!("it sent more than the {max_tokens} tokens it was asked for"));
        }
        Ok(self.done)
    }

    /// One choice of OpenAI's shape, of completions or of chat.
    fn choice(&mut self, v: &Value, c: &Value, at: u64) {
        let text = c.get("text").or_else(|| c.get("delta").and_then(|d| d.get("content")));
        let told = [c.get("token_ids"), c.get("tokens"), v.get("__verbose").and_then(|o| o.get("tokens"))];
        let mut new = told.into_iter().map(ids).find(|i| !i.is_empty()).unwrap_or_default();
        if new.is_empty()
            && let Some(list) = c.get("logprobs").and_then(|l| l.get("content")).and_then(Value::as_array)
        {
            let each: Option<Vec<u32>> = list.iter().map(|t| id(t.get("id")?)).collect();
            new = each.unwrap_or_default();
        }
        self.piece(text.and_then(Value::as_str).unwrap_or(""), new, at);
        if let Some(seen) =
            c.get("prompt_token_ids").or_else(|| v.get("prompt_token_ids")).filter(|p| p.is_array())
        {
            self.prompt_ids = Some(ids(Some(seen)));
        }
        if let Some(why) = c.get("finish_reason").and_then(Value::as_str) {
            self.finish = why.to_string();
            self.end = Some(at);
        }
    }

    fn piece(&mut self, text: &str, ids: Vec<u32>, at: u64) {
        if !text.is_empty() || !ids.is_empty() {
            self.text.push_str(text);
            self.pieces.push(Piece { at, ids, text: !text.is_empty() });
        }
    }

    /// What it says about numbers of tokens and its own times.
    fn counts(&mut self, v: &Value) {
        let number = |v: Option<&Value>| v.and_then(Value::as_u64);
        if let Some(u) = v.get("usage").filter(|u| u.is_object()) {
            self.prompt_tokens = number(u.get("prompt_tokens")).or(self.prompt_tokens);
            self.new_tokens = number(u.get("completion_tokens")).or(self.new_tokens);
            let cached = number(u.get("prompt_tokens_details").and_then(|d| d.get("cached_tokens")));
            self.cached = cached.unwrap_or(self.cached);
        }
        if v.get("stop") == Some(&Value::Bool(true)) {
            self.prompt_tokens = number(v.get("tokens_evaluated")).or(self.prompt_tokens);
            self.new_tokens = number(v.get("tokens_predicted")).or(self.new_tokens);
        }
        if let Some(t) = v.get("timings").filter(|t| t.is_object()) {
            self.cached = number(t.get("cache_n")).unwrap_or(self.cached);
            self.prompt_ms = t.get("prompt_ms").and_then(Value::as_f64).or(self.prompt_ms);
            self.new_tokens = self.new_tokens.or(number(t.get("predicted_n")));
        }
    }

    /// The record of the request, once the stream has ended.
    pub(super) fn settle(self, prompt: &Prompt, max_tokens: usize) -> Result<Done, String> {
        if self.finish.is_empty() {
            let seen = self.pieces.len();
            return Err(format!("the stream ended after {seen} chunks without a reason"));
        }
        if self.finish == "error" {
            return Err("it ended with finish_reason error".into());
        }
        let (Some(first), Some(last)) = (self.pieces.first(), self.pieces.last()) else {
            return Err(format!("it ended ({}) without a token", self.finish));
        };
        if let Some(n) = self.new_tokens.filter(|&n| n > max_tokens.saturating_add(SPARE) as u64) {
            return Err(format!("it counts {n} tokens where {max_tokens} were asked for"));
        }
        let told: usize = self.pieces.iter().map(|p| p.ids.len()).sum();
        let each_told = self.pieces.iter().all(|p| !p.ids.is_empty());
        let ids_told = each_told && self.new_tokens.is_none_or(|n| n == told as u64);
        let mut at: Vec<u64> = self.pieces.iter().map(|p| p.at).collect();
        let read_together = at.windows(2).filter(|w| w[0] == w[1]).count();
        let (first_token_ns, mut total_ns) = (first.at, last.at);
        let counted = match (ids_told, self.new_tokens) {
            (true, _) => told,
            (false, Some(n)) => usize::try_from(n).map_err(|_| format!("it counts {n} tokens"))?,
            (false, None) => at.len(),
        };
        // A token that ends the text has none of its own: its chunk is the one with the reason.
        if !ids_told
            && counted == at.len() + 1
            && self.finish == "stop"
            && let Some(end) = self.end
        {
            at.push(end);
            total_ns = end;
        }
        let (times, token_ns) = if ids_told && counted == at.len()
            || !ids_told && self.new_tokens.is_some() && counted == at.len()
        {
            (Times::Each, gaps(&at))
        } else if ids_told {
            let sizes: Vec<usize> = self.pieces.iter().map(|p| p.ids.len()).collect();
            (Times::Spread, spread(&at, &sizes))
        } else if self.new_tokens.is_some() {
            (Times::Mean, mean(first_token_ns, total_ns, counted))
        } else {
            (Times::Chunks, gaps(&at))
        };
        let other_ids = self.prompt_ids.as_ref().is_some_and(|p| *p != prompt.ids);
        let other_count = self.prompt_tokens.is_some_and(|n| n != prompt.ids.len() as u64);
        let tokens =
            if ids_told { self.pieces.into_iter().flat_map(|p| p.ids).collect() } else { Vec::new() };
        let prefill = self.prompt_ms.filter(|ms| (0.0..1e9).contains(ms)).unwrap_or(0.0);
        let run = RequestRun {
            prompt: prompt.name.clone(),
            prompt_hash: prompt.hash.clone(),
            prompt_tokens: prompt.ids.len(),
            cached_tokens: usize::try_from(self.cached).unwrap_or(usize::MAX).min(prompt.ids.len()),
            tokens,
            text: self.text,
            first_token_ns,
            prefill_ns: (prefill * 1e6) as u64,
            token_ns,
            total_ns,
            finish: self.finish,
        };
        Ok(Done { run, times, ids_told, other_prompt: other_ids || other_count, read_together })
    }
}

fn gaps(at: &[u64]) -> Vec<u64> {
    at.windows(2).map(|w| w[1].saturating_sub(w[0])).collect()
}

/// `n - 1` equal gaps that add up to the time from the first to the last chunk.
fn mean(first: u64, last: u64, n: usize) -> Vec<u64> {
    share(last.saturating_sub(first), n.saturating_sub(1))
}

/// `whole` in `n` parts that differ by at most one.
fn share(whole: u64, n: usize) -> Vec<u64> {
    let n64 = n as u64;
    (0..n64).map(|i| whole / n64 + u64::from(i < whole % n64)).collect()
}

/// A chunk's time over its tokens. What the first chunk's other tokens took is inside the time to the first token, so
/// they count with the mean of the rest; without a rest with zero.
fn spread(at: &[u64], sizes: &[usize]) -> Vec<u64> {
    let mut rest = Vec::new();
    for (w, &n) in at.windows(2).zip(sizes.iter().skip(1)) {
        rest.extend(share(w[1].saturating_sub(w[0]), n));
    }
    let typical = if rest.is_empty() { 0 } else { rest.iter().sum::<u64>() / rest.len() as u64 };
    let early = sizes.first().map_or(0, |n| n.saturating_sub(1));
    [vec![typical; early], rest].concat()
}

fn id(v: &Value) -> Option<u32> {
    v.as_u64().and_then(|n| u32::try_from(n).ok())
}

/// A list of token ids; empty when it is none.
fn ids(v: Option<&Value>) -> Vec<u32> {
    let list = v.and_then(Value::as_array);
    list.and_then(|l| l.iter().map(id).collect()).unwrap_or_default()
}

/// The start of some bytes, on one line.
pub(super) fn glimpse(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(1200)]);
    let line: Vec<&str> = text.split_whitespace().collect();
    let line = line.join(" ");
    match line.char_indices().nth(300) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn event(v: &Value) -> Event {
        Event { kind: Vec::new(), data: v.to_string().into_bytes() }
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let key = prop::sample::select(vec![
            "choices",
            "text",
            "index",
            "token_ids",
            "tokens",
            "finish_reason",
            "usage",
            "completion_tokens",
            "prompt_tokens",
            "content",
            "stop",
            "stop_type",
            "timings",
            "prompt_ms",
            "cache_n",
            "error",
            "message",
            "logprobs",
            "id",
            "delta",
            "prompt_token_ids",
            "tokens_predicted",
            "prompt_tokens_details",
            "cached_tokens",
            "__verbose",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (0u64..9).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            let object = prop::collection::btree_map(key.clone(), inner.clone(), 0..6);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                object.prop_map(|m| Value::Object(m.into_iter().map(|(k, v)| (k.to_string(), v)).collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn chunks_of_any_shape_are_counted_or_refused_without_a_panic(
            chunks in prop::collection::vec(json_value(), 0..8), raw in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut tally = Tally::default();
            for (i, c) in chunks.iter().enumerate() {
                let _ = tally.take(&event(c), 1 + i as u64, 16);
            }
            let _ = tally.take(&Event { kind: Vec::new(), data: raw }, 99, 16);
            if let Ok(d) = tally.settle(&Prompt::new("p", vec![1, 2], "x"), 16) {
                prop_assert!(d.run.token_ns.len() <= 16);
            }
        }

        #[test]
        fn whatever_a_chunk_holds_every_token_is_counted_once_and_the_rate_is_that_of_the_stream(
            sizes in prop::collection::vec(1usize..4, 1..12), waits in prop::collection::vec(1u64..1_000_000, 12), told: bool,
        ) {
            let n: usize = sizes.iter().sum();
            let (mut tally, mut at, mut next) = (Tally::default(), 0, 0u32);
            for (&size, &wait) in sizes.iter().zip(&waits) {
                at += wait;
                let ids: Vec<u32> = (next..).take(size).collect();
                next += size as u32;
                let mut c = json!({"index": 0, "text": "x"});
                if told {
                    c["token_ids"] = json!(ids);
                }
                tally.take(&event(&json!({"choices": [c]})), at, n).unwrap();
            }
            let last = json!({"choices": [{"text": "", "finish_reason": "length"}], "usage": {"completion_tokens": n, "prompt_tokens": 2}});
            tally.take(&event(&last), at + 5, n).unwrap();
            let d = tally.settle(&Prompt::new("p", vec![1, 2], "x"), n).unwrap();
            let (r, one_each) = (&d.run, sizes.iter().all(|&s| s == 1));
            prop_assert_eq!(r.token_ns.len() + 1, n);
            prop_assert_eq!(d.times == Times::Each, one_each);
            prop_assert_eq!(&r.tokens, &if told { (0..n as u32).collect() } else { Vec::new() });
            prop_assert_eq!((r.first_token_ns, r.total_ns), (waits[0], at));
            let sum: u64 = r.token_ns.iter().sum();
            // The first chunk's further tokens took part of the time to the first token; they count with the others' mean.
            let (late, after) = (if told && !one_each { n - sizes[0] } else { n - 1 }, at - waits[0]);
            if late > 0 {
                let (got, want) = (sum as f64 / (n - 1) as f64, after as f64 / late as f64);
                prop_assert!((got - want).abs() <= 1.0, "{} {}", got, want);
            }
        }
    }
}
