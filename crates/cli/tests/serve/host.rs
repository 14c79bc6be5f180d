//! `tamp serve` as a process, and what it says of itself.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tamp_weights::testing::{Arch, Tiny};

use crate::common::tamp;
use crate::http::{Events, Response, read, request};

/// Whether the long form is asked for.
pub fn full() -> bool {
    std::env::var_os("TAMP_FULL").is_some_and(|v| v == "1")
}

/// `fast`, or `long` when that is asked for.
pub fn scale(fast: usize, long: usize) -> usize {
    if full() { long } else { fast }
}

/// Positions of a sequence, whatever the model, unless a test says otherwise.
pub const CTX: usize = 4096;

/// The model of a test: a small seeded one, or the default one for the long form, where the store has it.
pub fn model(home: &Path) -> PathBuf {
    if full() {
        let var = |n: &str| std::env::var_os(n).filter(|v| !v.is_empty()).map(PathBuf::from);
        let usual = || Some(var("HOME")?.join(".local/share/tamp/models"));
        let kept = var("TAMP_STORE").or_else(usual).map(|s| s.join("smollm2.gguf"));
        match kept.filter(|p| p.is_file()) {
            Some(path) => return path,
            None => println!("the default model is not in the store: the small one stands in for it"),
        }
    }
    let path = home.join("tiny.gguf");
    if !path.exists() {
        std::fs::write(&path, Tiny { context: CTX, ..Tiny::new(Arch::Qwen2, 7) }.build()).unwrap();
    }
    path
}

/// A server that runs. Dropping it kills it.
pub struct Host {
    pub child: Child,
    pub addr: String,
    said: Arc<Mutex<String>>,
}

/// Small chunks, so that requests meet in a batch; one worker, so that tests beside each other get on.
const USUAL: &[&str] = &["--port", "0", "--threads", "1"];

impl Host {
    /// Starts it on the test's model.
    pub fn start(home: &Path, more: &[&str]) -> Host {
        Self::start_in(home, "", more)
    }

    /// Starts it from a shell that has run `before` first.
    pub fn start_in(home: &Path, before: &str, more: &[&str]) -> Host {
        let path = model(home);
        let plain = tamp(home);
        let mut c = Command::new("sh");
        c.args(["-c", &format!("{before}\nexec \"$0\" \"$@\"")]).arg(plain.get_program());
        for (name, value) in plain.get_envs() {
            match value {
                Some(v) => c.env(name, v),
                None => c.env_remove(name),
            };
        }
        c.arg("serve").arg(&path).args(USUAL).args(more).current_dir(home);
        if !more.contains(&"--ctx") {
            c.args(["--ctx", &CTX.to_string()]);
        }
        let mut child = c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (send, listens) = std::sync::mpsc::channel();
        let (err, kept) = (child.stderr.take().unwrap(), said.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(err).lines().map_while(Result::ok) {
                if let Some(addr) = line.strip_prefix("listening on http://") {
                    let _ = send.send(addr.to_string());
                }
                let mut kept = kept.lock().unwrap();
                *kept += &line;
                kept.push('\n');
            }
        });
        let addr = listens.recv_timeout(Duration::from_secs(120));
        let addr = addr.unwrap_or_else(|_| panic!("it does not listen: {}", said.lock().unwrap()));
        Host { child, addr, said }
    }

    /// What it wrote to stderr.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut s = TcpStream::connect(&self.addr).unwrap();
        s.write_all(&request(method, path, headers, body.as_bytes())).unwrap();
        s
    }

    pub fn get(&self, path: &str) -> Response {
        read(&mut self.raw("GET", path, &[], "")).unwrap_or_else(|e| panic!("{path}: {e}: {}", self.said()))
    }

    /// Sends a request and leaves the answer unread.
    pub fn begin(&self, path: &str, body: &Value) -> TcpStream {
        self.raw("POST", path, &[("content-type", "application/json")], &body.to_string())
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        let mut s = self.begin(path, body);
        read(&mut s).unwrap_or_else(|e| panic!("{path}: {e}: {}", self.said()))
    }

    /// A completion that must be answered.
    pub fn complete(&self, body: &Value) -> Value {
        let r = self.post("/v1/completions", body);
        assert_eq!(r.status, 200, "{}", String::from_utf8_lossy(&r.body));
        r.json()
    }

    /// Its events as they come.
    pub fn stream(&self, body: &Value) -> Events {
        let mut body = body.clone();
        body["stream"] = json!(true);
        Events::of(self.begin("/v1/completions", &body))
    }

    /// How many tokens a text has.
    pub fn count(&self, text: &str) -> usize {
        let r = self.post("/tokenize", &json!({"prompt": text}));
        r.json()["tokens"].as_array().unwrap().len()
    }

    /// The sum of a metric over its labels, as far as they hold `with`.
    pub fn metric(&self, name: &str, with: &str) -> f64 {
        let page = self.get("/metrics");
        let text = std::str::from_utf8(&page.body).unwrap();
        let rows = text.lines().filter(|l| {
            l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(with))
        });
        let values: Vec<f64> = rows.map(|l| l.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!(!values.is_empty() || !with.is_empty(), "no metric {name}:\n{text}");
        values.iter().sum()
    }

    /// Requests that run or wait.
    pub fn under_way(&self) -> f64 {
        self.metric("tamp_num_requests_running", "") + self.metric("tamp_num_requests_waiting", "")
    }

    /// Waits until `is`, at most a minute.
    pub fn until(&self, what: &str, is: impl Fn(&Host) -> bool) {
        let start = Instant::now();
        while !is(self) {
            assert!(start.elapsed() < Duration::from_secs(60), "never {what}: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until nothing runs or waits; every page must have come back.
    pub fn idle(&self) {
        self.until("idle", |h| h.under_way() == 0.0);
        assert_eq!(self.metric("tamp_kv_cache_usage_perc", ""), 0.0, "pages did not come back");
    }

    /// Forward passes so far.
    pub fn passes(&self) -> f64 {
        self.metric("tamp_forward_passes_total", "")
    }

    /// A line of its status in `/proc`, kB.
    pub fn status(&self, name: &str) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Waits for its end, at most a minute. A panic anywhere is a failed test.
    pub fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(1));
        };
        assert!(!self.said().contains("panicked"), "{}", self.said());
        status
    }

    /// Asks it to end, which it must do well.
    pub fn stop(mut self) {
        self.signal("-TERM");
        assert_eq!(self.ended().code(), Some(0), "{}", self.said());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// About `chars` characters of a play, from `at` on.
pub fn text(at: usize, chars: usize) -> String {
    static ALL: &str = include_str!("../../../bench/data/hamlet.txt");
    ALL.chars().skip(at).take(chars).collect()
}

/// Numbers that look drawn, the same in every run.
pub struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, n: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// The value below which `share` of the values lie.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}
