//! The public face: named tensors, whatever file they come from.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tamp_base::meta::Meta;
use tamp_formats::Kind;
use tamp_os::held::{Held, Residency, Span};

use crate::bundle::{self, Bundle, Origin, Packed};
use crate::bytes::Bytes;
use crate::cursor::Budget;
use crate::entry::{Entry, View};
use crate::error::{Error, Result};
use crate::gguf::{self, split};
use crate::hf::folder::{self, Beside};
use crate::{kinds, llama2c, onnx, sniff, view};

/// What kind of file the weights came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// one GGUF file or several parts
    Gguf,
    /// a Hugging Face folder
    Safetensors,
    /// llama2.c's `.bin`
    Llama2c,
    /// a quantised ONNX export
    Onnx,
    /// a tamp bundle
    Bundle,
}

/// Gives a packed tensor's bytes in file order, or says why it cannot: what it is and what to do.
pub type Unpack = dyn Fn(&Packed<'_>) -> std::result::Result<Vec<u8>, String> + Send + Sync;

/// Named tensors and metadata of one model. Tensor names and metadata keys are GGUF's, whatever the source.
///
/// The metadata key `tamp.rope.pairing` is `half` or `interleaved` where the source's query and key rows are laid
/// out otherwise than the architecture's GGUF files are; absent means as in GGUF.
pub struct Weights {
    /// metadata, in GGUF keys
    pub meta: Meta,
    pub(crate) source: Source,
    pub(crate) parts: Vec<Part>,
    pub(crate) entries: Vec<Entry>,
    /// entry indices ordered by name
    order: Vec<u32>,
    pub(crate) tokenizer: Option<Vec<u8>>,
    /// names of the layouts that entries refer to
    pub(crate) layouts: Vec<String>,
    pub(crate) bundle: Option<Bundle>,
    unpack: Option<Arc<Unpack>>,
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weights")
            .field("source", &self.source)
            .field("keys", &self.meta.0.len())
            .field("tensors", &self.entries.len())
            .field("file_bytes", &self.file_bytes())
            .finish()
    }
}

/// One file of a source.
pub(crate) struct Part {
    pub path: Option<PathBuf>,
    pub bytes: Bytes,
}

/// A tensor with its data.
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    /// GGUF name, like `blk.0.attn_q.weight`
    pub name: &'a str,
    /// how the numbers are stored
    pub kind: Kind,
    /// ggml order: `shape[0]` columns (contiguous), `shape[1]` rows, …; one to four dimensions, all ≥ 1
    pub shape: &'a [usize],
    /// rows one after another, each `kind.row_bytes(shape[0])` long; borrowed from the file where it holds them so
    pub bytes: Cow<'a, [u8]>,
}

/// A tensor without its data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorInfo<'a> {
    /// GGUF name
    pub name: &'a str,
    /// how the numbers are stored; `None`: a type tamp does not read, which [`Weights::tensor`] refuses
    pub kind: Option<Kind>,
    /// ggml order, columns first
    pub shape: &'a [usize],
    /// length of [`Tensor::bytes`]; 0 when the kind is unknown
    pub bytes: usize,
}

impl Weights {
    /// Opens a model: a GGUF file (any part of a split one), a folder with `config.json` and safetensors files, a
    /// `.safetensors` file beside its `config.json`, a llama2.c `.bin`, a folder with a quantised ONNX export, or a
    /// tamp bundle. Tensor data is mapped, not read.
    pub fn open(path: &Path) -> Result<Weights> {
        sniff::open(path, Residency::Map)
    }

    /// Like [`Weights::open`], with a say in how a bundle, whose weights are used where they lie, is held. Other files
    /// are mapped: their weights are copied out of them.
    pub fn open_as(path: &Path, residency: Residency) -> Result<Weights> {
        sniff::open(path, residency)
    }

    /// A bundle in memory, for tests and fuzzing.
    pub fn from_bundle_bytes(bytes: &[u8]) -> Result<Weights> {
        bundle::open(None, Held::copy(bytes).map_err(Error::io(Path::new("a bundle in memory")))?)
    }

    /// What reads packed tensors back when [`Weights::tensor`] is asked for one.
    pub fn unpack_with(&mut self, unpack: Arc<Unpack>) {
        self.unpack = Some(unpack);
    }

    /// A tensor as a bundle stores it, to be used where it lies; `None`: none of that name, or stored in file order.
    pub fn packed(&self, name: &str) -> Option<Packed<'_>> {
        let e = self.find(name)?;
        self.packed_entry(e)
    }

    fn packed_entry<'a>(&'a self, e: &'a Entry) -> Option<Packed<'a>> {
        let (View::Packed(layout), Bytes::Held(held)) = (e.view, &self.parts[e.part].bytes) else {
            return None;
        };
        Some(Packed {
            kind: e.kind?,
            rows: e.shape.rows(),
            cols: e.shape.cols(),
            layout: self.layouts.get(layout)?,
            bytes: Span::new(held.clone(), e.range.clone())?,
        })
    }

    /// The bundle that the weights are in.
    pub fn bundle(&self) -> Option<&Bundle> {
        self.bundle.as_ref()
    }

    /// All metadata: a bundle keeps the tokenizer's apart, because reading it takes longer than everything else.
    pub fn full_meta(&self) -> Result<Meta> {
        let mut meta = self.meta.clone();
        if let Some(b) = &self.bundle {
            meta.0.extend(b.words_meta()?.0);
        }
        Ok(meta)
    }

    /// Where the weights come from; reads and hashes every file of the source.
    pub fn origin(&self) -> Origin {
        if let Some(b) = &self.bundle {
            return b.manifest().source.clone();
        }
        let mut h = blake3::Hasher::new();
        for p in &self.parts {
            h.update(p.bytes.get());
        }
        let first = self.parts.first().and_then(|p| p.path.as_deref());
        let name =
            first.and_then(|p| p.file_name()).map_or(String::new(), |n| n.to_string_lossy().into_owned());
        let format = match self.source {
            Source::Gguf => "gguf",
            Source::Safetensors => "safetensors",
            Source::Llama2c => "llama2c",
            Source::Onnx => "onnx",
            Source::Bundle => "bundle",
        };
        Origin {
            name,
            format: format.into(),
            bytes: self.file_bytes(),
            blake3: h.finalize().to_hex().to_string(),
        }
    }

    /// A hash of everything that the weights are; reads every file of the source, but of a bundle only what its manifest
    /// says of its sections.
    pub fn content(&self) -> [u8; 32] {
        let text = match &self.bundle {
            Some(b) => b.id().to_string(),
            None => self.origin().blake3,
        };
        *blake3::hash(text.as_bytes()).as_bytes()
    }

    /// A GGUF model in memory, for tests and fuzzing.
    pub fn from_gguf_bytes(bytes: Vec<u8>) -> Result<Weights> {
        gguf_parts(vec![Part { path: None, bytes: Bytes::Owned(bytes) }])
    }

    /// A safetensors model in memory, with its `config.json`, for tests and fuzzing.
    pub fn from_safetensors_bytes(config: &[u8], file: Vec<u8>) -> Result<Weights> {
        let beside = Beside { config: config.into(), ..Beside::default() };
        folder::read(vec![Part { path: None, bytes: Bytes::Owned(file) }], beside, None)
    }

    /// A llama2.c checkpoint and its `tokenizer.bin` in memory, for tests and fuzzing.
    pub fn from_llama2c_bytes(file: Vec<u8>, tokenizer: &[u8]) -> Result<Weights> {
        llama2c::read(Part { path: None, bytes: Bytes::Owned(file) }, tokenizer)
    }

    /// An ONNX model in memory, with its `config.json`, for tests and fuzzing.
    pub fn from_onnx_bytes(config: &[u8], file: Vec<u8>) -> Result<Weights> {
        let beside = Beside { config: config.into(), ..Beside::default() };
        onnx::read(Part { path: None, bytes: Bytes::Owned(file) }, beside)
    }

    pub(crate) fn new(
        source: Source,
        meta: Meta,
        parts: Vec<Part>,
        entries: Vec<Entry>,
        tokenizer: Option<Vec<u8>>,
        budget: &mut Budget,
    ) -> Result<Weights> {
        budget.pay(entries.len(), size_of::<u32>(), "the tensor list")?;
        let mut order: Vec<u32> = (0..entries.len() as u32).collect();
        let name = |i: &u32| entries[*i as usize].name.as_str();
        order.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        if let Some(w) = order.windows(2).find(|w| name(&w[0]) == name(&w[1])) {
            return Err(Error::Twice { what: "tensor", name: name(&w[0]).into() });
        }
        let (layouts, bundle, unpack) = (Vec::new(), None, None);
        Ok(Weights { meta, source, parts, entries, order, tokenizer, layouts, bundle, unpack })
    }

    fn find(&self, name: &str) -> Option<&Entry> {
        let at = self.order.binary_search_by(|&i| self.entries[i as usize].name.as_str().cmp(name)).ok()?;
        Some(&self.entries[self.order[at] as usize])
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// A tensor by its GGUF name; `None`: the model has none of that name.
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor<'_>>> {
        self.find(name).map(|e| self.load(e)).transpose()
    }

    pub(crate) fn load<'a>(&'a self, e: &'a Entry) -> Result<Tensor<'a>> {
        let kind =
            e.kind.ok_or_else(|| Error::UnknownKind { name: e.name.clone(), kind: kinds::foreign(e.id) })?;
        let part = &self.parts[e.part];
        let stored = &part.bytes.get()[e.range.clone()];
        let bytes = match e.view {
            View::Raw => Cow::Borrowed(stored),
            View::Packed(_) => Cow::Owned(self.unpacked(e)?),
            v => Cow::Owned(view::canonical(v, stored, e.shape.cols(), e.shape.rows())),
        };
        Ok(Tensor { name: &e.name, kind, shape: e.shape.as_slice(), bytes })
    }

    fn unpacked(&self, e: &Entry) -> Result<Vec<u8>> {
        let no =
            |layout: &str, hint: String| Error::Layout { name: e.name.clone(), layout: layout.into(), hint };
        let p = self.packed_entry(e).ok_or_else(|| no("?", "it is not in a bundle".into()))?;
        let Some(unpack) = &self.unpack else {
            return Err(no(p.layout, "it can be used in place only; nobody here undoes layouts".into()));
        };
        let bytes = unpack(&p).map_err(|hint| no(p.layout, hint))?;
        match p.kind.row_bytes(p.cols).and_then(|b| b.checked_mul(p.rows)) {
            Some(want) if want == bytes.len() => Ok(bytes),
            _ => Err(no(p.layout, format!("undoing it gave {} bytes, which is another matrix", bytes.len()))),
        }
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorInfo<'_>> {
        self.entries.iter().map(|e| TensorInfo {
            name: &e.name,
            kind: e.kind,
            shape: e.shape.as_slice(),
            // Every entry's size was checked when it was made.
            bytes: e.kind.and_then(|k| e.shape.byte_len(&e.name, k).ok()).unwrap_or(0),
        })
    }

    /// The file's pages of this tensor may be dropped from memory, because a repacked copy exists. Reading the
    /// tensor again stays correct and reads the file again.
    pub fn release(&self, name: &str) {
        if let Some(e) = self.find(name) {
            self.parts[e.part].bytes.release(e.range.clone());
        }
    }

    /// The bytes of a `tokenizer.json` that came with the weights, as they are. A GGUF file carries one under
    /// `tokenizer.huggingface.json`.
    pub fn tokenizer_json(&self) -> Option<&[u8]> {
        match &self.tokenizer {
            Some(t) => Some(t),
            None if self.bundle.is_some() => self.bundle.as_ref().and_then(Bundle::json),
            None => self.meta.str_opt("tokenizer.huggingface.json").ok().flatten().map(str::as_bytes),
        }
    }

    /// What kind of file this is.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Bytes of all files the weights are in.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|p| p.bytes.get().len() as u64).sum()
    }

    /// The files the weights are in; empty when they came from memory.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().filter_map(|p| p.path.as_deref())
    }
}

/// A GGUF file; if it says that it is one of several parts, all of them.
pub(crate) fn gguf_file(path: &Path, bytes: Bytes) -> Result<Weights> {
    let first = gguf::parse(bytes.get()).map_err(|e| e.within(path))?;
    let one = |path: &Path, bytes| Part { path: Some(path.into()), bytes };
    let parts = match split::part(&first.meta).map_err(|e| e.within(path))? {
        None => vec![one(path, bytes)],
        Some((_, count)) => {
            drop((first, bytes));
            split::paths(path, count)?.iter().map(|p| Ok(one(p, Bytes::open(p)?))).collect::<Result<_>>()?
        }
    };
    gguf_parts(parts)
}

fn gguf_parts(parts: Vec<Part>) -> Result<Weights> {
    let mut budget = Budget::new();
    let mut meta = Meta::default();
    let mut entries = Vec::new();
    for (n, p) in parts.iter().enumerate() {
        let within = |e: Error| match &p.path {
            Some(path) => e.within(path),
            None => e,
        };
        let parsed = gguf::parse_within(p.bytes.get(), &mut budget).map_err(within)?;
        let said = split::part(&parsed.meta).map_err(within)?.unwrap_or((0, 1));
        if said != (n, parts.len()) {
            return Err(within(Error::bad(
                "split.no of split.count",
                format!("{} of {}", said.0, said.1),
                format!("{n} of {} as the file's name and neighbours say", parts.len()),
            )));
        }
        if n == 0 {
            meta = parsed.meta;
            entries = parsed.entries;
        } else {
            entries.extend(parsed.entries.into_iter().map(|e| Entry { part: n, ..e }));
        }
    }
    split::strip(&mut meta);
    Weights::new(Source::Gguf, meta, parts, entries, None, &mut budget)
}
