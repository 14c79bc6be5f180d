//! The `tamp` program: words in, work started, answers out. It alone reads the environment.
#![forbid(unsafe_code)]

mod args;
mod cmd;
mod config;
mod env;
mod fail;
mod out;
mod pull;
mod seen;
mod store;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

fn main() -> ExitCode {
    let started = Instant::now();
    let cli = args::Cli::parse();
    match cmd::dispatch(cli, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(f) => ExitCode::from(f.report()),
    }
}
