//! `tamp completions SHELL`.

use clap::CommandFactory;

use crate::args::Cli;
use crate::fail::Done;

/// Prints the script; every command and flag is in it because it is printed from them.
pub fn run(shell: clap_complete::Shell) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tamp", &mut script);
    crate::out::raw(&String::from_utf8_lossy(&script));
    Ok(())
}
