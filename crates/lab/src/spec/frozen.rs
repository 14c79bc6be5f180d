//! A spec with its id: what was in the file, hashed.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tamp_base::near::nearest;

use super::{Spec, SpecError};

/// A spec with the value its id is made of.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// first 12 hex digits of the hash are its short name
    pub id: String,
    /// the typed form
    pub spec: Spec,
    /// what was there, as JSON
    pub value: Value,
}

impl Frozen {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Frozen, SpecError> {
        let text = std::fs::read_to_string(path).map_err(|e| SpecError::Read(path.into(), e))?;
        Frozen::parse(&text, &path.display().to_string())
    }

    /// Parses TOML; `from` names it in errors.
    pub fn parse(text: &str, from: &str) -> Result<Frozen, SpecError> {
        // Twice: the typed reading knows lines and keys, the untyped one is what the id is made of.
        let spec: Spec = toml::from_str(text).map_err(|e| SpecError::Syntax(from.into(), said(text, &e)))?;
        let table: toml::Value =
            toml::from_str(text).map_err(|e| SpecError::Syntax(from.into(), said(text, &e)))?;
        let value = serde_json::to_value(table).map_err(|e| SpecError::Syntax(from.into(), e.to_string()))?;
        Frozen::check(spec, value).map_err(|why| SpecError::Rule(from.into(), why))
    }

    /// From the value a ledger row holds.
    pub fn from_value(value: Value, from: &str) -> Result<Frozen, SpecError> {
        let spec = Spec::deserialize(&value).map_err(|e| SpecError::Syntax(from.into(), e.to_string()))?;
        Frozen::check(spec, value).map_err(|why| SpecError::Rule(from.into(), why))
    }

    fn check(spec: Spec, value: Value) -> Result<Frozen, String> {
        spec.check()?;
        let id = hash(&value);
        Ok(Frozen { id, spec, value })
    }

    /// What people type.
    pub fn short(&self) -> &str {
        &self.id[..12]
    }
}

/// One sentence with line and key out of a TOML error.
pub(crate) fn said(text: &str, e: &toml::de::Error) -> String {
    let line = e.span().map(|s| text[..s.start.min(text.len())].matches('\n').count() + 1);
    let said = shortened(e.message());
    match line {
        Some(n) => format!("line {n}: {said}"),
        None => said,
    }
}

/// A complaint about an unknown key, with the nearest known one instead of all of them; others as they are.
pub(crate) fn shortened(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (true, [wrong, known @ ..]) = (message.starts_with("unknown field `"), quoted.as_slice()) else {
        return message.to_string();
    };
    let near = match nearest(wrong, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "none is near it".into(),
    };
    format!("unknown field `{wrong}`; {near} (of {} known here)", known.len())
}

/// blake3 of the RFC 8785 form, hex.
pub fn hash(value: &Value) -> String {
    // A JSON value always has a canonical form; a NaN cannot be in one.
    let canonical = serde_json_canonicalizer::to_vec(value).unwrap_or_default();
    blake3::hash(&canonical).to_hex().to_string()
}
