//! One file per command.

mod answer;
mod bench;
mod bench_ops;
mod bench_prefix;
mod bench_sample;
mod bench_serve;
mod bench_vs;
mod bench_width;
mod bundle;
mod ceiling;
mod chat;
mod completions;
pub mod convert;
mod eval;
mod explain;
mod findings;
mod generate;
mod keys;
mod lab;
mod list;
mod load;
mod machine;
mod prompt;
mod pull;
mod quantize;
mod run;
mod serve;
mod several;
mod techniques;
mod tokenize;
mod widths;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tamp_base::card::Room;
use tamp_base::settings::Settings;
use tamp_engine::Cancel;

use crate::args::{Cli, Command, EvalCommand, KeysCommand};
use crate::env::Env;
use crate::fail::{Code, Done, Fail};
use crate::out::{Ui, note};
use crate::pull::resolve::Finder;
use crate::store::Store;
use crate::{config, say};

/// Every room: the engine's, then the server's.
pub fn rooms() -> Vec<Room> {
    tamp_engine::rooms().into_iter().chain(tamp_server::send::rooms()).collect()
}

/// What every command may use.
pub struct Ctx {
    /// the first moment of `main`
    pub started: Instant,
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
    /// the machine's lock is held for what is measured
    pub decision_grade: bool,
}

impl Ctx {
    /// Finds models.
    pub fn finder(&self) -> Finder<'_> {
        Finder { store: &self.store, env: &self.env, ui: self.ui }
    }

    /// Prints the JSON line when it was asked for.
    pub fn json(&self, value: &impl serde::Serialize) -> Done {
        if self.json {
            let text = serde_json::to_string(value).map_err(|e| Fail::new(Code::Other, e))?;
            say!("{text}");
        }
        Ok(())
    }
}

/// A row of a workload without an engine, and what it is worth: [`Ctx::decision_grade`].
#[derive(serde::Serialize)]
pub struct Graded<'a, T> {
    /// the row
    #[serde(flatten)]
    pub row: &'a T,
    /// the machine's lock was held
    pub decision_grade: bool,
}

/// Threads when nothing is said.
pub fn cores() -> usize {
    tamp_os::cpu::usable_cores()
}

/// Ctrl-C ends the answer that `slot` holds at its next step. Without an answer in it, or when the answer was told
/// already and `patient` is false, Ctrl-C ends the program.
pub fn on_ctrl_c(slot: &Arc<Mutex<Option<Cancel>>>, patient: bool) {
    let slot = slot.clone();
    // Without a handler Ctrl-C ends the program at once, which is also what was asked for.
    let _ = ctrlc::set_handler(move || {
        let slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(c) if patient || !c.is_cancelled() => c.cancel(),
            None if patient => {}
            _ => std::process::exit(Code::Interrupted as i32),
        }
    });
}

/// Says so when somebody chose a technique and it never acted (DESIGN 5.5).
pub fn phantoms(l: &load::Loaded) {
    let acts = l.engine.stats().propose;
    let room = tamp_engine::rooms().into_iter().find(|r| r.name == "spec.propose");
    let null = room.and_then(|r| r.cards.first().map(|c| c.name));
    if let Some(name) = l.settings.used("spec.propose").filter(|n| Some(*n) != null && acts.acted == 0) {
        note(format_args!(
            "spec.propose={name} never acted: asked {}, declined {}",
            acts.asked, acts.declined
        ));
    }
}

/// Runs a command.
pub fn dispatch(cli: Cli, started: Instant) -> Done {
    if let Command::Completions { shell } = cli.command {
        return completions::run(shell);
    }
    let env = Env::read();
    let g = &cli.global;
    let mut ctx = Ctx {
        started,
        store: Store::open(g.store.as_deref(), &env)?,
        ui: Ui::new(env.plain),
        settings: config::settings(&env, g.config.as_deref(), &g.uses, &g.sets)?,
        json: g.json,
        decision_grade: false,
        env,
    };
    ctx.settings.check(&rooms())?;
    match cli.command {
        Command::Completions { .. } => Ok(()),
        Command::Pull(a) => pull::run(&ctx, &a),
        Command::List => list::run(&ctx),
        Command::Convert(a) => convert::run(&ctx, &a),
        Command::Bundle(a) => bundle::run(&ctx, &a),
        Command::Quantize(a) => quantize::run(&ctx, &a),
        Command::Tokenize(a) => tokenize::run(&ctx, &a),
        Command::Techniques(a) => techniques::run(&ctx, &a),
        Command::Serve(a) => serve::run(&ctx, &a),
        Command::Keys(KeysCommand::Add(a)) => keys::add(&ctx, &a),
        Command::Run(a) => run::run(&ctx, &a),
        Command::Generate(a) => {
            let _lock = if a.benchmark_generate { machine::hold(&mut ctx, false)? } else { None };
            generate::run(&ctx, a)
        }
        Command::Bench(a) => {
            let _lock = if a.command.measures() { machine::hold(&mut ctx, a.wait)? } else { None };
            bench::run(&ctx, &a.command)
        }
        Command::Lab(a) => lab::run(&ctx, &a),
        Command::Explain(a) => explain::run(&ctx, &a),
        Command::Chat(a) => chat::run(&ctx, &a),
        Command::Eval(EvalCommand::Ppl(a)) => eval::ppl(&ctx, &a),
    }
}
