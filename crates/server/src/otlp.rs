//! Sends spans to an OpenTelemetry collector: OTLP over HTTP in JSON, to an address the operator gave. A collector that
//! is away costs spans, never a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tamp_base::span::Collector;
use tokio::net::TcpStream;

/// Where to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `host:port`
    authority: String,
    path: String,
}

/// What became of the batches.
#[derive(Debug, Default)]
pub struct Sent {
    /// taken by the collector
    pub batches: AtomicU64,
    /// not taken
    pub failed: AtomicU64,
}

/// Spans per batch.
const BATCH: usize = 512;
/// A collector that takes longer is away.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of its answer that are read.
const ANSWER: usize = 64 << 10;

impl Target {
    /// `http://host[:port][/path]`; the path is `/v1/traces` where none is given, the port 4318.
    ///
    /// # Errors
    /// One sentence.
    pub fn parse(url: &str) -> Result<Target, String> {
        let wrong = |why: &str| {
            format!("`{}` is no address of a collector: {why}", url.chars().take(200).collect::<String>())
        };
        let uri: hyper::Uri = url.parse().map_err(|_| wrong("it does not parse"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("use http://; a collector beyond this network belongs behind one on it"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("names and passwords are not taken"));
        }
        let authority = match authority.port_u16() {
            Some(_) => authority.to_string(),
            None => format!("{}:4318", authority.host()),
        };
        let path = match uri.path() {
            "" | "/" => "/v1/traces".to_string(),
            path => path.to_string(),
        };
        Ok(Target { authority, path })
    }

    /// Posts one batch.
    ///
    /// # Errors
    /// One sentence, when the collector is away or says no.
    pub async fn post(&self, body: Vec<u8>) -> Result<(), String> {
        match tokio::time::timeout(PATIENCE, self.try_post(body)).await {
            Ok(result) => result,
            Err(_) => Err(format!("{} did not answer within {PATIENCE:?}", self.authority)),
        }
    }

    async fn try_post(&self, body: Vec<u8>) -> Result<(), String> {
        let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", self.authority);
        let stream = TcpStream::connect(&self.authority).await.map_err(|e| fail(&e))?;
        let (mut send, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| fail(&e))?;
        let turning = tokio::spawn(connection);
        let request = hyper::Request::post(&self.path)
            .header(hyper::header::HOST, &self.authority)
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| fail(&e))?;
        let result = match send.send_request(request).await {
            Ok(response) if response.status().is_success() => {
                let _ = Limited::new(response.into_body(), ANSWER).collect().await;
                Ok(())
            }
            Ok(response) => Err(fail(&response.status())),
            Err(e) => Err(fail(&e)),
        };
        turning.abort();
        result
    }
}

/// Sends what is new of a ring every so often, until dropped. `make` turns spans into a batch's body.
pub async fn export(
    target: Target,
    ring: Arc<Collector>,
    every: Duration,
    sent: Arc<Sent>,
    make: impl Fn(&[tamp_base::span::Span]) -> Option<Vec<u8>> + Send,
) {
    let mut next = 0;
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (spans, end) = ring.since(next);
        next = end;
        for batch in spans.chunks(BATCH) {
            let Some(body) = make(batch) else { continue };
            let counter = match target.post(body).await {
                Ok(()) => &sent.batches,
                Err(_) => &sent.failed,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use tamp_base::span::{Kind, Span};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_is_http_with_a_host() {
        let of = |url| Target::parse(url).map(|t| (t.authority, t.path));
        assert_eq!(of("http://otel:9000/x").unwrap(), ("otel:9000".into(), "/x".into()));
        assert_eq!(of("http://127.0.0.1").unwrap(), ("127.0.0.1:4318".into(), "/v1/traces".into()));
        assert_eq!(of("http://[::1]/").unwrap(), ("[::1]:4318".into(), "/v1/traces".into()));
        for bad in
            ["", "otel:9000", "https://otel", "http://a:b@otel", "file:///x", "http:///x", "http://a b"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn spans_arrive_and_a_collector_that_says_no_or_is_away_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let server = tokio::spawn(async move {
            for answer in ["200 OK", "503 Service Unavailable"] {
                let (mut s, _) = listener.accept().await.unwrap();
                let mut got = vec![0; 4096];
                let n = s.read(&mut got).await.unwrap();
                tell.send(String::from_utf8_lossy(&got[..n]).into_owned()).unwrap();
                let text = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
                s.write_all(text.as_bytes()).await.unwrap();
            }
        });
        let (ring, sent) = (Arc::new(Collector::new(16)), Arc::new(Sent::default()));
        let span = |start_ns| Span { kind: Kind::Step, trace: 1, start_ns, len_ns: 1, rows: 1, kept: 1 };
        ring.record(span(5));
        let target = Target::parse(&format!("http://{addr}")).unwrap();
        let make = |spans: &[Span]| {
            Some(format!("{{\"n\":{},\"at\":{}}}", spans.len(), spans[0].start_ns).into_bytes())
        };
        let task = tokio::spawn(export(target, ring.clone(), Duration::from_millis(5), sent.clone(), make));
        let first = told.recv().await.unwrap();
        assert!(first.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{first}");
        assert!(
            first.contains("content-type: application/json") && first.ends_with("{\"n\":1,\"at\":5}"),
            "{first}"
        );
        ring.record(span(9));
        assert!(
            told.recv().await.unwrap().ends_with("{\"n\":1,\"at\":9}"),
            "what was sent is not sent again"
        );
        server.await.unwrap();
        ring.record(span(11));
        let counts = || (sent.batches.load(Ordering::Relaxed), sent.failed.load(Ordering::Relaxed));
        for _ in 0..400 {
            if counts() == (1, 2) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(counts(), (1, 2));
        task.abort();
    }
}
