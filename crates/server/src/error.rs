//! What a client is told when it gets no answer, in OpenAI's shape, and why a server cannot start.

use std::time::Duration;

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tamp_engine::{Cause, EngineError, Failure};

/// A server that cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {why}")]
    Bind {
        /// the address
        addr: String,
        /// what the system says
        why: std::io::Error,
    },
    /// Others could reach the server, and nobody would be asked for a key.
    #[error(
        "{addr} can be reached from other machines, and no keys are given; make one with `tamp keys add NAME --keys FILE` \
         and start with --keys FILE, or listen on 127.0.0.1"
    )]
    Open {
        /// the address
        addr: String,
    },
    /// The file of keys.
    #[error("{path}: {why}")]
    Keys {
        /// the file
        path: String,
        /// one sentence
        why: String,
    },
    /// A model that cannot be served.
    #[error("the model `{name}` cannot be served: {why}")]
    Model {
        /// its name
        name: String,
        /// one sentence
        why: String,
    },
    /// Threads, signals or the listener itself.
    #[error("the server cannot go on: {0}")]
    System(#[from] std::io::Error),
    /// A technique, knob or value.
    #[error(transparent)]
    Card(#[from] tamp_base::card::CardError),
}

/// A refusal. Routes of other APIs write it in their own shape: it rides in the response's extensions.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// 4xx: the client's, 429 and 503: later, 5xx: ours
    pub status: StatusCode,
    /// OpenAI's class of errors, such as `invalid_request_error`
    pub kind: &'static str,
    /// a word for programs
    pub code: &'static str,
    /// the field it is about
    pub param: Option<String>,
    /// one sentence: what is wrong and what would be right
    pub message: String,
    /// when to come back
    pub retry_after: Option<Duration>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code, param: None, message: message.into(), retry_after: None }
    }

    /// The request itself is wrong: 400.
    pub fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message)
    }

    /// A field has a value that is not taken: 400 with `param`.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::bad("invalid_value", message) }
    }

    /// A request that this class of error suits better: 404, 405, 408, 413, 415, 431 …
    pub fn status(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(status, "invalid_request_error", code, message)
    }

    /// Nobody knows who asks: 401.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message)
    }

    /// May not: 403.
    pub fn forbidden(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", code, message)
    }

    /// Too many: 429. `after`: when to come back.
    pub fn too_many(code: &'static str, message: impl Into<String>, after: Duration) -> Self {
        let e = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", code, message);
        Self { retry_after: Some(after), ..e }
    }

    /// Not now: 503. `after`: when to come back.
    pub fn unavailable(code: &'static str, message: impl Into<String>, after: Duration) -> Self {
        let e = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", code, message);
        Self { retry_after: Some(after), ..e }
    }

    /// Our fault: 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error", message)
    }

    /// The field it is about.
    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The body in OpenAI's shape.
    pub fn body(&self) -> serde_json::Value {
        json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        }})
    }
}

/// What an engine refuses when a request is handed in.
impl From<EngineError> for ApiError {
    fn from(e: EngineError) -> Self {
        let soon = Duration::from_secs(1);
        match e {
            EngineError::Queue { .. } => Self::too_many("queue_full", e.to_string(), soon),
            EngineError::Gone => Self::unavailable("engine_gone", e.to_string(), soon),
            EngineError::Prompt { .. } | EngineError::TooLong { .. } => {
                Self::bad("context_length_exceeded", e.to_string())
            }
            _ => Self::bad("invalid_value", e.to_string()),
        }
    }
}

/// Why a sequence failed, before anything of it was sent.
impl From<&Failure> for ApiError {
    fn from(f: &Failure) -> Self {
        match f.cause {
            Cause::Request => Self::bad("invalid_value", f.message.clone()),
            Cause::Resource => Self::unavailable("out_of_memory", f.message.clone(), Duration::from_secs(1)),
            Cause::Model | Cause::Internal => Self::internal(f.message.clone()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut r = (self.status, Json(self.body())).into_response();
        if let Some(after) = self.retry_after {
            // Whole seconds, rounded up: coming back a moment early would only be refused again.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            r.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        r.extensions_mut().insert(self);
        r
    }
}
