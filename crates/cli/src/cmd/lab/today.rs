//! Today's hashes of what verdicts depend on, quickly enough for a look-up: cards from this program itself, models by
//! the hash they had when they were last read, as long as size and time of the file are the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tamp_lab::bench::hash_file;

use crate::cmd::{Ctx, techniques};

/// Hashes of files by path.
pub struct Today<'a> {
    ctx: &'a Ctx,
    file: PathBuf,
    known: BTreeMap<String, Seen>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Seen {
    bytes: u64,
    /// ns since 1970
    changed: u64,
    hash: String,
}

impl<'a> Today<'a> {
    /// What was hashed before, from `<cache>/hashes.json`; a file that cannot be read is an empty one.
    pub fn open(ctx: &'a Ctx, cache: &Path) -> Self {
        let file = cache.join("hashes.json");
        let known =
            std::fs::read(&file).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
        Today { ctx, file, known }
    }

    /// The hash of a card or a model that is here, as the lab's runner gives it; nothing for other names.
    pub fn of(&mut self, name: &str) -> Option<String> {
        match name.split_once(':')? {
            ("card", card) => {
                Some(techniques::one(card).map_or(String::new(), |c: Value| tamp_lab::spec::hash(&c)))
            }
            ("model", model) => self.model(model),
            _ => None,
        }
    }

    fn model(&mut self, name: &str) -> Option<String> {
        let direct = PathBuf::from(name);
        let path = if direct.exists() { direct } else { self.ctx.store.find(name)? };
        if path.is_dir() {
            return Some(String::new());
        }
        let meta = std::fs::metadata(&path).ok()?;
        let changed = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
        let key = std::fs::canonicalize(&path).ok()?.display().to_string();
        let now = |hash: String| Seen { bytes: meta.len(), changed: changed as u64, hash };
        if let Some(seen) = self.known.get(&key)
            && *seen == now(seen.hash.clone())
        {
            return Some(seen.hash.clone());
        }
        let hash = hash_file(&path).ok()?;
        self.known.insert(key, now(hash.clone()));
        // Only the next look-up is slower when this fails.
        if let Some(folder) = self.file.parent() {
            let _ = std::fs::create_dir_all(folder);
        }
        let _ = serde_json::to_vec(&self.known).map(|b| std::fs::write(&self.file, b));
        Some(hash)
    }
}
