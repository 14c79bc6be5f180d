//! A tokenizer from GGUF metadata (`tokenizer.ggml.*`).

use tamp_base::meta::{Array, Meta, Value};

use crate::added::AddedToken;
use crate::compiled::{ByteTokens, Engine, Parts, Rules};
use crate::error::Error;
use crate::merge::{self, Merges};
use crate::norm::Norm;
use crate::pre::{Behavior, Cut};
use crate::slots::Merge;
use crate::tokenizer::{Tokenizer, end_tokens};
use crate::vocab::{Kind, Spelling, Tables, Vocab};
use crate::word_piece::WordPiece;
use crate::{kinds, sentence};

/// Keys of tokens that end a generation, or that a model writes only when it has lost the thread (GGUF's list).
const END_KEYS: [&str; 6] = [
    "eos_token_id",
    "eot_token_id",
    "eom_token_id",
    "fim_pad_token_id",
    "fim_rep_token_id",
    "fim_sep_token_id",
];

impl Tokenizer {
    /// Builds the tokenizer that a GGUF file describes: models `gpt2` and `gemma4` (BPE), `llama` (SentencePiece) and
    /// `bert` (WordPiece).
    pub fn from_meta(meta: &Meta) -> Result<Self, Error> {
        let model = meta.str("tokenizer.ggml.model")?;
        match model {
            "gpt2" | "gemma4" => bpe(meta, model),
            "llama" => sentence_piece(meta),
            "bert" => word_piece(meta),
            _ => Err(Error::Unsupported {
                what: "model",
                name: model.into(),
                known: "gpt2, gemma4, llama, bert".into(),
            }),
        }
    }
}

fn tables(meta: &Meta, spelling: Spelling) -> Result<Tables, Error> {
    let key = "tokenizer.ggml.tokens";
    let tokens =
        meta.strs_opt(key)?.ok_or_else(|| Error::Meta(format!("the model's metadata has no `{key}`")))?;
    let types = meta.ints_opt("tokenizer.ggml.token_type")?;
    if let Some(t) = &types
        && t.len() < tokens.len()
    {
        return Err(Error::Broken(format!("{} tokens have {} types", tokens.len(), t.len())));
    }
    let kind = |i: usize| types.as_ref().map_or(Kind::Normal, |t| Kind::from_gguf(t[i]));
    Tables::new(tokens.iter().enumerate().map(|(i, t)| (t, kind(i))), spelling)
}

/// A special token's id, or the default where the file says nothing; never out of range.
fn special(meta: &Meta, vocab: &Vocab, name: &str, default: Option<u32>) -> Result<Option<u32>, Error> {
    let id = meta.token_opt(&format!("tokenizer.ggml.{name}"))?.or(default);
    Ok(id.filter(|&id| (id as usize) < vocab.len()))
}

fn finish(meta: &Meta, tables: Tables, model: Engine, d: Defaults) -> Result<Tokenizer, Error> {
    let vocab = tables.view();
    let bos = special(meta, &vocab, "bos_token_id", d.bos)?;
    let eos = special(meta, &vocab, "eos_token_id", d.eos)?;
    let mut ends = vec![];
    for key in END_KEYS {
        ends.extend(special(meta, &vocab, key, None)?);
    }
    ends.extend(eos);
    let ends = end_tokens(&vocab, ends);
    let add_bos = meta.bool_opt("tokenizer.ggml.add_bos_token")?.unwrap_or(d.add_bos);
    // Phi-3's SentencePiece vocabulary was made with control tokens that swallow the white space after them; GGUF has
    // no field for it.
    let rstrip =
        matches!(model, Engine::Sentence { .. }) && meta.str_opt("general.architecture")? == Some("phi3");
    let mut added = vec![];
    for id in 0..vocab.len() as u32 {
        let kind = vocab.kind(id);
        if !matches!(kind, Kind::Control | Kind::UserDefined | Kind::Unknown) {
            continue;
        }
        let text = String::from_utf8_lossy(vocab.text(id)).into_owned();
        let rstrip = rstrip && !matches!(text.as_str(), "<unk>" | "<s>" | "<|endoftext|>");
        added.push(AddedToken {
            text,
            id,
            special: kind != Kind::UserDefined,
            lstrip: false,
            rstrip,
            single_word: false,
        });
    }
    let rules = Rules {
        model,
        norms: d.norms,
        cuts: d.cuts,
        prefix: if add_bos { Vec::from_iter(bos) } else { vec![] },
        bos,
        eos,
        ends: ends.into_iter().collect(),
        strips_space: d.strips_space,
    };
    Parts {
        vocab: tables,
        merges: d.merges,
        scores: d.scores,
        byte_tokens: d.byte_tokens,
        added,
        added_normal: vec![],
        rules,
    }
    .open()
}

#[derive(Default)]
struct Defaults {
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    norms: Vec<Norm>,
    cuts: Vec<Cut>,
    strips_space: bool,
    merges: Vec<Merge>,
    scores: Vec<f32>,
    byte_tokens: Option<ByteTokens>,
}

fn bpe(meta: &Meta, model: &str) -> Result<Tokenizer, Error> {
    let pre = meta.str_opt("tokenizer.ggml.pre")?.unwrap_or("default");
    let lines = model == "gemma4" || pre == "gemma4";
    let row = if lines {
        &kinds::LINES
    } else {
        kinds::find(pre).ok_or_else(|| Error::Unsupported {
            what: "pre-tokenizer kind",
            name: pre.into(),
            known: kinds::known(),
        })?
    };
    let tables = tables(meta, if lines { Spelling::Sentence } else { Spelling::ByteLevel })?;
    let vocab = tables.view();
    let key = "tokenizer.ggml.merges";
    let list =
        meta.strs_opt(key)?.ok_or_else(|| Error::Meta(format!("the model's metadata has no `{key}`")))?;
    let mut merges = Merges::with_capacity(&vocab, list.len());
    for (rank, m) in list.iter().enumerate() {
        // The separator is the first space after the first character: a part may itself be a space.
        let cut = m.char_indices().nth(1).and_then(|(i, _)| m[i..].find(' ').map(|j| i + j));
        if let Some(cut) = cut {
            // A merge of parts that are not tokens can never act.
            merges.add(rank as u32, &m[..cut], &m[cut + 1..]);
        }
    }
    let merges = merges.list();
    let byte_tokens = Some(if lines { vocab.byte_tokens() } else { merge::byte_tokens(&vocab) });
    let engine = Engine::Bpe {
        from_bytes: !lines,
        fallback: lines,
        ignore_merges: row.ignore_merges,
        unknown: None,
        fuse_unknown: false,
    };
    let mut norms = vec![];
    if row.nfc {
        norms.push(Norm::Nfc);
    }
    if lines {
        norms.push(Norm::Replace(" ".into(), "▁".into()));
    }
    if meta.bool_opt("tokenizer.ggml.add_space_prefix")? == Some(true) {
        norms.push(Norm::Prepend(" ".into()));
    }
    let default = if lines { None } else { Some(11) };
    let d = Defaults {
        bos: default,
        eos: default,
        add_bos: row.bos || lines,
        norms,
        cuts: row.cuts.iter().map(|p| Cut::pattern(p, Behavior::Isolated, false)).collect(),
        merges,
        byte_tokens,
        ..Defaults::default()
    };
    finish(meta, tables, engine, d)
}

fn sentence_piece(meta: &Meta) -> Result<Tokenizer, Error> {
    let tables = tables(meta, Spelling::Sentence)?;
    let vocab = tables.view();
    let scores = match meta.get("tokenizer.ggml.scores") {
        Some(Value::Array(Array::F32(s))) => s.clone(),
        None => vec![],
        Some(Value::Array(_)) => meta
            .ints_opt("tokenizer.ggml.scores")?
            .map_or_else(Vec::new, |s| s.into_iter().map(|x| x as f32).collect()),
        Some(v) => return Err(Error::Meta(format!("`tokenizer.ggml.scores` is {}", v.brief()))),
    };
    let unknown = special(meta, &vocab, "unknown_token_id", Some(0))?;
    let byte_tokens = Some(sentence::byte_tokens(&vocab));
    let prefix = meta.bool_opt("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut norms = vec![];
    if prefix {
        norms.push(Norm::Prepend(" ".into()));
    }
    norms.push(Norm::Replace(" ".into(), "▁".into()));
    let d = Defaults {
        bos: Some(1),
        eos: Some(2),
        add_bos: true,
        norms,
        strips_space: prefix,
        scores,
        byte_tokens,
        ..Defaults::default()
    };
    finish(meta, tables, Engine::Sentence { unknown }, d)
}

fn word_piece(meta: &Meta) -> Result<Tokenizer, Error> {
    let tables = tables(meta, Spelling::Word)?;
    let vocab = tables.view();
    let unknown = special(meta, &vocab, "unknown_token_id", Some(100))?;
    let lowercase = meta.bool_opt("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
    let strip_accents = meta.bool_opt("tokenizer.ggml.normalizer.strip_accents")?.unwrap_or(lowercase);
    let engine = WordPiece { unknown, lowercase, strip_accents, longest: vocab.longest };
    let d = Defaults { bos: Some(101), add_bos: true, strips_space: true, ..Defaults::default() };
    finish(meta, tables, Engine::WordPiece(engine), d)
}

/// The model's own chat template, `tokenizer.chat_template`; none if the file has none.
pub fn template_of(meta: &Meta) -> Option<&str> {
    meta.str_opt("tokenizer.chat_template").ok().flatten()
}
