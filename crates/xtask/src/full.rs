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

/// The tests run with `TAMP_FULL` and `TAMP_TEST_FULL` set, which asks them for their long sweeps.
const CHECKS: &[Check] = &[
    Check {
        row: 1,
        what: "the README's two commands on a fresh clone",
        run: "rm -rf target/fresh && git clone --quiet . target/fresh && cd target/fresh \
              && export CARGO_TARGET_DIR=../fresh-target \
              && cargo run --release -- run 'Once upon a time' --max-tokens 64 && cargo xtask test",
        tools: &["git"],
    },
    row(1, "tidy", "cargo xtask tidy"),
    row(2, "the models answer sensibly", "cargo test -p tamp-cli --test models -- --ignored --nocapture"),
    row(
        3,
        "golden tokenisations",
        "cargo test -p tamp-text --test golden --test tokenizer_json -- --nocapture",
    ),
    row(4, "chat templates against Jinja2", "cargo test -p tamp-text --test templates -- --nocapture"),
    Check {
        row: 5,
        what: "numbers against the f32 reference and llama.cpp",
        run: "sh bench/peers/correctness.sh",
        tools: &["python3"],
    },
    row(
        6,
        "one answer, bit for bit",
        "cargo test -p tamp-model -p tamp-engine --test one_answer -- --nocapture",
    ),
    row(7, "tree batches, commit, drafts", "cargo test -p tamp-model -p tamp-kv -p tamp-spec -- --nocapture"),
    row(8, "kernels on every rung", "cargo test -p tamp-kernels -p tamp-formats"),
    row(8, "no vectors on the stack in the inner loops", "cargo xtask asm"),
    row(8, "kernels on aarch64 under emulation", "cargo xtask neon"),
    row(9, "hostile files", "cargo test -p tamp-weights -p tamp-text -p tamp-engine --test hostile"),
    row(10, "memory forecast", "cargo test -p tamp-cli --test memory -- --nocapture"),
    row(11, "wrong input speaks", "cargo test -p tamp-cli --test wrong_input --test files"),
    row(12, "chat in a terminal", "cargo test -p tamp-cli --test chat"),
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
            .env("TAMP_FULL", "1")
            .env("TAMP_TEST_FULL", "1")
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
