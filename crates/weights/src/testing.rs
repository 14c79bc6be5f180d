//! Small models made from a seed, for the tests of every crate: random weights whose scale keeps the model lively
//! (it answers with many different tokens), and a tokenizer in the metadata.

use tamp_base::meta::{Array, IntKind, Meta, Value};
use tamp_formats::Kind;

use crate::gguf;
use crate::store::TensorInfo;

/// The families that exist as small models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// SPM tokenizer, interleaved rope
    Llama,
    /// BPE tokenizer, half-split rope, biases on q, k, v
    Qwen2,
    /// BPE tokenizer, half-split rope, q and k norms, `key_length` ≠ d / heads
    Qwen3,
}

impl Arch {
    /// All of them.
    pub const ALL: [Arch; 3] = [Arch::Llama, Arch::Qwen2, Arch::Qwen3];

    /// `general.architecture`.
    pub fn name(self) -> &'static str {
        match self {
            Arch::Llama => "llama",
            Arch::Qwen2 => "qwen2",
            Arch::Qwen3 => "qwen3",
        }
    }
}

/// What a small model is made of. [`Tiny::new`] gives the usual one; change fields, then [`Tiny::build`].
#[derive(Clone, Debug)]
pub struct Tiny {
    /// the family
    pub arch: Arch,
    /// everything random follows from this
    pub seed: u64,
    /// kind of all matrices; a matrix whose rows are not whole blocks is stored as F16
    pub kind: Kind,
    /// no `output.weight`: the embedding is the head
    pub tied: bool,
    /// number of layers
    pub layers: usize,
    /// byte-level BPE instead of SPM
    pub bpe: bool,
    /// `context_length`
    pub context: usize,
    /// keys that replace or add to the metadata
    pub extra: Meta,
}

/// The usual small model of a family: F32, two layers, tied head, width 128 (qwen3: 96), head_dim 32, two KV heads.
pub fn tiny(arch: Arch, seed: u64) -> Vec<u8> {
    Tiny::new(arch, seed).build()
}

/// Sizes that follow from the kind and the family.
struct Dims {
    d: usize,
    heads: usize,
    ff: usize,
}

const KV_HEADS: usize = 2;
const HEAD: usize = 32;

impl Tiny {
    /// F32, two layers, tied, 2 048 positions; SPM for llama, BPE for the others.
    pub fn new(arch: Arch, seed: u64) -> Self {
        Tiny {
            arch,
            seed,
            kind: Kind::F32,
            tied: true,
            layers: 2,
            bpe: arch != Arch::Llama,
            context: 2048,
            extra: Meta::default(),
        }
    }

    /// Another kind for the matrices. Kinds with blocks of 256 get a model of width 256.
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// With or without an own output head.
    pub fn tied(mut self, tied: bool) -> Self {
        self.tied = tied;
        self
    }

    fn dims(&self) -> Dims {
        if self.kind.block() == 256 {
            return Dims { d: 256, heads: 8, ff: 512 };
        }
        match self.arch {
            Arch::Qwen3 => Dims { d: 96, heads: 4, ff: 192 },
            _ => Dims { d: 128, heads: 4, ff: 192 },
        }
    }

    /// Every tensor: name, shape (columns first), mean and spread of its random values.
    fn list(&self, vocab: usize) -> Vec<(String, Vec<usize>, f32, f32)> {
        let Dims { d, heads, ff } = self.dims();
        let (q, kv) = (heads * HEAD, KV_HEADS * HEAD);
        // A matrix keeps the size of a normalised row times `gain`. The embedding is small beside what layers add
        // to the residual, so that a tied head does not simply repeat its input; peaked attention (gain on q, k)
        // makes the answer depend on the whole context.
        let of = |cols: usize, gain: f32| gain / (cols as f32).sqrt();
        let mut v = vec![("token_embd.weight".to_string(), vec![d, vocab], 0.0, 0.2)];
        for l in 0..self.layers {
            let mut add = |name: &str, shape: &[usize], mean: f32, spread: f32| {
                v.push((format!("blk.{l}.{name}"), shape.to_vec(), mean, spread));
            };
            add("attn_norm.weight", &[d], 1.0, 0.1);
            add("attn_q.weight", &[d, q], 0.0, of(d, 1.4));
            add("attn_k.weight", &[d, kv], 0.0, of(d, 1.4));
            add("attn_v.weight", &[d, kv], 0.0, of(d, 1.0));
            if self.arch == Arch::Qwen2 {
                add("attn_q.bias", &[q], 0.0, 0.3);
                add("attn_k.bias", &[kv], 0.0, 0.3);
                add("attn_v.bias", &[kv], 0.0, 0.3);
            }
            if self.arch == Arch::Qwen3 {
                add("attn_q_norm.weight", &[HEAD], 1.2, 0.1);
                add("attn_k_norm.weight", &[HEAD], 1.2, 0.1);
            }
            add("attn_output.weight", &[q, d], 0.0, of(q, 1.5));
            add("ffn_norm.weight", &[d], 1.0, 0.1);
            add("ffn_gate.weight", &[d, ff], 0.0, of(d, 1.5));
            add("ffn_up.weight", &[d, ff], 0.0, of(d, 1.5));
            add("ffn_down.weight", &[ff, d], 0.0, of(ff, 1.5));
        }
        v.push(("output_norm.weight".into(), vec![d], 1.0, 0.1));
        if !self.tied {
            v.push(("output.weight".into(), vec![d, vocab], 0.0, 0.2));
        }
        v
    }

    /// The model's metadata.
    pub fn meta(&self) -> Meta {
        let Dims { d, heads, ff } = self.dims();
        let arch = self.arch.name();
        let mut m = if self.bpe { bpe() } else { spm() };
        m.set("general.architecture", Value::Str(arch.into()));
        m.set("general.name", Value::Str(format!("tiny {arch} {}", self.seed)));
        let mut u = |k: &str, v: usize| m.set(format!("{arch}.{k}"), Value::U32(v as u32));
        u("block_count", self.layers);
        u("context_length", self.context);
        u("embedding_length", d);
        u("feed_forward_length", ff);
        u("attention.head_count", heads);
        u("attention.head_count_kv", KV_HEADS);
        if self.arch == Arch::Qwen3 {
            u("attention.key_length", HEAD);
            u("attention.value_length", HEAD);
        }
        if self.arch == Arch::Llama {
            u("rope.dimension_count", HEAD);
        }
        m.set(format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F32(1e-5));
        m.set(format!("{arch}.rope.freq_base"), Value::F32(10_000.0));
        for (k, v) in &self.extra.0 {
            m.set(k.clone(), v.clone());
        }
        m
    }

    /// The GGUF file.
    pub fn build(&self) -> Vec<u8> {
        let meta = self.meta();
        let vocab = meta.strs_opt("tokenizer.ggml.tokens").ok().flatten().map_or(0, |t| t.len());
        let list = self.list(vocab);
        let infos: Vec<TensorInfo> = list
            .iter()
            .map(|(name, shape, ..)| {
                let cols = shape[0];
                let kind = match shape.len() {
                    1 => Kind::F32,
                    _ if self.kind.row_bytes(cols).is_some() => self.kind,
                    _ => Kind::F16,
                };
                let rows = shape[1..].iter().product::<usize>();
                TensorInfo {
                    name,
                    kind: Some(kind),
                    shape,
                    bytes: kind.row_bytes(cols).map_or(0, |b| b * rows),
                }
            })
            .collect();
        let mut out = Vec::new();
        gguf::write_to(&mut out, &meta, &infos, &mut |i, w| {
            let (name, shape, mean, spread) = &list[i];
            let values = random(self.seed, name, shape.iter().product(), *mean, *spread);
            let mut raw = vec![0; infos[i].bytes];
            (infos[i].kind.unwrap_or(Kind::F32).row().encode)(&values, &mut raw);
            Ok(w.write_all(&raw)?)
        })
        .expect("a small model written to memory has no reason to fail");
        out
    }
}

/// Bell-shaped values that depend on the seed and the tensor's name only, the same on every machine.
fn random(seed: u64, name: &str, n: usize, mean: f32, spread: f32) -> Vec<f32> {
    // FNV-1a of the name, so that adding a tensor changes no other.
    let tag =
        name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut noise = Noise(seed ^ tag);
    (0..n).map(|_| mean + spread * noise.bell()).collect()
}

/// splitmix64 (Steele, Lea and Flood 2014).
pub struct Noise(pub u64);

impl Noise {
    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.word()) * n as u128) >> 64) as usize
    }

    /// Mean 0, variance 1: the sum of four uniforms (Irwin–Hall), which needs no logarithm and so no libm.
    fn bell(&mut self) -> f32 {
        let x = self.word();
        let sum: u64 = (0..4).map(|i| (x >> (16 * i)) & 0xffff).sum();
        // Four uniforms on [0, 1) have variance 4/12.
        (sum as f32 / 65536.0 - 2.0) * 1.732_050_8
    }
}

fn strs(v: impl IntoIterator<Item = impl AsRef<str>>) -> Value {
    Value::Array(Array::Str(v.into_iter().collect()))
}

/// Frequent English pieces; every prefix needed to merge one is there too.
const PIECES: [(&str, &str); 24] = [
    (" ", "t"),
    ("h", "e"),
    ("i", "n"),
    ("a", "n"),
    (" t", "he"),
    ("r", "e"),
    (" ", "a"),
    ("o", "n"),
    ("e", "r"),
    ("a", "t"),
    ("an", "d"),
    (" ", "s"),
    ("in", "g"),
    (" ", "w"),
    (" a", "nd"),
    ("n", "d"),
    ("o", "u"),
    ("l", "l"),
    ("i", "s"),
    (" ", "o"),
    ("e", "n"),
    ("i", "t"),
    (" ", "b"),
    ("h", "i"),
];

/// A SentencePiece vocabulary with byte fallback, as llama files spell it.
fn spm() -> Meta {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    let mut scores = vec![0.0f32; 3];
    let mut types = vec![2i64, 3, 3];
    for b in 0..=255u8 {
        tokens.push(format!("<0x{b:02X}>"));
        scores.push(0.0);
        types.push(6);
    }
    let merged = PIECES.iter().map(|(a, b)| format!("{a}{b}"));
    let single = " etaonishrdlucmwfgypbvk.,!?ETAI".chars().map(String::from);
    for (i, t) in merged.chain(single).enumerate() {
        tokens.push(t.replace(' ', "\u{2581}"));
        scores.push(-(i as f32));
        types.push(1);
    }
    let mut m = Meta::default();
    m.set("tokenizer.ggml.model", Value::Str("llama".into()));
    m.set("tokenizer.ggml.tokens", strs(tokens));
    m.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    m.set("tokenizer.ggml.token_type", Value::Array(Array::Int(IntKind::B32, types)));
    for (k, id) in [("bos", 1), ("eos", 2), ("unknown", 0)] {
        m.set(format!("tokenizer.ggml.{k}_token_id"), Value::U32(id));
    }
    m.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    m.set("tokenizer.ggml.add_eos_token", Value::Bool(false));
    m
}

/// A byte-level BPE vocabulary with ChatML tokens, as qwen files spell it.
fn bpe() -> Meta {
    // GPT-2's spelling of bytes: printable ones as they are, the others from U+0100 on.
    let mut spelling = Vec::new();
    let mut next = 256u32;
    for b in 0..=255u32 {
        let plain = matches!(b, 33..=126 | 161..=172 | 174..=255);
        let c = if plain { b } else { next };
        next += u32::from(!plain);
        spelling.push(char::from_u32(c).unwrap_or('?'));
    }
    let spell = |s: &str| -> String { s.bytes().map(|b| spelling[b as usize]).collect() };
    let mut tokens: Vec<String> = spelling.iter().map(|c| c.to_string()).collect();
    // Merge order is rank: a merge's parts must come before it.
    let extra = [("n", "d"), (" a", "nd")];
    let merges: Vec<(&str, &str)> =
        PIECES.into_iter().filter(|p| *p != (" a", "nd") && *p != ("n", "d")).chain(extra).collect();
    tokens.extend(merges.iter().map(|(a, b)| spell(&format!("{a}{b}"))));
    let mut types = vec![1i64; tokens.len()];
    let end = tokens.len() as u32;
    tokens.extend(["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from));
    types.extend([3; 3]);
    let mut m = Meta::default();
    m.set("tokenizer.ggml.model", Value::Str("gpt2".into()));
    m.set("tokenizer.ggml.pre", Value::Str("qwen2".into()));
    m.set("tokenizer.ggml.tokens", strs(tokens));
    m.set("tokenizer.ggml.merges", strs(merges.iter().map(|(a, b)| format!("{} {}", spell(a), spell(b)))));
    m.set("tokenizer.ggml.token_type", Value::Array(Array::Int(IntKind::B32, types)));
    m.set("tokenizer.ggml.bos_token_id", Value::U32(end));
    m.set("tokenizer.ggml.padding_token_id", Value::U32(end));
    m.set("tokenizer.ggml.eos_token_id", Value::U32(end + 2));
    m.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    m.set(
        "tokenizer.chat_template",
        Value::Str(
            "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}\
             {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
                .into(),
        ),
    );
    m
}
