//! The local model store: a folder of model files, each with a sidecar that says where it came from.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::env::Env;
use crate::fail::{At, Done, Fail};

/// A folder of models.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// The sidecar `NAME.json` of a stored model.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Record {
    /// always `model`
    pub kind: String,
    /// 1
    pub v: u32,
    /// the word that names it
    pub name: String,
    /// where it came from
    pub source: String,
    /// SPDX id where known
    pub license: String,
    /// size of the file
    pub bytes: u64,
    /// of the file
    pub sha256: String,
}

/// A model found in the store.
#[derive(Debug, Serialize)]
pub struct Held {
    /// the word that names it
    pub name: String,
    /// the file
    pub path: PathBuf,
    /// its size now
    pub bytes: u64,
    /// where it came from; absent when somebody put it there by hand
    pub source: Option<String>,
    /// as recorded when it was fetched
    pub sha256: Option<String>,
}

impl Store {
    /// `--store`, else `TAMP_STORE`, else `models` in the platform's data folder.
    pub fn open(flag: Option<&Path>, env: &Env) -> Done<Self> {
        let root = flag.map(Path::to_path_buf).or_else(|| env.store.clone());
        let root = root.or_else(|| env.data_dir.as_ref().map(|d| d.join("models"))).ok_or_else(|| {
            Fail::file("there is no home folder to keep models in")
                .hint("name one: --store DIR or TAMP_STORE=DIR")
        })?;
        Ok(Self { root })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a name's file lives, present or not. Names never contain separators except those of `hf:` addresses,
    /// which are checked when they are read.
    pub fn place(&self, name: &str) -> PathBuf {
        let name = name.strip_suffix(".gguf").unwrap_or(name);
        self.root.join(format!("{name}.gguf"))
    }

    /// The file of a name, when it is there.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let known = name.split('/').all(super::pull::catalog::plain);
        let bundle =
            self.root.join(if name.ends_with(".tamp") { name.into() } else { format!("{name}.tamp") });
        [self.place(name), bundle].into_iter().find(|p| known && p.is_file())
    }

    /// A working folder for fetching `name`; on the same file system, so that renames are atomic.
    pub fn work(&self, name: &str) -> Done<PathBuf> {
        let dir = self.root.join(".work").join(name);
        std::fs::create_dir_all(&dir).at("create", &dir)?;
        Ok(dir)
    }

    /// Moves a finished file in and writes its sidecar.
    pub fn keep(&self, file: &Path, record: &Record) -> Done<PathBuf> {
        let place = self.place(&record.name);
        let side = place.with_extension("gguf.json");
        if let Some(dir) = place.parent() {
            std::fs::create_dir_all(dir).at("create", dir)?;
        }
        let text = serde_json::to_string_pretty(record).map_err(Fail::file)?;
        std::fs::write(&side, text).at("write", &side)?;
        std::fs::rename(file, &place).at("write", &place)?;
        Ok(place)
    }

    /// All models, by name. A store that does not exist yet is empty.
    pub fn list(&self) -> Done<Vec<Held>> {
        let mut out = Vec::new();
        if self.root.is_dir() {
            self.walk(&self.root, 0, &mut out)?;
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    fn walk(&self, dir: &Path, depth: usize, out: &mut Vec<Held>) -> Done {
        for entry in std::fs::read_dir(dir).at("read", dir)? {
            let entry = entry.at("read", dir)?;
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            if path.is_dir() && depth < 8 {
                self.walk(&path, depth + 1, out)?;
            } else if path.extension().is_some_and(|e| e == "gguf" || e == "tamp") {
                // A bundle keeps its ending: the same name without one is the file it was made from.
                let inside = path.strip_prefix(&self.root).unwrap_or(&path);
                let gguf = path.extension().is_some_and(|e| e == "gguf");
                let name = if gguf { inside.with_extension("") } else { inside.into() };
                let side = std::fs::read_to_string(path.with_extension("gguf.json")).ok();
                let record: Option<Record> = side.and_then(|t| serde_json::from_str(&t).ok());
                out.push(Held {
                    name: name.to_string_lossy().replace('\\', "/"),
                    bytes: entry.metadata().at("read", &path)?.len(),
                    path,
                    source: record.as_ref().map(|r| r.source.clone()),
                    sha256: record.map(|r| r.sha256),
                });
            }
        }
        Ok(())
    }
}

/// sha256 of a file in hexadecimal; `seen` is told how many bytes are done.
pub fn sha256_of(path: &Path, mut seen: impl FnMut(u64)) -> Done<String> {
    let mut file = File::open(path).at("read", path)?;
    let mut hash = Sha256::new();
    let mut buf = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let n = file.read(&mut buf).at("read", path)?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buf[..n]);
        done += n as u64;
        seen(done);
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_and_listed_with_its_source() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path()), &Env::default()).unwrap();
        assert!(store.list().unwrap().is_empty() && store.find("a").is_none());
        let file = store.work("a").unwrap().join("x");
        std::fs::write(&file, b"abc").unwrap();
        let sha256 = sha256_of(&file, |_| {}).unwrap();
        assert_eq!(sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let record = Record {
            kind: "model".into(),
            v: 1,
            name: "hf/org/a".into(),
            source: "test".into(),
            license: String::new(),
            bytes: 3,
            sha256,
        };
        let place = store.keep(&file, &record).unwrap();
        assert_eq!(store.find("hf/org/a"), Some(place));
        let list = store.list().unwrap();
        assert_eq!(
            (list.len(), list[0].name.as_str(), list[0].source.as_deref()),
            (1, "hf/org/a", Some("test"))
        );
    }

    #[test]
    fn a_name_cannot_leave_the_store() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x.gguf"), b"").unwrap();
        let store = Store::open(Some(&dir.path().join("inner")), &Env::default()).unwrap();
        std::fs::create_dir(dir.path().join("inner")).unwrap();
        assert!(store.find("../x").is_none());
    }

    #[test]
    fn the_flag_wins_over_the_environment_over_the_platform() {
        let env = Env { store: Some("e".into()), data_dir: Some("d".into()), ..Env::default() };
        let root = |flag: Option<&str>, env: &Env| {
            Store::open(flag.map(Path::new), env).unwrap().root().display().to_string()
        };
        assert_eq!(root(Some("f"), &env), "f");
        assert_eq!(root(None, &env), "e");
        assert_eq!(
            root(None, &Env { store: None, ..env }),
            Path::new("d").join("models").display().to_string()
        );
        assert!(Store::open(None, &Env::default()).is_err());
    }
}
