//! A server over a tiny seeded model, and a client that writes raw HTTP.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tamp_base::clock::SystemClock;
use tamp_base::settings::Settings;
use tamp_engine::drive::{Handle, drive};
use tamp_engine::{Engine, EngineOptions};
use tamp_kernels::cpu::Cpu;
use tamp_kernels::pool::Pool;
use tamp_kernels::rung;
use tamp_server::app::App;
use tamp_server::error::ServerError;
use tamp_server::model::{Fixed, Served};
use tamp_server::serve::Server;
use tamp_text::{Tokenizer, template_of};
use tamp_weights::Weights;
use tamp_weights::testing::{Arch, Tiny};

pub const CTX: usize = 4096;

/// Sizes for tests: small chunks, so that requests meet in a batch.
pub fn options() -> EngineOptions {
    EngineOptions { ctx: CTX, chunk: 32, batch: 4, pages: 1024, ..EngineOptions::default() }
}

/// A model behind its engine.
pub fn served(name: &str, options: EngineOptions) -> Arc<Served> {
    served_as(name, options, None)
}

/// … with another template.
pub fn served_as(name: &str, options: EngineOptions, template: Option<&str>) -> Arc<Served> {
    served_with(name, options, template, &[])
}

/// … with other techniques, as `--use` names them.
pub fn served_with(name: &str, options: EngineOptions, template: Option<&str>, uses: &[&str]) -> Arc<Served> {
    let weights =
        Weights::from_gguf_bytes(Tiny { context: CTX, ..Tiny::new(Arch::Qwen2, 7) }.build()).unwrap();
    let own = template_of(&weights.meta).map(str::to_string);
    let tokenizer = Arc::new(Tokenizer::from_meta(&weights.meta).unwrap());
    let device = Arc::new(Cpu::new(Arc::new(Pool::new(1, false)), rung::available().next().unwrap()));
    let clock = Arc::new(SystemClock::default());
    let mut settings = Settings::default();
    uses.iter().for_each(|u| settings.add_use(u, "test").unwrap());
    let engine =
        Engine::load(&weights, device, || Ok(tokenizer), &settings, options, clock, &mut |_, _| ()).unwrap();
    let (handle, driver) = drive(engine).unwrap();
    let template = template.map(str::to_string).or(own);
    Arc::new(Served::new(name, handle, template.as_deref(), 1).unwrap().owning(driver))
}

/// A running server.
pub struct Running {
    pub addr: SocketAddr,
    pub app: Arc<App>,
    pub handle: Handle,
    pub thread: Option<JoinHandle<Result<bool, ServerError>>>,
}

/// With changes to its state.
pub fn start_with(options: EngineOptions, change: impl FnOnce(&mut App)) -> Running {
    start_model(served("tiny", options), change)
}

/// … over this model.
pub fn start_model(model: Arc<Served>, change: impl FnOnce(&mut App)) -> Running {
    let handle = model.handle.clone();
    let mut app = App::new(Box::new(Fixed::new(vec![model])));
    change(&mut app);
    let server = Server::bind(app, "127.0.0.1:0".parse().unwrap()).unwrap();
    let (addr, app) = (server.addr(), server.app().clone());
    let thread = Some(std::thread::spawn(move || server.run(false)));
    Running { addr, app, handle, thread }
}

pub fn start() -> Running {
    start_with(options(), |_| ())
}

impl Drop for Running {
    fn drop(&mut self) {
        self.app.drain.begin();
        if let Some(t) = self.thread.take() {
            let ended = t.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

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

impl Running {
    pub fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).unwrap()
    }

    /// Sends exactly this.
    pub fn raw(&self, bytes: &[u8]) -> std::io::Result<Response> {
        let mut s = self.connect();
        // A server that refuses early may close before everything is written.
        let _ = s.write_all(bytes);
        read(&mut s)
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.raw(&request(method, path, headers, body)).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.request("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// Sends a request and leaves the answer unread.
    pub fn begin(&self, path: &str, body: &Value) -> TcpStream {
        let mut s = self.connect();
        let json = [("content-type", "application/json")];
        s.write_all(&request("POST", path, &json, body.to_string().as_bytes())).unwrap();
        s
    }

    /// Waits until the engine has nothing to do, and says how long that took.
    pub fn idle(&self) -> Duration {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            let s = self.handle.stats();
            if s.running + s.waiting == 0 {
                return start.elapsed();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the engine still works: {:?}", self.handle.stats());
    }

    /// Waits until the engine has something to do.
    pub fn busy(&self) {
        let start = Instant::now();
        while self.handle.stats().running == 0 {
            assert!(start.elapsed() < Duration::from_secs(30), "the engine has nothing to do");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
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
