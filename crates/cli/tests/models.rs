//! The models of the catalogue, for real: they are fetched once (2 GB) and must answer sensibly at temperature 0.
#![allow(clippy::unwrap_used)] // a helper of a test is a test

mod common;

use std::path::{Path, PathBuf};

use common::{Ran, last_json, ran, tamp};

/// Kept between runs, so that the models are fetched once.
fn store() -> PathBuf {
    let kept = std::env::var_os("TAMP_STORE").map(PathBuf::from);
    kept.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/models"))
}

fn pulled(home: &Path, name: &str) -> bool {
    let catalog = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/catalog.toml");
    let r = ran(tamp(home).args(["pull", name, "--catalog"]).arg(catalog).arg("--store").arg(store()));
    if r.code == 4 {
        println!("skipped: {name} cannot be fetched here ({})", r.err.lines().last().unwrap_or(""));
        return false;
    }
    assert_eq!(r.code, 0, "{}", r.err);
    true
}

fn said(home: &Path, model: &str, prompt: &str, more: &[&str]) -> Ran {
    let r = ran(tamp(home)
        .args(["run", model, prompt, "--temperature", "0", "--max-tokens", "32", "--json"])
        .args(more)
        .arg("--store")
        .arg(store()));
    assert_eq!(r.code, 0, "{}", r.err);
    r
}

#[test]
#[ignore = "fetches 2 GB of models"]
fn every_model_of_the_catalogue_answers_sensibly() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let asks: [(&str, &str, &[&str], &[&str]); 5] = [
        ("smollm2", "The capital of France is", &[], &["Paris"]),
        ("qwen-coder-0.5b", "The capital of France is", &[], &["Paris"]),
        ("qwen-coder-1.5b", "The capital of France is", &[], &["Paris"]),
        ("minimind2", "The capital of France is", &[], &["Paris", "France"]),
        ("stories15m", "Once upon a time", &[], &["there was a little girl"]),
    ];
    for (model, prompt, more, any) in asks {
        if !pulled(home, model) {
            continue;
        }
        let text = last_json(&said(home, model, prompt, more))["text"].as_str().unwrap().to_string();
        println!("{model}: {text}");
        assert!(any.iter().any(|a| text.contains(a)), "{model}: {text}");
    }
}
