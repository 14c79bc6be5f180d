//! What a person means by MODEL: a path, a name in the store, a name that `pull` knows, an `hf:` address, or nothing.

use std::path::{Path, PathBuf};

use super::catalog::{self, Entry};
use super::{entry, hub};
use crate::env::Env;
use crate::fail::{Done, Fail, nearest};
use crate::out::{Ui, note};
use crate::store::Store;

/// Everything needed to find a model.
pub struct Finder<'a> {
    /// local models
    pub store: &'a Store,
    /// hub address and token
    pub env: &'a Env,
    /// how to show progress
    pub ui: Ui,
}

impl Finder<'_> {
    /// The file or folder for `model`; without one, the default model. It is fetched when it is not here yet.
    pub fn find(&self, model: Option<&str>) -> Done<PathBuf> {
        match model {
            None => self.default(),
            Some(m) => self.named(m),
        }
    }

    fn named(&self, m: &str) -> Done<PathBuf> {
        if Path::new(m).exists() {
            return Ok(m.into());
        }
        if let Some(path) = self.store.find(m) {
            return Ok(path);
        }
        if hub::Address::parse(m).is_some() || catalog::builtin().iter().any(|e| e.name == m) {
            return self.pull(m, &catalog::builtin());
        }
        let held = self.store.list().unwrap_or_default();
        let names = held.iter().map(|h| h.name.as_str()).chain([catalog::DEFAULT]);
        let hint = match nearest(m, names) {
            Some(near) => format!("did you mean `{near}`? `tamp list` shows the models that are here"),
            None => "give a path, a name from `tamp list`, or hf:org/repo/file.gguf".into(),
        };
        Err(Fail::file(format!("there is no file and no model `{m}`")).hint(hint))
    }

    /// Pulls a name of the catalogue or an `hf:` address.
    pub fn pull(&self, name: &str, known: &[Entry]) -> Done<PathBuf> {
        if let Some(address) = hub::Address::parse(name) {
            let address = address?;
            return hub::fetch(self.store, &address, &address.name(), None, self.env, self.ui);
        }
        let Some(e) = known.iter().find(|e| e.name == name) else {
            let names: Vec<&str> = known.iter().map(|e| e.name.as_str()).collect();
            let near = nearest(name, names.iter().copied())
                .map_or(String::new(), |n| format!("did you mean `{n}`? "));
            return Err(Fail::usage(format!("pull knows no `{name}`; known: {}", names.join(", ")))
                .hint(format!("{near}hf:org/repo/file.gguf fetches any GGUF from the hub")));
        };
        let by_client = entry(self.store, e, self.ui);
        let (Err(first), Some(text)) = (&by_client, &e.hub) else { return by_client };
        let (Some(Ok(address)), false) = (hub::Address::parse(text), e.convert) else { return by_client };
        note(format_args!("{}; trying the hub", first.what));
        hub::fetch(self.store, &address, &e.name, e.files[0].sha256.as_deref(), self.env, self.ui).map_err(|second| {
            let (a, b) = (first.what.trim_start_matches("offline: "), second.what.trim_start_matches("offline: "));
            Fail::network(format!("offline: `{name}` is not in {}, {a}, and {b}", self.store.root().display()))
                .hint("connect once and try again, or give a model file: tamp run path/to/model.gguf \"prompt\"")
        })
    }

    fn default(&self) -> Done<PathBuf> {
        let name = catalog::DEFAULT;
        if let Some(path) = self.store.find(name) {
            note(self.ui.dim(&format!("model {name} from {}", path.display())));
            return Ok(path);
        }
        note(format_args!("no model given: fetching the default, {name}, once"));
        let path = self.pull(name, &catalog::builtin())?;
        note(self.ui.dim(&format!("model {name} from {}", path.display())));
        Ok(path)
    }
}
