//! Named tensors → a model on a device, in the order of a forward pass.

use std::collections::BTreeMap;
use std::sync::Arc;

use tamp_formats::Kind;
use tamp_kernels::device::{AttnShape, AttnWeights, BufShape, Device, FfnWeights, KvShape, Projection, Rope};
use tamp_weights::Weights;

use crate::error::ModelError;
use crate::family::{self, Shape};
use crate::ffn::gated::Gated;
use crate::matrices::{Loader, Made};
use crate::mixer::attention::Attention;
use crate::rope;

/// How a model is loaded.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// rows per batch at most
    pub rows: usize,
    /// rows of the head computed at once; bounds the memory of full logits
    pub logits: usize,
    /// longest context, positions
    pub ctx: usize,
    /// format of KV pages: F16, or F32 as the oracle
    pub kv: Kind,
    /// decode every matrix to F32: the reference forward
    pub decode: bool,
}

/// One layer: what mixes positions, what transforms each.
pub struct Layer<D: Device> {
    /// phases A to C
    pub mixer: Attention<D>,
    /// phases D and E
    pub ffn: Gated<D>,
}

/// A model on a device, with the buffers of one batch.
pub struct Model<D: Device> {
    /// sizes
    pub shape: Shape,
    /// rotary embedding
    pub rope: Arc<Rope>,
    /// the layers
    pub layers: Vec<Layer<D>>,
    pub(crate) device: Arc<D>,
    pub(crate) embed: Arc<D::Linear>,
    pub(crate) head: Arc<D::Linear>,
    pub(crate) norm: D::Vector,
    pub(crate) buf: D::Buf,
    /// what it was loaded for
    pub options: LoadOptions,
    layer_bytes: u64,
    head_bytes: u64,
    embed_bytes: u64,
    made: Made,
}

impl<D: Device> Model<D> {
    /// Loads every tensor. `progress(done, total)` counts source bytes.
    pub fn load(
        weights: &Weights,
        device: Arc<D>,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        Ok(Self::load_then(weights, device, options, progress, || ())?.0)
    }

    /// Like [`Model::load`]; `then` is called when the weights stand and nothing was taken yet for buffers.
    pub fn load_then<T>(
        weights: &Weights,
        device: Arc<D>,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
        then: impl FnOnce() -> T,
    ) -> Result<(Self, T), ModelError> {
        let (family, shape) = family::of(weights)?;
        let vocab = shape.vocab;
        let ctx = options.ctx.max(1);
        let total = weights.tensors().map(|t| t.bytes as u64).sum();
        let mut loader = Loader::new(weights, &*device, options.decode, total, progress);

        let factors = loader.numbers("rope_freqs.weight", None)?;
        let rope = Arc::new(rope::read(&weights.meta, family, &shape, factors.as_deref())?);
        let (d, hd) = (shape.d, shape.head_dim);
        let (q, kv) = (shape.heads * hd, shape.kv_heads * hd);
        let embed = Arc::new(loader.matrix("token_embd.weight", vocab, d)?);
        let head = match weights.has("output.weight") {
            true => Arc::new(loader.matrix("output.weight", vocab, d)?),
            false => Arc::clone(&embed),
        };
        let norm = loader.vector("output_norm.weight", d)?;
        let mut layers = Vec::new();
        for l in 0..shape.layers {
            let name = |part: &str| format!("blk.{l}.{part}");
            let head_norm = |loader: &mut Loader<'_, D>, part: &str| {
                family.head_norms.then(|| loader.vector(&name(part), hd)).transpose()
            };
            let attention = AttnWeights {
                norm: loader.vector(&name("attn_norm.weight"), d)?,
                q: loader.projection(&name("attn_q"), q, d)?,
                k: loader.projection(&name("attn_k"), kv, d)?,
                v: loader.projection(&name("attn_v"), kv, d)?,
                o: loader.projection(&name("attn_output"), d, q)?,
                q_norm: head_norm(&mut loader, "attn_q_norm.weight")?,
                k_norm: head_norm(&mut loader, "attn_k_norm.weight")?,
                shape: AttnShape {
                    heads: shape.heads,
                    kv_heads: shape.kv_heads,
                    head_dim: hd,
                    scale: 1.0 / (hd as f32).sqrt(),
                    eps: shape.eps,
                    rope: Arc::clone(&rope),
                },
            };
            let ffn = FfnWeights {
                norm: loader.vector(&name("ffn_norm.weight"), d)?,
                gate: loader.projection(&name("ffn_gate"), shape.ff, d)?,
                up: loader.projection(&name("ffn_up"), shape.ff, d)?,
                down: loader.projection(&name("ffn_down"), d, shape.ff)?,
                eps: shape.eps,
            };
            layers.push(Layer { mixer: Attention { w: attention }, ffn: Gated { w: ffn } });
        }
        let made = loader.made;
        let then = then();
        let (rows, logits) = (options.rows.max(1), options.logits.max(1));
        let buf = device.buf(&BufShape {
            rows,
            d,
            q,
            kv,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: hd,
            ff: shape.ff,
            vocab,
            logits,
            ctx,
        })?;
        let bytes = |w: &D::Linear| device.linear_bytes(w) as u64;
        let layer_bytes = layers
            .iter()
            .map(|l| {
                let (a, f) = (&l.mixer.w, &l.ffn.w);
                [&a.q, &a.k, &a.v, &a.o, &f.gate, &f.up, &f.down].iter().map(|p| bytes(&p.w)).sum::<u64>()
            })
            .sum();
        let head_bytes = bytes(&head);
        let embed_bytes = if Arc::ptr_eq(&embed, &head) { 0 } else { bytes(&embed) };
        let model = Model {
            shape,
            rope,
            layers,
            embed,
            head,
            norm,
            buf,
            options: LoadOptions { rows, logits, ctx, ..*options },
            layer_bytes,
            head_bytes,
            embed_bytes,
            made,
            device,
        };
        Ok((model, then))
    }

    /// The device.
    pub fn device(&self) -> &Arc<D> {
        &self.device
    }

    /// Geometry of the KV groups: layers that share window, alias and format. These families have one.
    pub fn kv_groups(&self) -> Vec<KvShape> {
        let s = &self.shape;
        vec![KvShape { layers: s.layers, heads: s.kv_heads, head_dim: s.head_dim, kind: self.options.kv }]
    }

    /// Bytes of all weights in memory.
    pub fn resident_bytes(&self) -> u64 {
        self.layer_bytes + self.head_bytes + self.embed_bytes
    }

    /// How the matrices were made.
    pub fn made(&self) -> Made {
        self.made
    }

    /// Bytes of weights that loading took from the system; the others are used where the file lies.
    pub fn own_bytes(&self) -> u64 {
        self.resident_bytes().saturating_sub(self.made.adopted_bytes)
    }

    /// Weight bytes one forward reads: all layers and the head, each once, whatever the number of rows.
    pub fn weight_bytes(&self) -> u64 {
        self.layer_bytes + self.head_bytes
    }

    pub(crate) fn bytes_read(&self, layers: usize, head: bool) -> u64 {
        let all = self.shape.layers.max(1) as u64;
        self.layer_bytes / all * layers as u64 + if head { self.head_bytes } else { 0 }
    }

    /// Bytes of one batch's activations and scratch once fully used.
    pub fn buffer_bytes(&self) -> u64 {
        self.device.buf_bytes(&self.buf) as u64
    }

    /// Kernels by stage, read off the loaded matrices: `ffn_down` → `avx512.q4_k ×13, avx512.q6_k ×15`.
    pub fn kernels(&self) -> Vec<(String, String)> {
        let of = |pick: fn(&Layer<D>) -> &Projection<D>| -> String {
            let mut counts = BTreeMap::new();
            for l in &self.layers {
                *counts.entry(self.device.linear_kernel(&pick(l).w)).or_insert(0) += 1;
            }
            counts.iter().map(|(kernel, n)| format!("{kernel} ×{n}")).collect::<Vec<_>>().join(", ")
        };
        [
            ("embed", self.device.linear_kernel(&self.embed)),
            ("attn_q", of(|l| &l.mixer.w.q)),
            ("attn_k", of(|l| &l.mixer.w.k)),
            ("attn_v", of(|l| &l.mixer.w.v)),
            ("attn_output", of(|l| &l.mixer.w.o)),
            ("ffn_gate", of(|l| &l.ffn.w.gate)),
            ("ffn_up", of(|l| &l.ffn.w.up)),
            ("ffn_down", of(|l| &l.ffn.w.down)),
            ("head", self.device.linear_kernel(&self.head)),
        ]
        .map(|(stage, kernel)| (stage.to_string(), kernel))
        .into()
    }
}
