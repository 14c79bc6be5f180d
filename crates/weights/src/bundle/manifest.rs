//! What a bundle says of itself, and whether that can be true.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use tamp_formats::Kind;

use super::{ALIGN, HEADER};
use crate::entry::Shape;
use crate::error::{Error, Result};

/// `kind` of every manifest.
pub const KIND: &str = "tamp.bundle";
/// The container version written and read.
pub const VERSION: u32 = 1;
/// The layout that is no layout: rows one after another, as the source file has them.
pub const ROWS: &str = "rows";

/// The manifest. Fields that this version does not know are passed over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// always [`KIND`]
    pub kind: String,
    /// container version
    pub v: u32,
    /// version of the tamp that wrote it
    pub tamp: String,
    /// what it was made from
    pub source: Origin,
    /// `general.architecture`
    pub architecture: String,
    /// layout of the matrices; a tensor may differ
    pub layout: String,
    /// what the conversion may have done to the model's answers
    pub behavior_class: Behavior,
    /// sizes worth knowing before a plan is made
    pub plan: PlanHints,
    /// licence names and links, as the source says them
    pub licences: Vec<String>,
    /// parts of the file
    pub sections: Vec<Section>,
    /// parts of the section `weights`, in file order
    pub tensors: Vec<TensorRow>,
    /// what the section `draft` promises, when there is one
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<Draft>,
}

/// What every version has.
#[derive(Deserialize)]
struct Head {
    kind: String,
    v: u64,
}

/// Where the weights come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// name of the file or folder
    pub name: String,
    /// `gguf`, `safetensors`, `llama2c` or `onnx`
    pub format: String,
    /// bytes of its files
    pub bytes: u64,
    /// blake3 of its files, one after another
    pub blake3: String,
}

/// How far answers may be from those of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Behavior {
    /// the same bits
    Exact,
    /// other rounding, the same quality within measurement
    NearExact,
    /// a quality bound goes with it
    Approximate,
}

impl std::fmt::Display for Behavior {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Behavior::Exact => "exact",
            Behavior::NearExact => "near_exact",
            Behavior::Approximate => "approximate",
        })
    }
}

/// Sizes that a plan can be guessed from without the tensor table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanHints {
    /// matrices
    pub matrices: usize,
    /// bytes of all tensors
    pub weight_bytes: u64,
    /// bytes by block format
    pub kinds: BTreeMap<String, u64>,
}

/// A part of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// `config`, `tokenizer`, …
    pub name: String,
    /// first byte in the file, a multiple of 64
    pub offset: u64,
    /// bytes
    pub length: u64,
    /// of its bytes
    pub blake3: String,
    /// how its bytes are to be read, where there is a choice
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
}

/// A tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorRow {
    /// GGUF name
    pub name: String,
    /// block format, like `q4_k`
    pub kind: String,
    /// columns first
    pub shape: Vec<u64>,
    /// [`ROWS`], or the name a device gives its layout
    pub layout: String,
    /// first byte in the section, a multiple of 64
    pub offset: u64,
    /// bytes as stored
    pub length: u64,
}

/// What a draft head was made for. Held to the rules at every load, so that none is served on other input than it was
/// trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Draft {
    /// the proposer that reads the section
    pub kind: String,
    /// what using it may do to answers
    pub behavior_class: Behavior,
    /// tokens a pass can commit at most, at least 2
    pub horizon: u32,
    /// rows per verification it was made for, ascending, none twice
    pub verify_widths: Vec<u32>,
    /// the activation it reads
    pub tap: Tap,
    /// what it sees beside the activation
    pub conditioning: Conditioning,
    /// blake3 of the section `weights` of the model it guesses for
    pub target: String,
    /// blake3 of the section `tokenizer` it was trained with
    pub tokenizer: String,
    /// how its acceptance was measured
    pub acceptance_metric: String,
}

/// A point in the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// after this layer, counted from 0
    pub layer: u32,
    /// before or after the final norm's gain: a head trained on one and served the other fails silently
    pub norm: TapNorm,
}

/// Which side of the norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TapNorm {
    /// the residual stream
    Pre,
    /// normed
    Post,
}

/// What a draft head sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conditioning {
    /// the activation of the last committed position
    Hidden,
    /// that and the token just committed
    HiddenAndToken,
}

/// A refused manifest.
fn wrong(what: impl Into<String>, got: impl ToString, want: impl Into<String>) -> Error {
    Error::bad(what, got, want)
}

impl Manifest {
    /// Reads a manifest whose hash was checked.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Manifest> {
        let json = |error| Error::Json { what: "the bundle's manifest".into(), error };
        // The version before the rest: a later one may lack what this one asks for.
        let Head { kind, v } = serde_json::from_slice(bytes).map_err(json)?;
        if kind != KIND || v != u64::from(VERSION) {
            return Err(wrong(
                "the manifest",
                format!("`{kind}` version {v}"),
                format!("`{KIND}` version 1"),
            ));
        }
        serde_json::from_slice(bytes).map_err(json)
    }

    /// A section by name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.name == name)
    }

    fn need(&self, name: &str) -> Result<&Section> {
        self.section(name).ok_or_else(|| {
            Error::missing(
                format!("the section `{name}`"),
                "the bundle is incomplete, convert the model again",
            )
        })
    }

    /// Holds every number to the file's own size before anything uses it. `end`: where the manifest starts.
    pub(crate) fn validate(&self, end: u64) -> Result<()> {
        for name in ["config", "tokenizer", "template", "licences", "weights"] {
            self.need(name)?;
        }
        let mut places: Vec<(u64, u64, &str)> = vec![(0, HEADER as u64, "header")];
        for s in &self.sections {
            let stop = s.offset.checked_add(s.length).filter(|&e| e <= end && s.offset >= HEADER as u64);
            let Some(stop) = stop else {
                let got = format!("{} bytes at {}", s.length, s.offset);
                return Err(wrong(
                    format!("the section `{}`", s.name),
                    got,
                    format!("bytes of {HEADER}..{end}"),
                ));
            };
            aligned(&s.name, s.offset)?;
            let hex = s.blake3.len() == 64 && s.blake3.bytes().all(|b| b.is_ascii_hexdigit());
            if !hex {
                let what = format!("the hash of the section `{}`", s.name);
                return Err(wrong(
                    what,
                    s.blake3.chars().take(80).collect::<String>(),
                    "64 hexadecimal digits",
                ));
            }
            places.push((s.offset, stop, &s.name));
        }
        places.sort_unstable();
        for w in places.windows(2) {
            if w[0].2 == w[1].2 {
                return Err(Error::Twice { what: "section", name: w[0].2.into() });
            }
            if w[0].1 > w[1].0 {
                return Err(Error::Overlap { a: w[0].2.into(), b: w[1].2.into() });
            }
        }
        let mut names = HashSet::new();
        if let Some(s) = self.sections.iter().find(|s| !names.insert(&s.name)) {
            return Err(Error::Twice { what: "section", name: s.name.clone() });
        }
        let weights = self.need("weights")?;
        if !weights.offset.is_multiple_of(super::WEIGHTS_ALIGN as u64) {
            return Err(wrong("the offset of the weights", weights.offset, "a multiple of 4096"));
        }
        self.tensors.iter().try_for_each(|t| t.check(weights.length))?;
        self.check_draft()
    }

    fn check_draft(&self) -> Result<()> {
        match (&self.draft, self.section("draft")) {
            (None, None) => Ok(()),
            (Some(draft), Some(_)) => draft.check(self),
            (None, Some(_)) => Err(Error::missing(
                "the contract of the section `draft`",
                "a draft head without one cannot be trusted; convert the model again without it",
            )),
            (Some(_), None) => Err(Error::missing(
                "the section `draft`",
                "the manifest promises one; convert the model again",
            )),
        }
    }
}

impl TensorRow {
    /// Its kind, when tamp knows it.
    pub fn block(&self) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|k| k.name() == self.kind)
    }

    fn check(&self, room: u64) -> Result<()> {
        let kind = self
            .block()
            .ok_or_else(|| Error::UnknownKind { name: self.name.clone(), kind: self.kind.clone() })?;
        let shape = Shape::of(&self.name, &self.shape)?;
        let rows = shape.byte_len(&self.name, kind)? as u64;
        aligned(&self.name, self.offset)?;
        if self.offset.checked_add(self.length).is_none_or(|end| end > room) {
            let got = format!("{} bytes at {}", self.length, self.offset);
            return Err(wrong(format!("the tensor `{}`", self.name), got, format!("bytes within {room}")));
        }
        if self.layout == ROWS && self.length != rows {
            return Err(wrong(format!("the length of `{}`", self.name), self.length, rows.to_string()));
        }
        // No layout grows a tensor beyond its padding to 16 rows and 512 columns; so a shape alone cannot ask for
        // memory that the file does not justify.
        if self.layout != ROWS && self.length < rows {
            return Err(wrong(
                format!("the length of `{}`", self.name),
                self.length,
                format!("at least {rows}"),
            ));
        }
        Ok(())
    }
}

impl Draft {
    fn check(&self, of: &Manifest) -> Result<()> {
        let no = |what: &str, got: &dyn ToString, want: &str| {
            Err(wrong(format!("the draft's {what}"), got.to_string(), want))
        };
        if self.kind.trim().is_empty() {
            return no("kind", &"empty", "the name of a proposer");
        }
        if self.horizon < 2 {
            return no("horizon", &self.horizon, "at least 2: one token is what the target gives alone");
        }
        let rising = self.verify_widths.windows(2).all(|w| w[0] < w[1]);
        if self.verify_widths.is_empty() || !rising || self.verify_widths[0] == 0 {
            return no(
                "verify_widths",
                &format!("{:?}", self.verify_widths),
                "ascending widths of at least 1",
            );
        }
        if self.acceptance_metric.trim().is_empty() {
            return no("acceptance_metric", &"empty", "how its acceptance was measured");
        }
        for (what, section, got) in
            [("target", "weights", &self.target), ("tokenizer", "tokenizer", &self.tokenizer)]
        {
            let want = &of.need(section)?.blake3;
            if got != want {
                return no(what, got, &format!("{want}, the hash of this bundle's `{section}`"));
            }
        }
        Ok(())
    }
}

fn aligned(name: &str, offset: u64) -> Result<()> {
    if offset.is_multiple_of(ALIGN as u64) {
        return Ok(());
    }
    Err(wrong(format!("the offset of `{name}`"), offset, format!("a multiple of {ALIGN}")))
}
