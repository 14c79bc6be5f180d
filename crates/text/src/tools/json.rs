//! JSON read one character at a time.

/// Deepest nesting of a value.
const DEEPEST: usize = 128;

/// What a character did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// it belongs to the value, which goes on
    More,
    /// it ends the value
    Last,
    /// the value ended before it (numbers only)
    Past,
    /// no JSON value goes on like this
    Bad,
}

/// One JSON value being read, from its first character; white space before it is the caller's.
#[derive(Clone, Debug)]
pub struct Scan {
    /// open brackets: true for objects
    open: Vec<bool>,
    want: Want,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Want {
    /// a value; `true`: or the end of the array just opened
    Value(bool),
    /// a key; `true`: or the end of the object just opened
    Key(bool),
    Colon,
    /// a comma or a closing bracket
    After,
    /// inside a string; `key`, and how far into an escape: 0 none, 1 after the backslash, 2 to 5 hex digits left + 1
    Text {
        key: bool,
        escape: u8,
    },
    /// inside a word; what is left of it
    Word(&'static str),
    Number(Digits),
}

/// Where in a number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Digits {
    Sign,
    Zero,
    Whole,
    Point,
    Fraction,
    Exponent,
    PowerSign,
    Power,
}

impl Scan {
    pub fn new() -> Self {
        Self { open: Vec::new(), want: Want::Value(false) }
    }

    /// Takes a character.
    pub fn push(&mut self, c: char) -> Step {
        match self.want {
            Want::Text { key, escape } => self.text(c, key, escape),
            Want::Word(left) => {
                if !left.starts_with(c) {
                    return Step::Bad;
                }
                self.want = Want::Word(&left[1..]);
                if left.len() == 1 { self.done() } else { Step::More }
            }
            Want::Number(at) => self.number(c, at),
            _ if matches!(c, ' ' | '\t' | '\n' | '\r') && !self.is_new() => Step::More,
            Want::Value(end) => self.value(c, end),
            Want::Key(end) => match c {
                '"' => self.go(Want::Text { key: true, escape: 0 }),
                '}' if end => self.close(true),
                _ => Step::Bad,
            },
            Want::Colon if c == ':' => self.go(Want::Value(false)),
            Want::Colon => Step::Bad,
            Want::After => match (c, self.open.last()) {
                (',', Some(true)) => self.go(Want::Key(false)),
                (',', Some(false)) => self.go(Want::Value(false)),
                ('}', _) => self.close(true),
                (']', _) => self.close(false),
                _ => Step::Bad,
            },
        }
    }

    fn is_new(&self) -> bool {
        self.open.is_empty() && self.want == Want::Value(false)
    }

    fn go(&mut self, want: Want) -> Step {
        self.want = want;
        Step::More
    }

    /// A value inside is complete.
    fn done(&mut self) -> Step {
        self.want = Want::After;
        if self.open.is_empty() { Step::Last } else { Step::More }
    }

    fn close(&mut self, object: bool) -> Step {
        if self.open.pop() == Some(object) { self.done() } else { Step::Bad }
    }

    fn value(&mut self, c: char, end: bool) -> Step {
        let want = match c {
            '{' | '[' if self.open.len() < DEEPEST => {
                self.open.push(c == '{');
                if c == '{' { Want::Key(true) } else { Want::Value(true) }
            }
            ']' if end => return self.close(false),
            '"' => Want::Text { key: false, escape: 0 },
            't' => Want::Word("rue"),
            'f' => Want::Word("alse"),
            'n' => Want::Word("ull"),
            '-' => Want::Number(Digits::Sign),
            '0' => Want::Number(Digits::Zero),
            '1'..='9' => Want::Number(Digits::Whole),
            _ => return Step::Bad,
        };
        self.go(want)
    }

    fn text(&mut self, c: char, key: bool, escape: u8) -> Step {
        let escape = match (escape, c) {
            (0, '"') if key => return self.go(Want::Colon),
            (0, '"') => return self.done(),
            (0, '\\') => 1,
            (0, c) if c < ' ' => return Step::Bad,
            (0, _) => 0,
            (1, 'u') => 5,
            (1, '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => 0,
            (n @ 2..=5, c) if c.is_ascii_hexdigit() => {
                if n == 2 {
                    0
                } else {
                    n - 1
                }
            }
            _ => return Step::Bad,
        };
        self.go(Want::Text { key, escape })
    }

    fn number(&mut self, c: char, at: Digits) -> Step {
        use Digits::*;
        let next = match (at, c) {
            (Sign, '0') => Zero,
            (Sign | Whole, '0'..='9') => Whole,
            (Zero | Whole, '.') => Point,
            (Point | Fraction, '0'..='9') => Fraction,
            (Zero | Whole | Fraction, 'e' | 'E') => Exponent,
            (Exponent, '+' | '-') => PowerSign,
            (Exponent | PowerSign | Power, '0'..='9') => Power,
            (Zero | Whole | Fraction | Power, _) => {
                self.want = Want::After;
                return if self.open.is_empty() { Step::Past } else { self.push(c) };
            }
            _ => return Step::Bad,
        };
        self.go(Number(next))
    }
}

use Want::Number;
