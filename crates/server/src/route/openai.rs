//! What OpenAI's two answering routes share: the head of an answer, the options of a stream, the pace.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::app::App;
use crate::ask::Ask;
use crate::error::ApiError;
use crate::layer::thinkgate;
use crate::send::{Pace, TABLE, sse::data};
use crate::wire::form::{Form, object, out_of_range};
use crate::wire::usage::Bill;

/// What every piece of one answer begins with.
pub struct Head {
    kind: &'static str,
    id: String,
    created: u64,
    model: Arc<str>,
    /// what ran: two answers with the same request, seed and fingerprint are the same
    fingerprint: String,
    seed: u64,
    /// why the model was told not to think
    gate: Option<&'static str>,
}

impl Head {
    /// `kind` is OpenAI's `object`, `prefix` the beginning of the id.
    pub fn new(kind: &'static str, prefix: &str, ask: &Ask, seed: u64) -> Self {
        Head {
            kind,
            id: format!("{prefix}-{}", ask.seen.id),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            model: ask.model.name.clone(),
            fingerprint: ask.model.handle.plan().hash.clone(),
            seed,
            gate: None,
        }
    }

    /// Tells that a rule turned thinking off.
    pub fn gated(mut self, rule: Option<&'static str>) -> Self {
        self.gate = rule;
        self
    }

    /// As the beginning of an object.
    pub fn json(&self) -> Value {
        let mut v = json!({
            "id": self.id, "object": self.kind, "created": self.created, "model": &*self.model,
            "system_fingerprint": self.fingerprint, "seed": self.seed,
        });
        thinkgate::tell(self.gate, &mut v);
        v
    }
}

/// `stream_options`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    usage: bool,
}

impl Options {
    /// Reads them.
    ///
    /// # Errors
    /// 400: without `stream` they mean nothing.
    pub fn read(form: &Form) -> Result<Self, ApiError> {
        let Some(v) = form.get("stream_options") else { return Ok(Self::default()) };
        if form.flag("stream") != Some(true) {
            return Err(ApiError::field("stream_options", "`stream_options` is only for `stream`: true"));
        }
        let map = object("stream_options", v, &["include_usage"])?;
        match map.get("include_usage").unwrap_or(&Value::Null) {
            Value::Null => Ok(Self::default()),
            Value::Bool(usage) => Ok(Self { usage: *usage }),
            other => Err(out_of_range("stream_options.include_usage", other, "true or false")),
        }
    }

    /// Where the usage comes last, every other event says that it is not in it.
    pub fn mark(&self, v: &mut Value) {
        if self.usage {
            v["usage"] = Value::Null;
        }
    }

    /// The last words of a stream.
    pub fn end(&self, mut head: Value, bill: &Bill, out: &mut Vec<u8>) {
        if self.usage {
            head["choices"] = json!([]);
            head["usage"] = bill.json();
            data(&head, out);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}

/// The pace that the operator chose.
pub fn pace(app: &App) -> Result<Box<dyn Pace>, ApiError> {
    TABLE.open(&(), &app.settings).map(|(pace, _)| pace).map_err(|e| ApiError::internal(e.to_string()))
}
