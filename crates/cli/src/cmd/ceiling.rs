//! The machine's read ceiling for the last line of `run`: measured once a day, kept in the data folder with its age.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tamp_kernels::probe;

use crate::cmd::Ctx;
use crate::cmd::load::Loaded;

const BUDGET: Duration = Duration::from_millis(300);
const DAY: u64 = 24 * 3600;

/// A ceiling and how old it is.
pub struct Ceiling {
    /// 10⁹ bytes/s; 0 when it could not be measured
    pub gb_s: f64,
    /// seconds since it was measured
    pub age_s: u64,
}

/// The file: one row per machine, thread count and working set.
#[derive(Serialize, Deserialize)]
struct Kept {
    kind: String,
    v: u32,
    rows: Vec<KeptRow>,
}

#[derive(Serialize, Deserialize)]
struct KeptRow {
    cpu: String,
    threads: usize,
    bytes: usize,
    gb_s: f64,
    unix_s: u64,
}

impl Ceiling {
    /// The kept figure, or a new one when there is none, when it is a day old, or when `seen` GB/s were just read:
    /// nothing is faster than its ceiling.
    pub fn known(ctx: &Ctx, l: &Loaded, seen: f64) -> Self {
        let now = tamp_base::clock::now_ms() / 1000;
        let bytes = usize::try_from(l.engine.plan().model.weight_bytes).unwrap_or(usize::MAX);
        let bytes = bytes.clamp(1 << 20, probe::BEYOND_CACHES);
        let (cpu, threads) = (tamp_os::cpu::model_name(), l.pool.threads());
        let mut kept = read(ctx);
        let same = |r: &KeptRow| r.cpu == cpu && r.threads == threads && r.bytes == bytes;
        if let Some(r) =
            kept.rows.iter().find(|r| same(r) && r.unix_s <= now && now - r.unix_s < DAY && r.gb_s > seen)
        {
            return Self { gb_s: r.gb_s, age_s: now - r.unix_s };
        }
        let gb_s = probe::read_bandwidth(&l.pool, bytes, BUDGET).map_or(0.0, |r| r.gb_s);
        kept.rows.retain(|r| !same(r));
        kept.rows.push(KeptRow { cpu, threads, bytes, gb_s, unix_s: now });
        write(ctx, &kept);
        Self { gb_s, age_s: 0 }
    }
}

fn file(ctx: &Ctx) -> Option<PathBuf> {
    ctx.env.data_dir.as_ref().map(|d| d.join("ceiling.json"))
}

fn read(ctx: &Ctx) -> Kept {
    let text = file(ctx).and_then(|f| std::fs::read_to_string(f).ok()).unwrap_or_default();
    serde_json::from_str(&text).ok().filter(|k: &Kept| k.kind == "tamp.ceiling" && k.v == 1).unwrap_or(Kept {
        kind: "tamp.ceiling".into(),
        v: 1,
        rows: Vec::new(),
    })
}

/// A cache: failing to write it only means measuring again.
fn write(ctx: &Ctx, kept: &Kept) {
    let (Some(file), Ok(text)) = (file(ctx), serde_json::to_string_pretty(kept)) else { return };
    if let Some(dir) = file.parent() {
        let _ = std::fs::create_dir_all(dir);
    }
    let part = file.with_extension(format!("{}.tmp", std::process::id()));
    if std::fs::write(&part, text).is_ok() {
        let _ = std::fs::rename(&part, &file);
    }
}
