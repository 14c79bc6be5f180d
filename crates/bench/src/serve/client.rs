//! One request over HTTP/1.1: sent, followed, timed. Connections are kept and used again, as SDKs do; a request whose
//! connection turns out to be closed before anything was sent gets a fresh one.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::outcome::{Error, Outcome, miscounted};
use super::script::Turn;
use super::wire::{Chunk, Events, TooLong, Usage};
use super::{Ask, Target};

/// Bytes of an explanation that are kept.
const GLIMPSE: usize = 200;

/// Bytes an answer may have: this much, and [`PER_TOKEN`] for every token asked for.
const ANSWER: usize = 1 << 20;
const PER_TOKEN: usize = 1 << 16;

/// Receive buffer of a reader that stalls: what the system buffers for it, the server cannot notice.
const SMALL: u32 = 2048;

/// Time to open a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// A way to one server.
pub(super) struct Client {
    ask: Rc<Ask>,
    idle: RefCell<Vec<Line>>,
    /// the moment times count from
    start: Instant,
}

/// An open connection; dropping it closes it at once, whatever is under way.
struct Line {
    send: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A failure: its kind and a sentence.
pub(super) struct Fault(pub Error, pub String);

impl From<TooLong> for Fault {
    fn from(_: TooLong) -> Fault {
        Fault(Error::BadJson, "a line of the stream does not end".into())
    }
}

/// What stopped the reading of a stream that is no failure.
enum Left {
    Done,
    HungUp,
}

impl Client {
    pub(super) fn new(ask: Rc<Ask>, start: Instant) -> Client {
        Client { ask, idle: RefCell::new(Vec::new()), start }
    }

    /// Time since the start of the load.
    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    async fn connect(&self, small: bool) -> Result<Line, Fault> {
        let Target { host, port, .. } = &self.ask.target;
        let refused = |e: std::io::Error| Fault(Error::Refused, format!("{host}:{port}: {e}"));
        let mut found = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(refused)?;
        let at = found.next().ok_or_else(|| refused(std::io::ErrorKind::NotFound.into()))?;
        let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(refused)?;
        if small {
            socket.set_recv_buffer_size(SMALL).map_err(refused)?;
        }
        let late = |_| refused(std::io::ErrorKind::TimedOut.into());
        let stream = timeout(CONNECT, socket.connect(at)).await.map_err(late)?.map_err(refused)?;
        // Small requests must not wait for acknowledgements of earlier ones.
        stream.set_nodelay(true).map_err(refused)?;
        let cut = |e: hyper::Error| Fault(Error::Cut, e.to_string());
        let (send, connection) = handshake(TokioIo::new(stream)).await.map_err(cut)?;
        // Its errors reach the request that uses it.
        let task = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Line { send, task })
    }

    fn request(&self, path: &str, key: Option<&str>, body: &Bytes) -> Result<Request<Full<Bytes>>, Fault> {
        let t = &self.ask.target;
        let mut r = Request::post(format!("{}{path}", t.path))
            .header(header::HOST, t.authority())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, "tamp-bench");
        if let Some(key) = key {
            r = r.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let wrong = |e: hyper::http::Error| Fault(Error::Refused, format!("no request can be made: {e}"));
        r.body(Full::new(body.clone())).map_err(wrong)
    }

    /// Sends and waits for the head of the answer.
    async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        small: bool,
    ) -> Result<(Line, Response<Incoming>), Fault> {
        let mut request = request;
        // A kept connection may be closed meanwhile; a fresh one that takes nothing is the server's fault.
        while let Some(mut line) = (!small).then(|| self.idle.borrow_mut().pop()).flatten() {
            if line.send.ready().await.is_err() {
                continue;
            }
            match line.send.try_send_request(request).await {
                Ok(answer) => return Ok((line, answer)),
                Err(mut e) => match e.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Fault(Error::Cut, e.error().to_string())),
                },
            }
        }
        let mut line = self.connect(small).await?;
        match line.send.send_request(request).await {
            Ok(answer) => Ok((line, answer)),
            Err(e) => Err(Fault(Error::Cut, e.to_string())),
        }
    }

    /// One request from its intended time to its end. Never fails: what went wrong is in the outcome.
    pub(super) async fn one(
        &self,
        turn: &Turn,
        path: &str,
        key: Option<&str>,
        body: Vec<u8>,
        mut o: Outcome,
    ) -> Outcome {
        o.sent = self.now();
        o.kind = turn.kind;
        o.max_tokens = turn.max_tokens;
        o.stalled = turn.stalls;
        let bytes = body.len();
        let got = self.follow(turn, path, key, Bytes::from(body), &mut o).await;
        o.end = self.now();
        match got {
            Ok(Left::Done) => {
                if let Some(why) = miscounted(&o, &self.ask) {
                    (o.error, o.why) = (Some(Error::Count), why);
                }
            }
            Ok(Left::HungUp) => o.hung_up = true,
            Err(Fault(kind, why)) => (o.error, o.why) = (Some(kind), why),
        }
        o.request_bytes = bytes;
        o
    }

    async fn follow(
        &self,
        turn: &Turn,
        path: &str,
        key: Option<&str>,
        body: Bytes,
        o: &mut Outcome,
    ) -> Result<Left, Fault> {
        let request = self.request(path, key, &body)?;
        let silence = self.ask.timeout;
        let late = |what: &str| Fault(Error::Timeout, format!("no {what} for {} s", silence.as_secs_f64()));
        let asked = timeout(silence, self.ask(request, turn.stalls));
        let (line, answer) = match turn.hang_up {
            Some(0) => {
                // Before the answer begins: the request is on its way, and nobody waits for it.
                let _ = timeout(Duration::from_millis(1 + o.index as u64 % 50), asked).await;
                return Ok(Left::HungUp);
            }
            _ => asked.await.map_err(|_| late("answer"))??,
        };
        o.status = answer.status().as_u16();
        let header = |name: header::HeaderName| {
            answer.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_string()
        };
        o.retry_after = header(header::RETRY_AFTER).parse().ok();
        let streams = header(header::CONTENT_TYPE).starts_with("text/event-stream");
        let status = answer.status();
        let mut from = answer.into_body();
        let most = ANSWER + PER_TOKEN.saturating_mul(turn.max_tokens);
        if status != StatusCode::OK {
            let said = self.whole(&mut from, ANSWER, silence).await;
            if said.is_ok() {
                self.keep(line);
            }
            let said = said.unwrap_or_default();
            let text: String = String::from_utf8_lossy(&said).chars().take(GLIMPSE).collect();
            return Err(Fault(Error::of(status.as_u16()), format!("{status}: {text}")));
        }
        if self.ask.stream != streams {
            let what = if streams { "a stream nobody asked for" } else { "no event stream" };
            return Err(Fault(Error::BadJson, format!("the answer is {what}")));
        }
        if !streams {
            let said = self.whole(&mut from, most, silence).await?;
            let now = self.now();
            self.take(&said, now, o)?;
            // The whole answer comes at once: its first token is as late as its last.
            o.first = Some(now);
            o.chunks = 0;
            self.keep(line);
            return Ok(Left::Done);
        }
        let left = self.stream(turn, &mut from, most, silence, o).await?;
        if let Left::Done = left {
            // What follows the end mark is the end of the chunked coding.
            loop {
                match timeout(silence, from.frame()).await {
                    Ok(Some(Ok(_))) => {}
                    Ok(None) => break self.keep(line),
                    Ok(Some(Err(_))) | Err(_) => break,
                }
            }
        }
        Ok(left)
    }

    async fn stream(
        &self,
        turn: &Turn,
        from: &mut Incoming,
        most: usize,
        silence: Duration,
        o: &mut Outcome,
    ) -> Result<Left, Fault> {
        let late = |_| Fault(Error::Timeout, format!("no byte for {} s", silence.as_secs_f64()));
        let (mut events, mut seen, mut done) = (Events::default(), 0, false);
        let mut stall = turn.stalls.then_some(self.ask.stall).flatten().map(|s| s.time);
        while !done {
            let Some(frame) = timeout(silence, from.frame()).await.map_err(late)? else { break };
            let frame = frame.map_err(|e| Fault(Error::Cut, e.to_string()))?;
            let now = self.now();
            let Ok(data) = frame.into_data() else { continue };
            seen += data.len();
            if seen > most {
                return Err(Fault(Error::BadJson, "the stream does not end".into()));
            }
            events.push::<Fault>(&data, &mut |data| {
                done |= data == b"[DONE]";
                if done { Ok(()) } else { self.take(data, now, o) }
            })?;
            if turn.hang_up.is_some_and(|n| o.chunks >= n as u64) {
                return Ok(Left::HungUp);
            }
            if o.first.is_some()
                && let Some(time) = stall.take()
            {
                sleep(time).await;
            }
        }
        // Some servers leave the end mark out; without a reason for the end either, the stream was cut.
        if !done && o.finish.is_empty() {
            return Err(Fault(
                Error::Cut,
                format!("the stream ended after {} chunks without an end", o.chunks),
            ));
        }
        Ok(Left::Done)
    }

    /// Takes a chunk or a whole answer.
    fn take(&self, data: &[u8], now: Duration, o: &mut Outcome) -> Result<(), Fault> {
        let glimpse = || String::from_utf8_lossy(data).chars().take(GLIMPSE).collect::<String>();
        let chunk: Chunk<'_> =
            serde_json::from_slice(data).map_err(|e| Fault(Error::BadJson, format!("{e}: {}", glimpse())))?;
        if chunk.error.is_some() {
            return Err(Fault(Error::Server, glimpse()));
        }
        let said = chunk.say(&mut o.text);
        if said.token {
            o.token_at(now);
        }
        if let Some(f) = said.finish {
            o.finish = f;
        }
        if let Some(Usage { prompt_tokens, completion_tokens, .. }) = chunk.usage {
            (o.prompt_tokens, o.usage) = (Some(prompt_tokens), Some(completion_tokens));
        }
        o.cached = chunk.cached().or(o.cached);
        Ok(())
    }

    async fn whole(&self, from: &mut Incoming, most: usize, silence: Duration) -> Result<Vec<u8>, Fault> {
        let late = |_| Fault(Error::Timeout, format!("no byte for {} s", silence.as_secs_f64()));
        let mut all = Vec::new();
        while let Some(frame) = timeout(silence, from.frame()).await.map_err(late)? {
            let Ok(data) = frame.map_err(|e| Fault(Error::Cut, e.to_string()))?.into_data() else { continue };
            if all.len() + data.len() > most {
                return Err(Fault(Error::BadJson, "the answer does not end".into()));
            }
            all.extend_from_slice(&data);
        }
        Ok(all)
    }

    /// Keeps a connection whose answer was read to its end.
    fn keep(&self, line: Line) {
        if !line.send.is_closed() {
            self.idle.borrow_mut().push(line);
        }
    }
}
