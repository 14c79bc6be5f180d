//! Every acceptance row that a machine can check, as commands; the log's hash names the run.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::chores::{have, root};

/// A check of a row. Several checks may share a row.
struct Check {
    row: u32,
    what: &'static str,
    /// for `sh -c`, at the workspace root
    run: &'static str,
    /// programs without which the check is skipped
    tools: &'static [&'static str],
}

const fn row(row: u32, what: &'static str, run: &'static str) -> Check {
    Check { row, what, run, tools: &[] }
}

const CHECKS: &[Check] = &[
    Check {
        row: 1,
        what: "the README's two commands on a fresh clone",
        run: "rm -rf target/fresh && git clone --quiet . target/fresh && cd target/fresh \
              && export CARGO_TARGET_DIR=../fresh-target \
              && cargo run --release -- run 'Once upon a time' && cargo xtask test",
        tools: &["git"],
    },
    row(1, "tidy", "cargo xtask tidy"),
    Check {
        row: 2,
        what: "the models of the catalogue answer sensibly at temperature 0",
        run: "cargo test --release -p tamp-cli --test models -- --ignored --nocapture",
        tools: &["pip", "npm"],
    },
    row(3, "golden tokenisations", "cargo test --release -p tamp-text -- --include-ignored golden"),
    row(
        4,
        "chat templates against Jinja2",
        "cargo test --release -p tamp-text -- --include-ignored template",
    ),
    Check {
        row: 5,
        what: "numbers against the f32 reference and llama.cpp",
        run: "sh bench/peers/correctness.sh",
        tools: &["python3"],
    },
    row(6, "one answer", "cargo test --release -p tamp-engine -p tamp-model -- --include-ignored"),
    row(7, "tree batches and commit", "cargo test --release -p tamp-kv -p tamp-spec -- --include-ignored"),
    row(
        8,
        "kernels on every rung",
        "cargo test --release -p tamp-kernels -p tamp-formats -- --include-ignored",
    ),
    Check {
        row: 8,
        what: "kernels on aarch64 under emulation",
        run: "cargo xtask neon",
        tools: &["qemu-aarch64-static", "aarch64-linux-gnu-gcc"],
    },
    row(9, "hostile files", "cargo test --release -p tamp-weights -p tamp-text -- --include-ignored hostile"),
    row(10, "memory forecast", "cargo test --release -p tamp-cli --test memory -- --include-ignored"),
    row(11, "wrong input speaks", "cargo test --release -p tamp-cli --test wrong_input"),
    row(12, "chat in a terminal", "cargo test --release -p tamp-cli --test chat"),
];

/// Runs the rows asked for (all when none is), appending everything to one log.
pub fn run(rows: &[&str]) -> Result<()> {
    let rows: Vec<u32> = rows
        .iter()
        .map(|r| r.parse().with_context(|| format!("`{r}` is not a row number")))
        .collect::<Result<_>>()?;
    let mut log = Log::create()?;
    let mut failed = Vec::new();
    for c in CHECKS.iter().filter(|c| rows.is_empty() || rows.contains(&c.row)) {
        let missing: Vec<_> = c.tools.iter().filter(|t| !have(t, &["--version"])).copied().collect();
        if !missing.is_empty() {
            log.line(&format!("row {:>2}  SKIP  {} (not installed: {})", c.row, c.what, missing.join(", ")))?;
            continue;
        }
        log.line(&format!("row {:>2}  ....  {}: {}", c.row, c.what, c.run))?;
        let start = Instant::now();
        let ok = log.capture(c.run)?;
        let verdict = if ok { "PASS" } else { "FAIL" };
        log.line(&format!(
            "row {:>2}  {verdict}  {} ({:.0} s)",
            c.row,
            c.what,
            start.elapsed().as_secs_f64()
        ))?;
        if !ok {
            failed.push(c.row.to_string());
        }
    }
    let (path, hash) = log.close()?;
    println!("log {} blake3 {hash}", path.display());
    if !failed.is_empty() {
        bail!("failed rows: {}", failed.join(", "));
    }
    Ok(())
}

struct Log {
    path: PathBuf,
    file: std::fs::File,
    hash: blake3::Hasher,
}

impl Log {
    fn create() -> Result<Self> {
        let dir = root().join("target");
        std::fs::create_dir_all(&dir)?;
        let path = dir.join("full.log");
        let file =
            std::fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file, hash: blake3::Hasher::new() })
    }

    fn line(&mut self, line: &str) -> Result<()> {
        println!("{line}");
        self.hash.update(line.as_bytes()).update(b"\n");
        writeln!(self.file, "{line}")?;
        Ok(())
    }

    /// Runs a command with its output going to the terminal and the log.
    fn capture(&mut self, command: &str) -> Result<bool> {
        let mut child = Command::new("sh")
            .args(["-c", &format!("{{ {command} ; }} 2>&1")])
            .current_dir(root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("sh did not start")?;
        let out = child.stdout.take().context("no pipe")?;
        for line in BufReader::new(out).split(b'\n') {
            self.line(&format!("        {}", String::from_utf8_lossy(&line?)))?;
        }
        Ok(child.wait()?.success())
    }

    fn close(mut self) -> Result<(PathBuf, String)> {
        self.file.flush()?;
        Ok((self.path, self.hash.finalize().to_hex().to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_acceptance_row_has_a_check() {
        for row in 1..=12 {
            assert!(CHECKS.iter().any(|c| c.row == row), "row {row}");
        }
    }
}
