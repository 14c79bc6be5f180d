//! Arms that are not this binary: revisions and patches, which are built first, and engines of other people.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tamp_base::record::Sample;

use crate::bench::Others;
use crate::foreign::{self, Ask, Engine, Env, ForeignError};
use crate::spec::Arm;

/// Engines of a file, and whoever builds revisions.
pub struct Outside<'a> {
    engines: BTreeMap<String, Engine>,
    file: PathBuf,
    build: &'a mut dyn FnMut(&Arm) -> Result<PathBuf, String>,
}

impl<'a> Outside<'a> {
    /// Reads `file` if it is there; engines are only missed when an arm names one.
    pub fn new(
        file: &Path,
        env: Env<'_>,
        build: &'a mut dyn FnMut(&Arm) -> Result<PathBuf, String>,
    ) -> Result<Self, ForeignError> {
        let engines = match std::fs::read_to_string(file) {
            Ok(text) => foreign::engines(&text, file, env)?,
            Err(_) => BTreeMap::new(),
        };
        Ok(Outside { engines, file: file.into(), build })
    }
}

impl Others for Outside<'_> {
    fn binary(&mut self, arm: &Arm) -> Result<PathBuf, String> {
        (self.build)(arm)
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
