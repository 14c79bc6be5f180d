//! The line editor of the chat: history, several lines, completion of commands.

use std::path::PathBuf;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Cmd, Config, Context, Helper, KeyCode, KeyEvent, Modifiers};

use crate::fail::{Code, Done, Fail};

/// What came of reading.
pub enum Line {
    /// what was written, without the marks that joined its lines
    Text(String),
    /// Ctrl-C
    Cleared,
    /// Ctrl-D, or the end of a file
    Left,
}

/// A terminal, or lines from a pipe.
pub struct Editor {
    lines: rustyline::Editor<Keys, FileHistory>,
    history: Option<PathBuf>,
}

impl Editor {
    /// With what was written in earlier conversations.
    pub fn new(history: Option<PathBuf>) -> Done<Self> {
        let config = Config::builder().history_ignore_dups(true).and_then(|c| c.max_history_size(2000));
        let config = config.map_err(broken)?.bracketed_paste(true).build();
        let past = FileHistory::with_config(&config);
        let mut lines = rustyline::Editor::with_history(config, past).map_err(broken)?;
        lines.set_helper(Some(Keys));
        lines.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
        if let Some(file) = &history {
            // No history yet is no error.
            let _ = lines.load_history(file);
        }
        Ok(Self { lines, history })
    }

    /// One message, which may have several lines.
    pub fn read(&mut self) -> Done<Line> {
        match self.lines.readline("> ") {
            Ok(text) => {
                if !text.trim().is_empty() {
                    let _ = self.lines.add_history_entry(&text);
                    if let Some(file) = &self.history {
                        // Written at once: a conversation may end by a closed window.
                        let _ = self.lines.append_history(file);
                    }
                }
                Ok(Line::Text(join(&text)))
            }
            Err(ReadlineError::Interrupted) => Ok(Line::Cleared),
            Err(ReadlineError::Eof) => Ok(Line::Left),
            Err(e) => Err(broken(e)),
        }
    }
}

fn broken(e: ReadlineError) -> Fail {
    Fail::new(Code::Other, format!("the terminal cannot be read: {e}"))
}

/// Is more to come?
fn open(text: &str) -> bool {
    let quoted = text.trim_start().strip_prefix("\"\"\"");
    quoted.map_or(text.ends_with('\\'), |rest| !rest.contains("\"\"\""))
}

/// Takes away what only says that lines belong together.
fn join(text: &str) -> String {
    match text.trim().strip_prefix("\"\"\"").and_then(|t| t.strip_suffix("\"\"\"")) {
        Some(inner) => inner.trim_matches('\n').into(),
        None => text.replace("\\\n", "\n"),
    }
}

struct Keys;

impl Validator for Keys {
    fn validate(&self, ctx: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if open(ctx.input()) { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for Keys {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..pos];
        let all = super::COMMANDS.iter().filter(|c| typed.starts_with('/') && c.starts_with(typed));
        Ok((0, all.map(|c| format!("{c} ")).collect()))
    }
}

impl Hinter for Keys {
    type Hint = String;
}

impl Highlighter for Keys {}
impl Helper for Keys {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_belong_together_become_one_message() {
        for (text, more) in
            [("a", false), ("a\\", true), ("a\\\nb", false), ("\"\"\"a", true), ("\"\"\"a\nb\"\"\"", false)]
        {
            assert_eq!(open(text), more, "{text}");
        }
        assert_eq!(
            (join("a\\\nb"), join("\"\"\"\na\nb\n\"\"\""), join("a")),
            ("a\nb".into(), "a\nb".into(), "a".into())
        );
    }
}
