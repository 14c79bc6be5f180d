//! A tokenizer from `tokenizer.json`, read by a bounded schema of our own.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tamp_base::meta::Meta;

use crate::added::AddedToken;
use crate::compiled::{Engine, MAX_RULES, Parts, Rules};
use crate::error::{Error, brief};
use crate::kinds;
use crate::merge::{self, Merges};
use crate::norm::{First, Norm, Pattern};
use crate::pre::{Behavior, Cut};
use crate::tokenizer::{Tokenizer, end_tokens};
use crate::vocab::{Kind, MAX_TOKENS, Spelling, Tables, Vocab, parse_byte};

#[derive(Deserialize)]
struct File<'a> {
    #[serde(default, borrow)]
    added_tokens: Vec<Added<'a>>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(borrow)]
    model: ModelSection<'a>,
}

#[derive(Deserialize)]
struct Added<'a> {
    id: u32,
    #[serde(borrow)]
    content: Cow<'a, str>,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct ModelSection<'a> {
    r#type: Option<String>,
    #[serde(borrow)]
    vocab: Tokens<'a>,
    #[serde(default, borrow)]
    merges: Vec<MergeEntry<'a>>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// `{"token": id}`, kept in the file's order; borrowed from the file where nothing is escaped.
struct Tokens<'a>(Vec<(Cow<'a, str>, u32)>);

/// `"left right"` or `["left", "right"]`.
struct MergeEntry<'a>(Cow<'a, str>, Cow<'a, str>);

/// Text borrowed where it can be.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Tokens<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Tokens<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map of tokens to ids")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut m: A) -> Result<Self::Value, A::Error> {
                let mut out = vec![];
                while let Some((Text(k), v)) = m.next_entry()? {
                    if out.len() >= MAX_TOKENS {
                        return Err(serde::de::Error::custom("too many tokens"));
                    }
                    out.push((k, v));
                }
                Ok(Tokens(out))
            }
        }
        d.deserialize_map(V)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for MergeEntry<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = MergeEntry<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a merge, \"left right\" or [\"left\", \"right\"]")
            }
            fn visit_borrowed_str<E: serde::de::Error>(self, s: &'de str) -> Result<Self::Value, E> {
                let (l, r) = s.split_once(' ').ok_or_else(|| E::custom("a merge without a space"))?;
                Ok(MergeEntry(l.into(), r.into()))
            }
            fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<Self::Value, E> {
                let (l, r) = s.split_once(' ').ok_or_else(|| E::custom("a merge without a space"))?;
                Ok(MergeEntry(l.to_string().into(), r.to_string().into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut s: A) -> Result<Self::Value, A::Error> {
                let (Some(Text(l)), Some(Text(r)), None) =
                    (s.next_element()?, s.next_element()?, s.next_element::<serde::de::IgnoredAny>()?)
                else {
                    return Err(serde::de::Error::custom("a merge needs two parts"));
                };
                Ok(MergeEntry(l, r))
            }
        }
        d.deserialize_any(V)
    }
}

fn unsupported(what: &'static str, name: &str, known: &str) -> Error {
    Error::Unsupported { what, name: brief(name, 60), known: known.into() }
}

impl Tokenizer {
    /// Builds the tokenizer of a `tokenizer.json` whose model is BPE (byte-level, or SentencePiece-like with byte
    /// fallback). `extra` may name the special tokens with GGUF's keys, as `tokenizer_config.json` does.
    pub fn from_json(tokenizer_json: &[u8], extra: Option<&Meta>) -> Result<Self, Error> {
        let file: File =
            serde_json::from_slice(tokenizer_json).map_err(|e| Error::Json(brief(&e.to_string(), 200)))?;
        build(file, extra)
    }
}

fn build(file: File, extra: Option<&Meta>) -> Result<Tokenizer, Error> {
    let m = &file.model;
    match m.r#type.as_deref() {
        Some("BPE") | None => {}
        Some(t) => return Err(unsupported("model type", t, "BPE")),
    }
    for (name, v) in [
        ("continuing_subword_prefix", &m.continuing_subword_prefix),
        ("end_of_word_suffix", &m.end_of_word_suffix),
    ] {
        if let Some(v) = v.as_deref().filter(|v| !v.is_empty()) {
            return Err(unsupported("BPE setting", &format!("{name}={v}"), "BPE without it"));
        }
    }
    let spelling = spelling(&file.decoder, &file.pre_tokenizer)?;
    let tables = tables(&file, spelling)?;
    let vocab = tables.view();

    let from_bytes = spelling == Spelling::ByteLevel;
    let fallback = !from_bytes && m.byte_fallback;
    let byte_tokens =
        if from_bytes { Some(merge::byte_tokens(&vocab)) } else { fallback.then(|| vocab.byte_tokens()) };
    let engine = Engine::Bpe {
        from_bytes,
        fallback,
        ignore_merges: m.ignore_merges,
        unknown: m.unk_token.as_ref().and_then(|u| vocab.id(u.as_bytes())),
        fuse_unknown: m.fuse_unk,
    };
    let mut merges = Merges::with_capacity(&vocab, m.merges.len());
    for (rank, MergeEntry(l, r)) in m.merges.iter().enumerate() {
        if !merges.add(rank as u32, l, r) {
            return Err(Error::Broken(format!(
                "merge {rank} ({:?} {:?}) has a part or a result that is not a token",
                brief(l, 20),
                brief(r, 20)
            )));
        }
    }
    let merges = merges.list();

    let mut b = Pipeline::default();
    b.normalizer(&file.normalizer, 0)?;
    b.pre_tokenizer(&file.pre_tokenizer, 0)?;
    let prefix = prefix(&file.post_processor, &vocab, 0);

    let (mut raw, mut normal) = (vec![], vec![]);
    for a in &file.added_tokens {
        let t = AddedToken {
            text: a.content.clone().into_owned(),
            id: a.id,
            special: a.special,
            lstrip: a.lstrip,
            rstrip: a.rstrip,
            single_word: a.single_word,
        };
        // The published default: special tokens are looked for in the raw text.
        if a.normalized.unwrap_or(!a.special) && !b.norms.is_empty() {
            let text = b.norms[..b.normalizers]
                .iter()
                .fold(Cow::Borrowed(a.content.as_ref()), |t, n| n.apply(t, false))
                .into_owned();
            normal.push(AddedToken { text, ..t });
        } else {
            raw.push(t);
        }
    }

    let named = |key: &str| -> Result<Option<u32>, Error> {
        let id = extra.map(|e| e.token_opt(&format!("tokenizer.ggml.{key}"))).transpose()?.flatten();
        Ok(id.filter(|&id| (id as usize) < vocab.len()))
    };
    let bos = named("bos_token_id")?.or(prefix.first().copied());
    let eos = named("eos_token_id")?;
    let prefix = match extra.map(|e| e.bool_opt("tokenizer.ggml.add_bos_token")).transpose()?.flatten() {
        Some(false) => vec![],
        Some(true) if prefix.is_empty() => Vec::from_iter(bos),
        _ => prefix,
    };
    let declared = [eos, named("eot_token_id")?, named("eom_token_id")?];
    let ends = end_tokens(&vocab, declared.into_iter().flatten());
    let eos = eos.or(ends.first().copied());
    let rules = Rules {
        model: engine,
        norms: b.norms,
        cuts: b.cuts,
        prefix,
        bos,
        eos,
        ends: ends.into_iter().collect(),
        strips_space: strips_space(&file.decoder),
    };
    Parts { vocab: tables, merges, scores: vec![], byte_tokens, added: raw, added_normal: normal, rules }
        .open()
}

/// The table by id, holes included.
fn tables(file: &File, spelling: Spelling) -> Result<Tables, Error> {
    let tokens = &file.model.vocab.0;
    let last = tokens.iter().map(|t| t.1).chain(file.added_tokens.iter().map(|a| a.id)).max();
    let n = last.map_or(0, |l| l as usize + 1);
    // Holes cost memory; published files have a few hundred.
    let most = (tokens.len() + file.added_tokens.len()) * 2 + (1 << 16);
    if n > most.min(MAX_TOKENS) {
        return Err(Error::Broken(format!(
            "the highest token id is {}, for {} tokens",
            n - 1,
            tokens.len() + file.added_tokens.len()
        )));
    }
    let mut table: Vec<(&str, Kind)> = vec![("", Kind::Unused); n];
    for (text, id) in tokens {
        let byte = file.model.byte_fallback && parse_byte(text).is_some();
        table[*id as usize] = (text, if byte { Kind::Byte } else { Kind::Normal });
    }
    for a in &file.added_tokens {
        table[a.id as usize] = (&a.content, if a.special { Kind::Control } else { Kind::UserDefined });
    }
    Tables::new(table.into_iter(), spelling)
}

fn kind(v: &Value) -> &str {
    v.get("type").and_then(Value::as_str).unwrap_or("")
}

fn text<'v>(v: &'v Value, key: &str) -> &'v str {
    v.get(key).and_then(Value::as_str).unwrap_or("")
}

fn flag(v: &Value, key: &str, default: bool) -> bool {
    v.get(key).and_then(Value::as_bool).unwrap_or(default)
}

/// Every part of a component, through its `Sequence`s. JSON nests 128 deep at most.
fn parts<'v>(v: &'v Value, list: &str, out: &mut Vec<&'v Value>) {
    if v.is_null() {
        return;
    }
    match v.get(list).and_then(Value::as_array) {
        Some(a) => a.iter().for_each(|v| parts(v, list, out)),
        None => out.push(v),
    }
}

fn spelling(decoder: &Value, pre: &Value) -> Result<Spelling, Error> {
    let mut all = vec![];
    parts(decoder, "decoders", &mut all);
    parts(pre, "pretokenizers", &mut all);
    for v in &all {
        match kind(v) {
            "ByteLevel" => return Ok(Spelling::ByteLevel),
            "WordPiece" | "BPEDecoder" | "CTC" => {
                return Err(unsupported(
                    "decoder",
                    kind(v),
                    "ByteLevel, Metaspace, ByteFallback, Replace, Strip",
                ));
            }
            _ => {}
        }
    }
    Ok(Spelling::Sentence)
}

/// Whether decoding takes one space off the start.
fn strips_space(decoder: &Value) -> bool {
    let mut all = vec![];
    parts(decoder, "decoders", &mut all);
    all.iter().any(|v| match kind(v) {
        "Strip" => text(v, "content") == " " && v.get("start").and_then(Value::as_u64).unwrap_or(0) > 0,
        "Metaspace" => text(v, "prepend_scheme") != "never" && flag(v, "add_prefix_space", true),
        _ => false,
    })
}

/// Tokens that the post-processor puts before a single text.
fn prefix(v: &Value, vocab: &Vocab, depth: usize) -> Vec<u32> {
    let mut out = vec![];
    match kind(v) {
        "Sequence" if depth < 16 => {
            for p in v.get("processors").and_then(Value::as_array).into_iter().flatten() {
                out.extend(prefix(p, vocab, depth + 1));
            }
        }
        "TemplateProcessing" => {
            for item in v.get("single").and_then(Value::as_array).into_iter().flatten() {
                let Some(s) = item.get("SpecialToken") else { break };
                let id = text(s, "id");
                let ids = v.get("special_tokens").and_then(|t| t.get(id)).and_then(|t| t.get("ids"));
                match ids.and_then(Value::as_array) {
                    Some(ids) => out.extend(
                        ids.iter()
                            .filter_map(Value::as_u64)
                            .filter(|&i| (i as usize) < vocab.len())
                            .map(|i| i as u32),
                    ),
                    None => out.extend(vocab.id(id.as_bytes())),
                }
                if out.len() > 16 {
                    break;
                }
            }
        }
        "BertProcessing" | "RobertaProcessing" => {
            let cls = v.get("cls").and_then(|c| c.get(1)).and_then(Value::as_u64);
            out.extend(cls.filter(|&i| (i as usize) < vocab.len()).map(|i| i as u32));
        }
        _ => {}
    }
    out
}

#[derive(Default)]
struct Pipeline {
    norms: Vec<Norm>,
    /// how many of `norms` come from the normalizer; the rest from the pre-tokenizer
    normalizers: usize,
    cuts: Vec<Cut>,
}

impl Pipeline {
    fn room(&self) -> Result<(), Error> {
        if self.norms.len() + self.cuts.len() < MAX_RULES {
            return Ok(());
        }
        Err(Error::Broken(format!("it has more than {MAX_RULES} normalizers and pre-tokenizers")))
    }

    fn normalizer(&mut self, v: &Value, _depth: usize) -> Result<(), Error> {
        let mut all = vec![];
        parts(v, "normalizers", &mut all);
        for v in all {
            self.room()?;
            let norm = match kind(v) {
                "Sequence" => continue,
                "NFC" => Norm::Nfc,
                "NFD" => Norm::Nfd,
                "NFKC" => Norm::Nfkc,
                "NFKD" => Norm::Nfkd,
                "Lowercase" => Norm::Lowercase,
                "StripAccents" => Norm::StripAccents,
                "Strip" => Norm::Strip(flag(v, "strip_left", false), flag(v, "strip_right", false)),
                "Prepend" => Norm::Prepend(text(v, "prepend").into()),
                "Replace" => {
                    let p = &v["pattern"];
                    match (p.get("String").and_then(Value::as_str), p.get("Regex").and_then(Value::as_str)) {
                        (Some(s), _) => Norm::Replace(s.into(), text(v, "content").into()),
                        (_, Some(r)) => Norm::ReplacePattern(Pattern::new(r)?, text(v, "content").into()),
                        _ => return Err(Error::Json("a Replace normalizer without a pattern".into())),
                    }
                }
                k => {
                    let known =
                        "NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Prepend, Replace, Sequence";
                    return Err(unsupported("normalizer", k, known));
                }
            };
            self.norms.push(norm);
        }
        self.normalizers = self.norms.len();
        Ok(())
    }

    fn pre_tokenizer(&mut self, v: &Value, _depth: usize) -> Result<(), Error> {
        let mut all = vec![];
        parts(v, "pretokenizers", &mut all);
        for v in all {
            self.room()?;
            match kind(v) {
                "Sequence" => {}
                "ByteLevel" => {
                    if flag(v, "add_prefix_space", true) {
                        self.prepend(Norm::PrependOnce(" ".into(), First::Every))?;
                    }
                    if flag(v, "use_regex", true) {
                        self.cut(kinds::BYTE_LEVEL, Behavior::Isolated, false);
                    }
                }
                "Split" => {
                    let behavior = serde_json::from_value(v["behavior"].clone())
                        .map_err(|_| unsupported("split behavior", &v["behavior"].to_string(), BEHAVIORS))?;
                    let invert = flag(v, "invert", false);
                    let p = &v["pattern"];
                    match (p.get("String").and_then(Value::as_str), p.get("Regex").and_then(Value::as_str)) {
                        (Some(s), _) => self.cuts.push(Cut::literal(s, behavior, invert)),
                        (_, Some(r)) => self.cut(r, behavior, invert),
                        _ => return Err(Error::Json("a Split pre-tokenizer without a pattern".into())),
                    }
                }
                "Digits" if flag(v, "individual_digits", false) => {
                    self.cut(r"\p{N}", Behavior::Isolated, false);
                }
                "Digits" => self.cut(r"\p{N}", Behavior::Contiguous, false),
                "Punctuation" => {
                    let behavior =
                        serde_json::from_value(v["behavior"].clone()).unwrap_or(Behavior::Isolated);
                    self.cut(r"[\p{P}\$\+<=>\^\~\|`]", behavior, false);
                }
                "Whitespace" => self.cut(r"\w+|[^\w\s]+", Behavior::Removed, true),
                "WhitespaceSplit" => self.cut(r"\s", Behavior::Removed, false),
                "Metaspace" => {
                    let mark = text(v, "replacement");
                    let mark = if mark.is_empty() { "▁" } else { mark };
                    let scheme = match text(v, "prepend_scheme") {
                        "" if flag(v, "add_prefix_space", true) => "always",
                        "" => "never",
                        s => s,
                    };
                    self.prepend(Norm::Replace(" ".into(), mark.into()))?;
                    match scheme {
                        "always" => self.prepend(Norm::PrependOnce(mark.into(), First::Every))?,
                        "first" => self.prepend(Norm::PrependOnce(mark.into(), First::Only))?,
                        _ => {}
                    }
                    if flag(v, "split", true) {
                        self.cuts.push(Cut::literal(mark, Behavior::MergedWithNext, false));
                    }
                }
                k => {
                    let known = "ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, Metaspace, Sequence";
                    return Err(unsupported("pre-tokenizer", k, known));
                }
            }
        }
        Ok(())
    }

    fn cut(&mut self, pattern: &str, behavior: Behavior, invert: bool) {
        self.cuts.push(Cut::pattern(pattern, behavior, invert));
    }

    /// A pre-tokenizer that changes the text; ours can do that only before any cut.
    fn prepend(&mut self, norm: Norm) -> Result<(), Error> {
        if !self.cuts.is_empty() && matches!(norm, Norm::PrependOnce(..)) {
            return Err(unsupported("pre-tokenizer", "a prefix after a cut", "prefixes before cuts"));
        }
        self.norms.push(norm);
        Ok(())
    }
}

const BEHAVIORS: &str = "Isolated, Removed, MergedWithPrevious, MergedWithNext, Contiguous";
