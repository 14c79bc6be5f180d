//! Bundles from the command line: made, described, held to their hashes, and refused by name when changed.
#![allow(clippy::unwrap_used)] // a helper of a test is a test

mod common;

use std::path::Path;

use common::{Ran, last_json, ran, tamp};
use serde_json::Value;
use tamp_formats::Kind;
use tamp_weights::testing::{Arch, Tiny};

fn ok(home: &Path, words: &[&str]) -> Ran {
    let r = ran(tamp(home).args(words));
    assert_eq!(r.code, 0, "{words:?}: {}", r.err);
    r
}

fn json(home: &Path, words: &[&str]) -> Value {
    last_json(&ok(home, &[words, &["--json"]].concat()))
}

/// `m.gguf` and `m.tamp` made from it.
fn made(home: &Path, more: &[&str]) {
    std::fs::write(home.join("m.gguf"), Tiny::new(Arch::Qwen2, 7).kind(Kind::Q4_K).build()).unwrap();
    ok(home, &[&["convert", "m.gguf", "m.tamp"], more].concat());
}

fn answer(home: &Path, model: &str) -> Value {
    json(home, &["run", model, "the cat", "--temperature", "0", "-n", "12", "--ignore-eos"])
}

/// Changes one byte in the middle of a section and leaves size and time as they were.
fn tamper(path: &Path, section: &str, manifest: &Value) {
    let s = manifest["sections"].as_array().unwrap().iter().find(|s| s["name"] == section).unwrap();
    let at = (s["offset"].as_u64().unwrap() + s["length"].as_u64().unwrap() / 2) as usize;
    let time = std::fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    // In place: a seen file is known by its inode too.
    std::fs::write(path, bytes).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn a_bundle_answers_like_its_source_everywhere_a_model_is_taken() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    for layout in [&[][..], &["--layout", "rows"]] {
        made(home, layout);
        let (want, got) = (answer(home, "m.gguf"), answer(home, "m.tamp"));
        for key in ["text", "tokens", "prompt_tokens"] {
            assert_eq!(want[key], got[key]);
        }
        assert!(got["timings"]["start_to_first_token_ms"].as_f64().unwrap() > 0.0);
        let read = json(
            home,
            &[
                "run",
                "m.tamp",
                "the cat",
                "--temperature",
                "0",
                "-n",
                "12",
                "--ignore-eos",
                "--use",
                "weights.residency=read",
            ],
        );
        assert_eq!(read["tokens"], want["tokens"]);
        let ids = |m: &str| json(home, &["tokenize", m, "--text", "the cat <|im_end|> é"]);
        assert_eq!(ids("m.gguf"), ids("m.tamp"));
        let explained = json(home, &["explain", "m.tamp"]);
        let packed = layout.is_empty();
        assert_eq!(explained["bundle"]["layout"], if packed { "r16k4.1" } else { "rows" });
        assert_eq!(explained["bundle"]["behavior_class"], "exact");
        assert!(explained["bundle"]["hash"].as_str().unwrap().starts_with("verified before"));
        assert_eq!(explained["load"]["matrices_adopted"].as_u64() > Some(0), packed);
        assert_eq!(explained["load"]["matrices_repacked"].as_u64() > Some(0), !packed);
        let row =
            json(home, &["bench", "generate", "m.tamp", "-n", "4", "--warmup", "0", "--iterations", "1"]);
        assert_eq!(row["compile_retries"].as_u64() > Some(0), !packed);
        assert_eq!((&row["compile_failures"], &row["cached_bindings_enabled"]), (&0.into(), &true.into()));
        ok(home, &["convert", "m.tamp", "back.gguf"]);
        assert_eq!(answer(home, "back.gguf")["tokens"], want["tokens"]);
        ok(home, &["quantize", "m.tamp", "q.gguf", "--to", "q8_0"]);
        let again = ok(home, &["convert", "m.tamp", "again.tamp"]);
        assert_eq!(again.out.trim(), "again.tamp");
        assert_eq!(answer(home, "again.tamp")["tokens"], want["tokens"]);
    }
}

#[test]
fn a_byte_changed_in_any_section_is_refused_by_name_whether_the_file_was_seen_or_not() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    made(home, &[]);
    let path = home.join("m.tamp");
    let whole = std::fs::read(&path).unwrap();
    let manifest = json(home, &["bundle", "show", "m.tamp"]);
    let names: Vec<&str> =
        manifest["sections"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"weights") && names.contains(&"tokenizer"), "{names:?}");
    let seen = home.join(".cache/tamp/seen.json");
    for name in names {
        // An empty section has no byte to change.
        let empty =
            manifest["sections"].as_array().unwrap().iter().any(|s| s["name"] == name && s["length"] == 0);
        if empty {
            continue;
        }
        for known in [false, true] {
            std::fs::write(&path, &whole).unwrap();
            let _ = std::fs::remove_file(&seen);
            if known {
                ok(home, &["bundle", "verify", "m.tamp"]);
                assert!(seen.is_file() || !cfg!(target_os = "linux"));
            }
            tamper(&path, name, &manifest);
            for words in [&["run", "m.tamp", "x", "-n", "2"][..], &["bundle", "verify", "m.tamp"]] {
                let r = ran(tamp(home).args(words));
                assert!(
                    r.code == 3 && r.err.contains(&format!("the section `{name}`")),
                    "{words:?} {name} seen {known}: {} {}",
                    r.code,
                    r.err
                );
            }
        }
    }
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let r = ran(tamp(home).args(["run", "m.tamp", "x"]));
    assert!(r.code == 3 && r.err.contains("cut short"), "{}", r.err);
}

#[test]
fn a_bundle_of_a_strange_layout_says_what_to_run() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    made(home, &[]);
    // Another version's layout, with every hash right.
    let whole = std::fs::read(home.join("m.tamp")).unwrap();
    let start = u64::from_le_bytes(whole[16..24].try_into().unwrap()) as usize;
    let text = std::str::from_utf8(&whole[start..]).unwrap().replace("r16k4.1", "r99k9.9");
    let mut bytes = whole[..start].to_vec();
    bytes[32..64].copy_from_slice(blake3::hash(text.as_bytes()).as_bytes());
    bytes.extend_from_slice(text.as_bytes());
    std::fs::write(home.join("m.tamp"), bytes).unwrap();
    for words in [&["run", "m.tamp", "x"][..], &["convert", "m.tamp", "out.gguf"]] {
        let r = ran(tamp(home).args(words));
        assert!(r.code != 0 && r.err.contains("`r99k9.9`") && r.err.contains("tamp convert"), "{}", r.err);
    }
}

#[test]
fn words_about_bundles_that_make_no_sense_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    made(home, &[]);
    for (words, code, says) in [
        (&["bundle", "verify", "m.gguf"][..], 3, "is a model, but no bundle"),
        (&["convert", "m.gguf", "x.gguf", "--layout", "rows"], 2, "--layout is for bundles"),
        (&["convert", "m.tamp", "m.tamp"], 2, "both the input and the output"),
        (&["run", "m.tamp", "x", "--use", "weights.residency=disk"], 2, "known: map, read"),
    ] {
        let r = ran(tamp(home).args(words));
        assert!(r.code == code && r.err.contains(says), "{words:?}: {} {}", r.code, r.err);
    }
}

#[test]
fn bundles_of_the_store_are_listed_and_found() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    made(home, &[]);
    std::fs::create_dir(home.join("store")).unwrap();
    std::fs::rename(home.join("m.tamp"), home.join("store/only.tamp")).unwrap();
    let list = json(home, &["list", "--store", "store"]);
    assert_eq!(list[0]["name"], "only.tamp");
    for name in ["only", "only.tamp"] {
        let r = ok(home, &["bundle", "verify", name, "--store", "store"]);
        assert!(r.out.contains("every section matches its hash"), "{}", r.out);
    }
}
