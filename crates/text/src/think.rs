//! Reasoning and answer apart, while they are written.

use crate::finder::Finder;

/// A piece of what a model wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thought {
    /// between the tags
    Reasoning(String),
    /// everything else
    Answer(String),
}

/// The tags of the models that think in text: `<think>` and `</think>`.
pub const TAGS: (&str, &str) = ("<think>", "</think>");

/// Splits a stream of text. Only one block of reasoning is looked for, at the very beginning; the same tags later are text. White space
/// around the tags belongs to neither part. However the stream is cut, the parts are the same.
#[derive(Clone, Debug)]
pub struct Splitter {
    open: String,
    close: String,
    at: At,
    finder: Finder,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// before anything but white space
    Start,
    /// `true` after its first character that is not white space
    Reasoning(bool),
    /// after the closing tag, before the first character that is not white space
    Closed,
    Answer,
}

/// Whether a rendered prompt has already opened the block, as templates of models that always think do.
pub fn opened_by(prompt: &str) -> bool {
    prompt.trim_end().ends_with(TAGS.0)
}

impl Splitter {
    /// `opened`: the prompt ends with the opening tag (see [`opened_by`]), so the stream begins with reasoning.
    pub fn new(opened: bool) -> Self {
        Self::with_tags(TAGS.0, TAGS.1, opened)
    }

    /// For other tags; without white space in them, and not empty.
    pub fn with_tags(open: &str, close: &str, opened: bool) -> Self {
        let tag = |s: &str| s.chars().filter(|c| !c.is_whitespace()).collect();
        let at = if opened { At::Reasoning(false) } else { At::Start };
        Self { open: tag(open), close: tag(close), at, finder: Finder::new(true) }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, piece: &str) -> Vec<Thought> {
        let mut out = Vec::new();
        for c in piece.chars() {
            self.take(c, &mut out);
        }
        out
    }

    fn take(&mut self, c: char, out: &mut Vec<Thought>) {
        let mut text = String::new();
        match self.at {
            At::Start => {
                let found = self.finder.push(c, &[], Some(&self.open), &mut text);
                if found.is_some() {
                    self.finder = Finder::new(true);
                    self.at = At::Reasoning(false);
                } else if !text.is_empty() {
                    // No tag begins in what follows the first character: it would not be at the beginning.
                    let (space, part) = self.finder.take();
                    self.at = At::Answer;
                    say(out, Thought::Answer(text + &space + &part));
                }
            }
            At::Reasoning(begun) => {
                let found = self.finder.push(c, &[&self.close], None, &mut text);
                if !text.is_empty() {
                    let text = if begun { text.as_str() } else { text.trim_start() };
                    self.at = At::Reasoning(true);
                    say(out, Thought::Reasoning(text.into()));
                }
                if found.is_some() {
                    self.finder.take();
                    self.at = At::Closed;
                }
            }
            At::Closed if c.is_whitespace() => {}
            At::Closed | At::Answer => {
                self.at = At::Answer;
                say(out, Thought::Answer(c.into()));
            }
        }
    }

    /// What was held back, when the stream ends.
    pub fn finish(&mut self) -> Vec<Thought> {
        let (space, part) = self.finder.take();
        let mut out = Vec::new();
        match self.at {
            At::Start => say(&mut out, Thought::Answer(space + &part)),
            At::Reasoning(begun) if !part.is_empty() => {
                let space = if begun { space } else { String::new() };
                say(&mut out, Thought::Reasoning(space + &part));
            }
            _ => {}
        }
        out
    }
}

/// Adds a piece, to the last one where it is of the same part.
fn say(out: &mut Vec<Thought>, piece: Thought) {
    match (out.last_mut(), &piece) {
        (_, Thought::Answer(t) | Thought::Reasoning(t)) if t.is_empty() => {}
        (Some(Thought::Answer(a)), Thought::Answer(b))
        | (Some(Thought::Reasoning(a)), Thought::Reasoning(b)) => {
            a.push_str(b);
        }
        _ => out.push(piece),
    }
}
