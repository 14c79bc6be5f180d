//! Damaged and hostile files end in an error or load, within 64 MB beyond the file and one second, and never panic.
//! One test in a binary of its own, because the allocator counts the whole process.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::make;
use peak_alloc::PeakAlloc;
use tamp_weights::bundle::{About, Behavior, ROWS, Writer};
use tamp_weights::testing::{Arch, Noise, Tiny};
use tamp_weights::{Result, Weights, gguf};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

type Open<'a> = dyn Fn(Vec<u8>) -> Result<Weights> + 'a;

/// Opens the bytes and reads every tensor; holds memory and time to their bounds. Says whether it loaded.
fn bounded(what: &str, open: &Open<'_>, bytes: Vec<u8>) -> bool {
    // A neighbour may hold the core: only what is slow three times is slow.
    let again: Vec<_> = (0..if bytes.len() > 300_000 { 2 } else { 0 }).map(|_| bytes.clone()).collect();
    let (loaded, mut took) = once(what, open, bytes);
    for bytes in again {
        if took < SECOND {
            break;
        }
        took = once(what, open, bytes).1;
    }
    assert!(took < SECOND, "{what}: {took:?}");
    loaded
}

const SECOND: Duration = Duration::from_secs(1);

fn once(what: &str, open: &Open<'_>, bytes: Vec<u8>) -> (bool, Duration) {
    let file = bytes.len();
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let start = Instant::now();
    let opened = open(bytes);
    let loaded = opened.is_ok();
    let beyond = HEAP.peak_usage().saturating_sub(before);
    if let Ok(w) = opened {
        for t in w.tensors() {
            // One at a time, as a model is loaded: what is read is never more than the file says.
            if let Ok(Some(t)) = w.tensor(t.name) {
                assert_eq!(Some(t.bytes.len()), rows(&t));
            }
        }
        let _ = w.tokenizer_json();
    }
    let took = start.elapsed();
    if file > 300_000 {
        println!("{what}: loaded {loaded}, {} MB beyond {} MB, {took:?}", beyond >> 20, file >> 20);
    }
    assert!(beyond <= 64 << 20, "{what}: {} MB beyond the file of {} MB", beyond >> 20, file >> 20);
    (loaded, took)
}

fn rows(t: &tamp_weights::Tensor) -> Option<usize> {
    Some(t.kind.row_bytes(t.shape[0])? * t.shape[1..].iter().product::<usize>())
}

/// The description of a tiny model, with three tensors instead of all, so that most mutations hit something.
fn small_gguf() -> Vec<u8> {
    let whole = Weights::from_gguf_bytes(Tiny::new(Arch::Qwen2, 1).build()).unwrap();
    let infos: Vec<_> = whole.tensors().filter(|t| t.name.contains("blk.0.attn_k")).collect();
    let mut meta = whole.meta.clone();
    // A tenth of the vocabulary is enough to break.
    meta.0.retain(|k, _| !k.ends_with("merges") && !k.ends_with("token_type"));
    let mut out = Vec::new();
    gguf::write_to(&mut out, &meta, &infos, &mut |i, w| {
        Ok(w.write_all(&whole.tensor(infos[i].name)?.unwrap().bytes)?)
    })
    .unwrap();
    out
}

/// A bundle of a model with three tensors, one of them in a layout of nobody's.
fn bundle() -> Vec<u8> {
    let whole = Weights::from_gguf_bytes(Tiny::new(Arch::Qwen2, 1).build()).unwrap();
    let mut src = Tiny::new(Arch::Qwen2, 1).meta();
    // A tenth of the description is enough to break.
    src.0.retain(|k, _| !k.starts_with("tokenizer.ggml.t") && !k.ends_with("merges"));
    let mut plain = Vec::new();
    gguf::write_to(&mut plain, &src, &[], &mut |_, _| Ok(())).unwrap();
    let small = Weights::from_gguf_bytes(plain).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.tamp");
    let about = About { layout: "turned.1".into(), behavior: Behavior::Exact, compiled: None, draft: None };
    let mut w = Writer::create(&path, &small, about).unwrap();
    for (name, layout) in
        [("output_norm.weight", ROWS), ("blk.0.attn_k.bias", ROWS), ("blk.0.attn_k.weight", "turned.1")]
    {
        let t = whole.tensor(name).unwrap().unwrap();
        let most = t.bytes.len().min(4096);
        let rows = most / t.kind.row_bytes(t.shape[0]).unwrap();
        let shape = if t.shape.len() == 1 { t.shape.to_vec() } else { vec![t.shape[0], rows] };
        w.tensor(name, t.kind, &shape, layout, &t.bytes[..most]).unwrap();
    }
    w.finish().unwrap();
    std::fs::read(&path).unwrap()
}

/// A bundle with another manifest whose hash is right, so that what it says is looked at.
fn with_manifest(whole: &[u8], text: &[u8]) -> Vec<u8> {
    let start = u64::from_le_bytes(whole[16..24].try_into().unwrap()) as usize;
    let mut v = whole[..start].to_vec();
    v[24..32].copy_from_slice(&(text.len() as u64).to_le_bytes());
    v[32..64].copy_from_slice(blake3::hash(text).as_bytes());
    v.extend_from_slice(text);
    v
}

/// One to four changes: a byte, a bit, an extreme number, a copied or cut stretch. Half of them in the first 2 KB.
fn mutate(seed: u64, bytes: &[u8]) -> Vec<u8> {
    let mut n = Noise(seed);
    let mut v = bytes.to_vec();
    for _ in 0..1 + n.below(4) {
        let reach = if n.below(2) == 0 { v.len().min(2048) } else { v.len() };
        let at = n.below(reach);
        match n.below(6) {
            0 => v[at] = n.word() as u8,
            1 => v[at] ^= 1 << n.below(8),
            2 => {
                let extreme = [0, u64::MAX, 1 << 63, 1 << 60, u64::from(u32::MAX), 1 << 31][n.below(6)];
                for (d, s) in v[at..].iter_mut().zip(extreme.to_le_bytes()) {
                    *d = s;
                }
            }
            3 => {
                let (from, len) = (n.below(v.len()), n.below(64));
                let piece: Vec<u8> = v[from..].iter().take(len).copied().collect();
                v.splice(at..at, piece);
            }
            4 => {
                let end = (at + n.below(64)).min(v.len());
                v.drain(at..end);
            }
            // JSON's and numbers' own characters.
            _ => v[at] = b"\"{}[],:0919-.eE\\\0"[n.below(17)],
        }
        if v.is_empty() {
            break;
        }
    }
    v
}

/// A GGUF file with one key, whose value is an array of `n` elements of type `t` followed by `fill`.
fn array(t: u32, n: u64, fill: &[u8]) -> Vec<u8> {
    let mut v = b"GGUF".to_vec();
    v.extend(3u32.to_le_bytes());
    v.extend(0u64.to_le_bytes());
    v.extend(1u64.to_le_bytes());
    v.extend(1u64.to_le_bytes());
    v.push(b'a');
    v.extend(9u32.to_le_bytes());
    v.extend(t.to_le_bytes());
    v.extend(n.to_le_bytes());
    v.extend(fill);
    v
}

fn many(n: usize, each: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    (0..n).flat_map(each).collect()
}

/// The fast set tries 20 000 mutations of each kind; `TAMP_TEST_FULL=1` tries 100 000.
fn mutations() -> u64 {
    if std::env::var_os("TAMP_TEST_FULL").is_some() { 100_000 } else { 20_000 }
}

#[test]
fn damaged_and_hostile_files_cost_little_and_never_panic() {
    let config = make::config().into_bytes();
    let (bin, tok) = make::llama2c(true);
    let st = make::safetensors(&make::tensors(), false);
    let c = config.clone();
    let (c2, file, t2) = (config.clone(), st.clone(), tok.clone());
    let (f2, bin2) = (st.clone(), bin.clone());
    let whole = bundle();
    let manifest = whole[u64::from_le_bytes(whole[16..24].try_into().unwrap()) as usize..].to_vec();
    let kinds: Vec<(&str, Vec<u8>, Box<Open<'_>>)> = vec![
        ("GGUF", small_gguf(), Box::new(Weights::from_gguf_bytes)),
        ("safetensors", file, Box::new(move |b| Weights::from_safetensors_bytes(&c, b))),
        ("config.json", config.clone(), Box::new(move |b| Weights::from_safetensors_bytes(&b, f2.clone()))),
        ("llama2.c", bin.clone(), Box::new(move |b| Weights::from_llama2c_bytes(b, &t2))),
        ("tokenizer.bin", tok, Box::new(move |b| Weights::from_llama2c_bytes(bin2.clone(), &b))),
        ("manifest", manifest.clone(), Box::new(|b| Weights::from_bundle_bytes(&with_manifest(&whole, &b)))),
        ("ONNX", make::onnx(), Box::new(move |b| Weights::from_onnx_bytes(&c2, b))),
    ];
    for (what, bytes, open) in &kinds {
        assert!(bounded(what, open, bytes.clone()), "{what}: the undamaged file does not load");
        for n in 0..bytes.len() {
            let loaded = bounded(&format!("{what} cut at {n}"), open, bytes[..n].to_vec());
            assert!(!loaded, "{what} cut at {n} of {} loads", bytes.len());
        }
        let mut loaded = 0;
        for seed in 0..mutations() {
            loaded += u32::from(bounded(&format!("{what} seed {seed}"), open, mutate(seed, bytes)));
        }
        let of = mutations();
        println!("{what}: {loaded} of {of} mutations load");
        // Some must get past the parser, most must not: else they hit nothing.
        assert!(
            u64::from(loaded) > of / 200 && u64::from(loaded) < of - of / 200,
            "{what}: {loaded} of {of} load"
        );
    }

    // A bundle's hashes refuse nearly everything, so these are about panics and cost alone.
    let open: &Open<'_> = &|b| Weights::from_bundle_bytes(&b);
    assert!(bounded("bundle", open, whole.clone()), "the undamaged bundle does not load");
    for n in 0..whole.len() {
        assert!(
            !bounded(&format!("bundle cut at {n}"), open, whole[..n].to_vec()),
            "bundle cut at {n} loads"
        );
    }
    for seed in 0..mutations() {
        bounded(&format!("bundle seed {seed}"), open, mutate(seed, &whole));
    }

    // Files made to be expensive.
    let m = |what: &str, field: &str, each: &str, n: usize| {
        let text = String::from_utf8(manifest.clone()).unwrap();
        let at = text.find(field).unwrap() + field.len();
        let text = [&text[..at], &each.repeat(n), &text[at..]].concat();
        bounded(what, open, with_manifest(&whole, text.as_bytes()))
    };
    for n in [100, 10_000, 1 << 20] {
        m("manifest licences", "\"licences\":[", "\"\",", n.min(690_000));
        m(
            "manifest tensors",
            "\"tensors\":[",
            r#"{"name":"","kind":"f32","shape":[1],"layout":"","offset":0,"length":4},"#,
            n.min(28_000),
        );
        m("manifest shape", "\"shape\":[", "1,", n);
        m(
            "manifest sections",
            "\"sections\":[",
            r#"{"name":"","offset":64,"length":0,"blake3":""},"#,
            n.min(43_000),
        );
        m("manifest unknown", "{", r#""x":[[[[{}]]]],"#, n.min(150_000));
        m("manifest nesting", "{", &format!("\"x\":{}{},", "[".repeat(1000), "]".repeat(1000)), n.min(1000));
    }

    let g = |what: &str, b: Vec<u8>| bounded(what, &Weights::from_gguf_bytes, b);
    // Sizes around what the budget lets through, and far beyond.
    for m in [2u64, 6, 8, 12, 24].map(|m| m << 20) {
        let zeros = vec![0; m as usize];
        g("empty strings", array(8, m / 8, &zeros));
        g("bytes", array(0, m, &zeros));
        g("bad UTF-8", array(8, 1, &[&m.to_le_bytes()[..], &vec![0xff; m as usize]].concat()));
        g("empty arrays", array(9, m / 12, &zeros));
        let one =
            [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &0u32.to_le_bytes(), &0u64.to_le_bytes()].concat();
        g("arrays of arrays", array(9, m / 24, &one.repeat(m as usize / 24)));
    }
    for keys in [100_000u64, 200_000, 250_000, 400_000] {
        let head =
            |t: u64, k: u64| [&b"GGUF"[..], &3u32.to_le_bytes(), &t.to_le_bytes(), &k.to_le_bytes()].concat();
        g(
            "keys",
            [
                head(0, keys),
                many(keys as usize, |i| {
                    [&8u64.to_le_bytes()[..], format!("{i:08}").as_bytes(), &0u32.to_le_bytes(), &[0]]
                        .concat()
                }),
            ]
            .concat(),
        );
        g(
            "tensors",
            [
                head(keys, 0),
                many(keys as usize, |i| {
                    [
                        &8u64.to_le_bytes()[..],
                        format!("{i:08}").as_bytes(),
                        &1u32.to_le_bytes(),
                        &8u64.to_le_bytes(),
                        &0u32.to_le_bytes(),
                        &(32 * i as u64).to_le_bytes(),
                    ]
                    .concat()
                }),
                vec![0; 32 * keys as usize + 32],
            ]
            .concat(),
        );
    }

    let s = |what: &str, head: String| {
        let file = [&(head.len() as u64).to_le_bytes()[..], head.as_bytes(), &[0; 64]].concat();
        bounded(what, &|b| Weights::from_safetensors_bytes(&make::config().into_bytes(), b), file)
    };
    let line = |i: usize| format!(r#""{i:x}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},"#);
    for n in [100_000, 150_000, 250_000] {
        s("safetensors lines", format!("{{{}\"a\":0}}", (0..n).map(line).collect::<String>()));
    }
    s("safetensors nesting", "[".repeat(15 << 20));
    s("safetensors shape", format!(r#"{{"a":{{"shape":[{}1]}}}}"#, "0,".repeat(7 << 20)));
    s("safetensors name", format!(r#"{{"{}":1}}"#, "\\n".repeat(7 << 20)));
    s("safetensors metadata", format!(r#"{{"__metadata__":{{{}"a":"b"}}}}"#, r#""x":"y","#.repeat(1 << 20)));
    let conf = |what: &str, c: String| {
        let st = make::safetensors(&make::tensors(), false);
        bounded(what, &|b| Weights::from_safetensors_bytes(&b, st.clone()), c.into_bytes())
    };
    conf("config nesting", "{\"a\":".repeat(150_000));
    conf("config list", format!(r#"{{"eos_token_id":[{}1]}}"#, "1,".repeat(400_000)));

    let o = |what: &str, b: Vec<u8>| {
        bounded(what, &|b| Weights::from_onnx_bytes(&make::config().into_bytes(), b), b)
    };
    let field = |tag: u8, inner: Vec<u8>| {
        let mut v = vec![tag];
        let mut n = inner.len();
        while n > 127 {
            v.push(n as u8 | 128);
            n >>= 7;
        }
        v.push(n as u8);
        v.extend(inner);
        v
    };
    let named = |i: usize| [&[0x2a, 8, 0x42, 6][..], format!("{i:06x}").as_bytes()].concat();
    for n in [50_000, 100_000, 200_000, 1_000_000] {
        o("ONNX tensors", field(0x3a, many(n, named)));
    }
    o("ONNX dimensions", field(0x3a, field(0x2a, field(0x0a, vec![1; 8 << 20]))));
    o("ONNX nodes", field(0x3a, [0x0a, 0].repeat(4 << 20)));
    let (own, (bin, tok)) = (bin.len(), make::llama2c(true));
    let words = [&tok[..4], &[0; 8].repeat(1 << 22)].concat();
    let mut wide = bin;
    wide[20..24].copy_from_slice(&(1i32 << 22).to_le_bytes());
    wide.resize(own + (make::D << 24), 0);
    bounded("llama2.c tokens", &|b| Weights::from_llama2c_bytes(b, &words), wide);
}
