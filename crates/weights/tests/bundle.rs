//! Bundles: what is written is read back, and every byte of it is accounted for.
//!
//! Planted and seen to fail: a section left out of the hashes of a load or of the check behind it, padding that is not
//! looked at, a tensor's place that is believed, a draft's target that is not compared.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tamp_base::meta::Value;
use tamp_weights::bundle::{About, Behavior, Conditioning, Draft, Packed, ROWS, Tap, TapNorm, Writer};
use tamp_weights::testing::{Arch, Noise, Tiny};
use tamp_weights::{Error, Residency, Result, Weights};

/// A layout of these tests: every byte turned around.
const TURNED: &str = "turned.1";

fn source() -> Weights {
    let mut tiny = Tiny::new(Arch::Qwen2, 5);
    tiny.layers = 1;
    tiny.extra.set("general.license", Value::Str("apache-2.0".into()));
    tiny.extra.set("general.license.link", Value::Str("https://example.org/licence".into()));
    Weights::from_gguf_bytes(tiny.build()).unwrap()
}

fn contract() -> Draft {
    Draft {
        kind: "head".into(),
        behavior_class: Behavior::Exact,
        horizon: 2,
        verify_widths: vec![1, 2, 4],
        tap: Tap { layer: 0, norm: TapNorm::Pre },
        conditioning: Conditioning::HiddenAndToken,
        target: String::new(),
        tokenizer: String::new(),
        acceptance_metric: "accepted / tested over 24 prompts".into(),
    }
}

fn about() -> About {
    About { layout: TURNED.into(), behavior: Behavior::Exact, compiled: None, draft: None }
}

fn write(dir: &Path, src: &Weights, about: About) -> Result<PathBuf> {
    let path = dir.join("m.tamp");
    let _ = std::fs::remove_file(&path);
    let layout = about.layout.clone();
    let mut w = Writer::create(&path, src, about)?;
    for info in src.tensors() {
        let t = src.tensor(info.name)?.unwrap();
        if t.shape.len() > 1 && layout != ROWS {
            let turned: Vec<u8> = t.bytes.iter().map(|b| !b).collect();
            w.tensor(t.name, t.kind, t.shape, TURNED, &turned)?;
        } else {
            w.tensor(t.name, t.kind, t.shape, ROWS, &t.bytes)?;
        }
    }
    assert!(!path.exists(), "the name is there before the file is whole");
    let n = w.finish()?;
    assert_eq!(n, std::fs::metadata(&path).unwrap().len());
    Ok(path)
}

fn turn(p: &Packed<'_>) -> std::result::Result<Vec<u8>, String> {
    match p.layout {
        TURNED => Ok(p.bytes.iter().map(|b| !b).collect()),
        other => Err(format!("`{other}` is strange")),
    }
}

#[test]
fn what_goes_into_a_bundle_comes_out_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let src = source();
    let path = write(dir.path(), &src, about()).unwrap();
    for residency in [Residency::Map, Residency::Read] {
        let mut b = Weights::open_as(&path, residency).unwrap();
        assert!(
            !b.meta.0.keys().any(|k| k == "tokenizer.ggml.tokens"),
            "the words are read only when asked for"
        );
        assert_eq!(b.full_meta().unwrap(), src.meta);
        assert_eq!(b.tensors().map(|t| t.name.to_string()).collect::<Vec<_>>(), names(&src));
        let e = b.tensor("blk.0.attn_q.weight").unwrap_err().to_string();
        assert!(e.contains("turned.1"), "{e}");
        b.unpack_with(Arc::new(turn));
        for name in names(&src) {
            let (t, want) = (b.tensor(&name).unwrap().unwrap(), src.tensor(&name).unwrap().unwrap());
            assert!((t.kind, t.shape, &t.bytes) == (want.kind, want.shape, &want.bytes), "{name}");
            if let Some(p) = b.packed(&name) {
                assert_eq!(p.bytes.as_ptr().addr() % 64, 0);
                assert_eq!(p.bytes.mapped(), residency == Residency::Map);
            }
        }
        let bundle = b.bundle().unwrap();
        bundle.verify(&mut |_, _| ()).unwrap();
        let m = bundle.manifest();
        assert_eq!(
            m.licences,
            ["general.license: apache-2.0", "general.license.link: https://example.org/licence"]
        );
        assert_eq!(
            (m.architecture.as_str(), m.source.format.as_str(), m.behavior_class.to_string().as_str()),
            ("qwen2", "gguf", "exact")
        );
        assert_eq!(m.source.bytes, src.file_bytes());
        assert_eq!(m.section("weights").unwrap().offset % 4096, 0);
    }
}

fn names(w: &Weights) -> Vec<String> {
    w.tensors().map(|t| t.name.to_string()).collect()
}

#[test]
fn a_bundle_becomes_gguf_again_with_every_key_and_weight() {
    let dir = tempfile::tempdir().unwrap();
    let src = source();
    let compiled = Some(("tables.1".into(), b"opaque".to_vec()));
    for about in [about(), About { layout: ROWS.into(), ..about() }, About { compiled, ..about() }] {
        let form = if about.compiled.is_some() { "tables.1" } else { "gguf" };
        let path = write(dir.path(), &src, about).unwrap();
        let mut b = Weights::open(&path).unwrap();
        assert_eq!(b.bundle().unwrap().tokenizer_form(), form);
        b.unpack_with(Arc::new(turn));
        let out = dir.path().join("back.gguf");
        tamp_weights::convert(&b, &out, &mut |_, _| ()).unwrap();
        let back = Weights::open(&out).unwrap();
        for (k, v) in &src.meta.0 {
            assert_eq!(back.meta.get(k), Some(v), "{k}");
        }
        for name in names(&src) {
            assert!(
                back.tensor(&name).unwrap().unwrap().bytes == src.tensor(&name).unwrap().unwrap().bytes,
                "{name}"
            );
        }
    }
}

/// What an error says is wrong: the name of a section, or the sentence.
fn section(e: &Error) -> String {
    match e {
        Error::In { error, .. } => section(error),
        Error::Section { section } => section.clone(),
        e => e.to_string(),
    }
}

#[test]
fn a_changed_byte_anywhere_is_an_error_that_names_its_section() {
    let dir = tempfile::tempdir().unwrap();
    let draft = Some((contract(), vec![3; 1000]));
    let path = write(dir.path(), &source(), About { draft, ..about() }).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let manifest = Weights::from_bundle_bytes(&whole).unwrap().bundle().unwrap().manifest().clone();
    let owner = |at: usize| {
        let of = |s: &&tamp_weights::bundle::Section| (s.offset..s.offset + s.length).contains(&(at as u64));
        let start = u64::from_le_bytes(whole[16..24].try_into().unwrap()) as usize;
        match manifest.sections.iter().find(of) {
            Some(s) => s.name.clone(),
            None if at < 64 => "header".into(),
            None if at >= start => "manifest".into(),
            None => "padding".into(),
        }
    };
    let mut noise = Noise(9);
    let borders = manifest.sections.iter().flat_map(|s| [s.offset as usize, (s.offset + s.length) as usize]);
    let borders = borders.flat_map(|b| [b.saturating_sub(1), b, b + 1]).filter(|&b| b < whole.len());
    let tail = whole.len() - 2000;
    let any = (0..300).map(|_| noise.below(whole.len()));
    let some: Vec<usize> = any.chain(0..64).chain((tail..whole.len()).step_by(37)).chain(borders).collect();
    let mut seen = std::collections::BTreeSet::new();
    for at in some {
        let mut bad = whole.clone();
        bad[at] ^= 1 << noise.below(8);
        let want = owner(at);
        let opened = Weights::from_bundle_bytes(&bad);
        let e = opened.and_then(|w| w.bundle().unwrap().verify(&mut |_, _| ())).err();
        let e = e.unwrap_or_else(|| panic!("byte {at} of {want} may be anything"));
        // The fields of the header contradict the file before any hash is asked; the hash in it accuses the manifest.
        match want.as_str() {
            "header" => assert!(at < 32 || section(&e) == "manifest", "{at}: {e}"),
            _ => assert_eq!(section(&e), want, "{at}: {e}"),
        }
        seen.insert(want);
    }
    let all =
        ["config", "draft", "header", "licences", "manifest", "padding", "template", "tokenizer", "weights"];
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), all);
}

#[test]
fn small_sections_are_hashed_at_every_load_and_the_weights_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), &source(), about()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let m = Weights::open(&path).unwrap().bundle().unwrap().manifest().clone();
    for s in &m.sections {
        let mut bad = whole.clone();
        bad[(s.offset + s.length / 2) as usize] ^= 4;
        std::fs::write(&path, &bad).unwrap();
        let opened = Weights::open(&path);
        if s.name != "weights" {
            assert_eq!(section(&opened.unwrap_err()), s.name);
            continue;
        }
        let w = opened.unwrap();
        let watch = w.bundle().unwrap().watch();
        watch.check().unwrap();
        watch.check_behind();
        assert_eq!(section(&watch.settle().unwrap_err()), "weights");
        assert_eq!(section(&watch.check().unwrap_err()), "weights");
        assert!(!watch.is_checked());
    }
    std::fs::write(&path, &whole).unwrap();
    let w = Weights::open(&path).unwrap();
    let watch = w.bundle().unwrap().watch();
    assert!(!watch.is_checked());
    watch.settle().unwrap();
    assert!(watch.is_checked());
}

#[test]
fn a_bundle_that_changes_while_it_is_mapped_is_noticed_and_one_that_was_read_is_immune() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), &source(), about()).unwrap();
    let (mapped, read) = (Weights::open(&path).unwrap(), Weights::open_as(&path, Residency::Read).unwrap());
    let watch = |w: &Weights| w.bundle().unwrap().watch().clone();
    watch(&mapped).check().unwrap();
    let file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.set_len(std::fs::metadata(&path).unwrap().len() + 64).unwrap();
    let e = watch(&mapped).check().unwrap_err().to_string();
    assert!(e.contains("m.tamp was changed") && e.contains("weights.residency=read"), "{e}");
    watch(&read).settle().unwrap();
}

#[test]
fn a_draft_is_held_to_its_contract() {
    let dir = tempfile::tempdir().unwrap();
    let src = source();
    let good = write(dir.path(), &src, About { draft: Some((contract(), vec![1; 64])), ..about() }).unwrap();
    let m = Weights::open(&good).unwrap().bundle().unwrap().manifest().clone();
    let d = m.draft.clone().unwrap();
    let whole = std::fs::read(&good).unwrap();
    assert_eq!(d.target, m.section("weights").unwrap().blake3);
    assert_eq!(d.tokenizer, m.section("tokenizer").unwrap().blake3);
    let broken: [(&str, Draft); 7] = [
        ("horizon", Draft { horizon: 1, ..contract() }),
        ("verify_widths", Draft { verify_widths: vec![], ..contract() }),
        ("verify_widths", Draft { verify_widths: vec![1, 4, 2], ..contract() }),
        ("verify_widths", Draft { verify_widths: vec![2, 2], ..contract() }),
        ("verify_widths", Draft { verify_widths: vec![0, 2], ..contract() }),
        ("kind", Draft { kind: " ".into(), ..contract() }),
        ("acceptance_metric", Draft { acceptance_metric: String::new(), ..contract() }),
    ];
    for (what, d) in broken {
        let e = write(dir.path(), &src, About { draft: Some((d, vec![1; 64])), ..about() }).unwrap_err();
        assert!(e.to_string().contains(&format!("the draft's {what}")), "{e}");
    }
    // Contracts that only a changed file can hold.
    for (from, to, says) in [
        (
            format!("\"target\":\"{}\"", d.target),
            format!("\"target\":\"{}\"", "0".repeat(64)),
            "the draft's target",
        ),
        (
            format!("\"tokenizer\":\"{}\"", d.tokenizer),
            format!("\"tokenizer\":\"{}\"", "f".repeat(64)),
            "the draft's tokenizer",
        ),
        ("\"horizon\":2".into(), "\"horizon\":0".into(), "the draft's horizon"),
        ("\"norm\":\"pre\"".into(), "\"norm\":\"mid\"".into(), "unknown variant"),
        ("\"layer\":0".into(), "\"layre\":0".into(), "missing field `layer`"),
        ("\"hidden_and_token\"".into(), "\"hidden_and_tokens\"".into(), "unknown variant"),
        ("\"draft\":{".into(), "\"drift\":{".into(), "the contract of the section `draft` is missing"),
    ] {
        let e =
            Weights::from_bundle_bytes(&with_manifest(&whole, |m| m.replacen(&from, &to, 1))).unwrap_err();
        assert!(e.to_string().contains(says), "{to}: {e}");
    }
}

/// The same bundle with another manifest whose hash is right.
fn with_manifest(whole: &[u8], change: impl Fn(&str) -> String) -> Vec<u8> {
    let start = u64::from_le_bytes(whole[16..24].try_into().unwrap()) as usize;
    let text = std::str::from_utf8(&whole[start..]).unwrap();
    let new = change(text);
    assert_ne!(text, new, "nothing was changed");
    let mut out = whole[..start].to_vec();
    out[24..32].copy_from_slice(&(new.len() as u64).to_le_bytes());
    out[32..64].copy_from_slice(blake3::hash(new.as_bytes()).as_bytes());
    out.extend_from_slice(new.as_bytes());
    out
}

#[test]
fn a_manifest_with_a_right_hash_is_still_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), &source(), about()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let m = Weights::open(&path).unwrap().bundle().unwrap().manifest().clone();
    let weights = m.section("weights").unwrap().clone();
    let length = format!("\"length\":{},\"blake3\":\"{}\"", weights.length, weights.blake3);
    let t = m.tensors.iter().find(|t| t.layout == TURNED).unwrap();
    let place = |o: u64, l: u64| format!("\"offset\":{o},\"length\":{l}}}");
    let own = place(t.offset, t.length);
    let cases: Vec<(String, String, &str)> = vec![
        ("\"kind\":\"tamp.bundle\"".into(), "\"kind\":\"tamp.bundel\"".into(), "`tamp.bundel` version 1"),
        ("\"v\":1".into(), "\"v\":2".into(), "`tamp.bundle` version 2"),
        (
            length.clone(),
            length.replacen(&weights.length.to_string(), &u64::MAX.to_string(), 1),
            "the section `weights`",
        ),
        (
            format!("\"offset\":{}", weights.offset),
            format!("\"offset\":{}", weights.offset - 64),
            "multiple of 4096",
        ),
        (format!("\"offset\":{}", weights.offset), "\"offset\":4096".into(), "overlap"),
        ("\"name\":\"template\"".into(), "\"name\":\"config\"".into(), "the section `template` is missing"),
        (weights.blake3.clone(), "zz".repeat(32), "64 hexadecimal digits"),
        (own.clone(), place(t.offset + 1, t.length), "a multiple of 64"),
        (own.clone(), place(t.offset, weights.length + 64), "bytes within"),
        (own.clone(), place(u64::MAX - 63, t.length), "bytes within"),
        (own.clone(), place(t.offset, 64), "at least"),
        ("\"kind\":\"f32\",\"shape\"".into(), "\"kind\":\"f33\",\"shape\"".into(), "f33"),
        ("\"shape\":[128,".into(), "\"shape\":[18446744073709551615,".into(), "below 2^63"),
        (
            "\"layout\":\"turned.1\",\"behavior_class\":\"exact\"".into(),
            "\"layout\":\"turned.1\",\"behavior_class\":\"roughly\"".into(),
            "unknown variant",
        ),
    ];
    for (from, to, says) in cases {
        let bad = with_manifest(&whole, |m| m.replacen(&from, &to, 1));
        let e = Weights::from_bundle_bytes(&bad).map(|_| ()).unwrap_err();
        assert!(e.to_string().contains(says), "{from} → {to}: {e}");
    }
    let mut later = whole.clone();
    later[8] = 2;
    let e = Weights::from_bundle_bytes(&later).unwrap_err().to_string();
    assert!(e.contains("container version is 2") && e.contains("convert"), "{e}");
    let unknown = with_manifest(&whole, |m| m.replacen("\"v\":1", "\"v\":1,\"colour\":\"blue\"", 1));
    assert!(Weights::from_bundle_bytes(&unknown).is_ok(), "fields of later versions are passed over");
}

#[test]
fn an_unfinished_bundle_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = Writer::create(&dir.path().join("m.tamp"), &source(), about()).unwrap();
    w.tensor("x", tamp_formats::Kind::F32, &[16], ROWS, &[0; 64]).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    drop(w);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    // A tensor that could not be read again is not written.
    let mut w = Writer::create(&dir.path().join("m.tamp"), &source(), about()).unwrap();
    w.tensor("x", tamp_formats::Kind::F32, &[16], ROWS, &[0; 63]).unwrap();
    assert!(w.finish().is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
