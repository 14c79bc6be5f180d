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

/// Gathers what sequences say until the pace lets it out.
pub struct Gather<S> {
    say: S,
    pace: Box<dyn Pace>,
    /// tokens that were noted and not written
    waiting: usize,
    /// since when the first of them waits
    since: Instant,
    /// sequences whose first token was sent
    begun: Vec<bool>,
}

impl<S: Say> Gather<S> {
    /// Of `choices` sequences.
    pub fn new(say: S, pace: Box<dyn Pace>, choices: usize) -> Self {
        Gather { say, pace, waiting: 0, since: Instant::now(), begun: vec![false; choices] }
    }

    /// Notes what a sequence said, and writes all that waits when it must go out at once. A sequence that is none of
    /// these is not noted.
    pub fn take(&mut self, choice: usize, said: Said, out: &mut Vec<u8>) {
        let Some(begun) = self.begun.get_mut(choice) else { return };
        let urgent = !std::mem::replace(begun, true) || matches!(said, Said::Done(_));
        if self.waiting == 0 {
            self.since = Instant::now();
        }
        self.waiting += 1;
        self.say.note(choice, said);
        if urgent || self.pace.wait(self.waiting, self.since.elapsed()).is_none() {
            self.flush(out);
        }
    }

    /// How long what waits may still wait; `None` when nothing does.
    fn left(&self) -> Option<Duration> {
        (self.waiting > 0).then(|| self.pace.wait(self.waiting, self.since.elapsed()).unwrap_or_default())
    }

    /// Writes all that waits.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        self.waiting = 0;
        self.say.write(out);
    }
}

struct Writer<S> {
    flows: Flows,
    gather: Gather<S>,
    keep_alive: Duration,
    over: bool,
}

impl<S: Say> Writer<S> {
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        while out.is_empty() && !self.over {
            let left = self.gather.left();
            let until = Instant::now() + left.unwrap_or(self.keep_alive);
            tokio::select! {
                biased;
                event = self.flows.next() => match event {
                    Ok(Some((choice, said))) => self.gather.take(choice, said, &mut out),
                    Ok(None) => {
                        self.gather.flush(&mut out);
                        self.gather.say.end(&mut out);
                        self.over = true;
                    }
                    Err(e) => {
                        self.gather.flush(&mut out);
                        self.gather.say.fail(&e, &mut out);
                        self.over = true;
                    }
                },
                () = sleep_until(until) => match left {
                    None => self.gather.say.alive(&mut out),
                    Some(_) => self.gather.flush(&mut out),
                },
            }
            // What came meanwhile goes out in the same write.
            while !out.is_empty() && !self.over && out.len() < 16 << 10 {
                let Some((choice, said)) = self.flows.try_next() else { break };
                self.gather.take(choice, said, &mut out);
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
    let kind = say.kind();
    let gather = Gather::new(say, pace, flows.len());
    let writer = Writer { flows, gather, keep_alive, over: false };
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
