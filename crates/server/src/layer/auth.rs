//! Who asks. Every route but `/live`, `/health` and `/ready` is behind the key where there are keys.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tamp_engine::Who;

use crate::app::App;
use crate::error::ApiError;
use crate::keys::{ANONYMOUS, Row};
use crate::route;

/// Who asks.
#[derive(Clone)]
pub struct Caller {
    /// the tenant's name, [`ANONYMOUS`] without keys
    pub name: Arc<str>,
    /// what the engine knows of it
    pub who: Who,
    /// its row, with its rates
    pub row: Option<Arc<Row>>,
}

impl Default for Caller {
    fn default() -> Self {
        Self { name: ANONYMOUS.into(), who: Who::default(), row: None }
    }
}

/// `Authorization: Bearer …`, or `x-api-key: …` as Anthropic's clients send it.
fn key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| {
        let (scheme, key) = v.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| headers.get("x-api-key").and_then(|v| v.to_str().ok()))
}

/// The layer.
pub async fn layer(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let keyless = request.extensions().get::<MatchedPath>().is_some_and(|p| route::keyless(p.as_str()));
    let caller = match &app.keys {
        _ if keyless => Caller::default(),
        None => Caller::default(),
        Some(keys) => match key(request.headers()).map(|k| keys.find(k)) {
            Some(Some(row)) => Caller { name: row.name.clone(), who: row.who.clone(), row: Some(row) },
            Some(None) => return refuse("this key is not known here"),
            None => return refuse("a key is needed: send `Authorization: Bearer KEY`"),
        },
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

fn refuse(why: &str) -> Response {
    let mut r = ApiError::unauthorized(why).into_response();
    r.headers_mut().insert(WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("Bearer"));
    r
}
