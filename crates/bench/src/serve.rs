//! Load on any server that speaks OpenAI's chat or completions over HTTP, and what its callers saw.
//!
//! | module | what it holds |
//! |---|---|
//! | [`script`] | what is asked |
//! | [`arrival`], [`draw`] | when |
//! | `drive` | the callers |
//! | `client`, `wire` | one request over HTTP |
//! | [`outcome`] | what became of it |
//! | [`row`] | the figures |
//! | [`versus`] | the same requests one after another and together |
//! | [`spawn`] | a server of our own for the time of a load |
//!
//! In an open loop a latency counts from the time a request was *meant* to be sent, so a server that stops for a second
//! shows that second in every request that fell into it. The client is one thread, and what it takes of a core is
//! measured beside every row.

pub mod arrival;
mod client;
pub mod draw;
mod drive;
pub mod outcome;
pub mod row;
pub mod script;
pub mod spawn;
pub mod versus;
mod wire;

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::BenchError;
use drive::{Part, drive};
use outcome::Outcome;
use script::Script;

pub use arrival::Arrival;
pub use drive::Progress;
pub use row::ServeRow;

/// Share of one core above which a client measures itself.
pub const MOST_CPU: f64 = 0.15;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// name or address
    pub host: String,
    /// port
    pub port: u16,
    /// what comes before `/v1/…`, without a slash at its end
    pub path: String,
}

impl std::str::FromStr for Target {
    type Err = BenchError;

    fn from_str(url: &str) -> Result<Self, BenchError> {
        let no = |why: &str| BenchError::Ask(format!("{url} is no address of a server: {why}"));
        let rest =
            url.strip_prefix("http://").ok_or_else(|| no("it must begin with http://; TLS is not spoken"))?;
        let (authority, path) = rest.split_once('/').map_or((rest, ""), |(a, p)| (a, p));
        let (host, port) = match authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => authority.rsplit_once(':').map_or((authority, None), |(h, p)| (h, Some(p))),
        };
        if host.is_empty() {
            return Err(no("it names no host"));
        }
        if !path.bytes().all(|b| b.is_ascii_graphic()) || path.contains(['?', '#']) {
            return Err(no("behind the host there may be a plain path only"));
        }
        let port = port.map_or(Ok(80), str::parse).map_err(|_| no("its port is no number up to 65535"))?;
        let path = path.trim_end_matches('/');
        // People give the base that SDKs take.
        let path = path.strip_suffix("v1").unwrap_or(path).trim_end_matches('/');
        let path = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Target { host: host.into(), port, path })
    }
}

impl Target {
    /// `host:port`, for the header.
    pub fn authority(&self) -> String {
        let Target { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// How requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// so many callers, each waiting for its answer before it asks again
    Closed {
        /// callers
        concurrency: usize,
    },
    /// arrivals that wait for nobody
    Open {
        /// sessions per second
        rate: f64,
        /// how they arrive
        arrival: Arrival,
    },
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// one question per conversation
    Chat,
    /// a text to go on with
    Completion,
    /// conversations that resend system, tools and history each turn
    Agent,
    /// questions behind one system prompt of [`script::SHARED`] tokens
    SharedPrefix,
    /// short questions while another caller sends prompts of [`script::LONG`] tokens
    LongPrompt,
}

impl Work {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Work::Chat => "chat",
            Work::Completion => "completion",
            Work::Agent => "agent",
            Work::SharedPrefix => "shared-prefix",
            Work::LongPrompt => "long-prompt",
        }
    }
}

/// Somebody with a key of their own.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// what rows call it
    pub name: String,
    /// its key
    #[serde(default)]
    pub key: Option<String>,
    /// its share of requests, against the others'
    #[serde(default = "one")]
    pub load: f64,
    /// its share of service, as the server was told
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

impl Default for Tenant {
    fn default() -> Self {
        Tenant { name: "all".into(), key: None, load: 1.0, weight: 1.0 }
    }
}

/// Readers that stop reading for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// the first so many sessions
    pub readers: usize,
    /// for so long, after their first chunk
    pub time: Duration,
}

/// Limits that a good request keeps, ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Slo {
    /// intended time → first token
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<f64>,
    /// mean time between its tokens
    #[serde(skip_serializing_if = "Option::is_none")]
    pub itl_ms: Option<f64>,
    /// intended time → last token
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e2e_ms: Option<f64>,
}

impl std::str::FromStr for Slo {
    type Err = BenchError;

    fn from_str(s: &str) -> Result<Self, BenchError> {
        let mut slo = Slo::default();
        for part in s.split(',') {
            let no = || {
                BenchError::Ask(format!(
                    "`{part}` is no limit; limits are ttft=TIME, itl=TIME, e2e=TIME, as 200ms or 2s"
                ))
            };
            let (name, time) = part.split_once('=').ok_or_else(no)?;
            let (number, unit) = match time.strip_suffix("ms") {
                Some(n) => (n, 1.0),
                None => (time.strip_suffix('s').ok_or_else(no)?, 1e3),
            };
            let ms = number.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0).ok_or_else(no)? * unit;
            match name {
                "ttft" => slo.ttft_ms = Some(ms),
                "itl" => slo.itl_ms = Some(ms),
                "e2e" => slo.e2e_ms = Some(ms),
                _ => return Err(no()),
            }
        }
        Ok(slo)
    }
}

impl Slo {
    /// There is a limit.
    pub fn any(&self) -> bool {
        *self != Slo::default()
    }

    fn met(&self, o: &Outcome) -> bool {
        let within = |limit: Option<f64>, took: Option<Duration>| {
            limit.is_none_or(|l| took.is_some_and(|t| t.as_secs_f64() * 1e3 <= l))
        };
        // An answer of one token has no time between tokens, and cannot miss the limit.
        let gap = Some(o.mean_gap().unwrap_or_default());
        within(self.ttft_ms, o.ttft()) && within(self.itl_ms, gap) && within(self.e2e_ms, Some(o.e2e()))
    }
}

/// A load.
#[derive(Clone, Debug)]
pub struct Ask {
    /// the server
    pub target: Target,
    /// the field `model`
    pub model: String,
    /// how requests are sent
    pub load: Load,
    /// counted requests; those of a conversation are never split
    pub requests: Option<usize>,
    /// no counted session begins after this
    pub duration: Option<Duration>,
    /// requests before counting starts
    pub warmup: usize,
    /// what is asked
    pub work: Work,
    /// tokens of what a user says, about: fewest and most
    pub prompt_tokens: (usize, usize),
    /// new tokens: fewest and most
    pub max_tokens: (usize, usize),
    /// turns of a conversation of [`Work::Agent`]
    pub turns: usize,
    /// who asks; one at least
    pub tenants: Vec<Tenant>,
    /// answers come token by token
    pub stream: bool,
    /// share of requests that are left before their end
    pub hang_up: f64,
    /// readers that stall
    pub stall: Option<Stall>,
    /// limits of good requests
    pub slo: Slo,
    /// longest silence of a server
    pub timeout: Duration,
    /// of lengths, texts, arrivals and the server's sampler
    pub seed: u64,
    /// of the server's sampler
    pub temperature: f64,
    /// asks for answers of full length
    pub ignore_eos: bool,
    /// most tokens that one chunk may hold
    pub chunk_tokens: usize,
    /// requests under way at once, most, in an open loop
    pub max_in_flight: usize,
    /// more fields of every request
    pub body: Map<String, Value>,
}

impl Ask {
    /// What cannot be asked, in a sentence.
    pub fn check(&self) -> Result<(), BenchError> {
        let say = |ok: bool, why: &str| if ok { Ok(()) } else { Err(BenchError::Ask(why.into())) };
        say(
            self.requests.is_some() || self.duration.is_some(),
            "give --requests or --duration, or there is no end",
        )?;
        say(self.requests != Some(0), "--requests 0 asks nothing")?;
        for (name, (lo, hi)) in [("--prompt-tokens", self.prompt_tokens), ("--max-tokens", self.max_tokens)] {
            say(1 <= lo && lo <= hi, &format!("{name} is FEWEST-MOST with 1 ≤ FEWEST ≤ MOST"))?;
        }
        say((1..=64).contains(&self.turns), "--turns is 1 to 64")?;
        say((0.0..=1.0).contains(&self.hang_up), "--hang-up is a share, 0 to 1")?;
        say(
            self.stream || (self.hang_up == 0.0 && self.stall.is_none()),
            "--hang-up and --stall need answers that come token by token, so not --no-stream",
        )?;
        say(!self.tenants.is_empty(), "there is no tenant")?;
        let positive = |x: f64| x.is_finite() && x > 0.0;
        for t in &self.tenants {
            say(
                positive(t.load) && positive(t.weight),
                &format!("tenant {}: load and weight are numbers above 0", t.name),
            )?;
        }
        say(self.work != Work::LongPrompt || self.tenants.len() == 1, "long-prompt takes one tenant")?;
        match self.load {
            Load::Closed { concurrency } => {
                say((1..=4096).contains(&concurrency), "--concurrency is 1 to 4096")
            }
            Load::Open { rate, .. } => {
                say((1e-3..=1e5).contains(&rate), "--rate is 0.001 to 100000 sessions per second")
            }
        }
    }

    /// In the words of the command line, keys left out.
    pub fn words(&self) -> Value {
        let range = |(lo, hi): (usize, usize)| format!("{lo}-{hi}");
        let load = match self.load {
            Load::Closed { concurrency } => json!({"loop": "closed", "concurrency": concurrency}),
            Load::Open { rate, arrival } => {
                json!({"loop": "open", "rate": rate, "arrival": arrival.to_string()})
            }
        };
        json!({
            "model": self.model, "load": load, "requests": self.requests,
            "duration_s": self.duration.map(|d| d.as_secs_f64()), "warmup": self.warmup,
            "workload": self.work.name(), "prompt_tokens": range(self.prompt_tokens),
            "max_tokens": range(self.max_tokens), "turns": self.turns, "stream": self.stream,
            "hang_up": self.hang_up,
            "stall": self.stall.map(|s| format!("{}:{}", s.readers, s.time.as_secs_f64())),
            "timeout_s": self.timeout.as_secs_f64(), "seed": self.seed, "temperature": self.temperature,
            "ignore_eos": self.ignore_eos, "chunk_tokens": self.chunk_tokens, "body": self.body,
        })
    }
}

/// What the process around the client knows.
pub struct Process<'a> {
    /// processor time of this process so far; `None` where the system does not tell
    pub cpu: &'a dyn Fn() -> Option<Duration>,
    /// told how many requests of a part are done
    pub progress: Progress,
    /// text for prompts instead of the pinned one
    pub text: Option<String>,
    /// the machine's lock is held
    pub decision_grade: bool,
}

impl Process<'_> {
    /// Processor and wall time of a part.
    fn timed<T>(&self, f: impl FnOnce() -> T) -> (T, Option<Duration>, Duration) {
        let (cpu, start) = ((self.cpu)(), Instant::now());
        let out = f();
        let took = (self.cpu)().zip(cpu).map(|(after, before)| after.saturating_sub(before));
        (out, took, start.elapsed())
    }
}

/// Sends a load and says what its callers saw.
pub fn serve(ask: &Ask, process: &Process<'_>) -> Result<ServeRow, BenchError> {
    ask.check()?;
    let ask = Rc::new(ask.clone());
    let script = Rc::new(Script::new(ask.clone(), process.text.as_deref())?);
    if ask.warmup > 0 {
        drive(&ask, &script, Part::warm(&ask), &process.progress)?;
    }
    let idle = match ask.work {
        Work::LongPrompt => drive(&ask, &script, Part::idle(&ask), &process.progress)?,
        _ => Vec::new(),
    };
    let (out, cpu, wall) = process.timed(|| drive(&ask, &script, Part::counted(&ask), &process.progress));
    Ok(row::row(&ask, &out?, &idle, cpu, wall, process.decision_grade))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small closed loop against nobody.
    pub(crate) fn ask() -> Ask {
        Ask {
            target: Target { host: "127.0.0.1".into(), port: 1, path: String::new() },
            model: "m".into(),
            load: Load::Closed { concurrency: 2 },
            requests: Some(8),
            duration: None,
            warmup: 0,
            work: Work::Chat,
            prompt_tokens: (8, 64),
            max_tokens: (4, 16),
            turns: 1,
            tenants: vec![Tenant::default()],
            stream: true,
            hang_up: 0.0,
            stall: None,
            slo: Slo::default(),
            timeout: Duration::from_secs(5),
            seed: 1,
            temperature: 0.0,
            ignore_eos: false,
            chunk_tokens: 1,
            max_in_flight: 64,
            body: Map::new(),
        }
    }

    #[test]
    fn an_address_is_read_with_and_without_what_sdks_add() {
        let t = |url: &str| url.parse::<Target>().map(|t| (t.authority(), t.path));
        let is = |url: &str, authority: &str, path: &str| {
            assert_eq!(t(url).unwrap(), (authority.to_string(), path.to_string()), "{url}");
        };
        is("http://127.0.0.1:8080", "127.0.0.1:8080", "");
        is("http://localhost:8080/v1/", "localhost:8080", "");
        is("http://box/llm/v1", "box:80", "/llm");
        is("http://[::1]:9/", "[::1]:9", "");
        for bad in
            ["https://a", "a:1", "http://", "http://a:x", "http://a:99999", "http://a/b?c", "http://a/b c"]
        {
            assert!(t(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_are_read_in_ms_and_s_and_others_are_refused() {
        let slo: Slo = "ttft=200ms,e2e=2.5s".parse().unwrap();
        assert_eq!(slo, Slo { ttft_ms: Some(200.0), itl_ms: None, e2e_ms: Some(2500.0) });
        for bad in ["", "ttft", "ttft=1", "tpot=1ms", "ttft=-1ms", "itl=nanms", "e2e=infs"] {
            assert!(bad.parse::<Slo>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused_before_anything_is_sent() {
        assert!(ask().check().is_ok());
        let open = |rate| Load::Open { rate, arrival: Arrival::Poisson };
        let bad = [
            Ask { requests: None, ..ask() },
            Ask { requests: Some(0), ..ask() },
            Ask { prompt_tokens: (9, 8), ..ask() },
            Ask { max_tokens: (0, 8), ..ask() },
            Ask { hang_up: f64::NAN, ..ask() },
            Ask { hang_up: 0.1, stream: false, ..ask() },
            Ask { load: Load::Closed { concurrency: 0 }, ..ask() },
            Ask { load: open(0.0), ..ask() },
            Ask { load: open(f64::INFINITY), ..ask() },
            Ask { tenants: vec![], ..ask() },
            Ask { tenants: vec![Tenant { weight: 0.0, ..Tenant::default() }], ..ask() },
        ];
        for b in bad {
            assert!(b.check().is_err(), "{b:?}");
        }
    }
}
