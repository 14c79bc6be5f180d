//! Calls out of what a model writes, while it writes.

use std::collections::VecDeque;

use super::Style;
use super::call::{Call, Read};
use crate::finder::Finder;
use crate::tokenizer::Tokenizer;

/// What a model wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// text for the reader
    Text(String),
    /// a call begins
    CallStart {
        /// counts the calls of the answer from 0
        index: usize,
        /// the tool
        name: String,
    },
    /// more of a call's arguments, JSON as the model wrote it
    CallArgs {
        /// the call
        index: usize,
        /// the next piece
        delta: String,
    },
    /// a call ends
    CallEnd {
        /// the call
        index: usize,
        /// the arguments are whole JSON; else the model stopped, or lost the thread, inside them
        whole: bool,
    },
}

/// Most bytes held back before a call is certain; what goes on longer without a name and arguments is text.
const MOST_HELD: usize = 64 << 10;

/// Reads calls out of a stream of text. However the stream is cut, the joined events are the same. What looks like a call and is
/// none comes out as text, unchanged; only white space after a call is dropped when nothing but a call or the end follows it.
#[derive(Clone, Debug)]
pub struct Parser {
    style: Style,
    names: Vec<String>,
    /// control tokens that are markers, with their text
    shown: Vec<(u32, &'static str)>,
    at: At,
    finder: Finder,
    /// what was read of a call that is not certain yet
    held: String,
    index: usize,
}

#[derive(Clone, Debug)]
enum At {
    Text,
    /// Mistral: before the list
    List,
    /// before or inside a call's object
    Call(Box<Call>),
    /// Hermes: before the closing tag
    Close,
    /// Mistral: a comma or the end of the list; Llama 3: a semicolon
    Between,
}

impl Parser {
    /// A parser of an answer's text. `names`: the tools on offer; a call of any other is text. Empty: any name.
    pub fn new(style: Style, names: Vec<String>) -> Self {
        let mut finder = Finder::new(false);
        // White space before a call that begins the answer belongs to the call.
        finder.keep = true;
        let (at, held) = (At::Text, String::new());
        Self { style, names, shown: Vec::new(), at, finder, held, index: 0 }
    }

    /// With the markers that this tokenizer has as control tokens, for [`Parser::token`].
    pub fn of_tokens(mut self, tokenizer: &Tokenizer) -> Self {
        let ids = self.style.markers().iter().filter_map(|m| Some((tokenizer.id_of(m)?, *m)));
        self.shown = ids.filter(|&(id, _)| tokenizer.is_control(id)).collect();
        self
    }

    /// Takes a token and the text that came out with it. A control token says nothing in text; one that is a marker of
    /// the style is read here.
    pub fn token(&mut self, token: u32, text: &str) -> Vec<Event> {
        match self.shown.iter().find(|s| s.0 == token) {
            Some(&(_, marker)) => {
                let mut out = self.push(marker);
                self.push(text).into_iter().for_each(|e| say(&mut out, e));
                out
            }
            None => self.push(text),
        }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, piece: &str) -> Vec<Event> {
        let mut out = Vec::new();
        self.run(piece.chars().collect(), &mut out);
        out
    }

    /// What was held back, when the stream ends.
    pub fn finish(&mut self) -> Vec<Event> {
        let mut out = Vec::new();
        loop {
            match std::mem::replace(&mut self.at, At::Text) {
                At::Text => {
                    let (space, part) = self.finder.take();
                    if !part.is_empty() || self.index == 0 {
                        say(&mut out, Event::Text(space + &part));
                    }
                    return out;
                }
                At::Call(call) if call.started() => self.end(false, &mut out),
                At::Close | At::Between if self.held.trim().is_empty() => self.held.clear(),
                _ => {
                    let again = self.release(&mut out);
                    self.run(again, &mut out);
                }
            }
        }
    }

    fn run(&mut self, mut queue: VecDeque<char>, out: &mut Vec<Event>) {
        while let Some(c) = queue.pop_front() {
            if !self.take(c, out) {
                let mut again = self.release(out);
                again.append(&mut queue);
                queue = again;
            }
        }
    }

    /// What was held back is no call: its first character is text, the rest is read again.
    fn release(&mut self, out: &mut Vec<Event>) -> VecDeque<char> {
        self.at = At::Text;
        let (space, held) = (self.finder.take().0, std::mem::take(&mut self.held));
        let mut chars: VecDeque<char> = held.chars().collect();
        let mut text = space;
        text.extend(chars.pop_front());
        (self.finder.keep, self.finder.fresh) = (false, false);
        say(out, Event::Text(text));
        chars
    }

    /// Takes a character; false when what is held back, this character included, turns out to be no call.
    fn take(&mut self, c: char, out: &mut Vec<Event>) -> bool {
        let space = c.is_whitespace();
        match &mut self.at {
            At::Text => {
                self.text(c, out);
                return true;
            }
            At::Call(_) => return self.call(c, out),
            At::Close => {
                self.close(c, out);
                return true;
            }
            _ => self.held.push(c),
        }
        match (&self.at, self.style) {
            _ if space => true,
            (At::List, _) if c == '[' => self.open(),
            (At::Between, Style::Mistral) if c == ',' => self.open(),
            (At::Between, Style::Llama3) if c == ';' => self.open(),
            (At::Between, Style::Mistral) if c == ']' => {
                self.held.clear();
                self.at = At::Text;
                true
            }
            _ => false,
        }
    }

    /// After a call of the Hermes style: white space and the closing tag go, anything else is text.
    fn close(&mut self, c: char, out: &mut Vec<Event>) {
        if c.is_whitespace() && self.held.is_empty() {
            return self.finder.space.push(c);
        }
        self.held.push(c);
        let close = self.style.markers()[1];
        if self.held == close {
            self.finder.take();
            self.held.clear();
            self.at = At::Text;
        } else if !close.starts_with(&self.held) {
            self.at = At::Text;
            let held = std::mem::take(&mut self.held);
            held.chars().for_each(|c| self.text(c, out));
        }
    }

    fn open(&mut self) -> bool {
        self.at = At::Call(Box::new(Call::new(self.style == Style::Llama3)));
        true
    }

    fn text(&mut self, c: char, out: &mut Vec<Event>) {
        let opening = (self.style == Style::Llama3).then_some("{");
        let mut text = String::new();
        let found = self.finder.push(c, &[self.style.open()], opening, &mut text);
        if !text.is_empty() {
            self.finder.keep = false;
            say(out, Event::Text(text));
        }
        let Some(found) = found else { return };
        self.held.clear();
        if self.style == Style::Mistral {
            self.at = At::List;
        } else {
            self.open();
        }
        if found == 1 {
            // Always the beginning of an object.
            self.call('{', out);
        } else {
            self.held.push_str(self.style.open());
        }
    }

    /// A character of a call's object.
    fn call(&mut self, c: char, out: &mut Vec<Event>) -> bool {
        let At::Call(call) = &mut self.at else { return false };
        let started = call.started();
        if !started {
            self.held.push(c);
            if self.held.len() > MOST_HELD {
                return false;
            }
        }
        let names = &self.names;
        let known = |name: &str| names.is_empty() || names.iter().any(|n| n == name);
        let index = self.index;
        match call.push(c, &known) {
            Read::More => true,
            Read::Start { name, args } => {
                self.start(name, args, out);
                true
            }
            Read::Args(c) => {
                say(out, Event::CallArgs { index, delta: c.into() });
                true
            }
            Read::End(late) => {
                if let Some((name, args)) = late {
                    self.start(name, args, out);
                }
                self.end(true, out);
                true
            }
            Read::Bad if started => {
                self.end(false, out);
                self.at = At::Text;
                self.text(c, out);
                true
            }
            Read::Bad => false,
        }
    }

    fn start(&mut self, name: String, args: String, out: &mut Vec<Event>) {
        // White space before a call that something came before is text; else it was held back and goes.
        self.finder.take();
        self.held.clear();
        say(out, Event::CallStart { index: self.index, name });
        say(out, Event::CallArgs { index: self.index, delta: args });
    }

    fn end(&mut self, whole: bool, out: &mut Vec<Event>) {
        say(out, Event::CallEnd { index: self.index, whole });
        self.index += 1;
        self.held.clear();
        self.finder.keep = true;
        self.at = match self.style {
            _ if !whole => At::Text,
            Style::Hermes => At::Close,
            Style::Llama3 | Style::Mistral => At::Between,
        };
    }
}

/// Adds an event, to the last one where both are pieces of the same.
fn say(out: &mut Vec<Event>, event: Event) {
    match (out.last_mut(), &event) {
        (_, Event::Text(t)) if t.is_empty() => {}
        (Some(Event::Text(a)), Event::Text(b)) => a.push_str(b),
        (Some(Event::CallArgs { index: i, delta: a }), Event::CallArgs { index: j, delta: b }) if i == j => {
            a.push_str(b);
        }
        _ => out.push(event),
    }
}
