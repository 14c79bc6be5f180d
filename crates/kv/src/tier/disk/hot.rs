//! The prefixes asked for most, kept beside the pages: two lines of JSON, the first with the hash of the second.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::file::{hex, unhex};
use crate::prefix::{Hot, PrefixKey};

const KIND: &str = "tamp.hot-prefixes";
const V: u32 = 1;
/// A longer file is not ours; 64 prefixes of 4 000 ids take 2 MB.
const MOST: u64 = 64 << 20;
/// The file's name.
pub(super) const NAME: &str = "hot.json";

#[derive(Serialize, Deserialize)]
struct Head {
    kind: String,
    v: u32,
    blake3: String,
}

#[derive(Serialize, Deserialize)]
struct Body {
    /// seconds since 1970
    at: u64,
    prefixes: Vec<Prefix>,
}

#[derive(Serialize, Deserialize)]
struct Prefix {
    root: String,
    namespace: u64,
    uses: f64,
    tokens: Vec<u32>,
}

/// Replaces the file at `path`, by way of `temp`. What goes wrong leaves the old one: nobody waits for these.
pub(super) fn write(temp: &Path, path: &Path, hot: &[Hot], now: Duration) {
    let prefixes = hot.iter().map(|h| Prefix {
        root: hex(&h.root.hash),
        namespace: h.root.namespace,
        uses: h.uses,
        tokens: h.tokens.clone(),
    });
    let Ok(body) = serde_json::to_string(&Body { at: now.as_secs(), prefixes: prefixes.collect() }) else {
        return;
    };
    let head = Head { kind: KIND.into(), v: V, blake3: blake3::hash(body.as_bytes()).to_hex().to_string() };
    let Ok(head) = serde_json::to_string(&head) else { return };
    let done = tamp_os::private::create_file(temp)
        .and_then(|mut f| std::io::Write::write_all(&mut f, format!("{head}\n{body}\n").as_bytes()))
        .and_then(|()| std::fs::rename(temp, path));
    if done.is_err() {
        let _ = std::fs::remove_file(temp);
    }
}

/// The prefixes and their age; none of a file that is damaged or another's.
pub(super) fn read(path: &Path, now: Duration) -> (Vec<Hot>, Duration) {
    read_body(path).map_or((Vec::new(), Duration::ZERO), |body| {
        let age = Duration::from_secs(now.as_secs().saturating_sub(body.at));
        let hot = body.prefixes.into_iter().filter_map(|p| {
            let root = PrefixKey { hash: unhex(&p.root)?, namespace: p.namespace };
            (p.uses.is_finite() && p.uses > 0.0).then_some(Hot { root, tokens: p.tokens, uses: p.uses })
        });
        (hot.collect(), age)
    })
}

fn read_body(path: &Path) -> Option<Body> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    if !meta.is_file() || meta.len() > MOST {
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    let (head, body) = text.split_once('\n')?;
    let (head, body) = (serde_json::from_str::<Head>(head).ok()?, body.trim_end_matches('\n'));
    let sound = head.kind == KIND && head.v == V && *blake3::hash(body.as_bytes()).to_hex() == *head.blake3;
    sound.then(|| serde_json::from_str(body).ok()).flatten()
}
