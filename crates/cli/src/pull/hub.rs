//! `hf:org/repo/file.gguf[@revision]` through the hub crate.
//!
//! The crate resumes a partial file by its length. We call it again after a cut connection instead of using its own
//! retries: those continue from the bytes of the last attempt only, which corrupts a file that was already partial.

use std::path::PathBuf;
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Repo, RepoType};

use super::{catalog, lock, mismatch};
use crate::env::Env;
use crate::fail::{At, Code, Done, Fail};
use crate::out::{Bar, Ui, note};
use crate::store::{Record, Store, sha256_of};

const TRIES: u32 = 5;

/// A file on the hub.
#[derive(Debug, Clone, PartialEq)]
pub struct Address {
    repo: String,
    file: String,
    revision: String,
}

impl Address {
    /// Reads `hf:org/repo/path/file.gguf[@revision]`; none when it does not start with `hf:`.
    pub fn parse(text: &str) -> Option<Done<Self>> {
        let rest = text.strip_prefix("hf:")?;
        let (path, revision) = rest.rsplit_once('@').unwrap_or((rest, "main"));
        let parts: Vec<&str> = path.split('/').collect();
        let good = parts.len() >= 3
            && parts.len() <= 10
            && parts.iter().all(|p| catalog::plain(p))
            && revision.split('/').all(catalog::plain)
            && path.ends_with(".gguf");
        Some(if good {
            Ok(Self { repo: parts[..2].join("/"), file: parts[2..].join("/"), revision: revision.into() })
        } else {
            Err(Fail::usage(format!("`{text}` is not of the form hf:org/repo/file.gguf[@revision]")))
        })
    }

    /// The word that names it in the store.
    pub fn name(&self) -> String {
        let stem = self.file.strip_suffix(".gguf").unwrap_or(&self.file);
        if self.revision == "main" {
            format!("hf/{}/{stem}", self.repo)
        } else {
            format!("hf/{}/{stem}-at-{}", self.repo, self.revision.replace('/', "-"))
        }
    }
}

/// Fetches a file into the store under `name` and gives its path. The sum is the one asked for, else the one the hub
/// states.
pub fn fetch(
    store: &Store,
    a: &Address,
    name: &str,
    sha256: Option<&str>,
    env: &Env,
    ui: Ui,
) -> Done<PathBuf> {
    if let Some(path) = store.find(name) {
        return Ok(path);
    }
    let work = store.work(&name.replace('/', "--"))?;
    let _lock = lock(&work, name)?;
    let api = connect(&work, env)?;
    let repo = Repo::with_revision(a.repo.clone(), RepoType::Model, a.revision.clone());
    let handle = api.repo(repo);
    let url = handle.url(&a.file);
    let stated = retry(a, || api.metadata(&url))?;
    // The crate uses the tag as a file name.
    if !catalog::plain(stated.etag()) {
        return Err(Fail::network(format!(
            "the hub answered for {} with a tag that cannot be trusted",
            a.file
        )));
    }
    let total = stated.size() as u64;
    let blob = retry(a, || {
        let bar = Shown { bar: ui.bytes(&format!("fetching {}", a.file), total), done: 0 };
        match handle.download_with_progress(&a.file, bar) {
            // A partial file longer than the whole, or exactly whole, cannot be continued: start again.
            Err(e) if is_stuck(&e) => {
                let _ = std::fs::remove_dir_all(work.join("hub"));
                Err(e)
            }
            other => other,
        }
    })?;
    let blob = std::fs::canonicalize(&blob).at("read", &blob)?;
    let want = sha256.or(Some(stated.etag()).filter(|t| catalog::is_sha256(t)));
    let got = sha256_of(&blob, |_| {})?;
    if let Some(want) = want.filter(|w| !got.eq_ignore_ascii_case(w)) {
        let _ = std::fs::remove_dir_all(&work);
        return Err(mismatch(&a.file, &got, want));
    }
    if want.is_none() {
        note("the hub states no sha256 for this file; it is kept as it came");
    }
    let record = Record {
        kind: "model".into(),
        v: 1,
        name: name.into(),
        source: format!("hf:{}/{}@{}", a.repo, a.file, stated.commit_hash()),
        license: String::new(),
        bytes: total,
        sha256: got,
    };
    let place = store.keep(&blob, &record)?;
    let _ = std::fs::remove_dir_all(&work);
    Ok(place)
}

fn connect(work: &std::path::Path, env: &Env) -> Done<Api> {
    let mut b =
        ApiBuilder::new().with_cache_dir(work.join("hub")).with_token(env.hub_token.clone()).with_retries(0);
    if let Some(hub) = &env.hub {
        b = b.with_endpoint(hub.trim_end_matches('/').into());
    }
    b.build().map_err(|e| Fail::network(format!("the hub client did not start: {e}")))
}

/// Tries again after what a network does; not after what a server means.
fn retry<T>(a: &Address, mut ask: impl FnMut() -> Result<T, ApiError>) -> Done<T> {
    let mut tries = 1;
    loop {
        match ask() {
            Ok(v) => return Ok(v),
            Err(e) => match explain(a, &e) {
                Verdict::Final(f) => return Err(f),
                Verdict::Again(f) if tries == TRIES => return Err(f),
                Verdict::Again(_) => {
                    note(format_args!("the connection was cut; continuing ({tries} of {})", TRIES - 1));
                    std::thread::sleep(Duration::from_millis(200 << tries));
                    tries += 1;
                }
            },
        }
    }
}

enum Verdict {
    Again(Fail),
    Final(Fail),
}

fn is_stuck(e: &ApiError) -> bool {
    status(e) == Some(416) || matches!(e, ApiError::InvalidResume)
}

fn status(e: &ApiError) -> Option<u16> {
    use std::error::Error;
    // The HTTP client's own error type is private to the hub crate; its text is `http status: 404`.
    let text = e.source().map_or_else(|| e.to_string(), |s| s.to_string());
    text.rsplit_once("http status: ").and_then(|(_, n)| n.trim().parse().ok())
}

fn explain(a: &Address, e: &ApiError) -> Verdict {
    let Address { repo, file, revision } = a;
    match status(e) {
        Some(404) => Verdict::Final(
            Fail::new(Code::Network, format!("the hub has no {file} in {repo} at {revision}"))
                .hint("look the file up on the model's page; names are case-sensitive"),
        ),
        Some(401 | 403) => Verdict::Final(
            Fail::network(format!("the hub does not give {repo} to everybody"))
                .hint("accept the model's terms on its page, then set HF_TOKEN"),
        ),
        Some(n) if n < 500 && n != 416 && n != 408 && n != 429 => {
            Verdict::Final(Fail::network(format!("the hub answered {n} for {repo}/{file}")))
        }
        _ => {
            let f = Fail::network(format!("offline: the hub could not give {repo}/{file} ({e})"));
            let f = f.hint("pull again: what has arrived is kept; or give the path of a model file");
            match e {
                ApiError::MissingHeader(_) | ApiError::InvalidHeader(_) | ApiError::ParseIntError(_) => {
                    Verdict::Final(f)
                }
                _ if !is_stuck(e) && unreachable_host(e) => Verdict::Final(f),
                _ => Verdict::Again(f),
            }
        }
    }
}

/// No such host or nobody listening: trying again within seconds does not help.
fn unreachable_host(e: &ApiError) -> bool {
    let text = e.to_string();
    ["host not found", "dns", "Connection refused", "failed to lookup", "unreachable"]
        .iter()
        .any(|w| text.contains(w))
}

/// The hub crate's progress, shown on our bar.
struct Shown {
    bar: Bar,
    done: u64,
}

impl Progress for Shown {
    fn init(&mut self, size: usize, _: &str) {
        self.bar.set_total(size as u64);
        self.done = 0;
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        self.bar.at(self.done);
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_odd_ones_refused() {
        let a = Address::parse("hf:org/repo/sub/m.Q4_1.gguf@v1.0").unwrap().unwrap();
        assert_eq!(
            (a.repo.as_str(), a.file.as_str(), a.revision.as_str()),
            ("org/repo", "sub/m.Q4_1.gguf", "v1.0")
        );
        assert_eq!(a.name(), "hf/org/repo/sub/m.Q4_1-at-v1.0");
        assert_eq!(Address::parse("hf:o/r/f.gguf").unwrap().unwrap().name(), "hf/o/r/f");
        assert!(Address::parse("smollm2").is_none());
        for bad in [
            "hf:o/f.gguf",
            "hf:o/r/../f.gguf",
            "hf:o/r/f.bin",
            "hf:o//f.gguf",
            "hf:o/r/f.gguf@",
            "hf:o/r/f?x.gguf",
        ] {
            assert!(Address::parse(bad).unwrap().is_err(), "{bad}");
        }
    }
}
