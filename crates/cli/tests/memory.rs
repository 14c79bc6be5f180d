//! The forecast of `explain` against what the process really takes, on the default model. The other models of the
//! catalogue: `TAMP_MEMORY_MODELS=name,name`.
#![allow(clippy::unwrap_used)] // a helper of a test is a test
#![cfg(target_os = "linux")] // elsewhere the system does not say

mod common;

use std::path::Path;

use common::{last_json, ran, tamp};

/// The store in use, when it has the model.
fn store(model: &str) -> Option<std::path::PathBuf> {
    let var = |n: &str| std::env::var_os(n).filter(|v| !v.is_empty()).map(std::path::PathBuf::from);
    let usual = var("XDG_DATA_HOME").or_else(|| Some(var("HOME")?.join(".local/share")))?.join("tamp/models");
    Some(var("TAMP_STORE").unwrap_or(usual)).filter(|s| s.join(format!("{model}.gguf")).is_file())
}

fn holds(model: &str) {
    let Some(store) = store(model) else {
        println!("skipped: {model} is not in the local store; `tamp pull {model}` fetches it");
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/data/hamlet.txt"))
            .unwrap();
    let ask = |args: &[&str]| {
        let r = ran(tamp(home.path()).args(args).arg("--json").arg("--store").arg(&store));
        assert_eq!(r.code, 0, "{}", r.err);
        last_json(&r)
    };
    let most = ask(&["explain", model])["plan"]["model"]["ctx_train"].as_u64().unwrap() as usize;
    // A model of a short context gets as much of the text as it takes.
    let mut chars = 6000;
    let (text, prompt) = loop {
        let text: String = text.chars().take(chars).collect();
        let prompt = ask(&["tokenize", model, "--text", &text])["tokens"].as_array().unwrap().len();
        if prompt + 16 <= most {
            break (text, prompt);
        }
        chars = chars * most / (prompt + 32);
    };
    let ctx = (prompt + 16).to_string();
    let run = ["run", model, &text, "--raw", "--ignore-eos", "--max-tokens", "16", "--ctx", &ctx];
    let m = &ask(&run)["memory"];
    let bytes = |key: &str| m[key].as_f64().unwrap();
    let (took, said) = (bytes("anonymous"), bytes("forecast_at_full"));
    let slack = (said * 0.03).max(8e6);
    println!(
        "{model}: forecast {:.1} MB after load, {:.1} MB at {ctx} positions; took {:.1} MB, peak with mapped pages {:.1} MB",
        bytes("forecast_after_load") / 1e6,
        said / 1e6,
        took / 1e6,
        bytes("peak") / 1e6,
    );
    assert!((took - said).abs() <= slack, "forecast {said}, took {took}, allowed {slack}");
    // Weights twice in memory while repacking would show here: the file and its repacked copy.
    let file = std::fs::metadata(store.join(format!("{model}.gguf"))).unwrap().len() as f64;
    assert!(bytes("peak") < took + bytes("mapped") + file * 0.5 + 8e6, "peak {}", bytes("peak"));
}

#[test]
fn a_full_context_takes_what_was_forecast() {
    holds("smollm2");
    for name in std::env::var("TAMP_MEMORY_MODELS").unwrap_or_default().split(',').filter(|n| !n.is_empty()) {
        holds(name);
    }
}
