//! A bundle out, one tensor at a time, so that a conversion never holds a model in memory.

use std::io::Write;
use std::path::Path;

use tamp_base::meta::{Meta, Value};
use tamp_formats::Kind;

use super::manifest::{Behavior, Draft, KIND, Manifest, PlanHints, ROWS, Section, TensorRow, VERSION};
use super::{ALIGN, HEADER, MAGIC, WEIGHTS_ALIGN, hash};
use crate::atomic::AtomicFile;
use crate::error::{Error, Result};
use crate::gguf;
use crate::store::Weights;

/// What a bundle says of itself beside its tensors.
#[derive(Clone, Debug)]
pub struct About {
    /// layout of the matrices
    pub layout: String,
    /// what the conversion may have done
    pub behavior: Behavior,
    /// the tokenizer's form and bytes when the caller has a better one than the source's own
    pub compiled: Option<(String, Vec<u8>)>,
    /// a draft head: its contract and bytes; `target` and `tokenizer` are filled in by the writer
    pub draft: Option<(Draft, Vec<u8>)>,
}

/// A bundle being written. Sections first, then tensors in order, then [`Writer::finish`]; dropped before that,
/// nothing is left behind.
pub struct Writer {
    out: AtomicFile,
    at: u64,
    manifest: Manifest,
    weights: u64,
    hasher: blake3::Hasher,
    draft: Option<(Draft, Vec<u8>)>,
}

/// Keys of the metadata that the section `config` leaves to others.
pub(crate) const TEMPLATE: &str = "tokenizer.chat_template";

fn encoded(meta: &Meta) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    gguf::write_to(&mut out, meta, &[], &mut |_, _| Ok(()))?;
    Ok(out)
}

/// The licence lines of a model: every `general.license*` text, and who made it.
fn licences(meta: &Meta) -> Vec<String> {
    let text = |k: &str| match meta.get(k) {
        Some(Value::Str(s)) if !s.is_empty() => Some(format!("{k}: {s}")),
        _ => None,
    };
    let named = meta.0.keys().filter(|k| k.starts_with("general.license")).filter_map(|k| text(k));
    named.chain(["general.author", "general.organization"].iter().filter_map(|k| text(k))).collect()
}

impl Writer {
    /// Starts a bundle at `path` with everything of the source but its tensors.
    pub fn create(path: &Path, src: &Weights, about: About) -> Result<Writer> {
        let full = src.full_meta()?;
        let (mut config, mut words) = (Meta::default(), Meta::default());
        let mut template = "";
        for (k, v) in &full.0 {
            match v {
                Value::Str(s) if k == TEMPLATE => template = s,
                _ if k.starts_with("tokenizer.") => words.set(k.clone(), v.clone()),
                _ => config.set(k.clone(), v.clone()),
            }
        }
        let own = match src.tokenizer_json() {
            Some(json) if words.get("tokenizer.ggml.tokens").is_none() => ("json".to_string(), json.to_vec()),
            _ => ("gguf".to_string(), encoded(&words)?),
        };
        let licences = licences(&full);
        let manifest = Manifest {
            kind: KIND.into(),
            v: VERSION,
            tamp: env!("CARGO_PKG_VERSION").into(),
            source: src.origin(),
            architecture: full.str("general.architecture")?.into(),
            layout: about.layout,
            behavior_class: about.behavior,
            plan: PlanHints::default(),
            licences: licences.clone(),
            sections: Vec::new(),
            tensors: Vec::new(),
            draft: None,
        };
        let mut w = Writer {
            out: AtomicFile::create(path)?,
            at: 0,
            manifest,
            weights: 0,
            hasher: blake3::Hasher::new(),
            draft: about.draft,
        };
        w.put(&[0; HEADER])?;
        w.section("config", Some("gguf"), &encoded(&config)?)?;
        match &about.compiled {
            None => w.section("tokenizer", Some(&own.0), &own.1)?,
            Some((form, bytes)) => {
                w.section("tokenizer", Some(form), bytes)?;
                // The way back to other files needs what the tables were made from.
                w.section("tokenizer.source", Some(&own.0), &own.1)?;
            }
        }
        w.section("template", None, template.as_bytes())?;
        w.section("licences", None, licences.join("\n").as_bytes())?;
        w.pad(WEIGHTS_ALIGN)?;
        w.weights = w.at;
        Ok(w)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, to: usize) -> Result<()> {
        let n = (self.at.next_multiple_of(to as u64) - self.at) as usize;
        self.put(&[0; WEIGHTS_ALIGN][..n])
    }

    fn section(&mut self, name: &str, form: Option<&str>, bytes: &[u8]) -> Result<()> {
        self.pad(ALIGN)?;
        self.manifest.sections.push(Section {
            name: name.into(),
            offset: self.at,
            length: bytes.len() as u64,
            blake3: hash(bytes),
            form: form.map(Into::into),
        });
        self.put(bytes)
    }

    /// The next tensor as it is stored: shape columns first, bytes in `layout`.
    pub fn tensor(
        &mut self,
        name: &str,
        kind: Kind,
        shape: &[usize],
        layout: &str,
        bytes: &[u8],
    ) -> Result<()> {
        let gap = (self.at.next_multiple_of(ALIGN as u64) - self.at) as usize;
        let zeros = [0; ALIGN];
        self.hasher.update(&zeros[..gap]);
        self.put(&zeros[..gap])?;
        let plan = &mut self.manifest.plan;
        plan.matrices += usize::from(layout != ROWS || shape.len() > 1);
        plan.weight_bytes += bytes.len() as u64;
        *plan.kinds.entry(kind.name().into()).or_default() += bytes.len() as u64;
        self.manifest.tensors.push(TensorRow {
            name: name.into(),
            kind: kind.name().into(),
            shape: shape.iter().map(|&d| d as u64).collect(),
            layout: layout.into(),
            offset: self.at - self.weights,
            length: bytes.len() as u64,
        });
        self.hasher.update(bytes);
        self.put(bytes)
    }

    /// Writes draft, manifest and header, makes the file durable and gives it its name. Returns its size, bytes.
    pub fn finish(mut self) -> Result<u64> {
        let (offset, length) = (self.weights, self.at - self.weights);
        let blake3 = self.hasher.finalize().to_hex().to_string();
        self.manifest.sections.push(Section { name: "weights".into(), offset, length, blake3, form: None });
        if let Some((mut contract, bytes)) = self.draft.take() {
            self.section("draft", None, &bytes)?;
            let of = |name: &str| self.manifest.section(name).map_or(String::new(), |s| s.blake3.clone());
            (contract.target, contract.tokenizer) = (of("weights"), of("tokenizer"));
            self.manifest.draft = Some(contract);
        }
        self.pad(ALIGN)?;
        // What could not be read again is not written.
        self.manifest.validate(self.at)?;
        let start = self.at;
        let text = serde_json::to_vec(&self.manifest)
            .map_err(|error| Error::Json { what: "the bundle's manifest".into(), error })?;
        if text.len() > super::MOST_MANIFEST {
            let most = super::MOST_MANIFEST;
            return Err(Error::bad(
                "the manifest",
                format!("{} bytes", text.len()),
                format!("at most {most}"),
            ));
        }
        self.put(&text)?;
        let mut head = Vec::with_capacity(HEADER);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&[0; 4]);
        head.extend_from_slice(&start.to_le_bytes());
        head.extend_from_slice(&(text.len() as u64).to_le_bytes());
        head.extend_from_slice(blake3::hash(&text).as_bytes());
        self.out.rewrite_start(&head)?;
        self.out.finish()?;
        Ok(self.at)
    }
}
