//! The pages that are written by a program: `docs/techniques.md` from the cards, the table and chart of
//! `docs/performance.md` from its rows.

mod chart;
mod performance;

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::chores::cargo;

/// The page of the cards, from the workspace root.
const CARDS: &str = "docs/techniques.md";

/// Path and text of every such file as it should be. Asking the program for its cards keeps this crate free of the
/// engine.
pub fn rendered(root: &Path) -> Result<Vec<(&'static str, String)>> {
    let out = cargo()
        .args(["run", "--quiet", "--profile", "test", "-p", "tamp-cli", "--", "techniques", "--markdown"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cargo run did not start")?;
    if !out.status.success() {
        bail!("`tamp techniques --markdown` failed ({})", out.status);
    }
    let mut files = vec![(CARDS, String::from_utf8(out.stdout)?)];
    files.extend(performance::rendered(root)?);
    Ok(files)
}

/// Writes them.
pub fn write(root: &Path) -> Result<()> {
    for (name, text) in rendered(root)? {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(root))?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {name}");
    }
    Ok(())
}
