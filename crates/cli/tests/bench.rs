//! The workloads as a person starts them, on a small seeded model and with other engines that are scripts.
#![allow(clippy::unwrap_used)] // a helper of a test is a test

mod common;

use std::path::Path;

use common::{Ran, last_json, ran, tamp};
use tamp_weights::testing::{Arch, tiny};

fn bench(home: &Path, args: &[&str]) -> Ran {
    ran(tamp(home).arg("bench").args(args).args(["--threads", "1"]))
}

fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("m.gguf"), tiny(Arch::Qwen2, 7)).unwrap();
    home
}

#[test]
fn an_engine_that_is_not_there_is_one_sentence_and_the_code_of_a_missing_file() {
    let home = home();
    for (args, code, says) in [
        (&["vs", "llama-bench", "m.gguf", "--bin", "/no/such"][..], 3, "/no/such did not start"),
        (&["vs", "llama.cpp", "m.gguf", "--python", "/no/python"], 3, "/no/python did not start"),
        (&["vs", "llama.cpp", "m.gguf", "--bin", "x"], 2, "--bin and --peer-arg go with llama-bench"),
        (
            &["vs", "llama-bench", "m.gguf", "--work", "context", "--depth", "9000"],
            5,
            "made for 2048 positions",
        ),
        (&["width", "--formats", "q4k"], 2, "did you mean q4_k?"),
    ] {
        let r = bench(home.path(), args);
        assert_eq!(r.code, code, "{args:?}: {}", r.err);
        assert!(r.err.contains(says) && r.out.is_empty(), "{args:?}: {}\n{}", r.err, r.out);
        assert_eq!(r.err.lines().filter(|l| l.starts_with("tamp: ")).count(), 1, "{args:?}: {}", r.err);
    }
}

#[cfg(unix)]
#[test]
fn a_run_beside_another_engine_is_a_row_that_the_performance_page_takes() {
    use std::os::unix::fs::PermissionsExt;
    let home = home();
    let bin = home.path().join("fork-bench");
    std::fs::write(&bin, "#!/bin/sh\necho '[{\"build_commit\": \"abc\", \"avg_ts\": 0.5}]'\n").unwrap();
    std::fs::set_permissions(&bin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let line = ["vs", "llama-bench", "m.gguf", "--bin", "./fork-bench", "--name", "fork"];
    let sizes = ["--pairs", "3", "--tokens", "4", "--prompt", "64", "--json"];
    let r = bench(home.path(), &[&line[..], &sizes].concat());
    assert_eq!(r.code, 0, "{}", r.err);
    let rows: Vec<serde_json::Value> = r.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(rows.len(), 2, "decode and prefill: {}", r.out);
    for (row, work) in rows.iter().zip(["decode", "prefill"]) {
        assert_eq!(
            (&row["kind"], &row["v"], &row["work"]),
            (&"tamp.bench.vs".into(), &1.into(), &work.into())
        );
        assert_eq!((&row["engine"], &row["engine_version"]), (&"fork".into(), &"abc".into()));
        assert_eq!((&row["model"], &row["pairs"], &row["same_ids"]), (&"m".into(), &3.into(), &false.into()));
        assert_eq!(row["theirs"], serde_json::json!([0.5, 0.5, 0.5]));
        assert!(row["ratio"].as_f64() > Some(1.0) && row["ceiling_gb_s"].as_f64() > Some(0.0), "{row}");
        assert_eq!(row["ceiling_fraction"].is_null(), work == "prefill");
    }
}

#[test]
fn batch_says_total_per_stream_cost_and_bytes_per_token_and_width_every_width() {
    let home = home();
    let r = bench(home.path(), &["batch", "m.gguf", "--tokens", "4", "--batch", "1,4"]);
    assert_eq!(r.code, 0, "{}", r.err);
    let head: Vec<&str> = r.out.lines().next().unwrap().split("  ").filter(|w| !w.is_empty()).collect();
    let words: Vec<&str> = head.iter().map(|w| w.trim()).collect();
    assert_eq!(words, ["batch", "tokens/s", "per stream", "step ms", "cost", "MB/token"]);
    let r = last_json(&bench(home.path(), &["batch", "m.gguf", "--tokens", "4", "--batch", "1,4", "--json"]));
    let bytes = |i: usize| r["points"][i]["bytes_per_token"].as_f64().unwrap();
    assert_eq!((bytes(0), bytes(1) * 4.0), (r["weight_bytes"].as_f64().unwrap(), bytes(0)));

    let r = last_json(&bench(home.path(), &["width", "m.gguf", "--rounds", "1", "--json"]));
    let rows: Vec<u64> =
        r["points"].as_array().unwrap().iter().map(|p| p["rows"].as_u64().unwrap()).collect();
    assert_eq!(rows, [1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32]);
    let one = ["width", "--formats", "q8_0", "--bytes", "1", "--rounds", "1", "--json"];
    let r = last_json(&bench(home.path(), &one));
    assert_eq!((r["formats"].as_array().unwrap().len(), &r["threads"]), (1, &1.into()));
    assert_eq!(r["formats"][0]["points"].as_array().unwrap().len(), 11);
}

#[test]
fn decode_takes_a_depth_and_refuses_one_that_its_text_cannot_fill() {
    let home = home();
    let args = ["decode", "m.gguf", "--depth", "300", "--tokens", "4", "--repeats", "1", "--json"];
    let r = last_json(&bench(home.path(), &args));
    assert_eq!(r["prompt_tokens"], 300);
    assert!(r["kv_bytes_per_token"].as_f64() > Some(0.0));
    std::fs::write(home.path().join("short.txt"), "too short").unwrap();
    let r = bench(home.path(), &["decode", "m.gguf", "--depth", "300", "--prompt-file", "short.txt"]);
    assert!(r.code == 2 && r.err.contains("--prompt-file"), "{}", r.err);
}
