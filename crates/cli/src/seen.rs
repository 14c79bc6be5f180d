//! Which bundles were verified on this machine, so that only the first load of a file waits for its hashes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tamp_weights::bundle::Bundle;

use crate::cmd::Ctx;

/// Files remembered; the oldest go first.
const MOST: usize = 256;

/// The record in the cache folder. Losing it only means hashing again.
#[derive(Serialize, Deserialize)]
struct Seen {
    kind: String,
    v: u32,
    rows: Vec<Row>,
}

/// A file as it was when every section of it matched its hash.
#[derive(Serialize, Deserialize, PartialEq, Clone)]
struct Row {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: u64,
    /// blake3 of the manifest
    manifest: String,
}

impl Row {
    fn of(b: &Bundle) -> Option<Row> {
        let i = b.identity()?;
        // Without these two any other file of the same size would pass for it.
        if i.inode == 0 || i.modified_ns == 0 {
            return None;
        }
        let (device, inode, size, modified_ns) = (i.device, i.inode, i.size, i.modified_ns);
        Some(Row { device, inode, size, modified_ns, manifest: b.id().into() })
    }
}

/// Whether this very file was verified before.
pub fn knows(ctx: &Ctx, b: &Bundle) -> bool {
    Row::of(b).is_some_and(|row| read(ctx).rows.contains(&row))
}

/// Remembers a file that was just verified.
pub fn remember(ctx: &Ctx, b: &Bundle) {
    let (Some(row), Some(file)) = (Row::of(b), file(ctx)) else { return };
    let mut seen = read(ctx);
    seen.rows.retain(|r| (r.device, r.inode) != (row.device, row.inode));
    seen.rows.push(row);
    let over = seen.rows.len().saturating_sub(MOST);
    seen.rows.drain(..over);
    let Ok(text) = serde_json::to_string(&seen) else { return };
    if let Some(dir) = file.parent() {
        let _ = std::fs::create_dir_all(dir);
    }
    let part = file.with_extension(format!("{}.tmp", std::process::id()));
    if std::fs::write(&part, text).is_ok() {
        let _ = std::fs::rename(&part, &file);
    }
}

fn file(ctx: &Ctx) -> Option<PathBuf> {
    ctx.env.cache_dir.as_ref().map(|d| d.join("seen.json"))
}

fn read(ctx: &Ctx) -> Seen {
    let text = file(ctx).and_then(|f| std::fs::read_to_string(f).ok()).unwrap_or_default();
    let empty = Seen { kind: "tamp.seen".into(), v: 1, rows: Vec::new() };
    serde_json::from_str(&text).ok().filter(|s: &Seen| s.kind == empty.kind && s.v == 1).unwrap_or(empty)
}
