//! `tamp chat [MODEL]`: a conversation in the terminal.

mod editor;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use tamp_engine::Cancel;
use tamp_sample::FinishReason;
use tamp_text::Message;

use crate::args::ChatArgs;
use crate::cmd::answer::{request, stream};
use crate::cmd::load::{Loaded, Wish, load};
use crate::cmd::prompt::{self, Prompter};
use crate::cmd::{Ctx, on_ctrl_c};
use crate::fail::{At, Done, nearest};
use crate::out::note;
use crate::say;
use editor::{Editor, Line};

const HELP: &str = "\
/help             this list
/system [TEXT]    sets the system message and starts over; without TEXT, shows it
/save FILE        writes the conversation (JSON when FILE ends in .json, else text)
/reset            forgets the conversation
/quit             leaves; so does Ctrl-D
Several lines: end a line with \\, press Alt-Enter, or write between \"\"\" and \"\"\".
Ctrl-C stops the answer. Arrow keys browse what you wrote before.";

const COMMANDS: &[&str] = &["/help", "/system", "/save", "/reset", "/quit"];

struct Chat<'a> {
    ctx: &'a Ctx,
    args: &'a ChatArgs,
    loaded: Loaded,
    prompter: Prompter,
    messages: Vec<Message>,
    /// the answer that Ctrl-C stops
    running: Arc<Mutex<Option<Cancel>>>,
}

/// What a command line of the chat asks for.
enum Next {
    Stay,
    Leave,
}

/// Talks until the person leaves.
pub fn run(ctx: &Ctx, a: &ChatArgs) -> Done {
    let loaded = load(ctx, a.model.as_deref(), &a.load, Wish { shares: true, ..Wish::default() })?;
    let prompter = Prompter::new(loaded.template.as_deref(), loaded.engine.tokenizer())?;
    let running = Arc::new(Mutex::new(None));
    on_ctrl_c(&running, true);
    if prompter.fallback {
        note("this model brings no chat template; ChatML stands in, and answers may be odd");
    }
    let (name, context) =
        (loaded.path.file_stem().unwrap_or_default().to_string_lossy(), loaded.engine.ctx());
    note(ctx.ui.dim(&format!("{name}, context {context} tokens; /help for help, Ctrl-D to leave")));
    let mut editor = Editor::new(history(ctx))?;
    let mut chat = Chat { ctx, args: a, loaded, prompter, messages: Vec::new(), running };
    chat.start_over(a.system.as_deref());
    loop {
        match editor.read()? {
            Line::Left => break,
            Line::Cleared => note(ctx.ui.dim("Ctrl-D or /quit leaves")),
            Line::Text(t) if t.trim().is_empty() => {}
            Line::Text(t) if t.starts_with('/') => {
                if let Next::Leave = chat.command(t.trim()) {
                    break;
                }
            }
            Line::Text(t) => chat.say(&t)?,
        }
    }
    Ok(())
}

fn history(ctx: &Ctx) -> Option<PathBuf> {
    let dir = ctx.env.data_dir.clone()?;
    std::fs::create_dir_all(&dir).ok()?;
    Some(dir.join("chat_history"))
}

impl Chat<'_> {
    fn start_over(&mut self, system: Option<&str>) {
        self.messages = prompt::system(system).into_iter().collect();
    }

    fn system(&self) -> Option<String> {
        self.messages.first().filter(|m| m.role == "system").map(text_of)
    }

    fn command(&mut self, line: &str) -> Next {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match word {
            "/help" => note(HELP),
            "/quit" | "/exit" => return Next::Leave,
            "/reset" => {
                let system = self.system().unwrap_or_default();
                self.start_over(Some(&system));
                note("the conversation is forgotten");
            }
            "/system" if rest.is_empty() => {
                note(self.system().map_or("no system message".into(), |s| format!("system message: {s}")));
            }
            "/system" => {
                self.start_over(Some(rest));
                note("system message set; the conversation starts over");
            }
            "/save" => match self.save(rest) {
                Ok(()) => note(format_args!("saved to {rest}")),
                Err(f) => {
                    f.report();
                }
            },
            _ => {
                let near = nearest(word, COMMANDS.iter().copied());
                let near = near.map_or(String::new(), |n| format!("did you mean {n}? "));
                note(format_args!("there is no command {word}; {near}/help lists them"));
            }
        }
        Next::Stay
    }

    fn save(&self, file: &str) -> Done {
        if file.is_empty() {
            return Err(crate::fail::Fail::usage("/save needs a file name"));
        }
        let path = std::path::Path::new(file);
        let text = if path.extension().is_some_and(|e| e == "json") {
            let all =
                json!({ "kind": "tamp.chat", "v": 1, "model": self.loaded.path, "messages": self.messages });
            format!("{all:#}\n")
        } else {
            self.messages.iter().map(|m| format!("## {}\n\n{}\n\n", m.role, text_of(m))).collect()
        };
        std::fs::write(path, text).at("write", path)
    }

    /// Asks and streams the answer. What the engine refuses is taken back, so that the conversation can go on.
    fn say(&mut self, text: &str) -> Done {
        self.messages.push(Message::new("user", text));
        let cancel = Cancel::default();
        let set = |c: Option<Cancel>| *self.running.lock().unwrap_or_else(PoisonError::into_inner) = c;
        let asked = self.prompter.tokens(&self.messages, self.loaded.engine.tokenizer());
        set(Some(cancel.clone()));
        let answered = asked.and_then(|tokens| {
            stream(&mut self.loaded, request(tokens, &self.args.sample, &cancel), self.ctx.json)
        });
        set(None);
        let answer = match answered {
            Ok(answer) => answer,
            Err(f) => {
                self.messages.pop();
                let full = f.what.contains("context");
                f.report();
                if full {
                    note("the conversation is as long as the context; /reset forgets it, --ctx N makes room");
                }
                return Ok(());
            }
        };
        let (t, n) = (&answer.timings, answer.tokens.len());
        let stopped = match answer.finish_reason {
            FinishReason::Cancelled => "stopped; ",
            FinishReason::Length => "length reached; ",
            _ => "",
        };
        let (first, rate) = (t.first_token_ns as f64 / 1e6, t.decode_tok_s());
        note(
            self.ctx
                .ui
                .dim(&format!("{stopped}{n} tokens, {rate:.1} tokens/s, first token after {first:.0} ms")),
        );
        if self.ctx.json {
            let line = json!({ "text": answer.text, "tokens": answer.tokens, "seed": answer.seed,
                "finish_reason": answer.finish_reason });
            say!("{line}");
        }
        if answer.finish_reason == FinishReason::Cancelled && answer.text.is_empty() {
            // Stopped before a word: a question taken back must not be read again before every later one.
            self.messages.pop();
        } else {
            self.messages.push(Message::new("assistant", answer.text));
        }
        Ok(())
    }
}

fn text_of(m: &Message) -> String {
    match &m.content {
        tamp_text::Content::Text(t) => t.clone(),
        _ => String::new(),
    }
}
