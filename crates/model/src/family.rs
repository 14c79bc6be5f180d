//! Architectures as data rows over shared blocks. A new family that fits the blocks is one row here.

use tamp_base::meta::Meta;
use tamp_kernels::device::Pairing;
use tamp_weights::Weights;

use crate::error::ModelError;

/// What distinguishes one architecture from another.
#[derive(Debug)]
pub struct Family {
    /// `general.architecture`
    pub arch: &'static str,
    /// published models that use it
    pub about: &'static str,
    /// how its GGUF files lay out query and key rows
    pub pairing: Pairing,
    /// RMSNorm on each query and key head before rope
    pub head_norms: bool,
}

/// All of them. Biases are taken where the file has them.
pub static FAMILIES: &[Family] = &[
    Family {
        arch: "llama",
        about: "Llama 2/3, Mistral, SmolLM2, TinyLlama, MiniMind2, stories15M",
        pairing: Pairing::Interleaved,
        head_norms: false,
    },
    Family { arch: "qwen2", about: "Qwen2, Qwen2.5", pairing: Pairing::Half, head_norms: false },
    Family { arch: "qwen3", about: "Qwen3 (dense)", pairing: Pairing::Half, head_norms: true },
];

/// Sizes of a model, read from its metadata and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// `general.architecture`
    pub arch: &'static str,
    /// layers
    pub layers: usize,
    /// residual width
    pub d: usize,
    /// query heads
    pub heads: usize,
    /// KV heads
    pub kv_heads: usize,
    /// elements per head
    pub head_dim: usize,
    /// feed-forward width
    pub ff: usize,
    /// vocabulary
    pub vocab: usize,
    /// positions the model was trained for
    pub ctx_train: usize,
    /// sliding window the file declares, positions; contexts beyond it are refused
    pub window: Option<usize>,
    /// epsilon of every norm
    pub eps: f32,
}

/// The family of a model.
pub fn find(meta: &Meta) -> Result<&'static Family, ModelError> {
    let arch = meta.str("general.architecture")?;
    FAMILIES.iter().find(|f| f.arch == arch).ok_or_else(|| ModelError::Architecture {
        arch: arch.into(),
        known: FAMILIES.iter().map(|f| f.arch).collect::<Vec<_>>().join(", "),
    })
}

/// The family and sizes of a file.
pub fn of(weights: &Weights) -> Result<(&'static Family, Shape), ModelError> {
    let family = find(&weights.meta)?;
    let embed = weights.tensors().find(|t| t.name == "token_embd.weight");
    let embed = embed.ok_or_else(|| ModelError::Missing("token_embd.weight".into()))?;
    let shape = shape(&weights.meta, family, embed.shape.get(1).copied().unwrap_or(1))?;
    Ok((family, shape))
}

/// Largest size any single dimension may claim; keeps products far from overflow.
const MOST: usize = 1 << 24;

/// Reads the sizes. `vocab` comes from the embedding tensor, because files disagree on the key.
pub fn shape(meta: &Meta, family: &'static Family, vocab: usize) -> Result<Shape, ModelError> {
    let a = family.arch;
    let count = |key: &str| -> Result<usize, ModelError> {
        let v = meta.count(&format!("{a}.{key}"))?;
        if v == 0 || v > MOST {
            return Err(ModelError::Config(format!("{a}.{key} = {v}")));
        }
        Ok(v)
    };
    let or = |key: &str, default: usize| -> Result<usize, ModelError> {
        if meta.get(&format!("{a}.{key}")).is_some() { count(key) } else { Ok(default) }
    };
    let (d, heads) = (count("embedding_length")?, count("attention.head_count")?);
    let head_dim = or("attention.key_length", d / heads)?;
    let window = meta.count_opt(&format!("{a}.attention.sliding_window"))?.filter(|&w| w > 0);
    let shape = Shape {
        arch: a,
        layers: count("block_count")?,
        d,
        heads,
        kv_heads: or("attention.head_count_kv", heads)?,
        head_dim,
        ff: count("feed_forward_length")?,
        vocab,
        ctx_train: count("context_length")?,
        window,
        eps: meta.float(&format!("{a}.attention.layer_norm_rms_epsilon"))? as f32,
    };
    let refuse = |what: String| Err(ModelError::Config(what));
    if shape.layers > 4096 || shape.heads > 4096 {
        return refuse(format!("{} layers, {} heads", shape.layers, shape.heads));
    }
    if !shape.heads.is_multiple_of(shape.kv_heads) {
        return refuse(format!("{} query heads over {} KV heads", shape.heads, shape.kv_heads));
    }
    if or("attention.value_length", head_dim)? != head_dim {
        return refuse("key and value heads of different length".into());
    }
    if head_dim % 16 != 0 || head_dim > 1024 || d % 16 != 0 {
        return refuse(format!(
            "head length {head_dim} and width {d} must be multiples of 16, the head at most 1024"
        ));
    }
    if !(shape.eps >= 0.0 && shape.eps < 1.0) {
        return refuse(format!("norm epsilon {}", shape.eps));
    }
    Ok(shape)
}
