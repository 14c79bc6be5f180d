//! The `tamp` program: words in, work started, answers out. It alone reads the environment.
#![forbid(unsafe_code)]

mod args;
mod cmd;
mod config;
mod env;
mod fail;
mod out;
mod pull;
mod store;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    match cmd::dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(f) => ExitCode::from(f.report()),
    }
}
