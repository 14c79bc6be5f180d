//! Arms that are not this binary: revisions and patches, which are built first, and engines of other people.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tamp_base::record::Sample;

use crate::bench::Others;
use crate::code::Code;
use crate::foreign::{self, Ask, Engine, Env, ForeignError};
use crate::spec::{Arm, Frozen};

/// Engines of a file, and the repository that revisions are built from.
pub struct Outside<'a> {
    engines: BTreeMap<String, Engine>,
    file: PathBuf,
    code: Code<'a>,
}

impl<'a> Outside<'a> {
    /// Reads `file` if it is there; engines are only missed when an arm names one.
    pub fn new(file: &Path, env: Env<'_>, code: Code<'a>) -> Result<Self, ForeignError> {
        let engines = match std::fs::read_to_string(file) {
            Ok(text) => foreign::engines(&text, file, env)?,
            Err(_) => BTreeMap::new(),
        };
        Ok(Outside { engines, file: file.into(), code })
    }
}

/// The revision of an arm that is built.
fn rev(arm: &Arm) -> &str {
    arm.rev.as_deref().unwrap_or("HEAD")
}

impl Others for Outside<'_> {
    fn binary(&mut self, arm: &Arm) -> Result<PathBuf, String> {
        self.code.binary(rev(arm), arm.patch.as_deref()).map_err(|e| e.to_string())
    }

    fn resolve(&mut self, rev: &str) -> Result<String, String> {
        self.code.resolve(rev).map_err(|e| e.to_string())
    }

    fn clean(&mut self) -> Result<(), String> {
        self.code.clean().map_err(|e| e.to_string())
    }

    fn keep(&mut self, spec: &Frozen, arm: &Arm, row: &str) -> Result<String, String> {
        let patch = arm.patch.as_deref().ok_or("there is no patch to keep")?;
        self.code.keep(spec, rev(arm), patch, row).map_err(|e| e.to_string())
    }

    fn foreign(&mut self, engine: &str, ask: &Ask) -> Result<Sample, String> {
        let Some(found) = self.engines.get(engine) else {
            let known: Vec<&str> = self.engines.keys().map(String::as_str).collect();
            return Err(format!(
                "{} knows no engine {engine:?}; it has {}",
                self.file.display(),
                known.join(", ")
            ));
        };
        foreign::sample(found, ask).map_err(|e| e.to_string())
    }
}
