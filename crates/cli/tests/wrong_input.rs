//! Wrong input speaks: one clear sentence, what to do, and the exit code of its kind.
#![allow(clippy::unwrap_used)] // a helper of a test is a test

mod common;

use std::path::Path;

use common::{last_json, ran, tamp};
use tamp_base::meta::Value;
use tamp_weights::testing::{Arch, Tiny};

const USAGE: i32 = 2;
const FILE: i32 = 3;
const REFUSED: i32 = 5;

fn model(home: &Path, name: &str, extra: &[(&str, &str)]) {
    let mut tiny = Tiny::new(Arch::Qwen2, 7);
    for (key, value) in extra {
        tiny.extra.set(*key, Value::Str((*value).into()));
    }
    std::fs::write(home.join(name), tiny.build()).unwrap();
}

/// Every wrong command gives exactly one sentence with all of `says`.
fn speaks(home: &Path, args: &[&str], code: i32, says: &[&str]) {
    let r = ran(tamp(home).args(args).stdin(std::process::Stdio::null()));
    assert_eq!(r.code, code, "{args:?}: {}", r.err);
    let sentences: Vec<&str> =
        r.err.lines().filter(|l| l.starts_with("tamp: ") || l.starts_with("error: ")).collect();
    assert_eq!(sentences.len(), 1, "{args:?}: {}", r.err);
    for s in says {
        assert!(r.err.contains(s), "{args:?} does not say `{s}`: {}", r.err);
    }
    assert!(r.out.is_empty(), "{args:?}: {}", r.out);
}

#[test]
fn a_model_that_is_not_there_or_not_one_is_named() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    model(home, "m.gguf", &[]);
    std::fs::create_dir(home.join("empty")).unwrap();
    std::fs::write(home.join("cut.gguf"), &std::fs::read(home.join("m.gguf")).unwrap()[..5000]).unwrap();
    speaks(
        home,
        &["run", "none.gguf", "x"],
        FILE,
        &["there is no file and no model `none.gguf`", "tamp list"],
    );
    speaks(home, &["run", "smollm", "x"], FILE, &["did you mean `smollm2`?"]);
    speaks(home, &["explain", "empty"], FILE, &["empty", "model.safetensors"]);
    speaks(home, &["run", "cut.gguf", "x"], FILE, &["cut.gguf", "damaged"]);
    speaks(home, &["run", "hf:org/x.gguf", "x"], USAGE, &["hf:org/repo/file.gguf"]);
    speaks(home, &["pull", "qwen"], USAGE, &["known: smollm2"]);
    speaks(home, &["pull", "x", "--catalog", "none.toml"], FILE, &["none.toml"]);
}

#[test]
fn an_architecture_or_template_we_lack_is_named() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    model(home, "mamba.gguf", &[("general.architecture", "mamba")]);
    speaks(home, &["run", "mamba.gguf", "x"], REFUSED, &["architecture `mamba` is not supported", "qwen2"]);
    model(home, "bad.gguf", &[("tokenizer.chat_template", "{% for m in messages %}{{ m.content ")]);
    speaks(home, &["run", "bad.gguf", "x"], FILE, &["template", "--raw"]);
    model(home, "raise.gguf", &[("tokenizer.chat_template", "{{ raise_exception('no system role') }}")]);
    speaks(home, &["run", "raise.gguf", "x"], FILE, &["no system role", "--raw"]);
    let r = ran(tamp(home).args(["run", "bad.gguf", "x", "--raw", "--max-tokens", "4", "--json"]));
    assert_eq!(r.code, 0, "{}", r.err);
}

#[test]
fn an_unknown_word_is_answered_with_the_known_ones() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    model(home, "m.gguf", &[]);
    let run = |more: &[&'static str]| [&["run", "m.gguf", "x", "--raw"], more].concat();
    speaks(home, &run(&["--set", "engine.core.chnk=1"]), USAGE, &["no knob `chnk`; known: threads, ctx"]);
    speaks(
        home,
        &run(&["--set", "engine.core.ctx=many"]),
        USAGE,
        &["does not take `many`", "a whole number"],
    );
    speaks(home, &run(&["--set", "nonsense"]), USAGE, &["not of the form key=value"]);
    speaks(home, &run(&["--use", "kv.codec=f8"]), USAGE, &["`kv.codec` has no `f8`; known: f16, f32"]);
    speaks(home, &run(&["--use", "rooms=f8"]), USAGE, &["there is no room `rooms`", "spec.propose"]);
    speaks(home, &run(&["--temprature", "0"]), USAGE, &["--temperature"]);
    speaks(home, &run(&["--top-p", "0"]), USAGE, &["top_p = 0 is out of range"]);
    speaks(home, &run(&["--temperature", "-1"]), USAGE, &["temperature = -1"]);
    speaks(home, &run(&["--temperature", "NaN"]), USAGE, &["temperature = NaN"]);
    speaks(home, &run(&["--max-tokens", "0"]), USAGE, &["--max-tokens"]);
    speaks(home, &["explian"], USAGE, &["explain"]);
    std::fs::write(home.join("tamp.toml"), "[used]\nx = 1\n").unwrap();
    speaks(home, &run(&[]), USAGE, &["tamp.toml", "known tables: [use], [set]"]);
}

#[test]
fn what_does_not_fit_the_context_is_refused_and_never_cut() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    model(home, "m.gguf", &[]);
    let long = "the cat ".repeat(60);
    let run = |more: &[&'static str]| [&["run", "m.gguf", &long, "--raw"][..], more].concat();
    speaks(home, &run(&["--ctx", "16"]), REFUSED, &["the context holds 16", "--ctx"]);
    speaks(home, &run(&["--max-tokens", "100000"]), REFUSED, &["100000 new tokens", "--max-tokens"]);
    speaks(home, &run(&["--ctx", "99999999"]), USAGE, &["engine.core.ctx", "16777216"]);
    speaks(home, &run(&["--ctx", "100000"]), REFUSED, &["ctx = 100000", "made for"]);
    speaks(home, &["run", "m.gguf", "", "--raw"], USAGE, &["the prompt has no tokens"]);
    let counted = ["generate", "--bundle", "m.gguf", "--max-tokens", "4000", "--benchmark-generate", "Hello"];
    speaks(home, &counted, REFUSED, &["4000 new tokens"]);
    std::fs::write(home.join("t.txt"), &long).unwrap();
    speaks(
        home,
        &["eval", "ppl", "m.gguf", "--text", "t.txt", "--ctx", "512"],
        USAGE,
        &["need at least 1024"],
    );
    speaks(home, &["eval", "ppl", "m.gguf", "--text", "none.txt"], FILE, &["none.txt"]);
}

#[test]
fn a_missing_prompt_is_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    model(home, "m.gguf", &[]);
    speaks(home, &["tokenize", "m.gguf"], USAGE, &["--text", "--file"]);
    speaks(home, &["run", "m.gguf", "--raw"], USAGE, &["the prompt has no tokens"]);
    speaks(home, &["run", "m.gguf", "x", "y"], USAGE, &["[MODEL]"]);
}

#[test]
fn the_contract_of_run_holds_on_a_small_model() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    model(home, "m.gguf", &[]);
    let args =
        ["run", "m.gguf", "the cat", "--raw", "--max-tokens", "12", "--ignore-eos", "--seed", "5", "--json"];
    let runs: Vec<_> = (0..2).map(|_| last_json(&ran(tamp(home).args(args)))).collect();
    assert_eq!(runs[0]["tokens"], runs[1]["tokens"]);
    let r = &runs[0];
    assert_eq!((r["seed"].as_u64(), r["finish_reason"].as_str()), (Some(5), Some("length")));
    assert_eq!(r["tokens"].as_array().unwrap().len(), 12);
    assert!(r["text"].is_string() && !r["prompt_tokens"].as_array().unwrap().is_empty());
    for key in ["load_ms", "ttft_ms", "decode_tok_s", "median_token_ms", "p95_token_ms", "ceiling_fraction"] {
        assert!(r["timings"][key].is_number(), "{key}");
    }
}

#[test]
fn the_counted_command_prints_every_key_of_the_field_report() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    model(home, "m.gguf", &[]);
    let words = "generate --bundle m.gguf --max-tokens 8 --benchmark-generate --compare-warmup 1 --compare-iterations 3 Hello";
    let keys = [
        "tok/s",
        "compile_ms",
        "compile_retries",
        "compile_failures",
        "first_token_ms",
        "median_token_ms",
        "p95_token_ms",
        "exact_head_backend",
        "cached_bindings_enabled",
    ];
    let r = ran(tamp(home).args(words.split(' ')));
    assert_eq!(r.code, 0, "{}", r.err);
    let j = last_json(&ran(tamp(home).args(words.split(' ')).arg("--json")));
    for key in keys {
        assert_eq!(
            r.out.lines().filter(|l| l.starts_with(&format!("{key}: "))).count(),
            1,
            "{key}: {}",
            r.out
        );
        assert!(!j[key].is_null(), "{key}: {j}");
    }
    assert!(j["prefill_ms"].is_number() && j["samples"].as_array().unwrap().len() == 3);
}

#[test]
fn the_rows_of_bench_carry_the_contract() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    model(home, "m.gguf", &[]);
    for (workload, figure) in [("decode", "decode_tok_s"), ("prefill", "prefill_tok_s")] {
        let j = last_json(&ran(tamp(home).args(["bench", workload, "m.gguf", "--tokens", "16", "--json"])));
        for key in
            ["median_token_ms", "p95_token_ms", "ttft_ms", "load_ms", "bytes_per_token", "ceiling_gb_s"]
        {
            assert!(j[key].is_number(), "{workload} {key}: {j}");
        }
        assert!(j[figure].as_f64() > Some(0.0) && j["ceiling_fraction"].is_number());
        assert!(j["kernels"].is_array() && j["plan_hash"].is_string() && j["samples"].is_array());
    }
    let r = ran(tamp(home).args(["bench", "batch", "m.gguf", "--tokens", "4", "--batch", "1,2"]));
    assert!(r.code == 0 && r.out.lines().count() >= 3, "{} {}", r.out, r.err);
}

#[test]
fn explain_says_where_each_setting_came_from() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    model(home, "m.gguf", &[]);
    std::fs::write(home.join("tamp.toml"), "[use]\nkv.codec = \"f32\"\n").unwrap();
    let r = ran(tamp(home).args(["explain", "m.gguf", "--threads", "1", "--set", "engine.core.chunk=64"]));
    assert_eq!(r.code, 0, "{}", r.err);
    for line in [
        "kv.codec = f32 (from tamp.toml)",
        "threads = 1 (from --threads)",
        "chunk = 64 (from --set)",
        "after load",
    ] {
        assert!(r.out.contains(line), "{line}: {}", r.out);
    }
}
