//! The workloads on a lively tiny model: what they claim to have run is what the engine counted.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::sync::Arc;

use tamp_base::clock::SystemClock;
use tamp_base::settings::Settings;
use tamp_bench::prefix::prefix;
use tamp_bench::prompt::PROSE;
use tamp_bench::score::{Scoring, score};
use tamp_bench::vs::peer::{LlamaBench, Peer, Sample, Served};
use tamp_bench::vs::{Ask, Load, Work, vs};
use tamp_bench::width::{WIDTHS, engine};
use tamp_bench::{BenchError, LoadTimes, Subject, single};
use tamp_engine::{Engine, EngineOptions};
use tamp_kernels::cpu::Cpu;
use tamp_kernels::pool::Pool;
use tamp_kernels::rung;
use tamp_text::Tokenizer;
use tamp_weights::Weights;
use tamp_weights::testing::{Arch, tiny};

/// An engine for `batch` streams of `ctx` positions, and its pool.
fn subject(ctx: usize, batch: usize) -> (Engine<Cpu>, Arc<Pool>) {
    subject_with(ctx, batch, &Settings::default())
}

fn subject_with(ctx: usize, batch: usize, settings: &Settings) -> (Engine<Cpu>, Arc<Pool>) {
    let weights = Weights::from_gguf_bytes(tiny(Arch::Qwen2, 7)).unwrap();
    let pool = Arc::new(Pool::new(1, false));
    let device = Arc::new(Cpu::new(pool.clone(), rung::available().next().unwrap()));
    let tokenizer = Arc::new(Tokenizer::from_meta(&weights.meta).unwrap());
    let options = EngineOptions { ctx, batch, ..EngineOptions::default() };
    let clock = Arc::new(SystemClock::default());
    let e = Engine::load(&weights, device, || Ok(tokenizer), settings, options, clock, &mut |_, _| ());
    (e.unwrap(), pool)
}

#[test]
fn each_width_is_steps_of_exactly_that_many_streams_in_every_round() {
    let rounds = 2;
    let (mut e, pool) = subject(engine::positions(rounds), engine::STREAMS);
    let mut s = Subject { engine: &mut e, pool: &pool, load: LoadTimes::default(), decision_grade: true };
    let row = engine::engine(&mut s, PROSE, rounds).unwrap();
    assert_eq!(row.points.iter().map(|p| p.rows).collect::<Vec<_>>(), WIDTHS);
    assert!(row.points.iter().all(|p| p.samples.len() == rounds && p.ms > 0.0));
    // Three steps of each width in each round and in the uncounted one.
    let steps = (rounds + 1) * 3;
    assert_eq!(row.work.target_forwards as usize, steps * WIDTHS.len());
    assert_eq!(row.work.target_positions as usize, steps * WIDTHS.iter().sum::<usize>());
    assert_eq!(e.stats().finished, 0, "a stream that ends would change the width");
    assert_eq!(e.stats().preemptions, 0);
}

#[test]
fn the_reuse_curve_says_what_the_engine_did_not_compute() {
    let (mut e, pool) = subject(200, 1);
    let mut s = Subject { engine: &mut e, pool: &pool, load: LoadTimes::default(), decision_grade: true };
    let row = prefix(&mut s, PROSE, 120, &[0, 50, 95], 2).unwrap();
    assert_eq!(row.points.iter().map(|p| p.shared_tokens).collect::<Vec<_>>(), [0, 60, 114]);
    for p in &row.points {
        assert!(p.samples.len() == 2 && p.ttft_ms > 0.0 && p.cached_tokens <= p.shared_tokens as f64);
    }
    assert_eq!(row.points[0].ratio, 1.0);
    // One uncounted prompt, then two per share and repeat; what was not cached went through the model.
    let computed = e.stats().work.target_positions as f64;
    let saved: f64 = row.points.iter().map(|p| p.cached_tokens * 2.0).sum();
    assert_eq!((e.stats().finished, computed), (13, 13.0 * 120.0 - saved));
}

#[test]
fn a_reference_is_no_distance_from_its_own_engine_and_some_from_another_kv_format() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("reference");
    let keep = Scoring { positions: Some(64), keep: Some(file.clone()), ..Scoring::default() };
    let compare =
        Scoring { positions: Some(64), against: Some(file.clone()), task: true, ..Scoring::default() };
    let run = |codec: &str, ask: &Scoring| {
        let mut settings = Settings::default();
        settings.add_use(&format!("kv.codec={codec}"), "test").unwrap();
        let (mut e, pool) = subject_with(600, 1, &settings);
        let mut s = Subject { engine: &mut e, pool: &pool, load: LoadTimes::default(), decision_grade: true };
        score(&mut s, ask)
    };
    let control = run("f16", &keep);
    assert_eq!((control.failed.clone(), control.nll.len(), control.best.len()), (None, 64, 64));
    assert!(control.bytes > 0 && control.kl.is_empty() && control.nll.iter().all(|n| *n > 0));
    let same = run("f16", &compare);
    assert_eq!((same.failed.clone(), &same.against), (None, &control.kept));
    assert_eq!((same.kl, same.nll, same.best), (vec![0; 64], control.nll.clone(), control.best.clone()));
    assert!(
        same.margins.len() >= 100
            && same.margins.iter().any(|m| *m > 0)
            && same.margins.iter().any(|m| *m < 0)
    );
    let other = run("f32", &compare);
    assert!(other.kl.iter().all(|k| *k >= 0) && other.kl.iter().sum::<i64>() > 0, "{:?}", other.kl);
    assert!(other.nll != control.nll && other.text == control.text);
    // What cannot be measured is said, and nothing is left that could pass for a measurement.
    std::fs::remove_file(&file).unwrap();
    let gone = run("f16", &compare);
    assert!(gone.failed.unwrap().contains("reference") && gone.nll.is_empty() && gone.margins.is_empty());
    let long = run("f16", &Scoring { positions: Some(1000), ..Scoring::default() });
    assert!(long.failed.unwrap().contains("positions"));
}

#[test]
fn decoding_at_a_depth_counts_the_weights_of_the_decode_steps_alone() {
    let (mut e, pool) = subject(600, 1);
    let full = e.model().weight_bytes();
    let mut s = Subject { engine: &mut e, pool: &pool, load: LoadTimes::default(), decision_grade: true };
    // 500 tokens of prompt are two chunks of 256, the first of which reads no head.
    for depth in [32, 500] {
        let row = single::decode(&mut s, PROSE, depth, 9, 2).unwrap();
        assert_eq!((row.prompt_tokens, row.samples.len()), (depth, 16));
        assert_eq!(row.bytes_per_token, full as f64, "depth {depth}");
    }
    let too_deep = single::decode(&mut s, "a short text", 500, 9, 1).unwrap_err().to_string();
    assert!(too_deep.contains("--prompt-file"), "{too_deep}");
}

/// A peer that is as fast as it says, and remembers what it was asked.
#[derive(Default)]
struct Recorder {
    asked: Vec<Vec<Vec<u32>>>,
}

impl Peer for Recorder {
    fn name(&self) -> String {
        "recorder".into()
    }
    fn version(&self) -> String {
        "1".into()
    }
    fn sample(&mut self, ask: &Ask) -> Result<Sample, BenchError> {
        self.asked.push(ask.ids.clone());
        // The second counted sample is the best one.
        let tok_s = if self.asked.len() == 3 { 4.0 } else { 2.0 };
        let setting = format!("sample {}", self.asked.len());
        Ok(Sample { tok_s, same_ids: true, setting })
    }
}

#[test]
fn a_pair_is_one_sample_of_each_side_on_the_same_ids_and_the_ratio_is_taken_within_it() {
    for (work, streams, tokens) in
        [(Work::Decode, 1, 6), (Work::Prefill, 1, 1), (Work::Batch, 3, 6), (Work::Context, 1, 6)]
    {
        let (mut e, pool) = subject(128, streams);
        let mut s = Subject { engine: &mut e, pool: &pool, load: LoadTimes::default(), decision_grade: true };
        let load = Load { work, prompt: 40, tokens, streams };
        let ask = Ask::new(&s, PROSE, load).unwrap();
        assert!(ask.ids.len() == streams && ask.ids.iter().all(|i| i.len() == 40));
        assert!(!ask.text.is_empty());
        let mut peer = Recorder::default();
        let row = vs(&mut s, &mut peer, &ask, "tiny".into(), 3, &mut |_| ()).unwrap();
        assert_eq!(peer.asked, vec![ask.ids.clone(); 4], "one uncounted sample, then three");
        assert_eq!((row.ours.len(), row.theirs.as_slice()), (3, &[2.0, 4.0, 2.0][..]));
        assert_eq!((row.order.as_str(), row.engine_setting.as_str()), ("ott", "sample 3"));
        let mut ratios: Vec<f64> = (0..3).map(|i| row.ours[i] / row.theirs[i]).collect();
        ratios.sort_by(f64::total_cmp);
        assert_eq!((row.ratio_min, row.ratio, row.ratio_max), (ratios[0], ratios[1], ratios[2]));
        assert_eq!(row.work, work.name());
        let (weights, kv) = (e.model().weight_bytes() as f64, &e.plan().kv);
        let position = kv.bytes as f64 / (kv.pages * kv.page) as f64;
        let bytes = match work {
            Work::Prefill => None,
            Work::Decode => Some(weights),
            Work::Batch => Some(weights / 3.0),
            Work::Context => Some(weights + 40.0 * position),
        };
        assert_eq!(row.bytes_per_token, bytes);
        // Ours really ran: a request per sample and stream.
        assert_eq!(e.stats().finished as usize, 4 * streams);
    }
}

/// A peer written in the shell: `hello`, then `reply` to every request.
fn shell(hello: &str, reply: &str) -> Result<Served, BenchError> {
    let mut sh = Command::new("sh");
    sh.args(["-c", &format!("echo '{hello}'; while read -r line; do echo '{reply}'; done")]);
    Served::start(sh)
}

#[cfg(unix)]
#[test]
fn a_served_peer_that_is_missing_fails_or_talks_nonsense_ends_in_one_sentence() {
    let load = Load { work: Work::Decode, prompt: 1, tokens: 2, streams: 1 };
    let ask = Ask { load, ids: vec![vec![1]], text: "a".into() };
    let good = r#"{"ready":"x","version":"7"}"#;
    let row = r#"{"decode_tok_s":12.5,"same_ids":true,"setting":"fa=1"}"#;
    let mut peer = shell(good, row).unwrap();
    let sample = peer.sample(&ask).unwrap();
    assert_eq!((peer.name(), peer.version()), ("x".into(), "7".into()));
    assert_eq!((sample.tok_s, sample.same_ids, sample.setting.as_str()), (12.5, true, "fa=1"));
    assert_eq!(peer.sample(&ask).unwrap().tok_s, 12.5, "it answers again");

    let missing = shell(r#"{"missing":"x is not installed"}"#, "").err().unwrap();
    assert!(matches!(&missing, BenchError::NoPeer(m) if m == "x is not installed"), "{missing}");
    assert!(matches!(Served::start(Command::new("/no/such/program")), Err(BenchError::NoPeer(_))));
    for (reply, says) in [
        (r#"{"failed":"x: out of memory"}"#, "out of memory"),
        ("nonsense", "no row"),
        (r#"{"decode_tok_s":0}"#, "no rate"),
        (r#"{"prefill_tok_s":3}"#, "no rate"),
    ] {
        let e = shell(good, reply).unwrap().sample(&ask).unwrap_err().to_string();
        assert!(e.contains(says), "{reply}: {e}");
    }
    let mut gone = Command::new("sh");
    gone.args(["-c", &format!("echo '{good}'")]);
    let e = Served::start(gone).unwrap().sample(&ask).unwrap_err().to_string();
    assert!(e.contains("x "), "{e}");
}

#[cfg(unix)]
#[test]
fn a_fork_of_llama_bench_without_a_depth_option_is_asked_in_its_own_words_and_its_better_setting_counts() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("fork-bench");
    // Knows -gp and no -d; faster with flash attention; prints what it was asked as its commit.
    let script = r#"#!/bin/sh
case "$*" in *" -d "*) echo "error: invalid parameter for argument: -d" >&2; exit 1;; esac
case "$*" in *"-fa 1"*) rate=9;; *) rate=5;; esac
echo "[{\"build_commit\": \"$*\", \"avg_ts\": $rate}]"
"#;
    std::fs::write(&bin, script).unwrap();
    std::fs::set_permissions(&bin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let load = Load { work: Work::Context, prompt: 4096, tokens: 64, streams: 1 };
    let ask = Ask { load, ids: vec![vec![1; 4096]], text: String::new() };
    let mut peer = LlamaBench::new(bin, "m.gguf".into(), 3, vec!["-rtr".into(), "1".into()]);
    let sample = peer.sample(&ask).unwrap();
    assert_eq!((sample.tok_s, sample.setting.as_str(), sample.same_ids), (9.0, "fa=1", false));
    let said = peer.version();
    for words in ["-m m.gguf", "-t 3", "-gp 4096,64", "-p 0 -n 0", "-rtr 1"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}
