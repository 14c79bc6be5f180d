//! Refusals in the words of the API that was asked: a client of another dialect reads its own shape only.

use axum::Json;
use axum::extract::Request;
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::ApiError;

/// Whose shape a path's refusals have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `/v1/…` and everything else
    OpenAi,
    /// `/v1/messages…`
    Anthropic,
    /// `/api/…`
    Ollama,
}

/// The dialect of a path.
pub fn of(path: &str) -> Dialect {
    if path == "/v1/messages" || path.starts_with("/v1/messages/") {
        Dialect::Anthropic
    } else if path.starts_with("/api/") {
        Dialect::Ollama
    } else {
        Dialect::OpenAi
    }
}

/// A refusal as Anthropic's clients read it, with our `code` and `param` beside it.
pub fn anthropic(e: &ApiError) -> Value {
    let kind = match e.status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    };
    let error = json!({"type": kind, "message": e.message, "code": e.code, "param": e.param});
    json!({"type": "error", "error": error})
}

/// A refusal as Ollama's clients read it, with our `code` and `param` beside it.
pub fn ollama(e: &ApiError) -> Value {
    json!({"error": e.message, "code": e.code, "param": e.param})
}

/// The layer. Headers such as `retry-after` stay.
pub async fn layer(request: Request, next: Next) -> Response {
    let dialect = of(request.uri().path());
    let response = next.run(request).await;
    let Some(e) = response.extensions().get::<ApiError>() else { return response };
    let body = match dialect {
        Dialect::OpenAi => return response,
        Dialect::Anthropic => anthropic(e),
        Dialect::Ollama => ollama(e),
    };
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Json(body).into_response().into_body())
}
