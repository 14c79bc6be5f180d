//! A bundle in: header, manifest, small sections. The weights stay where they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tamp_base::meta::{Meta, Value};
use tamp_formats::Kind;
use tamp_os::held::{Held, Span};
use tamp_os::map::Identity;

use super::check::{Watch, mismatch};
use super::manifest::{Manifest, ROWS};
use super::write::TEMPLATE;
use super::{EAGER, HEADER, MAGIC, MOST_MANIFEST, VERSION, hash};
use crate::bytes::Bytes;
use crate::cursor::{Budget, Cursor};
use crate::entry::{Entry, Shape, View};
use crate::error::{Error, Result};
use crate::gguf;
use crate::store::{Part, Source, Weights};

/// An open bundle beside its tensors.
pub struct Bundle {
    manifest: Manifest,
    id: String,
    file: Arc<Held>,
    path: Option<PathBuf>,
    watch: Arc<Watch>,
}

/// A tensor as it is stored.
#[derive(Clone, Debug)]
pub struct Packed<'a> {
    /// block format
    pub kind: Kind,
    /// output rows
    pub rows: usize,
    /// input columns
    pub cols: usize,
    /// name of the layout; [`ROWS`] is the file order
    pub layout: &'a str,
    /// the stored bytes, at a 64-byte boundary
    pub bytes: Span,
}

impl Bundle {
    /// What the bundle says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// blake3 of the manifest, and so of everything the bundle claims.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The file as it was at opening; none for bytes in memory.
    pub fn identity(&self) -> Option<Identity> {
        self.file.identity()
    }

    /// What tells whether the bundle in use is still the bundle that was opened.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// The bytes of a section.
    pub fn section(&self, name: &str) -> Option<Span> {
        let s = self.manifest.section(name)?;
        // Checked against the file's size when it was opened.
        Span::new(self.file.clone(), s.offset as usize..(s.offset + s.length) as usize)
    }

    /// How the section `tokenizer` is to be read: `gguf`, `json`, or a name that the reader of tokenizers knows.
    pub fn tokenizer_form(&self) -> &str {
        self.manifest.section("tokenizer").and_then(|s| s.form.as_deref()).unwrap_or_default()
    }

    /// The section that holds the tokenizer as the source had it, and its form.
    fn words(&self) -> Option<(&str, Span)> {
        let name =
            ["tokenizer.source", "tokenizer"].into_iter().find(|n| self.manifest.section(n).is_some())?;
        let form = self.manifest.section(name)?.form.as_deref().unwrap_or_default();
        Some((form, self.section(name)?))
    }

    /// The source's `tokenizer.json`.
    pub(crate) fn json(&self) -> Option<&[u8]> {
        let (form, _) = self.words().filter(|w| w.0 == "json")?;
        let name = if self.tokenizer_form() == form { "tokenizer" } else { "tokenizer.source" };
        let s = self.manifest.section(name)?;
        self.file.bytes().get(s.offset as usize..(s.offset + s.length) as usize)
    }

    /// The source's tokenizer metadata.
    pub(crate) fn words_meta(&self) -> Result<Meta> {
        match self.words() {
            Some(("gguf", span)) => {
                let hashed = self.manifest.section("tokenizer.source");
                if hashed.is_some_and(|s| s.blake3 != hash(&span)) {
                    return Err(mismatch(self.path.as_deref(), "tokenizer.source"));
                }
                Ok(gguf::parse_within(&span, &mut Budget::new())?.meta)
            }
            _ => Ok(Meta::default()),
        }
    }

    /// Enters the pages of the weights into the page table from `threads` threads, while the caller goes on: else the
    /// first forward pass does it, fault by fault. Does nothing for a bundle that was read, or that memory cannot hold.
    pub fn warm(&self, threads: usize) {
        let Some(s) = self.manifest.section("weights").filter(|s| s.length <= tamp_os::memory::available())
        else {
            return;
        };
        let threads = threads.max(1);
        let (start, end) = (s.offset as usize, (s.offset + s.length) as usize);
        let part = (end - start).div_ceil(threads).next_multiple_of(super::WEIGHTS_ALIGN);
        for from in (start..end).step_by(part.max(1)).filter(|_| self.file.map().is_some()) {
            let file = Arc::clone(&self.file);
            let work = move || {
                tamp_os::cpu::unpin();
                if let Some(map) = file.map() {
                    map.populate(from..(from + part).min(end));
                }
            };
            // Without a thread the pages come when they are read.
            let _ = std::thread::Builder::new().name("tamp-warm".into()).spawn(work);
        }
    }

    /// Hashes every section; `progress(done, total)` counts bytes. The first that does not match is the error.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        super::check::verify(&self.manifest, &self.file, self.path.as_deref(), progress)
    }
}

/// Opens a bundle whose magic was seen.
pub(crate) fn open(path: Option<&Path>, held: Held) -> Result<Weights> {
    let file = Arc::new(held);
    let bytes = file.bytes();
    let (manifest, id) = manifest(path, bytes)?;
    for name in EAGER {
        let Some(s) = manifest.section(name) else { continue };
        // Within the file: `validate` has seen every section.
        if hash(&bytes[s.offset as usize..(s.offset + s.length) as usize]) != s.blake3 {
            return Err(mismatch(path, name));
        }
    }
    let get = |name: &str| {
        manifest.section(name).map_or(&[][..], |s| &bytes[s.offset as usize..(s.offset + s.length) as usize])
    };
    let mut budget = Budget::new();
    let mut meta = gguf::parse_within(get("config"), &mut budget)?.meta;
    let template = get("template");
    if !template.is_empty() {
        let text = std::str::from_utf8(template)
            .map_err(|_| Error::bad("the section `template`", "not UTF-8", "UTF-8 text"))?;
        meta.set(TEMPLATE, Value::Str(text.into()));
    }
    let start = manifest.section("weights").map_or(0, |s| s.offset as usize);
    let mut layouts: Vec<String> = Vec::new();
    let mut entries = Vec::with_capacity(manifest.tensors.len());
    for t in &manifest.tensors {
        let shape = Shape::of(&t.name, &t.shape)?;
        let at = start + t.offset as usize;
        let mut e = Entry::raw(t.name.clone(), shape, t.block(), 0, 0, at..at + t.length as usize);
        if t.layout != ROWS {
            let known = layouts.iter().position(|l| *l == t.layout);
            let i = known.unwrap_or_else(|| {
                layouts.push(t.layout.clone());
                layouts.len() - 1
            });
            e.view = View::Packed(i);
        }
        entries.push(e);
    }
    crate::entry::check_ranges(&entries, &mut budget)?;
    let parts = vec![Part { path: path.map(Into::into), bytes: Bytes::Held(file.clone()) }];
    let mut w = Weights::new(Source::Bundle, meta, parts, entries, None, &mut budget)?;
    let watch = Watch::new(path, &file, &manifest);
    w.layouts = layouts;
    w.bundle = Some(Bundle { manifest, id, file, path: path.map(Into::into), watch });
    Ok(w)
}

/// Header and manifest, checked against each other and the file's size.
fn manifest(path: Option<&Path>, bytes: &[u8]) -> Result<(Manifest, String)> {
    let mut c = Cursor::new(bytes);
    let magic = c.take(8, "the bundle's header")?;
    let version = c.u32("the bundle's header")?;
    let reserved = c.u32("the bundle's header")?;
    let (offset, length) = (c.u64("the bundle's header")?, c.u64("the bundle's header")?);
    let said = c.take(32, "the bundle's header")?.to_vec();
    if magic != MAGIC || reserved != 0 {
        return Err(mismatch(path, "header"));
    }
    if version != VERSION {
        let want = format!("{VERSION}; use the tamp that wrote it, or convert the model again");
        return Err(Error::bad("the bundle's container version", version, want));
    }
    if offset < HEADER as u64 || offset.checked_add(length) != Some(bytes.len() as u64) {
        let got = format!("{length} bytes at {offset}");
        let want = format!("the last bytes of a file of {}; it is cut short or damaged", bytes.len());
        return Err(Error::bad("the place of the bundle's manifest", got, want));
    }
    let text = &bytes[offset as usize..];
    if text.len() > MOST_MANIFEST {
        return Err(Error::TooMuch { what: "the bundle's manifest".into(), limit: MOST_MANIFEST });
    }
    let hash = blake3::hash(text);
    if hash.as_bytes()[..] != said {
        return Err(mismatch(path, "manifest"));
    }
    let manifest = Manifest::parse(text)?;
    manifest.validate(offset)?;
    Ok((manifest, hash.to_hex().to_string()))
}
