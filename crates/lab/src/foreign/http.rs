//! One request to an engine over plain HTTP/1.1. Every request has a connection of its own, so none gains from the one
//! before; receipt is the moment before it is opened.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::sse::Lines;
use super::stream::{Done, Tally, glimpse};
use super::{Ask, Engine, ForeignError, Prompt};

/// The most that is read of an answer that is no stream.
const ANSWER: u64 = 1 << 20;

/// What a chunk may take: text, ids and the fields around them.
const CHUNK: u64 = 1 << 16;

/// A way to one server.
pub(super) struct Client<'a> {
    agent: ureq::Agent,
    engine: &'a Engine,
    base: String,
}

impl<'a> Client<'a> {
    /// Opens no connection yet.
    pub(super) fn new(engine: &'a Engine, base: String) -> Client<'a> {
        let config = ureq::Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(0)
            .timeout_per_read(Some(engine.silence))
            .timeout_per_write(Some(engine.silence))
            .timeout_recv_response(Some(engine.silence))
            .timeout_connect(Some(engine.silence.min(Duration::from_secs(10))))
            .timeout_global(Some(engine.request))
            .user_agent("tamp-lab")
            .build();
        Client { agent: config.new_agent(), engine, base }
    }

    /// The status and the start of the body at a path.
    pub(super) fn get(&self, path: &str, within: Duration) -> Result<(u16, Vec<u8>), ForeignError> {
        let url = format!("{}{path}", self.base);
        let mut ask = self.agent.get(&url);
        if let Some(key) = &self.engine.api_key {
            ask = ask.header("Authorization", format!("Bearer {key}"));
        }
        let call = ask.config().timeout_global(Some(within)).build().call();
        let got = call.map_err(|e| self.failed(&url, e, within))?;
        let status = got.status().as_u16();
        let mut body = Vec::new();
        let read = got.into_body().into_reader().take(ANSWER).read_to_end(&mut body);
        read.map_err(|e| self.failed(&url, e.into(), within))?;
        Ok((status, body))
    }

    /// Asks for one completion and follows its stream.
    pub(super) fn complete(&self, ask: &Ask, prompt: &Prompt) -> Result<Done, ForeignError> {
        let url = format!("{}{}", self.base, self.engine.path);
        let body = serde_json::to_vec(&request(self.engine, ask, prompt))
            .map_err(|e| self.wrong(prompt, format!("the request is no JSON: {e}")))?;
        let mut post = self.agent.post(&url).header("Content-Type", "application/json");
        if let Some(key) = &self.engine.api_key {
            post = post.header("Authorization", format!("Bearer {key}"));
        }
        let limit = self.engine.request;
        let receipt = Instant::now();
        let got = post.header("Accept", "text/event-stream").send(&body[..]);
        let got = got.map_err(|e| self.failed(&url, e, limit))?;
        let status = got.status().as_u16();
        let streams = got
            .headers()
            .get("content-type")
            .and_then(|t| t.to_str().ok())
            .is_some_and(|t| t.starts_with("text/event-stream"));
        let mut from = got.into_body().into_reader();
        if status != 200 {
            let mut said = Vec::new();
            // What could be read of the explanation is shown; that it broke off matters less than the status.
            let _ = from.take(ANSWER).read_to_end(&mut said);
            return Err(ForeignError::Status {
                engine: self.engine.key.clone(),
                url,
                status,
                said: glimpse(&said),
            });
        }
        if !streams {
            return Err(self.wrong(prompt, "it is no event stream; does the server know `stream`?".into()));
        }
        let mut most = ANSWER.saturating_add((ask.max_tokens as u64).saturating_mul(CHUNK));
        let (mut lines, mut tally, mut events) = (Lines::default(), Tally::default(), Vec::new());
        let mut buffer = [0u8; 16 * 1024];
        loop {
            let n = match from.read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.failed(&url, e.into(), limit)),
            };
            let at = u64::try_from(receipt.elapsed().as_nanos()).unwrap_or(u64::MAX);
            if most < n as u64 {
                return Err(self.wrong(prompt, "the stream does not end".into()));
            }
            most -= n as u64;
            let parsed = if n == 0 { lines.end(&mut events) } else { lines.push(&buffer[..n], &mut events) };
            parsed.map_err(|why| self.wrong(prompt, why))?;
            for event in events.drain(..) {
                let done = tally.take(&event, at, ask.max_tokens).map_err(|why| self.wrong(prompt, why))?;
                if done {
                    return tally.settle(prompt, ask.max_tokens).map_err(|why| self.wrong(prompt, why));
                }
            }
            if n == 0 {
                return tally.settle(prompt, ask.max_tokens).map_err(|why| self.wrong(prompt, why));
            }
        }
    }

    fn wrong(&self, prompt: &Prompt, why: String) -> ForeignError {
        ForeignError::Answer { engine: self.engine.key.clone(), prompt: prompt.name.clone(), why }
    }

    fn failed(&self, url: &str, e: ureq::Error, whole: Duration) -> ForeignError {
        let engine = self.engine.key.clone();
        let late = |what: &str, within: Duration, key: &str| ForeignError::Late {
            engine: engine.clone(),
            what: format!("{what} of {url}"),
            seconds: within.as_secs_f64(),
            hint: format!("`{key}` of its entry is the limit"),
        };
        match e {
            ureq::Error::Timeout(ureq::Timeout::Global) => late("the whole answer", whole, "request_s"),
            ureq::Error::Timeout(_) => late("the next byte", self.engine.silence, "silence_s"),
            e => ForeignError::Http { engine, url: url.to_string(), why: e.to_string() },
        }
    }
}

/// The request's body: the engine's own fields, then those that are the same for every arm.
fn request(engine: &Engine, ask: &Ask, prompt: &Prompt) -> Value {
    let mut body = engine.body.clone();
    let text_or_ids = if engine.ids { json!(prompt.ids) } else { json!(prompt.text) };
    for (key, value) in [
        ("model", json!(engine.model)),
        ("prompt", text_or_ids),
        ("max_tokens", json!(ask.max_tokens)),
        ("temperature", json!(ask.temperature)),
        ("seed", json!(ask.seed)),
        ("stream", json!(true)),
        ("stream_options", json!({"include_usage": true})),
    ] {
        body.insert(key.into(), value);
    }
    Value::Object(body)
}
