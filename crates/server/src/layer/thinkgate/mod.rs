//! The room `server.thinkgate`: whether a model that can think before it answers is told not to, and why. A gate acts
//! through the template's variable `enable_thinking` alone, never against what the request says itself, and never
//! silently: the answer carries the header `x-tamp-think-gate` and a field `think_gate`.

mod rules;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use serde_json::{Value, json};
use tamp_base::card::{Card, CardError, Effect, Entry, Table};
use tamp_base::count::Acts;
use tamp_base::settings::Settings;
use tamp_text::Message;

use crate::error::ApiError;
use crate::wire::form::{Field, What, field};

/// The template's variable.
pub const VARIABLE: &str = "enable_thinking";

/// What a gate sees of a request.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// the conversation
    pub messages: &'a [Message],
    /// the answer must have a form: a schema, a grammar, a call of a tool
    pub formed: bool,
}

/// Decides.
pub trait Gate: Send + Sync {
    /// The rule by which this answer needs no thinking.
    fn closes(&self, scene: &Scene<'_>) -> Option<&'static str>;
}

/// The room.
pub static TABLE: Table<dyn Gate, ()> = Table { room: "server.thinkgate", rows: &[&NONE, &rules::ENTRY] };

static NONE: Entry<dyn Gate, ()> = Entry {
    card: Card {
        name: "none",
        aka: "",
        about: "the template decides whether the model thinks",
        paper: "",
        claim: "",
        effect: Effect::Identical,
        needs: &[],
        knobs: &[],
    },
    open: |(), _| Ok(Box::new(Open)),
};

struct Open;

impl Gate for Open {
    fn closes(&self, _: &Scene<'_>) -> Option<&'static str> {
        None
    }
}

/// The override of a request.
pub static FIELDS: &[Field] =
    &[field("think_gate", What::Bool, "false: rules of the operator do not turn thinking off [true]")];

/// The operator's gate, opened at its first use, and its counters.
#[derive(Default)]
pub struct State {
    gate: OnceLock<Result<Box<dyn Gate>, CardError>>,
    asked: AtomicU64,
    acted: AtomicU64,
}

impl State {
    /// The rule that turns thinking off. Only asked where the template knows the variable and the request leaves it open.
    ///
    /// # Errors
    /// A wrong name or knob in the settings.
    pub fn closes(&self, settings: &Settings, scene: &Scene<'_>) -> Result<Option<&'static str>, ApiError> {
        let gate = self.gate.get_or_init(|| TABLE.open(&(), settings).map(|(gate, _)| gate));
        let gate = gate.as_ref().map_err(|e| ApiError::internal(e.to_string()))?;
        let rule = gate.closes(scene);
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.acted.fetch_add(u64::from(rule.is_some()), Ordering::Relaxed);
        Ok(rule)
    }

    /// How often it was asked, and acted.
    pub fn acts(&self) -> Acts {
        let (asked, acted) = (self.asked.load(Ordering::Relaxed), self.acted.load(Ordering::Relaxed));
        Acts { asked, acted, declined: asked.saturating_sub(acted) }
    }
}

/// Says in a body that thinking was turned off.
pub fn tell(rule: Option<&'static str>, body: &mut Value) {
    if let Some(rule) = rule {
        body["think_gate"] = json!({"thinking": "off", "rule": rule});
    }
}

/// Says it in the head.
pub fn mark(rule: Option<&'static str>, mut response: Response) -> Response {
    if let Some(rule) = rule
        && let Ok(value) = HeaderValue::from_str(&format!("off (rule {rule})"))
    {
        response.headers_mut().insert(HeaderName::from_static("x-tamp-think-gate"), value);
    }
    response
}
