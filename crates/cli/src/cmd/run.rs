//! `tamp run [MODEL] "prompt"`.

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};

use tamp_engine::Cancel;
use tamp_sample::FinishReason;
use tamp_text::Message;

use crate::args::{LoadArgs, RunArgs, SampleArgs};
use crate::cmd::Ctx;
use crate::cmd::answer::{Contract, Memory, Timings, request, stream};
use crate::cmd::load::{Loaded, Wish, load};
use crate::cmd::prompt::{self, Prompter};
use crate::cmd::several;
use crate::fail::{At, Done, Fail};
use crate::out::note;
use crate::pull::{catalog, hub};

/// What to answer, however the words came.
pub struct Ask<'a> {
    /// MODEL
    pub model: Option<&'a str>,
    /// the prompt
    pub prompt: String,
    /// how tokens are chosen
    pub sample: &'a SampleArgs,
    /// how the model is loaded
    pub load: &'a LoadArgs,
    /// system message
    pub system: Option<&'a str>,
    /// no chat template
    pub raw: bool,
}

/// Sorts the words out and answers.
pub fn run(ctx: &Ctx, a: &RunArgs) -> Done {
    let (model, prompt) = words(ctx, &a.words)?;
    let prompt = match prompt {
        Some(p) if p != "-" => p.to_string(),
        _ => stdin()?,
    };
    let ask =
        Ask { model, prompt, sample: &a.sample, load: &a.load, system: a.system.as_deref(), raw: a.raw };
    match a.answers {
        1 => answer(ctx, &ask),
        n => several::answer(ctx, &ask, n),
    }
}

/// One word is the prompt, unless it can only be a model.
fn words<'a>(ctx: &Ctx, words: &'a [String]) -> Done<(Option<&'a str>, Option<&'a str>)> {
    match words {
        [] => Ok((None, None)),
        [model, prompt] => Ok((Some(model), Some(prompt))),
        [one, ..] => {
            let file = one.ends_with(".gguf")
                || one.ends_with(".tamp")
                || one.ends_with(".bin")
                || Path::new(one).is_dir();
            let known = ctx.store.find(one).is_some() || catalog::builtin().iter().any(|e| e.name == *one);
            if file || known || hub::Address::parse(one).is_some() {
                if std::io::stdin().is_terminal() {
                    return Err(Fail::usage(format!("`{one}` is a model, and there is no prompt"))
                        .hint(format!("tamp run {one} \"your prompt\", or `tamp chat {one}`")));
                }
                return Ok((Some(one), None));
            }
            Ok((None, Some(one)))
        }
    }
}

fn stdin() -> Done<String> {
    if std::io::stdin().is_terminal() {
        return Err(Fail::usage("there is no prompt").hint("tamp run \"Once upon a time\", or `tamp chat`"));
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).at("read", "stdin".as_ref())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The prompt as the model reads it.
pub fn tokens(l: &Loaded, a: &Ask<'_>) -> Done<Vec<u32>> {
    match &l.template {
        Some(own) if !a.raw => {
            let mut messages: Vec<Message> = prompt::system(a.system).into_iter().collect();
            messages.push(Message::new("user", a.prompt.as_str()));
            Prompter::new(Some(own), l.engine.tokenizer())?.tokens(&messages, l.engine.tokenizer())
        }
        own => {
            if own.is_none() && a.system.is_some() {
                return Err(Fail::usage("this model has no chat template, so a system message has no place")
                    .hint("leave --system away and write it into the prompt"));
            }
            Ok(prompt::raw(&a.prompt, l.engine.tokenizer()))
        }
    }
}

/// Loads, streams, and ends with the line of figures.
pub fn answer(ctx: &Ctx, a: &Ask<'_>) -> Done {
    let mut l = load(ctx, a.model, a.load, Wish::default())?;
    let tokens = tokens(&l, a)?;
    let cancel = Cancel::default();
    crate::cmd::on_ctrl_c(&Arc::new(Mutex::new(Some(cancel.clone()))), false);
    let answer = stream(&mut l, request(tokens, a.sample, &cancel), ctx.json)?;
    // Before the ceiling is probed: the probe's buffer is not the engine's.
    let memory = Memory::now(&l, ctx.json);
    let timings = Timings::of(ctx, &l, &answer);
    crate::cmd::phantoms(&l);
    ctx.json(&Contract::of(&answer, &timings, memory))?;
    if answer.finish_reason == FinishReason::Length && a.sample.max_tokens.is_none() {
        note(format_args!("the context of {} tokens is full; a larger one: --ctx N", l.engine.ctx()));
    }
    note(ctx.ui.dim(&timings.line()));
    if answer.finish_reason == FinishReason::Cancelled {
        return Err(Fail::interrupted());
    }
    l.settle()
}
