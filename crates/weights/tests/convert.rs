//! Whatever a model comes from and whatever it becomes, it stays the same model.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Naive, make};
use proptest::prelude::*;
use tamp_base::meta::Value;
use tamp_formats::{Kind, Recipe};
use tamp_weights::testing::{Arch, Tiny};
use tamp_weights::{Source, Weights, convert, quantize};

fn tiny(t: Tiny) -> Weights {
    Weights::from_gguf_bytes(t.build()).unwrap()
}

fn close(a: &[f32], b: &[f32]) {
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= 1e-4 * (1.0 + a.abs()), "{a} {b}");
    }
}

const PROMPT: [u32; 4] = [9, 3, 11, 7];

#[test]
fn a_model_answers_the_same_after_every_conversion() {
    let dir = tempfile::tempdir().unwrap();
    for arch in Arch::ALL {
        for tied in [true, false] {
            let a = tiny(Tiny::new(arch, 5).tied(tied));
            let folder = dir.path().join(format!("{arch:?}{tied}"));
            convert(&a, &folder, &mut |_, _| {}).unwrap();
            let b = Weights::open(&folder).unwrap();
            assert_eq!(b.source(), Source::Safetensors);
            assert_eq!(b.meta.str("tamp.rope.pairing").unwrap(), "half");
            let back = folder.with_extension("gguf");
            convert(&b, &back, &mut |_, _| {}).unwrap();
            let c = Weights::open(&back).unwrap();
            assert!(c.meta.get("tamp.rope.pairing").is_none());
            let want = Naive::new(&a).logits(&PROMPT);
            close(&want, &Naive::new(&b).logits(&PROMPT));
            for t in a.tensors() {
                assert_eq!(
                    a.tensor(t.name).unwrap().unwrap().bytes,
                    c.tensor(t.name).unwrap().unwrap().bytes
                );
            }
            for (k, v) in &a.meta.0 {
                if k.starts_with("tokenizer.") {
                    assert_eq!(c.meta.get(k), Some(v), "{k}");
                }
            }
            assert_eq!(c.tensors().len(), a.tensors().len());
        }
    }
}

#[test]
fn block_formats_become_exactly_their_values_in_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let a = tiny(Tiny::new(Arch::Qwen3, 5).kind(Kind::Q5_1));
    convert(&a, dir.path(), &mut |_, _| {}).unwrap();
    let b = Weights::open(dir.path()).unwrap();
    for t in a.tensors() {
        let (x, y) = (a.tensor(t.name).unwrap().unwrap(), b.tensor(t.name).unwrap().unwrap());
        let mut v = vec![0.0; t.shape.iter().product()];
        (x.kind.row().decode)(&x.bytes, &mut v);
        assert_eq!(y.kind, Kind::F32);
        assert_eq!(y.bytes[..], make::le(&v)[..]);
    }
}

#[test]
fn checkpoints_of_all_kinds_hold_the_same_model() {
    let config = make::config();
    let (bin, tok) = make::llama2c(true);
    let f32s = Weights::from_safetensors_bytes(config.as_bytes(), make::safetensors(&make::tensors(), false))
        .unwrap();
    let bf16 = Weights::from_safetensors_bytes(config.as_bytes(), make::safetensors(&make::tensors(), true))
        .unwrap();
    let onnx = Weights::from_onnx_bytes(config.as_bytes(), make::onnx()).unwrap();
    let l2c = Weights::from_llama2c_bytes(bin, &tok).unwrap();
    assert_eq!(bf16.tensor("blk.0.attn_norm.weight").unwrap().unwrap().kind, Kind::F32);
    assert_eq!(bf16.tensor("blk.0.attn_q.weight").unwrap().unwrap().kind, Kind::BF16);
    for w in [&f32s, &bf16, &onnx, &l2c] {
        assert_eq!(w.tensors().len(), make::tensors().len());
        for (hf, rows, cols) in make::tensors() {
            let name =
                f32s.tensors().nth(make::tensors().iter().position(|t| t.0 == hf).unwrap()).unwrap().name;
            let t = w.tensor(name).unwrap().unwrap();
            let mut v = vec![0.0; rows * cols.max(1)];
            (t.kind.row().decode)(&t.bytes, &mut v);
            assert_eq!(v, make::values(&hf, v.len()), "{:?} {name}", w.source());
            assert_eq!(t.shape, if cols == 0 { vec![rows] } else { vec![cols, rows] });
        }
        for k in ["block_count", "embedding_length", "feed_forward_length", "context_length", "vocab_size"] {
            let k = format!("llama.{k}");
            assert_eq!(w.meta.get(&k), f32s.meta.get(&k), "{k}");
        }
    }
    // The same numbers, paired otherwise, are another model.
    close(&Naive::new(&f32s).logits(&PROMPT), &Naive::new(&onnx).logits(&PROMPT));
    assert_ne!(Naive::new(&f32s).logits(&PROMPT), Naive::new(&l2c).logits(&PROMPT));
    assert_eq!(f32s.meta.token_opt("tokenizer.ggml.eot_token_id").unwrap(), Some(3));
    let tokens = l2c.meta.strs_opt("tokenizer.ggml.tokens").unwrap().unwrap();
    assert_eq!(
        tokens.iter().take(6).collect::<Vec<_>>(),
        ["<unk>", "<s>", "</s>", "<0x0A>", "\u{2581}the", "f"]
    );
    assert_eq!(l2c.meta.ints_opt("tokenizer.ggml.token_type").unwrap().unwrap()[..6], [2, 3, 3, 6, 1, 1]);
}

#[test]
fn an_untied_llama2c_head_is_the_last_matrix() {
    let (bin, tok) = make::llama2c(false);
    let w = Weights::from_llama2c_bytes(bin, &tok).unwrap();
    let t = w.tensor("output.weight").unwrap().unwrap();
    assert_eq!(t.bytes[..], make::le(&make::values("lm_head.weight", make::VOCAB * make::D))[..]);
}

#[test]
fn a_joined_llama2c_file_needs_no_tokenizer_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let (bin, tok) = make::llama2c(true);
    let path = dir.path().join("model.bin");
    std::fs::write(&path, &bin).unwrap();
    assert!(Weights::open(&path).unwrap_err().to_string().contains("tokenizer.bin"));
    std::fs::write(dir.path().join("tokenizer.bin"), &tok).unwrap();
    let apart = Weights::open(&path).unwrap();
    let joined = dir.path().join("joined.data");
    std::fs::write(&joined, [bin, tok].concat()).unwrap();
    assert_eq!(Weights::open(&joined).unwrap().meta, apart.meta);
}

#[test]
fn sharded_folders_open_and_a_missing_part_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let all = make::tensors();
    let put = |name: &str, b: &[u8]| std::fs::write(dir.path().join(name), b).unwrap();
    put("config.json", make::config().as_bytes());
    put("tokenizer.json", b"{}");
    put(
        "tokenizer_config.json",
        br#"{"chat_template":[{"name":"tool_use","template":"x"},{"name":"default","template":"hi"}]}"#,
    );
    put("generation_config.json", br#"{"eos_token_id":5}"#);
    let (a, b) = all.split_at(7);
    let mut map: Vec<String> = Vec::new();
    for (file, list) in [("a.safetensors", a), ("b.safetensors", b)] {
        put(file, &make::safetensors(list, false));
        map.extend(list.iter().map(|t| format!(r#""{}":"{file}""#, t.0)));
    }
    let index =
        |map: &[String]| format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{{{}}}}}"#, map.join(","));
    put("model.safetensors.index.json", index(&map).as_bytes());
    let w = Weights::open(dir.path()).unwrap();
    assert_eq!(w.tensors().len(), all.len());
    assert_eq!(w.tokenizer_json(), Some(&b"{}"[..]));
    assert_eq!(w.meta.str("tokenizer.chat_template").unwrap(), "hi");
    assert_eq!(w.meta.token_opt("tokenizer.ggml.eos_token_id").unwrap(), Some(5));

    let mut more = map.clone();
    more.push(r#""lm_head.weight":"b.safetensors""#.into());
    put("model.safetensors.index.json", index(&more).as_bytes());
    assert!(Weights::open(dir.path()).unwrap_err().to_string().contains("`lm_head.weight` in b.safetensors"));
    more.pop();
    more.push(r#""lm_head.weight":"../b.safetensors""#.into());
    put("model.safetensors.index.json", index(&more).as_bytes());
    assert!(Weights::open(dir.path()).unwrap_err().to_string().contains("plain name"));
    more.pop();
    more[0] = more[0].replace("a.safetensors", "b.safetensors");
    put("model.safetensors.index.json", index(&more).as_bytes());
    assert!(Weights::open(dir.path()).unwrap_err().to_string().contains("`model.embed_tokens.weight` in b"));
    put("model.safetensors.index.json", index(&map).as_bytes());
    std::fs::remove_file(dir.path().join("b.safetensors")).unwrap();
    assert!(Weights::open(dir.path()).unwrap_err().to_string().contains("b.safetensors"));
}

#[test]
fn a_config_that_lies_is_refused_with_a_sentence() {
    let file = || make::safetensors(&make::tensors(), false);
    let with = |from: &str, to: &str| {
        let c = make::config();
        assert!(c.contains(from), "{from}");
        Weights::from_safetensors_bytes(c.replace(from, to).as_bytes(), file()).unwrap_err().to_string()
    };
    for (from, to, want) in [
        (r#""llama""#, r#""mamba""#, "model_type"),
        (r#""hidden_size":16"#, r#""hidden_size":"x""#, "expected u64"),
        (r#""hidden_size":16"#, r#""hidden_size":-1"#, "expected u64"),
        (r#""hidden_size":16"#, r#""hidden_size":99999999999"#, "1 to"),
        (r#""hidden_size":16,"#, "", "hidden_size in config.json is missing"),
        (r#""num_hidden_layers":2"#, r#""num_hidden_layers":18446744073709551615"#, "1 to 1024"),
        (r#""num_hidden_layers":2"#, r#""num_hidden_layers":1"#, "none of that name"),
        (r#""num_attention_heads":4"#, r#""num_attention_heads":0"#, "1 to"),
        (r#""num_key_value_heads":2"#, r#""num_key_value_heads":3"#, "divisor"),
        (r#""rope_theta":10000.0"#, r#""rope_theta":1e999"#, "out of range"),
        (r#""rms_norm_eps":1e-05"#, r#""rms_norm_eps":-1.0"#, "rms_norm_eps"),
        (r#""hidden_act":"silu""#, r#""hidden_act":"gelu""#, "silu"),
        (r#""tie_word_embeddings":true"#, r#""tie_word_embeddings":false"#, "lm_head.weight"),
        (
            r#""rope_theta""#,
            r#""rope_scaling":{"type":"dynamic","factor":2.0},"rope_theta""#,
            "linear, llama3 and yarn",
        ),
        (r#""rope_theta""#, r#""rope_scaling":{"type":"linear"},"rope_theta""#, "factor of linear"),
        (r#""rope_theta""#, r#""quantization_config":{"bits":4},"rope_theta""#, "unquantised"),
        (r#""eos_token_id":[2,3]"#, r#""eos_token_id":[2,-3]"#, "expected u32"),
    ] {
        let e = with(from, to);
        assert!(e.contains(want), "{to}: {e}");
    }
}

#[test]
fn llama3_rope_scaling_becomes_factors_and_finds_its_way_back() {
    let c = make::config().replace(
        r#""rope_theta""#,
        r#""rope_parameters":{"rope_type":"llama3","type":"llama3","factor":8.0,"low_freq_factor":1.0,
        "high_freq_factor":4.0,"original_max_position_embeddings":16},"rope_theta""#,
    );
    let w =
        Weights::from_safetensors_bytes(c.as_bytes(), make::safetensors(&make::tensors(), false)).unwrap();
    assert_eq!(w.meta.str("llama.rope.scaling.type").unwrap(), "llama3");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    convert(&w, &path, &mut |_, _| {}).unwrap();
    let g = Weights::open(&path).unwrap();
    assert!(g.meta.get("llama.rope.scaling.type").is_none());
    let t = g.tensor("rope_freqs.weight").unwrap().unwrap();
    let factors: Vec<f32> = t.bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    // Head of 4: wavelengths 2π and 200π against 16/4 and 16/1: the first lies between, the second is long.
    let smooth = (16.0 / std::f64::consts::TAU - 1.0) / 3.0;
    assert_eq!(factors, [(1.0 / ((1.0 - smooth) / 8.0 + smooth)) as f32, 8.0]);
    convert(&g, &dir.path().join("hf"), &mut |_, _| {}).unwrap();
    let back = Weights::open(&dir.path().join("hf")).unwrap();
    for (k, v) in w.meta.0.iter().filter(|(k, _)| k.contains("rope")) {
        assert_eq!(back.meta.get(k), Some(v), "{k}");
    }
}

#[test]
fn yarn_keeps_its_numbers_and_only_what_it_adds_to_its_own_attention_factor() {
    let c = make::config().replace(
        r#""rope_theta""#,
        r#""rope_scaling":{"type":"yarn","factor":4.0,"attention_factor":2.0,"beta_fast":16.0,
        "original_max_position_embeddings":16},"rope_theta""#,
    );
    let w =
        Weights::from_safetensors_bytes(c.as_bytes(), make::safetensors(&make::tensors(), false)).unwrap();
    let f = |k: &str| w.meta.float(&format!("llama.rope.scaling.{k}")).unwrap();
    assert_eq!((f("factor"), f("yarn_beta_fast"), f("original_context_length")), (4.0, 16.0, 16.0));
    // The reader multiplies by 1 + 0.1·ln(factor) again.
    assert!((f("attn_factor") * (1.0 + 0.1 * 4f64.ln()) - 2.0).abs() < 1e-6);
    let dir = tempfile::tempdir().unwrap();
    convert(&w, &dir.path().join("hf"), &mut |_, _| {}).unwrap();
    let back = Weights::open(&dir.path().join("hf")).unwrap();
    for (k, v) in w.meta.0.iter().filter(|(k, _)| k.contains("rope")) {
        assert_eq!(back.meta.get(k), Some(v), "{k}");
    }
}

#[test]
fn quantising_keeps_the_model_and_does_not_depend_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let a = tiny(Tiny::new(Arch::Llama, 9).tied(false));
    let recipe = Recipe::from_name("q8_0").unwrap();
    let mut files = Vec::new();
    for threads in [1, 2, 5] {
        let path = dir.path().join(format!("{threads}.gguf"));
        let (mut last, mut total) = (0, 0);
        let r = quantize(&a, &path, recipe, threads, &mut |d, t| {
            assert!(d >= last);
            (last, total) = (d, t);
        })
        .unwrap();
        assert_eq!((last, total), (r.bytes_out, r.bytes_out));
        assert_eq!(r.tensors, a.tensors().len());
        assert!((8.5..9.0).contains(&r.bits()), "{}", r.bits());
        files.push(std::fs::read(path).unwrap());
    }
    assert!(files.windows(2).all(|f| f[0] == f[1]));
    let b = Weights::from_gguf_bytes(files.remove(0)).unwrap();
    assert_eq!(b.meta.get("general.file_type"), Some(&Value::U32(7)));
    for (k, v) in &a.meta.0 {
        assert_eq!(b.meta.get(k), Some(v), "{k}");
    }
    assert_eq!(b.tensor("blk.1.ffn_up.weight").unwrap().unwrap().kind, Kind::Q8_0);
    assert_eq!(b.tensor("blk.1.ffn_norm.weight").unwrap().unwrap().kind, Kind::F32);
    let (x, y) = (Naive::new(&a).logits(&PROMPT), Naive::new(&b).logits(&PROMPT));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let cos = dot(&x, &y) / (dot(&x, &x) * dot(&y, &y)).sqrt();
    assert!(cos > 0.999, "{cos}");
}

#[test]
fn outputs_appear_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let a = tiny(Tiny::new(Arch::Llama, 9));
    assert!(convert(&a, &dir.path().join("x.bin"), &mut |_, _| {}).is_err());
    assert!(convert(&a, &dir.path().join("no/such/x.gguf"), &mut |_, _| {}).is_err());
    let info = tamp_weights::TensorInfo { name: "a", kind: Some(Kind::F32), shape: &[4], bytes: 16 };
    let path = dir.path().join("x.gguf");
    let e = tamp_weights::gguf::write(&path, &a.meta, &[info], &mut |_, w| Ok(w.write_all(&[0; 15])?));
    assert!(e.is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a part file was left");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn split_files_are_the_model_they_were_split_from(cut in 1usize..20, cut2 in 1usize..20) {
        let dir = tempfile::tempdir().unwrap();
        let a = tiny(Tiny::new(Arch::Qwen2, 3));
        let infos: Vec<_> = a.tensors().collect();
        let mut cuts = [0, cut.min(cut2), cut.max(cut2), infos.len()];
        cuts.sort_unstable();
        let path = |i: usize| dir.path().join(format!("m-{:05}-of-00003.gguf", i + 1));
        for i in 0..3 {
            let part = &infos[cuts[i]..cuts[i + 1]];
            let mut meta = if i == 0 { a.meta.clone() } else { Default::default() };
            meta.set("split.no", Value::U16(i as u16));
            meta.set("split.count", Value::U16(3));
            meta.set("split.tensors.count", Value::I32(infos.len() as i32));
            tamp_weights::gguf::write(&path(i), &meta, part, &mut |n, w| {
                Ok(w.write_all(&a.tensor(part[n].name)?.unwrap().bytes)?)
            }).unwrap();
        }
        for i in 0..3 {
            let b = Weights::open(&path(i)).unwrap();
            prop_assert_eq!(&b.meta, &a.meta);
            for t in &infos {
                prop_assert_eq!(&b.tensor(t.name).unwrap().unwrap().bytes, &a.tensor(t.name).unwrap().unwrap().bytes);
            }
        }
        let aside = dir.path().join("aside");
        for (from, to) in [(path(0), aside.clone()), (path(1), path(0)), (aside, path(1))] {
            std::fs::rename(from, to).unwrap();
        }
        prop_assert!(Weights::open(&path(2)).unwrap_err().to_string().contains("split.no"));
        std::fs::copy(path(0), path(1)).unwrap();
        prop_assert!(Weights::open(&path(0)).is_err());
        std::fs::remove_file(path(2)).unwrap();
        prop_assert!(Weights::open(&path(0)).unwrap_err().to_string().contains("part 3 of 3"));
    }
}
