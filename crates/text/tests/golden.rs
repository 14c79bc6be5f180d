//! Equality with the golden tokenisations published with llama.cpp's vocabularies.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod support;

use tamp_text::{Special, Tokenizer};

const SETS: [&str; 15] = [
    "bert-bge",
    "command-r",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gemma-4",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "qwen35",
    "refact",
    "starcoder",
];

#[test]
fn tokenisations_equal_the_golden_ones_of_every_vocabulary_set() {
    let Some(models) = support::llama_cpp_models() else { return };
    let mut equal = 0;
    let mut differ = vec![];
    for name in SETS {
        let base = models.join(format!("ggml-vocab-{name}.gguf"));
        let read = |ext: &str| std::fs::read_to_string(format!("{}.{ext}", base.display())).unwrap();
        let t = match Tokenizer::from_meta(&support::gguf_meta(&base)) {
            Ok(t) => [support::reopened(&t), t],
            Err(e) => {
                differ.push(format!("{name}: {e}"));
                continue;
            }
        };
        let (inp, out) = (read("inp"), read("out"));
        let inputs: Vec<&str> = inp.split("\n__ggml_vocab_test__\n").collect();
        let outputs: Vec<Vec<u32>> =
            out.lines().map(|l| l.split_whitespace().map(|x| x.parse().unwrap()).collect()).collect();
        assert_eq!(inputs.len(), outputs.len() + usize::from(inputs.last() == Some(&"")), "{name}");
        let mut bad = 0;
        for (text, want) in inputs.iter().zip(&outputs) {
            let got = t[0].encode(text, Special::Plain, false);
            assert_eq!(got, t[1].encode(text, Special::Plain, false), "{name}: compiled and built");
            if got != *want {
                bad += 1;
                differ.push(format!("{name}: {text:?}\n  got  {got:?}\n  want {want:?}"));
            } else if !matches!(name, "bert-bge") {
                assert_eq!(String::from_utf8_lossy(&t[0].decode(&got, true)), *text, "{name}: back");
            }
        }
        equal += usize::from(bad == 0);
    }
    for d in &differ {
        println!("{d}");
    }
    println!("{equal} of {} sets equal", SETS.len());
    assert_eq!(equal, SETS.len());
}
