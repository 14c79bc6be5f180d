//! Work under way is counted until the last byte of its response is written or given up; none is taken while draining.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::app::App;
use crate::drain::Busy;

struct Counted {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The layer.
pub async fn layer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    // What only looks is answered to the end: a supervisor watches the drain.
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    match app.drain.enter() {
        Ok(busy) => next.run(request).await.map(|body| Body::new(Counted { body, _busy: busy })),
        Err(e) => e.into_response(),
    }
}
