//! The forward pass against one written as plainly as possible: f64, whole sequences, nothing shared with the kernels or
//! the model. Sources: RMSNorm (arXiv 1910.07467), RoPE (2104.09864), grouped queries (2305.13245), SwiGLU (2002.05202),
//! linear interpolation (2306.15595), YaRN (2309.00071 and its reference code), Llama 3's bands (its reference code),
//! Qwen2 (2407.10671) and Qwen3 (2505.09388).
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::f64::consts::PI;

use common::*;
use tamp_base::ids::Token;
use tamp_base::meta::Value;
use tamp_formats::Kind;
use tamp_weights::testing::{Arch, Tiny};
use tamp_weights::{TensorInfo, Weights, gguf};

/// Decoded tensors: name → columns and values.
struct Naive<'a> {
    w: &'a Weights,
    arch: String,
    tensors: HashMap<String, (usize, Vec<f64>)>,
}

impl<'a> Naive<'a> {
    fn new(w: &'a Weights) -> Self {
        let mut tensors = HashMap::new();
        for info in w.tensors() {
            let t = w.tensor(info.name).unwrap().unwrap();
            let mut v = vec![0f32; t.shape.iter().product()];
            (t.kind.row().decode)(&t.bytes, &mut v);
            tensors.insert(t.name.to_string(), (t.shape[0], v.into_iter().map(f64::from).collect()));
        }
        Naive { w, arch: w.meta.str("general.architecture").unwrap().into(), tensors }
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    fn count(&self, key: &str) -> Option<usize> {
        self.w.meta.count_opt(&self.key(key)).unwrap()
    }

    fn float(&self, key: &str) -> Option<f64> {
        self.w.meta.float_opt(&self.key(key)).unwrap()
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (cols, m) = &self.tensors[&format!("{name}.weight")];
        assert_eq!(*cols, x.len(), "{name}");
        let bias = self.tensors.get(&format!("{name}.bias"));
        let row = |(i, r): (usize, &[f64])| {
            r.iter().zip(x).map(|(a, b)| a * b).sum::<f64>() + bias.map_or(0.0, |b| b.1[i])
        };
        m.chunks(*cols).enumerate().map(row).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        // The file's number is an f32.
        let eps = self.float("attention.layer_norm_rms_epsilon").unwrap();
        let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        x.iter().zip(&self.tensors[name].1).map(|(v, g)| v / (mean + eps).sqrt() * g).collect()
    }

    /// Radians per position of each pair, and the factor on cos and sin.
    fn frequencies(&self, head: usize) -> (Vec<f64>, f64) {
        let base = self.float("rope.freq_base").unwrap();
        let dims = self.count("rope.dimension_count").unwrap_or(head);
        let mut f: Vec<f64> = (0..dims / 2).map(|i| base.powf(-(2.0 * i as f64) / dims as f64)).collect();
        let factor = self.float("rope.scaling.factor").unwrap_or(1.0);
        let original = self
            .float("rope.scaling.original_context_length")
            .unwrap_or_else(|| self.count("context_length").unwrap() as f64);
        let mut magnitude = 1.0;
        match self.w.meta.str_opt(&self.key("rope.scaling.type")).unwrap() {
            None | Some("none") => {}
            Some("linear") => f.iter_mut().for_each(|f| *f /= factor),
            Some("llama3") => {
                let low = self.float("rope.scaling.low_freq_factor").unwrap();
                let high = self.float("rope.scaling.high_freq_factor").unwrap();
                for f in &mut f {
                    let wavelength = 2.0 * PI / *f;
                    let smooth = (original / wavelength - low) / (high - low);
                    *f = match smooth {
                        s if s < 0.0 => *f / factor,
                        s if s > 1.0 => *f,
                        s => (1.0 - s) * *f / factor + s * *f,
                    };
                }
            }
            Some("yarn") => {
                // find_correction_range(32, 1) and linear_ramp_mask of the reference code.
                let dim = |turns: f64| dims as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * base.ln());
                let low = dim(32.0).floor().max(0.0);
                let high = dim(1.0).ceil().min(dims as f64 - 1.0);
                for (i, f) in f.iter_mut().enumerate() {
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    *f = *f * (1.0 - ramp) + *f / factor * ramp;
                }
                magnitude = 0.1 * factor.ln() + 1.0;
            }
            Some(other) => panic!("{other}"),
        }
        if let Some((_, by)) = self.tensors.get("rope_freqs.weight") {
            f.iter_mut().zip(by).for_each(|(f, by)| *f /= by);
        }
        (f, magnitude)
    }

    fn rotate(&self, heads: &mut [f64], head: usize, position: usize, f: &[f64], magnitude: f64) {
        let half = match self.w.meta.str_opt("tamp.rope.pairing").unwrap() {
            Some(p) => p == "half",
            None => self.arch != "llama",
        };
        for h in heads.chunks_mut(head) {
            for i in 0..f.len() {
                let (a, b) = if half { (i, i + f.len()) } else { (2 * i, 2 * i + 1) };
                let (sin, cos) = (position as f64 * f[i]).sin_cos();
                let (x, y) = (h[a], h[b]);
                h[a] = magnitude * (x * cos - y * sin);
                h[b] = magnitude * (x * sin + y * cos);
            }
        }
    }

    /// Logits of every position.
    fn forward(&self, tokens: &[Token]) -> Vec<Vec<f64>> {
        let d = self.count("embedding_length").unwrap();
        let heads = self.count("attention.head_count").unwrap();
        let kv_heads = self.count("attention.head_count_kv").unwrap();
        let head = self.count("attention.key_length").unwrap_or(d / heads);
        let (f, magnitude) = self.frequencies(head);
        let embedding = &self.tensors["token_embd.weight"].1;
        let mut x: Vec<Vec<f64>> =
            tokens.iter().map(|&t| embedding[t as usize * d..][..d].to_vec()).collect();
        for l in 0..self.count("block_count").unwrap() {
            let n = |part: &str| format!("blk.{l}.{part}");
            let head_norm = |name: &str, v: &mut Vec<f64>| {
                if self.tensors.contains_key(&n(name)) {
                    *v = v.chunks(head).flat_map(|h| self.norm(&n(name), h)).collect();
                }
            };
            let (mut q, mut k, mut v) = (vec![], vec![], vec![]);
            for (position, x) in x.iter().enumerate() {
                let x = self.norm(&n("attn_norm.weight"), x);
                let (mut qi, mut ki) = (self.linear(&n("attn_q"), &x), self.linear(&n("attn_k"), &x));
                head_norm("attn_q_norm.weight", &mut qi);
                head_norm("attn_k_norm.weight", &mut ki);
                self.rotate(&mut qi, head, position, &f, magnitude);
                self.rotate(&mut ki, head, position, &f, magnitude);
                q.push(qi);
                k.push(ki);
                v.push(self.linear(&n("attn_v"), &x));
            }
            for (position, x) in x.iter_mut().enumerate() {
                let mut mixed = vec![0.0; heads * head];
                for h in 0..heads {
                    let from = h / (heads / kv_heads) * head;
                    let query = &q[position][h * head..][..head];
                    let score = |key: &Vec<f64>| {
                        query.iter().zip(&key[from..]).map(|(a, b)| a * b).sum::<f64>() / (head as f64).sqrt()
                    };
                    let scores: Vec<f64> = k[..=position].iter().map(score).collect();
                    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                    for (s, value) in scores.iter().zip(&v) {
                        let p = (s - max).exp() / total;
                        for i in 0..head {
                            mixed[h * head + i] += p * value[from + i];
                        }
                    }
                }
                add(x, &self.linear(&n("attn_output"), &mixed));
                let y = self.norm(&n("ffn_norm.weight"), x);
                let gate = self.linear(&n("ffn_gate"), &y);
                let up = self.linear(&n("ffn_up"), &y);
                let act: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                add(x, &self.linear(&n("ffn_down"), &act));
            }
        }
        let head = if self.tensors.contains_key("output.weight") { "output" } else { "token_embd" };
        x.iter().map(|x| self.linear(head, &self.norm("output_norm.weight", x))).collect()
    }
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Largest difference, in units of the row's spread (largest minus smallest logit), over all rows.
fn distance(got: &Logits, want: &[Vec<f64>]) -> f64 {
    assert_eq!(got.len(), want.len());
    let row = |(g, w): (&Vec<f32>, &Vec<f64>)| {
        assert_eq!(g.len(), w.len());
        let max = w.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let min = w.iter().copied().fold(f64::INFINITY, f64::min);
        let worst = g.iter().zip(w).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
        assert!(g.iter().all(|x| x.is_finite()));
        worst / (max - min)
    };
    got.iter().zip(want).map(row).fold(0.0, f64::max)
}

/// Bound where everything is f32; measured 1.3e-6.
const TIGHT: f64 = 1e-5;

fn check(what: &str, w: &Weights, how: How, bound: f64) -> f64 {
    let mut rig = Rig::new(w, how);
    let tokens = prompt(6, 80, rig.vocab());
    let want = Naive::new(w).forward(&tokens);
    let got = rig.fresh(&tokens, &[33]);
    let off = distance(&got, &want);
    println!("{what}: {off:.1e} of the spread");
    assert!(off <= bound, "{what}: {off:e} of the spread, allowed {bound:e}");
    off
}

fn exact() -> How {
    How { decode: true, ..How::usual().kv(Kind::F32) }
}

#[test]
fn every_family_tied_and_untied_equals_the_plain_forward() {
    for arch in Arch::ALL {
        for tied in [true, false] {
            for seed in [1, 2] {
                let w = weights(&Tiny::new(arch, seed).tied(tied));
                check(&format!("{arch:?}, tied {tied}"), &w, exact(), TIGHT);
            }
        }
        let deep = weights(&Tiny { layers: 5, ..Tiny::new(arch, 9) });
        check(&format!("{arch:?}, five layers"), &deep, exact(), TIGHT);
    }
}

#[test]
fn every_format_decoded_equals_the_plain_forward_and_multiplied_in_integers_stays_near() {
    for kind in Kind::ALL {
        let w = of_kind(kind, 30);
        check(&format!("{kind} decoded"), &w, exact(), TIGHT);
        // Float weights multiply f32 activations; integer ones round them to 8 bits per block (measured 4e-2).
        let bound = if kind.act_block() == 0 { TIGHT } else { 0.08 };
        check(&format!("{kind}"), &w, How::usual().kv(Kind::F32), bound);
    }
}

#[test]
fn half_precision_pages_stay_near_the_plain_forward() {
    for arch in Arch::ALL {
        let w = weights(&Tiny::new(arch, 4));
        let how = How { decode: true, ..How::usual() };
        let off = check(&format!("{arch:?}, f16 pages"), &w, how, 5e-3);
        assert!(off > 1e-6, "pages of f16 cannot be that exact");
    }
}

#[test]
fn every_rope_kind_and_pairing_equals_the_plain_forward() {
    let f = |v: f32| Value::F32(v);
    let s = |v: &str| Value::Str(v.into());
    type Keys = Vec<(&'static str, Value)>;
    let kinds: Vec<(&str, Keys)> = vec![
        ("plain", vec![]),
        ("another base", vec![("rope.freq_base", f(500_000.0))]),
        ("some dimensions", vec![("rope.dimension_count", Value::U32(16))]),
        ("linear", vec![("rope.scaling.type", s("linear")), ("rope.scaling.factor", f(4.0))]),
        (
            "llama3",
            vec![
                ("rope.scaling.type", s("llama3")),
                ("rope.scaling.factor", f(8.0)),
                ("rope.scaling.low_freq_factor", f(1.0)),
                ("rope.scaling.high_freq_factor", f(4.0)),
                ("rope.scaling.original_context_length", Value::U32(256)),
            ],
        ),
        (
            "yarn",
            vec![
                ("rope.scaling.type", s("yarn")),
                ("rope.scaling.factor", f(4.0)),
                ("rope.scaling.original_context_length", Value::U32(512)),
            ],
        ),
    ];
    let tokens = prompt(6, 80, 250);
    for arch in Arch::ALL {
        let mut seen: Vec<(String, Vec<Vec<f64>>)> = vec![];
        for (name, keys) in &kinds {
            for pairing in ["half", "interleaved"] {
                let mut tiny = Tiny::new(arch, 5);
                tiny.extra.set("tamp.rope.pairing", s(pairing));
                for (k, v) in keys {
                    tiny.extra.set(format!("{}.{k}", arch.name()), v.clone());
                }
                let w = weights(&tiny);
                check(&format!("{arch:?} {name} {pairing}"), &w, exact(), TIGHT);
                // Each is a model of its own, or this test would prove nothing.
                let own = Naive::new(&w).forward(&tokens);
                for (other, logits) in &seen {
                    let near: Logits = logits.iter().map(|r| r.iter().map(|x| *x as f32).collect()).collect();
                    assert!(distance(&near, &own) > 1e-3, "{name} {pairing} is {other}");
                }
                seen.push((format!("{name} {pairing}"), own));
            }
        }
    }
}

/// The same file with one more tensor.
fn with_tensor(w: &Weights, name: &str, values: &[f32]) -> Weights {
    let shape = [values.len()];
    let extra = TensorInfo { name, kind: Some(Kind::F32), shape: &shape, bytes: 4 * values.len() };
    let infos: Vec<_> = w.tensors().chain([extra]).collect();
    let mut out = vec![];
    gguf::write_to(&mut out, &w.meta, &infos, &mut |i, to| {
        let own: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let bytes = w.tensor(infos[i].name)?.map_or(own, |t| t.bytes.to_vec());
        Ok(to.write_all(&bytes)?)
    })
    .unwrap();
    Weights::from_gguf_bytes(out).unwrap()
}

#[test]
fn rope_factors_of_the_file_divide_the_frequencies() {
    let factors: Vec<f32> = (0..16).map(|i| 1.0 + 0.5 * i as f32).collect();
    for arch in [Arch::Llama, Arch::Qwen3] {
        let plain = weights(&Tiny::new(arch, 6));
        let w = with_tensor(&plain, "rope_freqs.weight", &factors);
        check(&format!("{arch:?} with factors"), &w, exact(), TIGHT);
        let tokens = prompt(6, 80, 250);
        let other = Rig::new(&plain, exact()).fresh(&tokens, &[80]);
        assert!(distance(&other, &Naive::new(&w).forward(&tokens)) > 1e-2);
    }
}

#[test]
fn biases_anywhere_are_added() {
    // Files of the llama family may carry them on any projection.
    let mut w = weights(&Tiny::new(Arch::Llama, 7));
    for (name, n) in [("attn_q", 128), ("attn_k", 64), ("attn_v", 64), ("attn_output", 128)] {
        let values: Vec<f32> = (0..n).map(|i| 0.3 * ((i * 7 % 13) as f32 / 6.5 - 1.0)).collect();
        w = with_tensor(&w, &format!("blk.1.{name}.bias"), &values);
    }
    for (name, n) in [("ffn_gate", 192), ("ffn_up", 192), ("ffn_down", 128)] {
        let values: Vec<f32> = (0..n).map(|i| 0.3 * ((i * 5 % 11) as f32 / 5.5 - 1.0)).collect();
        w = with_tensor(&w, &format!("blk.0.{name}.bias"), &values);
    }
    check("biases everywhere", &w, exact(), TIGHT);
    check("biases everywhere, as stored", &w, How::usual().kv(Kind::F32).threads(2), TIGHT);
}

#[test]
fn long_contexts_equal_the_plain_forward() {
    // Over two key chunks: what is split and merged is still the softmax.
    let w = weights(&Tiny { layers: 1, ..Tiny::new(Arch::Qwen2, 8) });
    for threads in [1, 2] {
        let mut rig = Rig::new(&w, exact().threads(threads));
        let tokens = prompt(6, 1030, rig.vocab());
        let seq = rig.kv.open();
        let mut got = rig.feed(seq, &tokens, &[500, 500, 22, 8]);
        let want = Naive::new(&w).forward(&tokens);
        let off = distance(&got.split_off(505), &want[505..]);
        println!("1 030 positions: {off:.1e} of the spread");
        assert!(off <= TIGHT);
    }
}
