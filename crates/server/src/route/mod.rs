//! The routes: one table, from which the router, the OpenAPI document and the list of keyless paths are made.

mod about;
mod anthropic;
pub mod chat;
pub mod completions;
pub mod embeddings;
mod health;
mod metrics;
mod models;
mod ollama;
mod openai;
pub mod openapi;
mod page;
mod render;
mod responses;
mod status;
mod tokenize;
mod turn;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::MethodRouter;

use crate::app::App;
use crate::error::ApiError;
use crate::layer;
use crate::wire::form::Shape;

/// How a route is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// without a body
    Get,
    /// with a JSON body
    Post,
}

/// A route.
pub struct Route {
    /// the path
    pub path: &'static str,
    /// how it is called
    pub method: Method,
    /// one line
    pub about: &'static str,
    /// answers without a key
    pub keyless: bool,
    /// the fields of its body
    pub body: Option<&'static Shape>,
    /// what answers
    pub serve: fn() -> MethodRouter<Arc<App>>,
}

/// Every route.
pub static ROUTES: &[&Route] = &[
    &health::LIVE,
    &health::HEALTH,
    &health::READY,
    &about::VERSION,
    &about::ABOUT,
    &models::LIST,
    &models::ONE,
    &completions::ROUTE,
    &chat::ROUTE,
    &render::PLAIN,
    &render::CHAT,
    &embeddings::ROUTE,
    &tokenize::TOKENIZE,
    &tokenize::DETOKENIZE,
    &responses::ROUTE,
    &anthropic::MESSAGES,
    &anthropic::COUNT,
    &ollama::chat::CHAT,
    &ollama::chat::GENERATE,
    &ollama::about::TAGS,
    &ollama::about::SHOW,
    &ollama::about::VERSION,
    &ollama::about::PS,
    &ollama::embed::MANY,
    &ollama::embed::ONE,
    &status::ROUTE,
    &page::PAGE,
    &page::CHAT,
    &page::BOARD,
    &page::TEXT,
    &page::STYLE,
    &page::ICON,
    &openapi::ROUTE,
];

/// The path's pattern as the table spells it; empty for a path that is not in it.
pub fn pattern(path: &str) -> &'static str {
    ROUTES.iter().find(|r| r.path == path).map_or("", |r| r.path)
}

/// Whether a path answers without a key.
pub fn keyless(path: &str) -> bool {
    ROUTES.iter().any(|r| r.path == path && r.keyless)
}

/// All routes with their layers.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for r in ROUTES {
        router = router.route(r.path, (r.serve)());
    }
    router
        .method_not_allowed_fallback(|| async {
            let why = "this path is there, but not for this method; see /openapi.json";
            ApiError::status(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", why).into_response()
        })
        .fallback(|| async {
            let why = "there is nothing at this path; /openapi.json lists what there is";
            ApiError::status(StatusCode::NOT_FOUND, "not_found", why).into_response()
        })
        .layer(from_fn_with_state(app.clone(), layer::busy::layer))
        .layer(from_fn_with_state(app.clone(), layer::auth::layer))
        .layer(from_fn_with_state(app.clone(), layer::host::layer))
        .layer(axum::middleware::from_fn(layer::dialect::layer))
        .layer(from_fn_with_state(app.clone(), layer::id::layer))
        .with_state(app)
}
