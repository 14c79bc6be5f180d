//! A request that was read: who, when, and the body, within its bounds.

use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use crate::app::App;
use crate::error::ApiError;
use crate::layer::{Caller, Seen};
use crate::wire::json;

/// A request with its body.
pub struct Call {
    /// the server's state
    pub app: Arc<App>,
    /// id, trace, time
    pub seen: Seen,
    /// who asks
    pub caller: Caller,
    /// the body
    pub body: Value,
}

impl FromRequest<Arc<App>> for Call {
    type Rejection = ApiError;

    async fn from_request(mut request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let missing = || ApiError::internal("a layer is missing around this route");
        let seen = request.extensions_mut().remove::<Seen>().ok_or_else(missing)?;
        let caller = request.extensions_mut().remove::<Caller>().ok_or_else(missing)?;
        let most = app.limits.body;
        check_head(request.headers(), most)?;
        let body = Limited::new(request.into_body(), most).collect();
        let body = match tokio::time::timeout(app.limits.body_time, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(e)) if e.downcast_ref::<LengthLimitError>().is_some() => return Err(too_large(most)),
            Ok(Err(e)) => {
                return Err(ApiError::bad(
                    "invalid_body",
                    format!("the body ended before it was whole: {e}"),
                ));
            }
            Err(_) => {
                let why = format!("the body was not whole after {:?}", app.limits.body_time);
                return Err(ApiError::status(StatusCode::REQUEST_TIMEOUT, "body_timeout", why));
            }
        };
        let body = json::parse(&body, app.limits.depth)?;
        Ok(Call { app: app.clone(), seen, caller, body })
    }
}

fn too_large(most: usize) -> ApiError {
    let why = format!("the body has more than {most} bytes, which is the most this server reads");
    ApiError::status(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", why)
}

/// Refuses by the head alone. JSON must be called JSON: a page of another site may post plain text without asking, and
/// JSON only after it asked.
fn check_head(headers: &HeaderMap, most: usize) -> Result<(), ApiError> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let kind = text(CONTENT_TYPE).unwrap_or("").split(';').next().unwrap_or("").trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let got = crate::words::brief(kind);
        let why = format!("the content type is `{got}`; send `content-type: application/json`");
        return Err(ApiError::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", why));
    }
    if text(CONTENT_LENGTH).and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n > most as u64) {
        return Err(too_large(most));
    }
    Ok(())
}
