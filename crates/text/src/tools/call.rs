//! One call's JSON object, read one character at a time.

use serde_json::Value;

use super::is_name;
use super::json::{Scan, Step};

/// What a character did to the call.
#[derive(Clone, Debug, PartialEq)]
pub enum Read {
    /// the object goes on
    More,
    /// the name is known and the arguments begin: they are given piece by piece from now on
    Start {
        /// the tool
        name: String,
        /// the arguments so far
        args: String,
    },
    /// more of the arguments
    Args(char),
    /// the object ends; with what never started because it came in another order
    End(Option<(String, String)>),
    /// this is no call
    Bad,
}

/// One call's object being read.
#[derive(Clone, Debug)]
pub struct Call {
    at: At,
    key: String,
    raw: String,
    name: Option<String>,
    args: Option<String>,
    started: bool,
    /// an object without arguments is none
    strict: bool,
}

#[derive(Clone, Debug)]
enum At {
    Start,
    /// `true`: the object may end here
    Key(bool),
    InKey(Scan),
    Colon,
    Value,
    InValue(Scan),
    /// of the value whose characters are given out
    InArgs(Scan),
    After,
}

impl Call {
    /// `strict`: an object that says nothing of arguments is no call.
    pub fn new(strict: bool) -> Self {
        Self {
            at: At::Start,
            key: String::new(),
            raw: String::new(),
            name: None,
            args: None,
            started: false,
            strict,
        }
    }

    /// Whether [`Read::Start`] was given.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Takes a character; `known` says which names are tools.
    pub fn push(&mut self, c: char, known: &dyn Fn(&str) -> bool) -> Read {
        let space = matches!(c, ' ' | '\t' | '\n' | '\r');
        match &mut self.at {
            At::InKey(scan) => {
                self.raw.push(c);
                match scan.push(c) {
                    Step::More => Read::More,
                    Step::Last => {
                        let Ok(key) = serde_json::from_str(&self.raw) else { return Read::Bad };
                        self.key = key;
                        self.go(At::Colon)
                    }
                    Step::Past | Step::Bad => Read::Bad,
                }
            }
            At::InArgs(scan) => match scan.push(c) {
                Step::More => Read::Args(c),
                Step::Last => {
                    self.at = At::After;
                    Read::Args(c)
                }
                Step::Past | Step::Bad => Read::Bad,
            },
            At::InValue(scan) => match scan.push(c) {
                Step::More => {
                    self.raw.push(c);
                    Read::More
                }
                Step::Last => {
                    self.raw.push(c);
                    self.value(known)
                }
                Step::Past => match self.value(known) {
                    Read::More => self.push(c, known),
                    other => other,
                },
                Step::Bad => Read::Bad,
            },
            _ if space => Read::More,
            At::Start if c == '{' => self.go(At::Key(true)),
            At::Key(_) if c == '"' => {
                self.raw = c.into();
                let mut scan = Scan::new();
                scan.push(c);
                self.go(At::InKey(scan))
            }
            At::Key(true) if c == '}' => self.end(),
            At::Colon if c == ':' => self.go(At::Value),
            At::Value => self.begin(c, known),
            At::After if c == ',' => self.go(At::Key(false)),
            At::After if c == '}' => self.end(),
            _ => Read::Bad,
        }
    }

    fn go(&mut self, at: At) -> Read {
        self.at = at;
        Read::More
    }

    fn is_args(&self) -> bool {
        matches!(self.key.as_str(), "arguments" | "parameters")
    }

    /// The first character of a value.
    fn begin(&mut self, c: char, known: &dyn Fn(&str) -> bool) -> Read {
        let mut scan = Scan::new();
        let step = scan.push(c);
        if self.is_args() && (self.args.is_some() || !matches!(c, '{' | '"' | 'n')) {
            return Read::Bad;
        }
        if self.is_args()
            && c == '{'
            && let Some(name) = &self.name
        {
            self.started = true;
            self.args = Some(String::new());
            self.at = At::InArgs(scan);
            return Read::Start { name: name.clone(), args: c.into() };
        }
        self.raw = c.into();
        match step {
            Step::More => self.go(At::InValue(scan)),
            Step::Last => self.value(known),
            Step::Past | Step::Bad => Read::Bad,
        }
    }

    /// A value that was held back is complete.
    fn value(&mut self, known: &dyn Fn(&str) -> bool) -> Read {
        self.at = At::After;
        let raw = std::mem::take(&mut self.raw);
        if self.key == "name" {
            let Ok(name) = serde_json::from_str::<String>(&raw) else { return Read::Bad };
            if self.name.is_some() || !is_name(&name) || !known(&name) {
                return Read::Bad;
            }
            self.name = Some(name.clone());
            if let Some(args) = &mut self.args {
                self.started = true;
                return Read::Start { name, args: std::mem::take(args) };
            }
        } else if self.is_args() {
            // Some models write the arguments as a text that holds JSON, or `null` for none.
            let args = match raw.as_bytes().first() {
                Some(b'{') => raw,
                Some(b'"') => match serde_json::from_str::<String>(&raw) {
                    Ok(inner) if matches!(serde_json::from_str(&inner), Ok(Value::Object(_))) => inner,
                    _ => return Read::Bad,
                },
                _ => "{}".into(),
            };
            if let Some(name) = &self.name {
                self.started = true;
                self.args = Some(String::new());
                return Read::Start { name: name.clone(), args };
            }
            self.args = Some(args);
        }
        Read::More
    }

    fn end(&mut self) -> Read {
        match (&self.name, self.started) {
            (_, true) => Read::End(None),
            (Some(name), false) if !self.strict => Read::End(Some((name.clone(), "{}".into()))),
            _ => Read::Bad,
        }
    }
}
