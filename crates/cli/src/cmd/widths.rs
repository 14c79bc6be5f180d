//! Width tables that were measured on this machine, one file each in the data folder.

use std::path::{Path, PathBuf};

use tamp_base::clock::now_ms;
use tamp_base::wall::WidthTable;

use crate::cmd::Ctx;
use crate::cmd::load::Loaded;
use crate::fail::{At, Code, Done, Fail};

/// Longest file that is read: a table of the usual widths with all its samples has some 20 kB.
const LONGEST: u64 = 4 << 20;

/// What a table must have been measured with to hold for what is loaded.
pub struct Key {
    model: String,
    model_bytes: u64,
    device: String,
    cpu: String,
    threads: usize,
}

impl Key {
    /// Of what is loaded.
    pub fn of(l: &Loaded) -> Key {
        Key {
            model: l.path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()),
            model_bytes: l.file_bytes,
            device: l.engine.plan().device.clone(),
            cpu: tamp_os::cpu::model_name(),
            threads: l.pool.threads(),
        }
    }

    /// Says of a row what it holds for and when it was measured, which makes it a [`WidthTable`].
    pub fn stamp(&self, row: &impl serde::Serialize) -> Done<WidthTable> {
        let mut v = serde_json::to_value(row).map_err(|e| Fail::new(Code::Other, e))?;
        for (name, value) in [
            ("model", self.model.clone().into()),
            ("model_bytes", self.model_bytes.into()),
            ("device", self.device.clone().into()),
            ("cpu", self.cpu.clone().into()),
            ("measured_ms", now_ms().into()),
        ] {
            v[name] = value;
        }
        serde_json::from_value(v).map_err(|e| Fail::new(Code::Other, e))
    }

    fn fits(&self, t: &WidthTable) -> bool {
        (&self.model, self.model_bytes, &self.device, &self.cpu, self.threads)
            == (&t.model, t.model_bytes, &t.device, &t.cpu, t.threads)
    }

    fn file(&self, ctx: &Ctx) -> Option<PathBuf> {
        let name = format!("{}.{}.{}t.json", self.model, self.device, self.threads);
        ctx.env.data_dir.as_ref().map(|d| d.join("widths").join(name))
    }
}

/// Keeps a table for `explain` and others; the file.
pub fn save(ctx: &Ctx, key: &Key, table: &WidthTable) -> Done<PathBuf> {
    let file =
        key.file(ctx).ok_or_else(|| Fail::file("this system names no data folder to keep the table in"))?;
    let text = serde_json::to_string(table).map_err(|e| Fail::new(Code::Other, e))?;
    let dir = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).at("create", dir)?;
    let part = file.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&part, text).at("write", &part)?;
    std::fs::rename(&part, &file).at("write", &file)?;
    Ok(file)
}

/// The table that holds for `key`, if one was kept and this build reads it.
pub fn find(ctx: &Ctx, key: &Key) -> Option<WidthTable> {
    let file = key.file(ctx)?;
    if std::fs::metadata(&file).ok()?.len() > LONGEST {
        return None;
    }
    let table: WidthTable = serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()?;
    (key.fits(&table) && table.widths().is_ok()).then_some(table)
}

/// How long ago a table was measured, in words.
pub fn age(table: &WidthTable) -> String {
    let minutes = now_ms().saturating_sub(table.measured_ms) / 60_000;
    match minutes {
        0..=119 => format!("{minutes} min ago"),
        120..=2879 => format!("{} h ago", minutes / 60),
        _ => format!("{} days ago", minutes / 1440),
    }
}
