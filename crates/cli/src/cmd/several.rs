//! `tamp run --n 8`: several answers to one prompt in one batch. The prompt is computed once: the first sequence
//! computes it, the others wait for its pages.

use std::sync::{Arc, Mutex};

use serde::Serialize;
use tamp_engine::outlet::channel;
use tamp_engine::{Answer, Cancel, EngineError, Event, Params, Request};
use tamp_sample::FinishReason;

use crate::cmd::Ctx;
use crate::cmd::answer::request;
use crate::cmd::load::{Loaded, Wish, load};
use crate::cmd::run::{Ask, tokens};
use crate::fail::{Code, Done, Fail};
use crate::out::note;
use crate::say;

/// What `--json` prints.
#[derive(Serialize)]
struct Printed<'a> {
    kind: &'static str,
    v: u32,
    /// in the order of their choice
    answers: &'a [Answer],
    /// of the one prompt
    prompt_tokens: usize,
    /// rows of the prompt that were computed, over all answers
    prompt_rows: u64,
    plan_hash: &'a str,
}

/// Answers `n` times.
pub fn answer(ctx: &Ctx, a: &Ask<'_>, n: u32) -> Done {
    let wish = Wish { batch: Some(n as usize), shares: true, ..Wish::default() };
    let mut l = load(ctx, a.model, a.load, wish)?;
    let prompt = tokens(&l, a)?;
    let cancel = Cancel::default();
    crate::cmd::on_ctrl_c(&Arc::new(Mutex::new(Some(cancel.clone()))), false);
    let answers = together(&mut l, &request(prompt, a.sample, &cancel), n)?;
    if let Some(f) = answers.iter().find_map(|a| a.failure.as_ref()) {
        return Err(Fail::new(Code::Other, &f.message));
    }
    let prompt_tokens = answers.first().map_or(0, |a| a.prompt_tokens.len());
    let prompt_rows = answers.iter().map(|a| a.timings.prompt_rows).sum();
    if !ctx.json {
        for (i, a) in answers.iter().enumerate() {
            say!("[{}] {}", i + 1, a.text.trim_end());
        }
    }
    let plan_hash = &l.engine.plan().hash;
    ctx.json(&Printed {
        kind: "tamp.answers",
        v: 1,
        answers: &answers,
        prompt_tokens,
        prompt_rows,
        plan_hash,
    })?;
    let (new, ns) =
        answers.iter().fold((0, 0), |(t, ns), a| (t + a.tokens.len(), ns.max(a.timings.total_ns)));
    note(ctx.ui.dim(&format!(
        "{n} answers, {new} tokens in {:.1} s; {prompt_rows} prompt rows computed for {n} prompts of {prompt_tokens}",
        ns as f64 / 1e9
    )));
    if answers.iter().any(|a| a.finish_reason == FinishReason::Cancelled) {
        return Err(Fail::interrupted());
    }
    l.settle()
}

/// All of them in one loop, on this thread.
fn together(l: &mut Loaded, one: &Request, n: u32) -> Done<Vec<Answer>> {
    let mut waiting = Vec::with_capacity(n as usize);
    for choice in 0..n {
        let (sender, receiver) = channel(usize::MAX);
        let params = Params { choice, ..one.params.clone() };
        l.engine.submit(Request { params, ..one.clone() }, Box::new(sender))?;
        waiting.push((receiver, None));
    }
    while waiting.iter().any(|(_, answer)| answer.is_none()) {
        let worked = !l.engine.step()?.parts.is_empty();
        let mut heard = false;
        for (receiver, answer) in &mut waiting {
            while let Some(event) = receiver.try_recv() {
                heard = true;
                if let Event::Done(a) = event {
                    *answer = Some(*a);
                }
            }
        }
        if !worked && !heard && !one.cancel.is_cancelled() {
            return Err(EngineError::Stalled.into());
        }
    }
    Ok(waiting.into_iter().filter_map(|(_, answer)| answer).collect())
}
