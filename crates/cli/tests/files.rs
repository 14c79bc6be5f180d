//! Commands that read and write model files, on small seeded models.
#![allow(clippy::unwrap_used)] // a helper of a test is a test

mod common;

use std::path::Path;

use common::{last_json, ran, tamp};
use tamp_weights::testing::{Arch, tiny};

fn model(home: &Path) {
    std::fs::write(home.join("m.gguf"), tiny(Arch::Qwen2, 7)).unwrap();
}

#[test]
fn a_model_survives_the_way_to_safetensors_and_back() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    model(home);
    for (from, to) in [("m.gguf", "folder"), ("folder", "back.gguf")] {
        let r = ran(tamp(home).args(["convert", from, to]));
        assert_eq!((r.code, r.out.trim()), (0, to), "{}", r.err);
    }
    let ids = |m: &str| {
        last_json(&ran(tamp(home).args(["tokenize", m, "--json", "--text", "the cat <|im_end|> é"])))
    };
    assert_eq!(ids("m.gguf"), ids("back.gguf"));
    assert!(ids("m.gguf")["tokens"].as_array().unwrap().len() > 3);
}

#[test]
fn quantize_says_what_it_did_and_refuses_what_it_cannot() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    model(home);
    let r = ran(tamp(home).args(["quantize", "m.gguf", "q.gguf", "--to", "q8_0", "--json"]));
    assert_eq!(r.code, 0, "{}", r.err);
    assert!(last_json(&r)["changed"].as_u64() > Some(0));
    let r = ran(tamp(home).args(["quantize", "m.gguf", "q.gguf", "--to", "q4_k_mm"]));
    assert!(
        r.code == 2 && r.err.contains("did you mean `q4_k_m`?") && r.err.contains("known: f32"),
        "{}",
        r.err
    );
    let r = ran(tamp(home).args(["quantize", "m.gguf", "m.gguf", "--to", "q8_0"]));
    assert!(r.code == 2 && r.err.contains("both the input and the output"), "{}", r.err);
    assert!(!home.join("nowhere").exists());
    let r = ran(tamp(home).args(["quantize", "m.gguf", "nowhere/q.gguf", "--to", "q8_0"]));
    assert!(r.code == 3 && r.err.contains("nowhere"), "{}", r.err);
}

#[test]
fn a_file_that_is_no_model_is_named_with_what_would_do() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    std::fs::write(home.join("x.gguf"), b"GGUF\x03\0\0\0").unwrap();
    std::fs::write(home.join("x.txt"), b"hello").unwrap();
    for (file, says) in [("x.gguf", "cut short or damaged"), ("x.txt", "no model tamp can read")] {
        let r = ran(tamp(home).args(["tokenize", file, "--text", "x"]));
        assert!(r.code == 3 && r.err.starts_with("tamp: ") && r.err.contains(says), "{}", r.err);
    }
}

#[test]
fn completions_know_every_command() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let r = ran(tamp(home.path()).args(["completions", shell]));
        assert!(
            r.code == 0 && ["chat", "quantize", "max-tokens"].iter().all(|w| r.out.contains(w)),
            "{shell}"
        );
    }
}

#[test]
fn the_cards_are_printed_without_a_model() {
    let home = tempfile::tempdir().unwrap();
    let r = ran(tamp(home.path()).args(["techniques", "--json"]));
    let all = last_json(&r);
    let names: Vec<_> = all.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"coupling") && names.contains(&"none"), "{names:?}");
    let r = ran(tamp(home.path()).args(["techniques", "couplin"]));
    assert!(r.code == 2 && r.err.contains("did you mean `coupling`?"), "{}", r.err);
}

#[test]
fn a_reader_that_goes_away_is_no_crash() {
    let home = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_tamp");
    let mut c = std::process::Command::new(program);
    let mut child = c
        .args(["completions", "bash"])
        .current_dir(home.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
}
