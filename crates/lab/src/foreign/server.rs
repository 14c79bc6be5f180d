//! Engines behind an OpenAI-compatible address: one that runs already, or one that is started for the sample.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tamp_base::record::{EngineId, SAMPLE, Sample};

use super::http::Client;
use super::process::Running;
use super::stream::{Done, Times, glimpse};
use super::{Ask, Engine, ForeignError, Stop, Version, command, fill, receipt};

/// How often a starting server is asked.
const POLL: Duration = Duration::from_millis(20);

/// Longest wait for one answer of a server that is starting, or for its version.
const SHORT: Duration = Duration::from_secs(5);

/// A sample of a server that runs already: no phases, no memory, no hashes, for its process is not ours to look at.
pub(super) fn at(engine: &Engine, ask: &Ask, base: &str) -> Result<Sample, ForeignError> {
    let client = Client::new(engine, base.to_string());
    let version = version(engine, &client)?;
    let done = requests(&client, ask)?;
    Ok(row(engine, ask, version, done))
}

/// A sample of a server that lives as long as the sample.
pub(super) fn fresh(
    engine: &Engine,
    ask: &Ask,
    argv: &[String],
    ready: &str,
    within: Duration,
    stop: Stop,
) -> Result<Sample, ForeignError> {
    let early = match &engine.version {
        Version::Command(argv) => command::version(engine, argv)?,
        _ => String::new(),
    };
    let port = free_port(engine)?;
    let argv = fill(
        argv,
        &[
            ("{model}", ask.model.to_string_lossy().into_owned()),
            ("{port}", port.to_string()),
            ("{threads}", ask.threads.to_string()),
            ("{ctx}", ask.ctx.to_string()),
        ],
    );
    let since = Instant::now();
    let mut running = Running::start(&engine.key, &argv, &engine.env, None)?;
    let client = Client::new(engine, format!("http://127.0.0.1:{port}"));
    until_ready(engine, &mut running, &client, ready, within)?;
    let start_to_ready = since.elapsed().as_secs_f64() * 1e3;
    let version = match &engine.version {
        Version::Path(_) => version(engine, &client)?,
        _ => early,
    };
    let done = match requests(&client, ask) {
        Ok(done) => done,
        // A server that died explains more than the connection it dropped; it may need a moment to be seen dead.
        Err(e) => {
            std::thread::sleep(Duration::from_millis(50));
            return Err(running.ended().map_or(e, |status| running.gone(status)));
        }
    };
    let mut sample = row(engine, ask, version, done);
    sample.phases_ms = BTreeMap::from([("start_to_ready".to_string(), start_to_ready)]);
    sample.memory_peak = receipt::memory_peak(running.id());
    if let Some(code) = receipt::code(running.id()) {
        sample.observed.insert("engine_program".into(), json!(code.program));
        sample.observed.insert("engine_program_blake3".into(), json!(code.program_hash));
        if let Some(h) = code.libraries_hash {
            sample.observed.insert("engine_code_blake3".into(), json!(h));
        }
    }
    running.stop(match stop {
        Stop::Kill => None,
        Stop::Term(within) => Some(within),
    })?;
    Ok(sample)
}

/// A port that is free now. Somebody may take it before the server does; then the server ends with its own words.
fn free_port(engine: &Engine) -> Result<u16, ForeignError> {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map(|a| a.port());
    port.map_err(|why| ForeignError::Io {
        engine: engine.key.clone(),
        what: "there is no free port on 127.0.0.1".into(),
        why,
    })
}

fn until_ready(
    engine: &Engine,
    running: &mut Running,
    client: &Client,
    ready: &str,
    within: Duration,
) -> Result<(), ForeignError> {
    let since = Instant::now();
    loop {
        if let Some(status) = running.ended() {
            return Err(running.gone(status));
        }
        let left = within.saturating_sub(since.elapsed());
        if left.is_zero() {
            return Err(ForeignError::Late {
                engine: engine.key.clone(),
                what: format!("a 200 of {ready}"),
                seconds: within.as_secs_f64(),
                hint: format!("`ready_s` of its entry is the limit; it last said: {}", running.said()),
            });
        }
        // Refused, reset or 503 all mean not yet.
        if matches!(client.get(ready, left.min(SHORT)), Ok((200, _))) {
            // A stranger may have taken the port in between.
            return running.ended().map_or(Ok(()), |status| Err(running.gone(status)));
        }
        std::thread::sleep(POLL.min(left));
    }
}

fn version(engine: &Engine, client: &Client) -> Result<String, ForeignError> {
    let path = match &engine.version {
        Version::None => return Ok(String::new()),
        Version::Command(argv) => return command::version(engine, argv),
        Version::Path(path) => path,
    };
    let (status, body) = client.get(path, SHORT)?;
    if status != 200 {
        return Err(ForeignError::Status {
            engine: engine.key.clone(),
            url: path.clone(),
            status,
            said: glimpse(&body),
        });
    }
    let json: Option<Value> = serde_json::from_slice(&body).ok();
    let told = json.as_ref().and_then(|v| ["version", "build_info"].iter().find_map(|k| v.get(k)?.as_str()));
    Ok(told.map_or_else(
        || glimpse(body.split(|&b| b == b'\n').next().unwrap_or_default()),
        |t| glimpse(t.as_bytes()),
    ))
}

/// The uncounted rounds, then the counted one.
fn requests(client: &Client, ask: &Ask) -> Result<Vec<Done>, ForeignError> {
    for _ in 0..ask.warmup {
        for p in &ask.prompts {
            client.complete(ask, p)?;
        }
    }
    ask.prompts.iter().map(|p| client.complete(ask, p)).collect()
}

fn row(engine: &Engine, ask: &Ask, version: String, done: Vec<Done>) -> Sample {
    let worst = done.iter().map(|d| d.times).max().unwrap_or(Times::Each);
    let together: usize = done.iter().map(|d| d.read_together).sum();
    let observed = BTreeMap::from([
        ("same_ids".to_string(), json!(engine.ids && done.iter().all(|d| !d.other_prompt))),
        ("ids_told".to_string(), json!(done.iter().all(|d| d.ids_told))),
        ("chunked".to_string(), json!(worst != Times::Each)),
        ("token_times".to_string(), json!(worst.word())),
        ("read_together".to_string(), json!(together)),
    ]);
    Sample {
        kind: SAMPLE.into(),
        v: 1,
        engine: EngineId { name: engine.name.clone(), version, ..EngineId::default() },
        settings: ask.settings(),
        threads: ask.threads,
        requests: done.into_iter().map(|d| d.run).collect(),
        observed,
        ..Sample::default()
    }
}
