//! The lab as a person uses it, on a small seeded model: verdicts that do not depend on how fast this machine is.
#![allow(clippy::unwrap_used)] // a helper of a test is a test

mod common;

use std::path::Path;
use std::process::Stdio;

use common::{Ran, last_json, ran, tamp};
use serde_json::Value;
use tamp_weights::testing::{Arch, tiny};

fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("m.gguf"), tiny(Arch::Llama, 7)).unwrap();
    std::fs::create_dir(home.path().join("lab")).unwrap();
    home
}

fn lab(home: &Path, args: &[&str]) -> Ran {
    ran(tamp(home).arg("lab").args(args))
}

/// A spec whose arms differ in `candidate`; the machine may be as loud as it likes.
fn spec(home: &Path, name: &str, candidate: &str, manipulation: &str) -> String {
    let text = format!(
        r#"
kind = "tamp.lab.spec"
v = 1
title = "{name}"
lane = "infra"
hypothesis = "it runs"
mechanism = "a test"
tags = ["test.{name}"]
change = "what the candidate says"
confidence = 0.5
revert = "flag"
differs = ["plan.ctx", "plan.kv", "plan.buckets"]
[expected]
metric = "decode_tok_s"
direction = "up"
effect = 1.0
model = "none"
[control]
[candidate]
{candidate}
[contract]
model = "m.gguf"
prompts = ["short"]
max_tokens = 8
threads = 1
ceiling = false
[[manipulation]]
{manipulation}
[[invariant]]
name = "the plan is not rebuilt"
observable = "observed.plans_rebuilt"
pred = "== 0"
[quality]
rollout = ["short"]
[design]
pairs = [4, 8]
foreign_cpu = 64.0
[[success]]
metric = "decode_tok_s"
stat = "ci_low"
op = ">="
value = 50.0
[[kill]]
metric = "decode_tok_s"
stat = "ci_high"
op = "<"
value = 0.001
"#
    );
    let file = format!("{name}.toml");
    std::fs::write(home.join(&file), text).unwrap();
    file
}

const CTX: &str = "observable = \"plan.ctx\"\ncandidate = \"== 512\"";

fn verdict(r: &Ran) -> String {
    assert_eq!(r.code, 0, "{}", r.err);
    last_json(r)["decided"][0]["decision"]["verdict"].as_str().unwrap_or("none").to_string()
}

#[test]
fn a_near_exact_lever_is_held_to_a_divergence_that_the_processes_of_the_run_measure() {
    let home = home();
    let kv = "observable = \"observed.kv_format\"\ncandidate = \"== f32\"";
    let run = |name: &str, quality: &str| {
        let file = spec(home.path(), name, "use = [\"kv.codec=f32\"]", kv);
        let text = std::fs::read_to_string(home.path().join(&file)).unwrap();
        let text = text
            .replace("[quality]\n", &format!("[quality]\n{quality}\n"))
            .replace("\"plan.buckets\"]", "\"plan.buckets\", \"plan.techniques\"]");
        std::fs::write(home.path().join(&file), text).unwrap();
        let r = lab(home.path(), &["run", &file, "--json"]);
        let d = last_json(&r)["decided"][0]["decision"].clone();
        (
            d["verdict"].as_str().unwrap_or("none").to_string(),
            d["check"].as_str().unwrap_or("").to_string(),
            d,
        )
    };
    let near = "class = \"near-exact\"\nmax_flips = 1.0\npositions = 64\nmax_kl";
    // A gate of 50 is not to be had: rejected for its speed, with the divergence measured beside it.
    let (verdict, check, d) = run("near", &format!("{near} = 0.5"));
    let bound = &d["quality"]["bounds"]["bounds"][0];
    assert_eq!(
        (verdict.as_str(), check.as_str(), bound["held"].as_str()),
        ("reject", "", Some("within")),
        "{d}"
    );
    let mean = bound["seen"]["mean"].as_f64().unwrap();
    assert!(mean > 0.0 && mean < 0.1 && bound["over"] == 64, "{bound}");
    // The same lever against a bound that nothing but equality meets.
    let (verdict, check, d) = run("exact", &format!("{near} = 0.0"));
    assert_eq!((verdict.as_str(), check.as_str()), ("reject", "quality"), "{d}");
    assert!(d["reason"].as_str().unwrap().contains("max_kl"), "{d}");
    // More than the text holds cannot be measured: void, whatever the speed.
    let (verdict, check, d) = run("missing", &format!("{near} = 0.5").replace("64", "90000"));
    assert_eq!((verdict.as_str(), check.as_str()), ("void", "quality"), "{d}");
    let (verdict, _, d) =
        run("task", "class = \"approximate\"\nmax_task_loss = 0.5\nmax_bits = 0.5\npositions = 64");
    assert_eq!(
        (verdict.as_str(), d["quality"]["bounds"]["bounds"].as_array().unwrap().len()),
        ("reject", 2),
        "{d}"
    );
    let r = lab(home.path(), &["replay"]);
    assert!(r.code == 0 && r.out.contains("all identical"), "{}{}", r.out, r.err);
}

#[test]
fn from_a_template_to_a_verdict_and_back_again() {
    let home = home();
    let r =
        lab(home.path(), &["new", "smaller context", "--model", "m.gguf", "--try", "engine.core.chunk=64"]);
    assert_eq!(r.code, 0, "{}", r.err);
    let written = std::fs::read_to_string(home.path().join("lab/specs/smaller-context.toml")).unwrap();
    assert!(
        written.contains("differs = [\"plan.chunk\"]") && written.contains("observable = \"plan.chunk\"")
    );
    let r = lab(home.path(), &["run", "lab/specs/smaller-context.toml"]);
    assert!(r.code == 2 && r.err.contains("hypothesis still holds"), "{} {}", r.code, r.err);
    assert_eq!(
        lab(home.path(), &["new", "smaller context", "--model", "m.gguf", "--try", "engine.core.chunk=64"])
            .code,
        2,
        "a file that is there is left alone"
    );

    let file = spec(home.path(), "smaller", "args = [\"--ctx\", \"512\"]", CTX);
    let first = lab(home.path(), &["run", &file, "--json"]);
    // A ratio of 50 is not to be had, so it is rejected on any machine.
    assert_eq!(verdict(&first), "reject", "{}", first.out);
    let rows = std::fs::read_to_string(home.path().join("lab/ledger.jsonl")).unwrap();
    let last = rows.lines().last().unwrap();
    let row = serde_json::from_str::<Value>(last).unwrap()["hash"].as_str().unwrap().to_string();
    assert_eq!(verdict(&lab(home.path(), &["show", &row[..12], "--json"])), "reject", "by the row's hash");
    let again = lab(home.path(), &["run", &file, "--json"]);
    assert!(again.err.contains("was answered") && again.err.contains("--again"), "{}", again.err);
    assert_eq!(std::fs::read_to_string(home.path().join("lab/ledger.jsonl")).unwrap(), rows);

    let r = lab(home.path(), &["replay"]);
    assert!(r.code == 0 && r.out.contains("all identical"), "{}{}", r.out, r.err);
    let r = lab(home.path(), &["why", "test.smaller", "--json"]);
    assert_eq!(last_json(&r)["known"][0]["verdict"], "reject", "{}", r.out);
    assert!(lab(home.path(), &["list"]).out.contains("smaller"));
    let r = lab(home.path(), &["report", "--out", "r.html"]);
    assert_eq!(r.code, 0, "{}", r.err);
    assert!(std::fs::read_to_string(home.path().join("r.html")).unwrap().contains("smaller"));

    let path = home.path().join("lab/ledger.jsonl");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let r = lab(home.path(), &["list"]);
    assert!(r.code == 3 && r.err.contains("line "), "{} {}", r.code, r.err);
}

#[test]
fn what_cannot_count_is_told_apart() {
    let home = home();
    let run = |name: &str, candidate: &str, manipulation: &str| {
        let file = spec(home.path(), name, candidate, manipulation);
        let r = lab(home.path(), &["run", &file, "--json"]);
        let d = last_json(&r)["decided"][0]["decision"].clone();
        (verdict(&r), d["check"].as_str().unwrap_or_default().to_string(), d)
    };
    let text = |v: &Value| v["reason"].as_str().unwrap_or_default().to_string();
    let (v, check, d) = run("same", "set = []", "observable = \"plan.ctx\"\ncandidate = \"> 0\"");
    assert_eq!((v.as_str(), check.as_str()), ("void", "identical"), "{d}");
    let (v, check, d) = run("tight", "args = [\"--ctx\", \"8\"]", CTX);
    assert_eq!((v.as_str(), check.as_str()), ("not_applicable", "contract"), "{d}");
    assert!(text(&d).contains('8'), "{d}");
    let (v, check, d) = run("beside", "args = [\"--ctx\", \"512\"]\nparallel = 2", CTX);
    assert_eq!((v.as_str(), check.as_str()), ("void", "lock"), "{d}");
    assert!(text(&d).contains("2 processes") && d["estimates"]["decode_tok_s"]["ratio"].is_f64(), "{d}");
    let (v, check, _) = run("wrong", "args = [\"--ctx\", \"256\"]", CTX);
    assert_eq!((v.as_str(), check.as_str()), ("void", "manipulation"));
    let (v, check, d) = run("gone", "model = \"nowhere.gguf\"", CTX);
    assert_eq!((v.as_str(), check.as_str()), ("block", "prepare"), "{d}");
}

#[test]
fn two_runs_at_once_wait_for_each_other() {
    let home = home();
    let files = [
        spec(home.path(), "one", "args = [\"--ctx\", \"512\"]", CTX),
        spec(home.path(), "two", "args = [\"--ctx\", \"512\"]", CTX),
    ];
    let start = |file: &String| {
        let mut c = tamp(home.path());
        c.args(["lab", "run", file]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let both: Vec<_> = files.iter().map(start).collect();
    for child in both {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    // Rows of one run stand together: nothing of the other falls between its first and its last.
    let rows = std::fs::read_to_string(home.path().join("lab/ledger.jsonl")).unwrap();
    let specs: Vec<String> = rows
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap())
        .filter(|v| v["row"] == "measured")
        .map(|v| v["spec"].as_str().unwrap().to_string())
        .collect();
    let changes = specs.windows(2).filter(|w| w[0] != w[1]).count();
    assert!(specs.len() > 8 && changes == 1, "{changes} changes in {}", specs.len());
}

#[test]
fn wrong_words_are_one_sentence() {
    let home = home();
    std::fs::write(home.path().join("bad.toml"), "kind = \"tamp.lab.spec\"\nv = 1\ntitel = \"x\"\n").unwrap();
    for (args, code, says) in [
        (&["run", "none.toml"][..], 3, "cannot read none.toml"),
        (&["run", "bad.toml"], 2, "titel"),
        (&["show", "abc"], 2, "exactly one must"),
        (&["replay", "abc"], 2, "begins with abc"),
        (&["new", "x", "--try", "nonsense"], 2, "nonsense"),
        (&["new", "x"], 2, "--try is missing"),
        (&["new", "x", "--try", "kv.codec=q8"], 2, "f16"),
        (&["new", "x", "--try", "engine.core.chunck=64"], 2, "chunk"),
        (&["new", "x", "--metric", "prefil", "--try", "engine.core.chunk=64"], 2, "prefill_tok_s"),
    ] {
        let r = lab(home.path(), args);
        assert_eq!(r.code, code, "{args:?}: {}", r.err);
        assert!(r.err.contains(says), "{args:?}: {}", r.err);
    }
}
