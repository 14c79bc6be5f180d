//! Chores that only start other programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_path_buf()
}

/// The cargo that runs us, so that a toolchain chosen with `+name` stays chosen.
pub fn cargo() -> Command {
    let mut c = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    c.current_dir(root());
    c
}

/// Does `program args…` start and succeed? Used to look for optional tools.
pub fn have(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn step(what: &str, command: &mut Command) -> Result<()> {
    eprintln!("── {what}");
    let status = command.status().with_context(|| format!("{what} did not start"))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// The fast test set; extra words go to the runner.
pub fn test(extra: &[&str]) -> Result<()> {
    if have("cargo-nextest", &["--version"]) {
        // The runner's own summary must be the last lines.
        step(
            "cargo nextest run",
            cargo().args(["nextest", "run", "--workspace", "--no-fail-fast"]).args(extra),
        )
    } else {
        step("cargo test", cargo().args(["test", "--workspace", "--no-fail-fast"]).args(extra))
    }
}

/// Everything that must hold before a commit is shared.
pub fn check() -> Result<()> {
    step("cargo fmt --check", cargo().args(["fmt", "--all", "--check"]))?;
    step("cargo clippy", cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    test(&[])?;
    step("doc tests", cargo().args(["test", "--workspace", "--doc", "--quiet"]))?;
    super::tidy::run(&root())?;
    super::asm::run()?;
    if have("cargo-deny", &["--version"]) {
        step("cargo deny", cargo().args(["deny", "check", "licenses", "bans", "sources"]))?;
    } else {
        eprintln!("── cargo deny: skipped, cargo-deny is not installed (cargo install --locked cargo-deny)");
    }
    eprintln!("check: all good");
    Ok(())
}

/// The emulated aarch64 run.
pub fn neon() -> Result<()> {
    let script = root().join("crates/kernels/tests/neon/run.sh");
    step("kernel tests for aarch64", Command::new("sh").arg(script).current_dir(root()))
}
