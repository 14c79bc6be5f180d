//! Project chores. `cargo xtask` without a word lists them.
#![forbid(unsafe_code)]

mod asm;
mod chores;
mod docs;
mod full;
mod tidy;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask <chore>
  test   the fast test set (nextest when it is installed, else cargo test)
  tidy   the invariants of ARCHITECTURE.md that a program can check
  asm    compiles the kernels and looks for vectors on the stack in the inner loops of the AVX-512 ones
  docs   writes docs/techniques.md from the cards, the table and chart of docs/performance.md from its rows
  check  fmt, clippy, tests, doc tests, tidy, asm, licences and advisories
  full   every row of the acceptance table that a machine can check; prints the hash of its log
         `full 3 8` runs rows 3 and 8 only
  neon   builds and runs the kernel tests for aarch64 under emulation (tools: crates/kernels/tests/neon/run.sh)";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test", rest @ ..] => chores::test(rest),
        ["tidy"] => tidy::run(&chores::root()),
        ["asm"] => asm::run(),
        ["docs"] => docs::write(&chores::root()),
        ["check"] => chores::check(),
        ["full", rows @ ..] => full::run(rows),
        ["neon"] => chores::neon(),
        _ => {
            println!("{HELP}");
            return if words.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}
