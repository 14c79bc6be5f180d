//! One measurement at a time on a machine: who holds its lock, and what a figure is worth without it.

use std::path::Path;

use tamp_lab::lock::{self, MachineLock, Tried};

use crate::cmd::Ctx;
use crate::fail::Done;
use crate::out::note;

/// Takes the machine's lock for what is measured next, and notes in the context whether the figures can decide
/// anything. While another holds it, `wait` waits; else the measurement goes on beside it and says so.
pub fn hold(ctx: &mut Ctx, wait: bool) -> Done<Option<MachineLock>> {
    let path = &ctx.env.lock;
    // The lab takes the lock for a whole run, and its samples are its children.
    if let Some(pid) = ctx.env.holder {
        ctx.decision_grade = lock::is_held_by(path, pid)?;
        if !ctx.decision_grade {
            note(format_args!(
                "TAMP_LAB_HOLDER says that process {pid} holds the machine's lock, and it does not: decision_grade is false"
            ));
        }
        return Ok(None);
    }
    let command = command();
    if wait {
        let taken = wait_for(path, &command, &|| false)?;
        ctx.decision_grade = taken.is_some();
        return Ok(taken);
    }
    match lock::try_take(path, &command) {
        Ok(Tried::Taken(lock)) => {
            ctx.decision_grade = true;
            Ok(Some(lock))
        }
        Ok(Tried::Held(holder)) => {
            let who = holder.map_or("another process".to_string(), |h| h.to_string());
            note(format_args!(
                "the machine is being measured by {who}; these figures disturb each other, so decision_grade is false \
                 (--wait waits)"
            ));
            Ok(None)
        }
        Err(e) => {
            note(format_args!("{e}; decision_grade is false"));
            Ok(None)
        }
    }
}

/// Waits for the lock on `path` and says once for whom; nothing when `stop` ends the wait.
pub fn wait_for(path: &Path, command: &str, stop: &dyn Fn() -> bool) -> Done<Option<MachineLock>> {
    let mut said = false;
    Ok(lock::take(path, command, &mut |holder| {
        if !std::mem::replace(&mut said, true) {
            let who = holder.map_or("another process".to_string(), ToString::to_string);
            note(format_args!("waiting: the machine is being measured by {who}"));
        }
        !stop()
    })?)
}

/// What this process runs, without the folder of the program.
fn command() -> String {
    let words: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    format!("tamp {}", words.join(" "))
}
