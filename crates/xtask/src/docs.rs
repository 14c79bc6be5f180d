//! `docs/techniques.md`: printed from the cards, never edited by hand.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::chores::cargo;

/// Where the page lives, from the workspace root.
pub const PAGE: &str = "docs/techniques.md";

/// The page as the cards say it should be. Asking the program keeps this crate free of the engine.
pub fn rendered() -> Result<String> {
    let out = cargo()
        .args(["run", "--quiet", "--profile", "test", "-p", "tamp-cli", "--", "techniques", "--markdown"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cargo run did not start")?;
    if !out.status.success() {
        bail!("`tamp techniques --markdown` failed ({})", out.status);
    }
    Ok(String::from_utf8(out.stdout)?)
}

/// Writes the page.
pub fn write(root: &Path) -> Result<()> {
    let page = root.join(PAGE);
    std::fs::create_dir_all(page.parent().unwrap_or(root))?;
    std::fs::write(&page, rendered()?).with_context(|| format!("cannot write {}", page.display()))?;
    println!("wrote {PAGE}");
    Ok(())
}
