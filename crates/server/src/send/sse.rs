//! Server-sent events. The writer is pulled by the connection: a reader that takes nothing is not written for, its
//! events stay unread, and the engine pauses that sequence alone.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::Pace;
use crate::answer::{Flows, Said};
use crate::error::ApiError;

/// Writes one API's events from what sequences say.
pub trait Say: Send {
    /// Notes what a sequence said; nothing is written yet.
    fn note(&mut self, choice: usize, said: Said);
    /// Writes what was noted since the last time.
    fn write(&mut self, out: &mut Vec<u8>);
    /// Writes the last words, when all sequences are over.
    fn end(&mut self, out: &mut Vec<u8>);
    /// Writes a sign of life when there is nothing to say.
    fn alive(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b": keep-alive\n\n");
    }
    /// The content type.
    fn kind(&self) -> &'static str {
        "text/event-stream"
    }
    /// Writes that it cannot go on.
    fn fail(&mut self, e: &ApiError, out: &mut Vec<u8>) {
        data(&e.body(), out);
    }
}

/// An event without a name.
pub fn data(v: &Value, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    // Compact JSON has no line breaks, so one line is one event.
    let _ = serde_json::to_writer(&mut *out, v);
    out.extend_from_slice(b"\n\n");
}

/// An event with a name.
pub fn named(name: &str, v: &Value, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
    data(v, out);
}

struct Writer<S> {
    flows: Flows,
    say: S,
    pace: Box<dyn Pace>,
    keep_alive: Duration,
    /// tokens that were noted and not written
    waiting: usize,
    /// since when the first of them waits
    since: Instant,
    /// sequences whose first token was sent
    begun: Vec<bool>,
    over: bool,
}

impl<S: Say> Writer<S> {
    /// Notes an event; whether it must go out at once.
    fn note(&mut self, choice: usize, said: Said) -> bool {
        if self.waiting == 0 {
            self.since = Instant::now();
        }
        self.waiting += 1;
        let first = !std::mem::replace(&mut self.begun[choice], true);
        let urgent = first || matches!(said, Said::Done(_));
        self.say.note(choice, said);
        urgent || self.pace.wait(self.waiting, self.since.elapsed()).is_none()
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        self.waiting = 0;
        self.say.write(out);
    }

    async fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        while out.is_empty() && !self.over {
            let rest = match self.waiting {
                0 => self.keep_alive,
                n => self.pace.wait(n, self.since.elapsed()).unwrap_or_default(),
            };
            let until = Instant::now() + rest;
            tokio::select! {
                biased;
                event = self.flows.next() => match event {
                    Ok(Some((choice, said))) => if self.note(choice, said) {
                        self.flush(&mut out);
                    },
                    Ok(None) => {
                        self.flush(&mut out);
                        self.say.end(&mut out);
                        self.over = true;
                    }
                    Err(e) => {
                        self.flush(&mut out);
                        self.say.fail(&e, &mut out);
                        self.over = true;
                    }
                },
                () = sleep_until(until) => match self.waiting {
                    0 => self.say.alive(&mut out),
                    _ => self.flush(&mut out),
                },
            }
            // What came meanwhile goes out in the same write.
            while !out.is_empty() && !self.over && out.len() < 16 << 10 {
                let Some((choice, said)) = self.flows.try_next() else { break };
                if self.note(choice, said) {
                    self.flush(&mut out);
                }
            }
        }
        (!out.is_empty()).then(|| out.into())
    }
}

/// The response that streams what these sequences say.
pub fn response<S: Say + 'static>(
    flows: Flows,
    say: S,
    pace: Box<dyn Pace>,
    keep_alive: Duration,
) -> Response {
    let (begun, kind) = (vec![false; flows.len()], say.kind());
    let writer =
        Writer { flows, say, pace, keep_alive, waiting: 0, since: Instant::now(), begun, over: false };
    let stream = stream::unfold(writer, |mut w| async move {
        let bytes = w.next().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes), w))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Proxies that gather responses would hold tokens back.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(stream)).into_response()
}
