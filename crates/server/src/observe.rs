//! A request's life, told to whoever watches: metrics, objectives, spans and health need no line in any endpoint.
//!
//! ```text
//! HTTP:      served(…) once per response, refusals included
//! sequence:  admit? → queued → first → token … → ended     one life per choice (`n`), `ended` always comes
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use tamp_base::ids::TenantId;
use tamp_engine::request::Timings;
use tamp_engine::{FinishReason, Usage};

use crate::error::ApiError;

/// Position in a W3C trace, from the request's `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// 16 bytes, not all zero
    pub id: [u8; 16],
    /// the caller's span, not all zero
    pub parent: [u8; 8],
    /// the caller records
    pub sampled: bool,
}

/// What is known of a sequence when it is handed in.
#[derive(Clone, Debug)]
pub struct Facts {
    /// the request's id, as in `x-request-id`
    pub request: Arc<str>,
    /// which of several answers to it
    pub choice: u32,
    /// where the request stands in its caller's trace
    pub trace: Option<Trace>,
    /// the path's pattern, such as `/v1/chat/completions`
    pub route: &'static str,
    /// the model's name
    pub model: Arc<str>,
    /// the caller
    pub tenant: TenantId,
    /// the caller's name, `anonymous` without keys
    pub who: Arc<str>,
    /// when the request's head had been read
    pub received: Instant,
    /// tokens
    pub prompt_tokens: usize,
    /// new tokens at most, where the request said
    pub max_tokens: Option<usize>,
    /// tokens are sent as they come
    pub streams: bool,
}

impl Facts {
    /// The number that the engine's spans of this sequence carry; follows from the request's id. Never 0.
    pub fn number(&self) -> u64 {
        let mut h = blake3::Hasher::new();
        h.update(self.request.as_bytes()).update(&self.choice.to_le_bytes());
        let mut first = [0; 8];
        h.finalize_xof().fill(&mut first);
        u64::from_le_bytes(first) | 1
    }
}

/// How a sequence ended.
#[derive(Clone, Debug)]
pub struct End {
    /// why; `Error` covers an engine that went away
    pub finish: FinishReason,
    /// what failed, when something did
    pub error: Option<String>,
    /// new tokens
    pub tokens: usize,
    /// on the engine's clock
    pub timings: Timings,
    /// cache, drafts, cost
    pub usage: Usage,
}

/// A response, whatever it says.
#[derive(Clone, Debug)]
pub struct Served {
    /// the path's pattern; empty when nothing is there
    pub route: &'static str,
    /// HTTP status
    pub status: u16,
    /// the refusal's code, when it is one
    pub code: Option<&'static str>,
    /// request read → head of the response
    pub took: Duration,
}

/// Watches. Every method is called on the path of a token or a request and must neither block nor allocate much;
/// `queued`, `first`, `token` and `ended` may come from the engine's own thread.
pub trait Observe: Send + Sync {
    /// May refuse a request before it is handed in: shedding, budgets, maintenance.
    fn admit(&self, facts: &Facts) -> Result<(), ApiError> {
        let _ = facts;
        Ok(())
    }
    /// Handed in and accepted by the queue.
    fn queued(&self, facts: &Facts) {
        let _ = facts;
    }
    /// The first token is there, this long after receipt.
    fn first(&self, facts: &Facts, since_receipt: Duration) {
        let _ = (facts, since_receipt);
    }
    /// A further token, this long after the one before; 0 when both came out of one step.
    fn token(&self, facts: &Facts, gap: Duration) {
        let _ = (facts, gap);
    }
    /// It is over.
    fn ended(&self, facts: &Facts, end: &End) {
        let _ = (facts, end);
    }
    /// A response's head is on its way.
    fn served(&self, served: &Served) {
        let _ = served;
    }
}

/// Everybody who watches, in order.
#[derive(Clone, Default)]
pub struct Observers(Arc<Vec<Arc<dyn Observe>>>);

impl Observers {
    /// These.
    pub fn new(all: Vec<Arc<dyn Observe>>) -> Self {
        Self(Arc::new(all))
    }

    /// With one more, told last.
    pub fn with(&self, more: Arc<dyn Observe>) -> Self {
        Self::new(self.0.iter().cloned().chain([more]).collect())
    }

    /// Tells all of them.
    pub fn tell(&self, what: impl Fn(&dyn Observe)) {
        self.0.iter().for_each(|o| what(&**o));
    }

    /// The first refusal, if any.
    pub fn admit(&self, facts: &Facts) -> Result<(), ApiError> {
        self.0.iter().try_for_each(|o| o.admit(facts))
    }
}
