//! A server over a tiny seeded model, and a client that writes raw HTTP.
#![allow(dead_code, clippy::unwrap_used)]

mod http;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use http::{Response, read, request};
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
