//! A folder with `config.json` and one or more safetensors files, and what lies beside them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use tamp_base::meta::{Meta, Value};
use tamp_formats::Kind;

use super::config::{self, Facts};
use super::header::{self, Found};
use super::{names, tokenizer};
use crate::bytes::Bytes;
use crate::cursor::{ALLOC, Budget};
use crate::entry::{Entry, View, check_ranges};
use crate::error::{Error, Result};
use crate::gguf;
use crate::store::{Part, Source, Weights};

/// Longest `tokenizer.json`, `tokenizer_config.json` and index read, bytes; the largest real tokenizers have 35 MB.
const LONGEST_TOKENIZER: u64 = 64 << 20;
const LONGEST_SIDE: u64 = 8 << 20;

/// The files beside the weights, as bytes.
#[derive(Default)]
pub(crate) struct Beside {
    pub config: Vec<u8>,
    pub generation: Option<Vec<u8>>,
    pub tokenizer_config: Option<Vec<u8>>,
    pub template: Option<Vec<u8>>,
    pub tokenizer: Option<Vec<u8>>,
    /// a GGUF vocabulary, where the weights came from a GGUF file
    pub vocab: Option<Vec<u8>>,
}

impl Beside {
    pub fn read(dir: &Path) -> Result<Beside> {
        let small = |name: &str, most| small_file(&dir.join(name), most);
        Ok(Beside {
            config: small("config.json", config::LONGEST)?.ok_or_else(|| {
                Error::missing(
                    dir.join("config.json").display().to_string(),
                    "the weights cannot be read without it; put it beside them",
                )
            })?,
            generation: small("generation_config.json", LONGEST_SIDE)?,
            tokenizer_config: small("tokenizer_config.json", LONGEST_SIDE)?,
            template: small("chat_template.jinja", LONGEST_SIDE)?,
            tokenizer: small("tokenizer.json", LONGEST_TOKENIZER)?,
            vocab: small(super::write::VOCAB, LONGEST_TOKENIZER)?,
        })
    }

    /// Metadata from all of them.
    pub fn facts(&self, budget: &mut Budget) -> Result<Facts> {
        let mut f = config::read(&self.config)?;
        if let Some(v) = &self.vocab {
            // The model's own keys come from config.json; this file only speaks of the tokenizer.
            let parsed = gguf::parse_within(v, budget)?;
            f.meta.0.extend(parsed.meta.0.into_iter().filter(|(k, _)| k.starts_with("tokenizer.")));
        }
        if let Some(b) = &self.generation {
            tokenizer::generation(&mut f.meta, b)?;
        }
        if let Some(b) = &self.tokenizer_config {
            tokenizer::config(&mut f.meta, b)?;
        }
        if let Some(b) = &self.template {
            let text = std::str::from_utf8(b)
                .map_err(|_| Error::bad("chat_template.jinja", "not UTF-8", "UTF-8 text"))?;
            f.meta.set("tokenizer.chat_template", Value::Str(text.into()));
        }
        Ok(f)
    }
}

/// A whole small file; `None`: it is not there.
pub(crate) fn small_file(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path)(e)),
        Ok(m) if m.len() > most => {
            return Err(Error::bad(
                path.display().to_string(),
                format!("{} bytes", m.len()),
                format!("at most {most}"),
            ));
        }
        Ok(_) => {}
    }
    std::fs::read(path).map(Some).map_err(Error::io(path))
}

/// The safetensors files of a folder: one, or those an index names.
fn files(dir: &Path) -> Result<(Vec<PathBuf>, Option<Vec<u8>>)> {
    let whole = dir.join("model.safetensors");
    if whole.is_file() {
        return Ok((vec![whole], None));
    }
    let index = dir.join("model.safetensors.index.json");
    let Some(text) = small_file(&index, LONGEST_SIDE)? else {
        return Err(Error::missing(
            whole.display().to_string(),
            "a safetensors folder has model.safetensors or model.safetensors.index.json with its parts",
        ));
    };
    let mut names = BTreeSet::new();
    each_indexed(&text, &mut |_, file| {
        if !names.contains(file) {
            let plain = Path::new(file).file_name().is_some_and(|n| n == file);
            if !plain || names.len() == 4096 {
                return Err(Error::bad(
                    "a file name in the index",
                    file,
                    "the plain name of one of at most 4096 files",
                ));
            }
            names.insert(file.to_string());
        }
        Ok(())
    })
    .map_err(|e| e.within(&index))?;
    let paths: Vec<PathBuf> = names.iter().map(|n| dir.join(n)).collect();
    if let Some(p) = paths.iter().find(|p| !p.is_file()) {
        return Err(Error::missing(
            p.display().to_string(),
            "the index names it; put all parts into one folder",
        ));
    }
    Ok((paths, Some(text)))
}

/// Calls `each` with (tensor, file) of every line of an index's `weight_map`; keeps nothing.
fn each_indexed(text: &[u8], each: &mut dyn FnMut(&str, &str) -> Result<()>) -> Result<()> {
    struct Walk<'a, 'b> {
        each: &'a mut dyn FnMut(&str, &str) -> Result<()>,
        refused: &'b mut Option<Error>,
        inner: bool,
    }
    impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
        type Value = ();
        fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
            d.deserialize_map(self)
        }
    }
    impl<'de> Visitor<'de> for Walk<'_, '_> {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object with weight_map, an object of file names")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut m: A) -> std::result::Result<(), A::Error> {
            while let Some(k) = m.next_key::<String>()? {
                if self.inner {
                    let file = m.next_value::<String>()?;
                    if let Err(e) = (self.each)(&k, &file) {
                        *self.refused = Some(e);
                        return Err(serde::de::Error::custom("refused"));
                    }
                } else if k == "weight_map" {
                    m.next_value_seed(Walk { each: self.each, refused: self.refused, inner: true })?;
                } else {
                    m.next_value::<IgnoredAny>()?;
                }
            }
            Ok(())
        }
    }
    let mut refused = None;
    let read = Walk { each, refused: &mut refused, inner: false }
        .deserialize(&mut serde_json::Deserializer::from_slice(text));
    match (refused, read) {
        (Some(e), _) => Err(e),
        (None, Err(error)) => Err(Error::Json { what: "the safetensors index".into(), error }),
        (None, Ok(())) => Ok(()),
    }
}

/// Opens a folder.
pub(crate) fn open(dir: &Path) -> Result<Weights> {
    let (paths, index) = files(dir)?;
    let parts = paths
        .into_iter()
        .map(|p| Ok(Part { bytes: Bytes::open(&p)?, path: Some(p) }))
        .collect::<Result<Vec<_>>>()?;
    read(parts, Beside::read(dir)?, index.as_deref())
}

/// Opens one safetensors file, with what lies beside it.
pub(crate) fn open_file(path: &Path, bytes: Bytes) -> Result<Weights> {
    let dir = path.parent().unwrap_or(Path::new("."));
    read(vec![Part { path: Some(path.into()), bytes }], Beside::read(dir)?, None)
}

pub(crate) fn read(parts: Vec<Part>, beside: Beside, index: Option<&[u8]>) -> Result<Weights> {
    let mut budget = Budget::new();
    let facts = beside.facts(&mut budget)?;
    let mut all: Vec<(usize, Found)> = Vec::new();
    for (n, p) in parts.iter().enumerate() {
        let found = header::parse(p.bytes.get(), &mut budget).map_err(|e| match &p.path {
            Some(path) => e.within(path),
            None => e,
        })?;
        budget.pay(found.len(), 3 * size_of::<(usize, Found)>(), "the tensor list")?;
        all.extend(found.into_iter().map(|f| (n, f)));
    }
    if let Some(text) = index {
        complete(text, &parts, &mut all)?;
    }
    let mut entries = Vec::new();
    budget.pay(all.len(), 3 * size_of::<Entry>() + 64 + ALLOC, "the tensor list")?;
    for (n, f) in all {
        if names::is_derived(&f.name) {
            continue;
        }
        let mut e = Entry::raw(String::new(), f.shape, Some(f.kind), f.kind as u32, n, f.range);
        if f.shape.as_slice().len() == 1 && f.kind != Kind::F32 {
            e.view = View::Widen(f.kind);
            e.kind = Some(Kind::F32);
        }
        entries.push(named(&f.name, e, &facts)?);
    }
    check_ranges(&entries, &mut budget)?;
    finish(Source::Safetensors, facts, parts, entries, beside.tokenizer, &mut budget)
}

/// Gives an entry its GGUF name.
pub(crate) fn named(name: &str, mut e: Entry, facts: &Facts) -> Result<Entry> {
    e.name = names::to_gguf(name, facts.layers).ok_or_else(|| Error::Unsupported {
        what: format!("the tensor `{}`", name.chars().take(120).collect::<String>()),
        hint: format!("a model of this type and {} layers has none of that name", facts.layers),
    })?;
    Ok(e)
}

/// The model of these tensors: a tied head is not kept twice, a missing one is an error.
pub(crate) fn finish(
    source: Source,
    facts: Facts,
    parts: Vec<Part>,
    mut entries: Vec<Entry>,
    tokenizer: Option<Vec<u8>>,
    budget: &mut Budget,
) -> Result<Weights> {
    let Facts { meta, tied, .. } = facts;
    if tied && source == Source::Safetensors {
        entries.retain(|e| e.name != "output.weight");
    } else if !tied && !entries.iter().any(|e| e.name == "output.weight") {
        return Err(Error::missing(
            "lm_head.weight",
            "config.json says that the head is not tied to the embedding (tie_word_embeddings)",
        ));
    }
    Weights::new(source, meta, parts, entries, tokenizer, budget)
}

/// Every tensor the index names is in the file it names.
fn complete(text: &[u8], parts: &[Part], all: &mut [(usize, Found)]) -> Result<()> {
    all.sort_by(|a, b| a.1.name.cmp(&b.1.name));
    let known = &*all;
    each_indexed(text, &mut |tensor, file| {
        let here = known.binary_search_by(|f| f.1.name.as_str().cmp(tensor)).is_ok_and(|i| {
            let path = parts[known[i].0].path.as_deref();
            path.and_then(Path::file_name).is_some_and(|n| n == file)
        });
        if here {
            return Ok(());
        }
        Err(Error::missing(
            format!("the tensor `{tensor}` in {file}"),
            "index and parts do not belong together",
        ))
    })?;
    all.sort_by_key(|(n, f)| (*n, f.range.start));
    Ok(())
}

/// Metadata keys a `vocab.gguf` carries.
pub(crate) fn vocabulary(meta: &Meta) -> Meta {
    Meta(
        meta.0
            .iter()
            .filter(|(k, _)| k.starts_with("tokenizer."))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
    )
}
