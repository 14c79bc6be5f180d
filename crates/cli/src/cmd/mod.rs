//! One file per command.

mod completions;
pub mod convert;
mod list;
mod pull;
mod quantize;
mod techniques;
mod tokenize;

use tamp_base::settings::Settings;
use tamp_engine::rooms;

use crate::args::{Cli, Command};
use crate::env::Env;
use crate::fail::{Done, Fail};
use crate::out::Ui;
use crate::pull::resolve::Finder;
use crate::store::Store;
use crate::{config, say};

/// What every command may use.
pub struct Ctx {
    /// the environment
    pub env: Env,
    /// local models
    pub store: Store,
    /// how to show progress
    pub ui: Ui,
    /// choices of `--use`, `--set` and the files
    pub settings: Settings,
    /// the last line of stdout is JSON
    pub json: bool,
}

impl Ctx {
    /// Finds models.
    pub fn finder(&self) -> Finder<'_> {
        Finder { store: &self.store, env: &self.env, ui: self.ui }
    }

    /// Prints the JSON line when it was asked for.
    pub fn json(&self, value: &impl serde::Serialize) -> Done {
        if self.json {
            let text = serde_json::to_string(value).map_err(|e| Fail::new(crate::fail::Code::Other, e))?;
            say!("{text}");
        }
        Ok(())
    }
}

/// Threads when nothing is said.
pub fn cores() -> usize {
    tamp_os::cpu::usable_cores()
}

/// Runs a command.
pub fn dispatch(cli: Cli) -> Done {
    if let Command::Completions { shell } = cli.command {
        return completions::run(shell);
    }
    let env = Env::read();
    let g = &cli.global;
    let ctx = Ctx {
        store: Store::open(g.store.as_deref(), &env)?,
        ui: Ui::new(env.plain),
        settings: config::settings(&env, g.config.as_deref(), &g.uses, &g.sets)?,
        json: g.json,
        env,
    };
    ctx.settings.check(&rooms())?;
    match cli.command {
        Command::Completions { .. } => Ok(()),
        Command::Pull(a) => pull::run(&ctx, &a),
        Command::List => list::run(&ctx),
        Command::Convert(a) => convert::run(&ctx, &a),
        Command::Quantize(a) => quantize::run(&ctx, &a),
        Command::Tokenize(a) => tokenize::run(&ctx, &a),
        Command::Techniques(a) => techniques::run(&ctx, &a),
        Command::Run(_) => ctx.finder().find(None).map(|_| ()),
        _ => Err(Fail::usage("this command comes with the engine")),
    }
}
