//! Other engines as child processes. None is needed to build or test tamp; one that is missing says so.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Serialize;
use serde_json::Value;
use tamp_kernels::pool::unpinned;

use super::{Ask, Work};
use crate::BenchError;

/// One figure of a peer.
#[derive(Clone, Debug)]
pub struct Sample {
    /// tokens/s of all streams
    pub tok_s: f64,
    /// it was given exactly our token ids
    pub same_ids: bool,
    /// what it was set to
    pub setting: String,
}

/// Another engine with the model at hand.
pub trait Peer {
    /// What people call it.
    fn name(&self) -> String;
    /// Its version or commit.
    fn version(&self) -> String;
    /// Does the work once.
    fn sample(&mut self, ask: &Ask) -> Result<Sample, BenchError>;
}

fn failed(what: impl Into<String>) -> BenchError {
    BenchError::Peer(what.into())
}

/// A program that loads the model once and answers requests line by line (`bench/peers/tamp_rows.py`).
pub struct Served {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    name: String,
    version: String,
}

#[derive(Serialize)]
struct Line<'a> {
    work: &'static str,
    ids: &'a [u32],
    lists: &'a [Vec<u32>],
    text: &'a str,
    tokens: usize,
}

impl Served {
    /// Starts it and waits until it has loaded the model.
    pub fn start(mut command: Command) -> Result<Served, BenchError> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let spawned = unpinned(|| command.spawn());
        let mut child = spawned.map_err(|e| BenchError::NoPeer(format!("{program} did not start ({e})")))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(format!("{program} has no pipes")));
        };
        let mut peer =
            Served { child, to, from: BufReader::new(from), name: String::new(), version: String::new() };
        let hello = peer.read()?;
        let word = |key: &str| hello[key].as_str().unwrap_or_default().to_string();
        (peer.name, peer.version) = (word("ready"), word("version"));
        Ok(peer)
    }

    /// The next line; what a peer says of itself when it cannot go on is the error.
    fn read(&mut self) -> Result<Value, BenchError> {
        let mut line = String::new();
        let read = self.from.read_line(&mut line).map_err(|e| failed(e.to_string()))?;
        let who = if self.name.is_empty() { "the peer" } else { &self.name };
        if read == 0 {
            return Err(failed(format!("{who} ended without an answer")));
        }
        let value: Value = serde_json::from_str(&line)
            .map_err(|e| failed(format!("{who} gave a line that is no row: {e}")))?;
        match (value["missing"].as_str(), value["failed"].as_str()) {
            (Some(m), _) => Err(BenchError::NoPeer(m.to_string())),
            (_, Some(f)) => Err(failed(f)),
            _ => Ok(value),
        }
    }
}

impl Peer for Served {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn sample(&mut self, ask: &Ask) -> Result<Sample, BenchError> {
        let ids = ask.ids.first().map_or(&[][..], Vec::as_slice);
        let line = Line {
            work: ask.load.work.name(),
            ids,
            lists: if ask.load.work == Work::Batch { &ask.ids } else { &[] },
            text: &ask.text,
            tokens: ask.load.tokens,
        };
        let text = serde_json::to_string(&line).map_err(|e| failed(e.to_string()))?;
        let sent = self.to.write_all(format!("{text}\n").as_bytes()).and_then(|()| self.to.flush());
        sent.map_err(|e| failed(format!("{} does not listen: {e}", self.name)))?;
        let row = self.read()?;
        let rate = match ask.load.work {
            Work::Prefill => row["prefill_tok_s"].as_f64(),
            Work::Batch => row["points"][0]["total_tok_s"].as_f64(),
            Work::Decode | Work::Context => row["decode_tok_s"].as_f64(),
        };
        Ok(Sample {
            tok_s: positive(rate, &self.name)?,
            same_ids: row["same_ids"] == true,
            setting: row["setting"].as_str().unwrap_or_default().to_string(),
        })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may be in the middle of something; nobody waits for the rest.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn positive(rate: Option<f64>, who: &str) -> Result<f64, BenchError> {
    rate.filter(|r| r.is_finite() && *r > 0.0).ok_or_else(|| failed(format!("{who} gave no rate")))
}

/// A `llama-bench` binary (for a batch a `llama-batched-bench`), of llama.cpp or of a fork. It makes its own prompts.
pub struct LlamaBench {
    /// the binary
    pub bin: PathBuf,
    /// the model file
    pub model: PathBuf,
    /// its threads
    pub threads: usize,
    /// further arguments, for what a fork wants
    pub extra: Vec<String>,
    version: String,
    /// it knows no `-d`, as forks do, and takes the depth as `-gp`
    pairs: bool,
}

impl LlamaBench {
    /// A binary that will be started once per sample.
    pub fn new(bin: PathBuf, model: PathBuf, threads: usize, extra: Vec<String>) -> LlamaBench {
        LlamaBench { bin, model, threads, extra, version: String::new(), pairs: false }
    }

    /// Runs it once; its standard output.
    fn run(&self, args: &[String]) -> Result<String, BenchError> {
        let mut command = Command::new(&self.bin);
        command
            .arg("-m")
            .arg(&self.model)
            .args(["-t", &self.threads.to_string()])
            .args(args)
            .args(&self.extra);
        let bin = self.bin.display();
        let out = unpinned(|| command.stdin(Stdio::null()).output());
        let out =
            out.map_err(|e| BenchError::NoPeer(format!("{bin} did not start ({e}); name it with --bin")))?;
        if !out.status.success() {
            let err = String::from_utf8_lossy(&out.stderr);
            let last = err.trim().lines().last().unwrap_or("no word").to_string();
            return Err(failed(format!("{bin} {} failed: {last}", args.join(" "))));
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    fn bench(&mut self, ask: &Ask, flash: Option<&str>) -> Result<f64, BenchError> {
        let (prompt, tokens) = (ask.load.prompt.to_string(), ask.load.tokens.to_string());
        let sizes: Vec<&str> = match ask.load.work {
            Work::Prefill => vec!["-p", &prompt, "-n", "0"],
            Work::Context if self.pairs => vec![],
            Work::Context => vec!["-p", "0", "-n", &tokens, "-d", &prompt],
            _ => vec!["-p", "0", "-n", &tokens],
        };
        let mut args: Vec<String> = sizes.into_iter().map(String::from).collect();
        if ask.load.work == Work::Context && self.pairs {
            args.extend(["-p", "0", "-n", "0", "-gp"].map(String::from));
            args.push(format!("{prompt},{tokens}"));
        }
        args.extend(["-r", "1", "-o", "json"].map(String::from));
        if let Some(flash) = flash {
            args.extend(["-fa".to_string(), flash.to_string()]);
        }
        let out = self.run(&args)?;
        let rows: Value = serde_json::from_str(&out)
            .map_err(|e| failed(format!("{} gave no JSON: {e}", self.bin.display())))?;
        if let Some(commit) = rows[0]["build_commit"].as_str() {
            self.version = commit.to_string();
        }
        positive(rows[0]["avg_ts"].as_f64(), &self.name())
    }

    fn batched(&mut self, ask: &Ask) -> Result<f64, BenchError> {
        let l = ask.load;
        let room = ((l.prompt + l.tokens) * l.streams).next_multiple_of(256);
        let mut args: Vec<String> = Vec::new();
        for (flag, value) in [("-c", room), ("-npp", l.prompt), ("-ntg", l.tokens), ("-npl", l.streams)] {
            args.extend([flag.to_string(), value.to_string()]);
        }
        args.extend(["--output-format", "jsonl"].map(String::from));
        let out = self.run(&args)?;
        let row = out.lines().rev().find_map(|l| serde_json::from_str::<Value>(l).ok()).unwrap_or_default();
        positive(row["speed_tg"].as_f64(), &self.name())
    }
}

impl Peer for LlamaBench {
    fn name(&self) -> String {
        self.bin.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn sample(&mut self, ask: &Ask) -> Result<Sample, BenchError> {
        let (tok_s, setting) = match ask.load.work {
            Work::Batch => (self.batched(ask)?, String::new()),
            Work::Context => {
                let off = match self.bench(ask, Some("0")) {
                    Err(BenchError::Peer(_)) if !self.pairs => {
                        self.pairs = true;
                        self.bench(ask, Some("0"))?
                    }
                    other => other?,
                };
                let on = self.bench(ask, Some("1"))?;
                if on > off { (on, "fa=1".into()) } else { (off, "fa=0".into()) }
            }
            Work::Decode | Work::Prefill => (self.bench(ask, None)?, String::new()),
        };
        Ok(Sample { tok_s, same_ids: false, setting })
    }
}
