//! Where samples come from. [`Bench`] is what the runner asks; [`Spawner`] answers with fresh processes, and the
//! self-test with simulated ones, so that both go through the same run.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tamp_base::record::{SAMPLE, Sample};

use crate::foreign::{Ask, Prompt};
use crate::host::{Gate, Host, Reading};
use crate::quality::bounds::POSITIONS;
use crate::record::{RunRecord, Stage};
use crate::spec::{Arm, Frozen, PROGRAM, Spec};

/// How long a process may take when the contract does not say, seconds.
const TIMEOUT: u32 = 600;
/// The last of stderr that is kept, bytes.
const TAIL: usize = 2000;
/// Exit code by which tamp says that the plan refuses.
pub const REFUSED: i32 = 5;

/// A slot of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// why it runs
    pub stage: Stage,
    /// block, from 0
    pub block: u32,
    /// slot within the block, from 0
    pub position: u32,
}

/// What the runner asks for.
pub trait Bench {
    /// Makes an arm ready (builds its revision, finds its model): once before its first sample.
    fn prepare(&mut self, spec: &Frozen, arm: &Arm) -> Result<(), String>;
    /// One fresh process. Never fails: what went wrong is in the record.
    fn sample(&mut self, spec: &Frozen, arm: &Arm, at: At) -> RunRecord;
    /// Waits until the machine is quiet, or says why it is not.
    fn wait_quiet(&mut self, spec: &Frozen) -> Result<(), String>;
    /// Why a record does not count: it was disturbed.
    fn disturbed(&self, spec: &Frozen, record: &RunRecord) -> Option<String>;
    /// The machine.
    fn host(&self) -> Host;
    /// ms since 1970.
    fn now_ms(&self) -> u64;
    /// The hash of a dependency, by the names of [`crate::spec::Spec::dependencies`]; empty when it cannot be had.
    fn dependency(&mut self, name: &str) -> String;
    /// What the name of a revision means now.
    fn resolve(&mut self, rev: &str) -> Result<String, String> {
        Err(format!("there is no repository to find {rev} in"))
    }
    /// Whether the sources are as they were committed; otherwise a sentence.
    fn clean(&mut self) -> Result<(), String> {
        Ok(())
    }
    /// What names of revisions mean in the run that follows. With `HEAD` among them every arm is built.
    fn pin(&mut self, _revisions: BTreeMap<String, String>) {}
    /// Keeps a code candidate, as a commit that names the ledger's `row`, or removes what was built for it. The commit.
    fn settle(&mut self, _spec: &Frozen, _arm: &Arm, _row: Option<&str>) -> Result<Option<String>, String> {
        Ok(None)
    }
}

/// Extra programs an arm may be: a revision that must be built, a foreign engine.
pub trait Others {
    /// The binary of an arm's revision and patch, built if need be.
    fn binary(&mut self, arm: &Arm) -> Result<PathBuf, String>;
    /// What the name of a revision means now.
    fn resolve(&mut self, rev: &str) -> Result<String, String>;
    /// Whether the sources are as they were committed; otherwise a sentence.
    fn clean(&mut self) -> Result<(), String>;
    /// Commits an arm's patch on a branch of its own, naming the ledger's row, and gives the commit.
    fn keep(&mut self, spec: &Frozen, arm: &Arm, row: &str) -> Result<String, String>;
    /// A sample of a foreign engine.
    fn foreign(&mut self, engine: &str, ask: &Ask) -> Result<Sample, String>;
}

/// Fresh processes on this machine.
pub struct Spawner<'a> {
    /// the tamp binary of arms without a revision
    pub tamp: PathBuf,
    /// revisions and foreign engines
    pub others: &'a mut dyn Others,
    /// set by Ctrl-C; the process that runs then is ended
    pub stop: Arc<AtomicBool>,
    /// this process holds the machine lock
    pub locked: bool,
    /// root of the repository, for hashes of dependencies
    pub root: PathBuf,
    /// cached hashes and resolved models
    pub known: Known,
}

/// What needs to be found out once.
#[derive(Default)]
pub struct Known {
    hashes: HashMap<PathBuf, String>,
    models: BTreeMap<String, (PathBuf, String)>,
    prompts: HashMap<String, Vec<Prompt>>,
    host: Option<Host>,
    pins: BTreeMap<String, String>,
    /// where the control's distributions wait for the candidates' scouts
    reference: Option<tempfile::TempDir>,
}

/// What a finished process left.
struct Ended {
    out: Vec<u8>,
    err: String,
    exit: Option<i32>,
    why: Option<String>,
}

impl Spawner<'_> {
    fn hash(&mut self, path: &Path) -> Result<String, String> {
        if let Some(h) = self.known.hashes.get(path) {
            return Ok(h.clone());
        }
        let h = hash_file(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        self.known.hashes.insert(path.into(), h.clone());
        Ok(h)
    }

    /// Path and content hash of a model, as `tamp explain` resolves its name.
    fn model(&mut self, name: &str) -> Result<(PathBuf, String), String> {
        if let Some(m) = self.known.models.get(name) {
            return Ok(m.clone());
        }
        let direct = PathBuf::from(name);
        let path = if direct.is_file() {
            direct
        } else {
            let explained = self.ask(&["explain", name, "--json"])?;
            let path =
                explained["path"].as_str().ok_or_else(|| format!("tamp explain {name} names no path"))?;
            PathBuf::from(path)
        };
        let hash = if path.is_dir() { String::new() } else { self.hash(&path)? };
        self.known.models.insert(name.into(), (path.clone(), hash.clone()));
        Ok((path, hash))
    }

    /// The arm with the revision it is built from, spelt out; none where it is the running program or another engine.
    fn built(&self, spec: &Frozen, arm: &Arm) -> Option<Arm> {
        let pins = &self.known.pins;
        let name = spec.spec.revision(arm, pins.contains_key("HEAD"))?;
        let rev = pins.get(name).map_or(name, String::as_str);
        Some(Arm { rev: Some(rev.to_string()), ..arm.clone() })
    }

    /// Runs our own binary for facts, outside any measurement.
    fn ask(&self, args: &[&str]) -> Result<Value, String> {
        let out = Command::new(&self.tamp)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("cannot start {}: {e}", self.tamp.display()))?;
        if !out.status.success() {
            return Err(last_line(&String::from_utf8_lossy(&out.stderr)));
        }
        json_line(&out.stdout).ok_or_else(|| format!("tamp {} printed no JSON", args.join(" ")))
    }

    /// What a foreign engine is asked: the contract, with its prompts as token ids.
    fn asked(
        &mut self,
        spec: &Frozen,
        arm: &Arm,
        scout: bool,
        name: &str,
        model: PathBuf,
    ) -> Result<Ask, String> {
        let c = &spec.spec.contract;
        let chosen = chosen(&spec.spec, scout);
        let cut = c.prompt_tokens.map(|n| n.to_string());
        let key = format!("{name} {} {cut:?}", chosen.join(","));
        if !self.known.prompts.contains_key(&key) {
            let names = chosen.join(",");
            let mut words = vec!["bench", "prompts", name, "--prompts", &names, "--json"];
            words.extend(cut.iter().flat_map(|n| ["--prompt-tokens", n.as_str()]));
            let all = self.ask(&words)?;
            let prompt = |p: &String| {
                let ids: Vec<u32> = serde_json::from_value(all["prompts"][p].clone())
                    .map_err(|e| format!("prompt {p}: {e}"))?;
                Ok(Prompt::new(p.clone(), ids, all["texts"][p].as_str().unwrap_or_default()))
            };
            let list = chosen.iter().map(prompt).collect::<Result<Vec<_>, String>>()?;
            self.known.prompts.insert(key.clone(), list);
        }
        let prompts = self.known.prompts[&key].clone();
        let longest = prompts.iter().map(|p| p.ids.len()).max().unwrap_or(0);
        let repeats = if scout { 1 } else { c.repeats.unwrap_or(1).max(1) as usize };
        Ok(Ask {
            model,
            prompts: std::iter::repeat_n(prompts, repeats).flatten().collect(),
            max_tokens: c.max_tokens as usize,
            temperature: c.temperature,
            seed: c.seed,
            threads: arm.threads.or(c.threads).map_or(self.host().cores, |n| n as usize),
            ctx: c.ctx.map_or(longest + c.max_tokens as usize + 16, |n| n as usize),
            warmup: c.warmup.unwrap_or(1) as usize,
        })
    }

    /// The file that the control's scout writes and the candidates' read. It lives as long as this.
    fn reference(&mut self) -> Result<PathBuf, String> {
        if self.known.reference.is_none() {
            let made = tempfile::TempDir::with_prefix("tamp-lab-");
            self.known.reference = Some(made.map_err(|e| format!("no folder for the reference: {e}"))?);
        }
        let folder = self.known.reference.as_ref().map(|d| d.path().join("reference"));
        folder.ok_or_else(|| "no folder for the reference".to_string())
    }

    fn measure(&mut self, spec: &Frozen, arm: &Arm, at: At, record: &mut RunRecord) -> Result<(), String> {
        let name = arm.model.as_ref().unwrap_or(&spec.spec.contract.model).clone();
        let (path, hash) = self.model(&name)?;
        record.model = hash;
        if let Some(engine) = &arm.engine {
            let ask = self.asked(spec, arm, at.stage == Stage::Scout, &name, path)?;
            record.argv = vec![format!("engine {engine}")];
            let sample = self.others.foreign(engine, &ask)?;
            record.exit = Some(0);
            record.samples = vec![sample];
            return Ok(());
        }
        let binary = match self.built(spec, arm) {
            Some(arm) => self.others.binary(&arm)?,
            None => self.tamp.clone(),
        };
        record.binary = self.hash(&binary)?;
        let mut argv = arm.wrap.clone();
        argv.push(binary.display().to_string());
        let scout = at.stage == Stage::Scout;
        argv.extend(words(&spec.spec, arm, scout, &name));
        record.argv.clone_from(&argv);
        if scout && spec.spec.quality.max_kl.is_some() {
            let flag = if arm.name == spec.spec.arms()[0].name { "--keep-reference" } else { "--reference" };
            let file = self.reference()?.display().to_string();
            argv.extend([flag.to_string(), file]);
            record.argv.extend([flag, "reference"].map(String::from));
        }
        // Paths of this machine say nothing to a reader elsewhere; the hash of the binary does.
        record.argv[arm.wrap.len()] = "tamp".into();
        let timeout = Duration::from_secs(spec.spec.contract.timeout_s.unwrap_or(TIMEOUT).into());
        let make = || {
            let mut c = Command::new(&argv[0]);
            c.args(&argv[1..]);
            c
        };
        let beside: Vec<Ended> = std::thread::scope(|s| {
            let stop = &*self.stop;
            let many = arm.parallel.unwrap_or(1);
            let others: Vec<_> = (1..many).map(|_| s.spawn(|| run(&mut make(), timeout, stop))).collect();
            let first = run(&mut make(), timeout, stop);
            std::iter::once(first).chain(others.into_iter().filter_map(|t| t.join().ok())).collect()
        });
        for ended in beside {
            record.exit = ended.exit;
            record.stderr = ended.err;
            if let Some(why) = ended.why {
                return Err(why);
            }
            if ended.exit != Some(0) {
                return Err(last_line(&record.stderr));
            }
            let value = json_line(&ended.out).ok_or("it printed no JSON object")?;
            let sample: Sample =
                serde_json::from_value(value).map_err(|e| format!("its JSON is no sample: {e}"))?;
            if sample.kind != SAMPLE || sample.v != 1 {
                return Err(format!("it printed {} v {}, not {SAMPLE} v 1", sample.kind, sample.v));
            }
            record.samples.push(sample);
        }
        record.stderr.clear();
        Ok(())
    }
}

impl Bench for Spawner<'_> {
    fn prepare(&mut self, spec: &Frozen, arm: &Arm) -> Result<(), String> {
        let name = arm.model.as_ref().unwrap_or(&spec.spec.contract.model).clone();
        self.model(&name)?;
        if let Some(arm) = self.built(spec, arm) {
            self.others.binary(&arm)?;
        }
        Ok(())
    }

    fn sample(&mut self, spec: &Frozen, arm: &Arm, at: At) -> RunRecord {
        let empty = RunRecord::unstarted(&spec.id, &arm.name, self.host(), self.now_ms(), String::new());
        let At { stage, block, position } = at;
        let mut r = RunRecord { stage, block, position, locked: self.locked, failed: None, ..empty };
        let (before, start) = (Reading::now(), Instant::now());
        r.failed = self.measure(spec, arm, at, &mut r).err();
        if r.failed.is_some() {
            r.samples.clear();
        }
        r.took_ms = start.elapsed().as_secs_f64() * 1e3;
        r.quiet = before.since();
        r
    }

    fn wait_quiet(&mut self, spec: &Frozen) -> Result<(), String> {
        let stop = self.stop.clone();
        gate(spec).wait(Duration::from_secs(60), &|| stop.load(Ordering::Relaxed))
    }

    fn disturbed(&self, spec: &Frozen, record: &RunRecord) -> Option<String> {
        gate(spec).broken(&record.quiet)
    }

    fn host(&self) -> Host {
        self.known.host.clone().unwrap_or_else(Host::here)
    }

    fn now_ms(&self) -> u64 {
        tamp_base::clock::now_ms()
    }

    fn dependency(&mut self, name: &str) -> String {
        let git = |args: &[&str]| {
            let out =
                Command::new("git").arg("-C").arg(&self.root).args(args).stdin(Stdio::null()).output().ok();
            let out = out.filter(|o| o.status.success());
            out.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string()).unwrap_or_default()
        };
        match name.split_once(':') {
            // The tree of a crate names its content, whatever the commit around it.
            Some(("crate", krate)) => git(&["rev-parse", &format!("HEAD:crates/{krate}")]),
            Some(("file", path)) => hash_file(&self.root.join(path)).unwrap_or_default(),
            Some(("card", card)) => {
                let all = self.ask(&["techniques", card, "--json"]).unwrap_or_default();
                if all.is_null() { String::new() } else { crate::spec::hash(&all) }
            }
            None if name == "machine" => blake3::hash(self.host().class().as_bytes()).to_hex().to_string(),
            Some(("model", model)) => self.model(model).map(|m| m.1).unwrap_or_default(),
            Some(("at", PROGRAM)) => {
                let tamp = self.tamp.clone();
                self.hash(&tamp).unwrap_or_default()
            }
            _ => String::new(),
        }
    }

    fn resolve(&mut self, rev: &str) -> Result<String, String> {
        self.others.resolve(rev)
    }

    fn clean(&mut self) -> Result<(), String> {
        self.others.clean()
    }

    fn pin(&mut self, revisions: BTreeMap<String, String>) {
        self.known.pins = revisions;
    }

    fn settle(&mut self, spec: &Frozen, arm: &Arm, row: Option<&str>) -> Result<Option<String>, String> {
        match (self.built(spec, arm), row) {
            (Some(arm), Some(row)) => self.others.keep(spec, &arm, row).map(Some),
            // What was built for a candidate lives in the cache alone; there is no tree of it to remove.
            _ => Ok(None),
        }
    }
}

/// Runs a process to its end, to `timeout`, or until `stop`.
fn run(command: &mut Command, timeout: Duration, stop: &AtomicBool) -> Ended {
    let failed = |why: String| Ended { out: Vec::new(), err: String::new(), exit: None, why: Some(why) };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("TAMP_LAB_HOLDER", std::process::id().to_string());
    let mut child = match command.spawn() {
        Ok(c) => c,
        Err(e) => return failed(format!("cannot start {:?}: {e}", command.get_program())),
    };
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let (why, exit) = wait(&mut child, timeout, stop);
    let text = String::from_utf8_lossy(&err.recv().unwrap_or_default()).into_owned();
    let from = text.char_indices().rev().map(|(i, _)| i).take(TAIL).last().unwrap_or(0);
    Ended { out: out.recv().unwrap_or_default(), err: text[from..].to_string(), exit, why }
}

/// Polls: a few wake-ups a second cost less than any core's tick.
fn wait(child: &mut Child, timeout: Duration, stop: &AtomicBool) -> (Option<String>, Option<i32>) {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return (None, status.code()),
            Err(e) => return (Some(e.to_string()), None),
            Ok(None) => {}
        }
        let why = if stop.load(Ordering::Relaxed) {
            "stopped by the user".to_string()
        } else if start.elapsed() > timeout {
            format!("it took longer than {} s", timeout.as_secs())
        } else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        let _ = child.kill();
        let _ = child.wait();
        return (Some(why), None);
    }
}

fn gate(spec: &Frozen) -> Gate {
    let usual = Gate::default();
    Gate { foreign_cpu: spec.spec.design.foreign_cpu.unwrap_or(usual.foreign_cpu), ..usual }
}

/// The prompts of the contract; a scout is also given those that show what the text is like.
fn chosen(spec: &Spec, scout: bool) -> Vec<String> {
    let mut prompts = spec.contract.prompts.clone();
    if scout {
        let usual = || ["short", "long"].map(String::from).to_vec();
        let rollout = spec.quality.rollout.clone().unwrap_or_else(usual);
        prompts.extend(rollout.into_iter().filter(|p| !spec.contract.prompts.contains(p)));
    }
    prompts
}

/// The words of `tamp bench sample` for an arm. A scout runs the quality prompts too, and no ceiling probe.
fn words(spec: &Spec, arm: &Arm, scout: bool, model: &str) -> Vec<String> {
    let c = &spec.contract;
    let prompts = chosen(spec, scout);
    let mut w: Vec<String> = ["bench", "sample", model, "--json"].map(String::from).to_vec();
    let mut pair = |flag: &str, value: String| w.extend([flag.to_string(), value]);
    pair("--prompts", prompts.join(","));
    pair("--max-tokens", c.max_tokens.to_string());
    pair("--temperature", c.temperature.to_string());
    pair("--seed", c.seed.to_string());
    pair("--warmup", c.warmup.unwrap_or(1).to_string());
    pair("--repeats", if scout { 1 } else { c.repeats.unwrap_or(1) }.to_string());
    if let Some(n) = c.prompt_tokens {
        pair("--prompt-tokens", n.to_string());
    }
    if let Some(n) = arm.threads.or(c.threads) {
        pair("--threads", n.to_string());
    }
    for u in &arm.uses {
        pair("--use", u.clone());
    }
    for s in &arm.sets {
        pair("--set", s.clone());
    }
    if scout || c.ceiling == Some(false) {
        w.push("--no-ceiling".into());
    }
    w.extend(arm.args.iter().cloned());
    let q = &spec.quality;
    if scout && (q.max_kl.is_some() || q.max_bits.is_some()) {
        w.extend(["--score".into(), q.positions.unwrap_or(POSITIONS).to_string()]);
    }
    if scout && q.max_task_loss.is_some() {
        w.push("--task".into());
    }
    w
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (tx, rx) = mpsc::channel();
    if let Some(mut pipe) = pipe {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.by_ref().take(64 << 20).read_to_end(&mut bytes);
            let _ = tx.send(bytes);
        });
    }
    rx
}

fn json_line(out: &[u8]) -> Option<Value> {
    let text = String::from_utf8_lossy(out);
    text.lines().rev().find(|l| l.starts_with('{')).and_then(|l| serde_json::from_str(l).ok())
}

/// What a process said last: its own sentence rather than the hint after it.
fn last_line(text: &str) -> String {
    let own = text.lines().rev().find_map(|l| l.strip_prefix("tamp: "));
    let last = || text.lines().rev().find(|l| !l.trim().is_empty());
    own.or_else(last).unwrap_or("it said nothing").trim().to_string()
}

/// blake3 of a file, hex.
pub fn hash_file(path: &Path) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut std::fs::File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}
