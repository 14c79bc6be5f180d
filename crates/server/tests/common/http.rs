//! A client that writes raw HTTP/1.1, one request per connection, and sees every byte that comes back.
#![allow(dead_code, unused_imports, clippy::unwrap_used)] // every test binary uses its own part

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A response.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|h| h.0.eq_ignore_ascii_case(name)).map(|h| &*h.1)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn code(&self) -> String {
        let v = self.json();
        let code = if v["error"].is_string() { &v["code"] } else { &v["error"]["code"] };
        code.as_str().unwrap_or("").to_string()
    }

    pub fn message(&self) -> String {
        let v = self.json();
        let says = if v["error"].is_string() { &v["error"] } else { &v["error"]["message"] };
        says.as_str().unwrap_or("").to_string()
    }

    /// The events of a stream; the last must be `[DONE]`.
    pub fn events(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.body).unwrap();
        assert!(text.ends_with("\n\n"), "{text}");
        let mut lines: Vec<&str> =
            text.split("\n\n").filter(|e| !e.is_empty() && !e.starts_with(':')).collect();
        assert_eq!(lines.pop(), Some("data: [DONE]"), "{text}");
        lines.iter().map(|l| serde_json::from_str(l.strip_prefix("data: ").unwrap()).unwrap()).collect()
    }
}

impl Response {
    /// The events of a stream whose events have names.
    pub fn named(&self) -> Vec<(String, Value)> {
        let text = std::str::from_utf8(&self.body).unwrap();
        assert!(text.ends_with("\n\n"), "{text}");
        let one = |e: &str| {
            let (name, data) = e.split_once('\n').unwrap();
            let name = name.strip_prefix("event: ").unwrap().to_string();
            (name, serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap())
        };
        text.split("\n\n").filter(|e| !e.is_empty() && !e.starts_with(':')).map(one).collect()
    }

    /// The objects of a stream of lines.
    pub fn lines(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.body).unwrap();
        assert!(text.ends_with('\n'), "{text}");
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}

/// Reads a whole response.
pub fn read(stream: &mut TcpStream) -> std::io::Result<Response> {
    let mut all = Vec::new();
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.read_to_end(&mut all)?;
    parse(&all).ok_or_else(|| std::io::Error::other(format!("no response in {} bytes", all.len())))
}

fn parse(all: &[u8]) -> Option<Response> {
    let cut = all.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&all[..cut]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(": ")).map(|(a, b)| (a.into(), b.into())).collect();
    let mut body = all[cut + 4..].to_vec();
    if headers.iter().any(|h| h.0.eq_ignore_ascii_case("transfer-encoding")) {
        let mut rest = &body[..];
        let mut out = Vec::new();
        loop {
            let end = rest.windows(2).position(|w| w == b"\r\n")?;
            let n = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
            if n == 0 {
                break;
            }
            out.extend_from_slice(&rest[end + 2..end + 2 + n]);
            rest = &rest[end + 4 + n..];
        }
        body = out;
    }
    Some(Response { status, headers, body })
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    if !headers.iter().any(|h| h.0.eq_ignore_ascii_case("host")) {
        head += "host: 127.0.0.1\r\n";
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    [head.as_bytes(), body].concat()
}

/// A stream of server-sent events as it comes. The frames of chunked encoding stand between events, never inside one,
/// because the server writes whole events; so lines that are no event are passed over.
pub struct Events(BufReader<TcpStream>);

impl Events {
    pub fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
        Events(BufReader::new(stream))
    }

    /// The next event and when it came; `None` at `[DONE]`.
    ///
    /// # Panics
    /// When the stream ends without saying so, or says something else than events.
    pub fn next(&mut self) -> Option<(Value, Instant)> {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream was cut off");
            assert!(!line.starts_with("HTTP/1.1") || line.starts_with("HTTP/1.1 200"), "{line}");
            match line.trim_end().strip_prefix("data: ") {
                Some("[DONE]") => return None,
                Some(json) => return Some((serde_json::from_str(json).unwrap(), Instant::now())),
                None => {}
            }
        }
    }

    /// All that are still to come.
    pub fn rest(mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.next()).map(|e| e.0).collect()
    }
}
