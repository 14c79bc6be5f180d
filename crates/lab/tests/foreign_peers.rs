//! Real engines from the package registries. Needs `TAMP_STORE` with `smollm2.gguf` and the packages `xllamacpp` and
//! `llama-cpp-python` for `python3`:
//!
//! ```text
//! cargo test --release -p tamp-lab --test foreign_peers -- --ignored --nocapture
//! ```
//!
//! `TAMP_ENGINES` names other entries of `lab/engines.toml`, separated by commas.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use tamp_base::record::Sample;
use tamp_lab::foreign::{Ask, Prompt, engines, sample};

fn ask() -> Ask {
    let store = std::env::var("TAMP_STORE").expect("TAMP_STORE names the folder with smollm2.gguf");
    Ask {
        model: PathBuf::from(store).join("smollm2.gguf"),
        prompts: vec![
            Prompt::new("capital", vec![504, 3575, 282, 4649, 314], "The capital of France is"),
            Prompt::new("once", vec![6403, 1980, 253, 655, 28], "Once upon a time,"),
        ],
        max_tokens: 24,
        temperature: 0.0,
        seed: 1,
        threads: 2,
        ctx: 512,
        warmup: 1,
    }
}

fn run(name: &str) -> Sample {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../lab/engines.toml");
    let all = engines(&std::fs::read_to_string(&file).unwrap(), &file, &|n| std::env::var(n).ok()).unwrap();
    let s = sample(&all[name], &ask()).unwrap_or_else(|e| panic!("{e}"));
    println!("{name}: {} {}", s.engine.name, s.engine.version);
    println!("  {:?}\n  {:?} {:?}", s.observed, s.phases_ms, s.memory_peak);
    for r in &s.requests {
        println!("  {} {} {:?} {:?}", r.prompt, r.finish, r.tokens, r.text);
    }
    s
}

#[test]
#[ignore = "needs other engines"]
fn the_same_token_ids_give_the_same_first_greedy_tokens_over_http_and_through_a_command() {
    let names = std::env::var("TAMP_ENGINES").unwrap_or("xllamacpp,llama-cpp".into());
    let samples: Vec<Sample> = names.split(',').map(run).collect();
    for s in &samples {
        assert_eq!(s.requests.len(), 2);
        assert!(s.metrics()["decode_tok_s"] > 0.0 && s.metrics()["ttft_ms"] > 0.0);
        assert!(
            s.requests.iter().all(|r| r.token_ns.len() == 23 && r.cached_tokens == 0),
            "{:?}",
            s.requests
        );
    }
    // Two builds of one engine round differently, and greedy decoding parts at the first near tie.
    let told: Vec<&Sample> = samples.iter().filter(|s| s.observed["ids_told"] == true).collect();
    for pair in told.windows(2) {
        for (a, b) in pair[0].requests.iter().zip(&pair[1].requests) {
            let same = a.tokens.iter().zip(&b.tokens).take_while(|(x, y)| x == y).count();
            println!("{}: the first {same} of {} tokens are the same", a.prompt, a.tokens.len());
            assert!(same >= 8, "prompt {}: {:?} {:?}", a.prompt, a.tokens, b.tokens);
        }
    }
}
