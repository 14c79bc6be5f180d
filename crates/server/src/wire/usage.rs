//! What an answer took, as the client is told.

use serde_json::{Value, json};
use tamp_engine::Answer;

/// Sums over the answers to one request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bill {
    prompt: usize,
    completion: usize,
    cached: usize,
    tested: u64,
    accepted: u64,
    cost: [u64; 4],
    queue_ns: u64,
    first_ns: u64,
    total_ns: u64,
    why: Option<String>,
}

impl Bill {
    /// Adds one answer. `first` of the answers to its prompt: what they share counts once, whichever of them ends first.
    pub fn add(&mut self, a: &Answer, first: bool) {
        if first {
            self.prompt += a.prompt_tokens.len();
            self.cached += a.usage.cached_tokens;
            self.why = self.why.take().or_else(|| a.usage.cache_miss.clone());
            self.queue_ns = self.queue_ns.max(a.timings.queue_ns);
            self.first_ns = self.first_ns.max(a.timings.first_token_ns);
        }
        self.completion += a.tokens.len();
        self.tested += a.usage.draft_tested;
        self.accepted += a.usage.draft_accepted;
        let c = a.usage.cost;
        for (sum, part) in self.cost.iter_mut().zip([c.prefill_ns, c.decode_ns, c.wasted_ns, c.page_ms]) {
            *sum += part;
        }
        self.total_ns = self.total_ns.max(a.timings.total_ns);
    }

    /// New tokens.
    pub fn completion(&self) -> usize {
        self.completion
    }

    /// OpenAI's `usage`, with ours beside it: milliseconds, and page · milliseconds.
    pub fn json(&self) -> Value {
        let ms = |ns: u64| ns as f64 / 1e6;
        let [prefill, decode, wasted, page_ms] = self.cost;
        let mut v = json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {
                "accepted_prediction_tokens": self.accepted,
                "rejected_prediction_tokens": self.tested.saturating_sub(self.accepted),
            },
            "draft": {"tested": self.tested, "accepted": self.accepted},
            "cost": {"prefill_ms": ms(prefill), "decode_ms": ms(decode), "wasted_ms": ms(wasted), "page_ms": page_ms},
            "timings": {
                "queue_ms": ms(self.queue_ns), "first_token_ms": ms(self.first_ns), "total_ms": ms(self.total_ns),
            },
        });
        if let Some(why) = &self.why {
            v["cache_miss"] = why.clone().into();
        }
        v
    }
}
