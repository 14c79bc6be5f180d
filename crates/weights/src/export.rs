//! What leaves: tensors in the layout that readers of the target expect.
//!
//! Two things differ between checkpoints and GGUF files. Rope pairs neighbouring rows of q and k in llama GGUF files
//! (*interleaved*) and rows half a head apart in checkpoints (*half*). And llama3's rope scaling is a tensor of
//! frequency factors in GGUF files and four numbers in checkpoints.

use std::borrow::Cow;
use std::f64::consts::TAU;

use tamp_base::meta::{Meta, Value};
use tamp_formats::Kind;

use crate::error::{Error, Result};
use crate::hf::config::PAIRING;
use crate::store::{TensorInfo, Weights};

/// Where tensors go.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Target {
    Gguf,
    Hf,
}

/// The frequency factors' tensor.
const FREQS: &str = "rope_freqs.weight";

/// Metadata and tensors as the target wants them.
pub(crate) struct Export<'a> {
    src: &'a Weights,
    pub meta: Meta,
    pub items: Vec<Item<'a>>,
}

/// One outgoing tensor.
pub(crate) struct Item<'a> {
    pub name: &'a str,
    pub kind: Option<Kind>,
    pub shape: Cow<'a, [usize]>,
    /// length of the data
    pub bytes: usize,
    turn: Option<Turn>,
    /// values that no source tensor holds
    made: Option<Vec<u8>>,
}

impl Item<'_> {
    pub fn info(&self) -> TensorInfo<'_> {
        TensorInfo { name: self.name, kind: self.kind, shape: &self.shape, bytes: self.bytes }
    }

    /// Columns and rows.
    pub fn size(&self) -> (usize, usize) {
        (self.shape[0], self.shape[1..].iter().product())
    }
}

/// A reordering of the rows of every head.
#[derive(Clone, Copy)]
struct Turn {
    head: usize,
    /// rows of a head that rope turns; the others stay
    rot: usize,
    interleave: bool,
}

impl Turn {
    /// Which stored row becomes row `r`.
    fn from(self, r: usize) -> usize {
        let (base, i, half) = (r - r % self.head, r % self.head, self.rot / 2);
        let from = match (i < self.rot, self.interleave) {
            (false, _) => i,
            (true, true) => i / 2 + (i % 2) * half,
            (true, false) => (i % half) * 2 + i / half,
        };
        base + from
    }

    fn apply(self, bytes: &[u8], row: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for r in 0..bytes.len() / row {
            let f = self.from(r);
            out.extend_from_slice(&bytes[f * row..(f + 1) * row]);
        }
        out
    }
}

impl<'a> Export<'a> {
    pub fn new(src: &'a Weights, target: Target) -> Result<Self> {
        let arch = src.meta.str("general.architecture")?.to_string();
        let mut meta = src.full_meta()?;
        let from = match meta.0.remove(PAIRING) {
            None => gguf_pairing(&arch),
            Some(Value::Str(s)) if s == "half" => Some(false),
            Some(Value::Str(s)) if s == "interleaved" => Some(true),
            Some(v) => return Err(Error::bad(PAIRING, v.brief(), "half or interleaved")),
        };
        let to = match target {
            Target::Gguf => gguf_pairing(&arch),
            Target::Hf => Some(false),
        };
        let interleave = match (from, to) {
            (Some(a), Some(b)) if a != b => Some(b),
            _ => None,
        };
        let factors = match target {
            Target::Gguf => llama3_factors(&mut meta, &arch)?,
            Target::Hf => None,
        };
        if target == Target::Hf {
            llama3_numbers(&mut meta, &arch);
        }

        let mut items = Vec::new();
        if let Some(f) = factors {
            items.push(f);
        }
        for info in src.tensors() {
            if target == Target::Hf && info.name == FREQS {
                if meta.get(&format!("{arch}.rope.scaling.type")).is_none() {
                    return Err(Error::Unsupported {
                        what: format!("the tensor `{FREQS}`"),
                        hint: "a safetensors folder wants the numbers it was made from, and the file has lost them"
                            .into(),
                    });
                }
                continue;
            }
            let turn = match interleave {
                Some(interleave) => turn(&meta, &arch, &info, interleave)?,
                None => None,
            };
            let TensorInfo { name, kind, shape, bytes } = info;
            items.push(Item { name, kind, shape: Cow::Borrowed(shape), bytes, turn, made: None });
        }
        Ok(Export { src, meta, items })
    }

    /// The bytes of an outgoing tensor.
    pub fn bytes<'b>(&'b self, item: &'b Item) -> Result<Cow<'b, [u8]>> {
        if let Some(made) = &item.made {
            return Ok(Cow::Borrowed(made));
        }
        let t = self.src.tensor(item.name)?.ok_or_else(|| Error::missing(item.name, "it was just there"))?;
        Ok(match item.turn {
            None => t.bytes,
            // A bias is a column: its rows are single numbers.
            Some(turn) => {
                let rows = if t.shape.len() == 1 { t.shape[0] } else { t.shape[1] };
                Cow::Owned(turn.apply(&t.bytes, t.bytes.len() / rows))
            }
        })
    }

    /// The source's pages are not needed any more.
    pub fn done(&self, item: &Item) {
        self.src.release(item.name);
    }
}

/// Whether GGUF files of an architecture pair neighbours; `None`: tamp cannot say.
fn gguf_pairing(arch: &str) -> Option<bool> {
    match arch {
        "llama" => Some(true),
        "qwen2" | "qwen3" => Some(false),
        _ => None,
    }
}

fn turn(meta: &Meta, arch: &str, info: &TensorInfo, interleave: bool) -> Result<Option<Turn>> {
    let Some((_, "attn_q.weight" | "attn_q.bias" | "attn_k.weight" | "attn_k.bias")) =
        info.name.strip_prefix("blk.").and_then(|n| n.split_once('.'))
    else {
        return Ok(None);
    };
    let key = |k: &str| format!("{arch}.{k}");
    let heads = meta.count(&key("attention.head_count"))?;
    let head = match meta.count_opt(&key("attention.key_length"))? {
        Some(h) => h,
        None => meta.count(&key("embedding_length"))? / heads.max(1),
    };
    let rot = meta.count_opt(&key("rope.dimension_count"))?.unwrap_or(head);
    let rows = *info.shape.last().unwrap_or(&0);
    if head == 0
        || rot > head
        || rot % 2 == 1
        || rot == 0
        || !rows.is_multiple_of(head)
        || info.shape.len() > 2
    {
        return Err(Error::bad(
            format!("the rows of `{}`", info.name),
            format!("{rows} with heads of {head} and rope over {rot}"),
            "whole heads, an even part of each turned by rope",
        ));
    }
    Ok(Some(Turn { head, rot, interleave }))
}

const LLAMA3: [&str; 5] =
    ["type", "factor", "low_freq_factor", "high_freq_factor", "original_context_length"];

/// llama3 rope scaling as GGUF files hold it: one factor per frequency. The numbers stay under tamp's own prefix, so
/// that the way back exists.
fn llama3_factors(meta: &mut Meta, arch: &str) -> Result<Option<Item<'static>>> {
    let key = |k: &str| format!("{arch}.rope.scaling.{k}");
    if meta.str_opt(&key("type"))? != Some("llama3") {
        return Ok(None);
    }
    let (factor, original) = (meta.float(&key("factor"))?, meta.float(&key("original_context_length"))?);
    let (low, high) = (meta.float(&key("low_freq_factor"))?, meta.float(&key("high_freq_factor"))?);
    let base = meta.float_opt(&format!("{arch}.rope.freq_base"))?.unwrap_or(10_000.0);
    let rot = meta.count(&format!("{arch}.rope.dimension_count"))?;
    if !(2..=1 << 16).contains(&rot) {
        return Err(Error::bad(format!("{arch}.rope.dimension_count"), rot, "2 to 65536"));
    }
    let mut made = Vec::with_capacity(rot * 2);
    for i in 0..rot / 2 {
        let wave = TAU * base.powf(2.0 * i as f64 / rot as f64);
        let f = if wave < original / high {
            1.0
        } else if wave > original / low {
            factor
        } else {
            let smooth = (original / wave - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        made.extend_from_slice(&(f as f32).to_le_bytes());
    }
    for k in LLAMA3 {
        if let Some(v) = meta.0.remove(&key(k)) {
            meta.set(format!("tamp.rope.llama3.{k}"), v);
        }
    }
    let shape = Cow::Owned(vec![rot / 2]);
    let bytes = made.len();
    Ok(Some(Item { name: FREQS, kind: Some(Kind::F32), shape, bytes, turn: None, made: Some(made) }))
}

/// The way back of [`llama3_factors`].
fn llama3_numbers(meta: &mut Meta, arch: &str) {
    for k in LLAMA3 {
        if let Some(v) = meta.0.remove(&format!("tamp.rope.llama3.{k}")) {
            meta.set(format!("{arch}.rope.scaling.{k}"), v);
        }
    }
}
