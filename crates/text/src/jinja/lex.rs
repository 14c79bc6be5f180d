//! Template text to tokens, with Jinja's white space control (`trim_blocks`, `lstrip_blocks`).

use super::R;

#[derive(Clone, Debug, PartialEq)]
pub enum Tok {
    Text(String),
    BlockStart,
    BlockEnd,
    VarStart,
    VarEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Op(&'static str),
    End,
}

/// Longest template, bytes; the longest published one has under 40 KB.
pub const MAX_SOURCE: usize = 256 << 10;

const OPS: [&str; 29] = [
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";", "!", "&", "@",
];

/// Tokens with their line numbers.
pub fn lex(source: &str) -> R<Vec<(Tok, u32)>> {
    if source.len() > MAX_SOURCE {
        return Err(format!("it has {} bytes, at most {MAX_SOURCE} are allowed", source.len()));
    }
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut l = Lexer { s: source, at: 0, line: 1, out: vec![], line_starts: true };
    l.run()?;
    let line = l.line;
    l.out.push((Tok::End, line));
    Ok(l.out)
}

struct Lexer<'s> {
    s: &'s str,
    at: usize,
    line: u32,
    out: Vec<(Tok, u32)>,
    /// nothing stands before `at` on its line
    line_starts: bool,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.s[self.at..]
    }

    fn push(&mut self, t: Tok) {
        self.out.push((t, self.line));
    }

    fn skip(&mut self, n: usize) {
        let taken = &self.s[self.at..self.at + n];
        self.line += taken.bytes().filter(|&b| b == b'\n').count() as u32;
        self.at += n;
    }

    fn run(&mut self) -> R<()> {
        while self.at < self.s.len() {
            let rest = self.rest();
            // One pass to the next tag: a search per kind of tag would be quadratic where a kind is missing.
            let open = rest.as_bytes().windows(2).position(|w| w[0] == b'{' && b"{%#".contains(&w[1]));
            let Some(open) = open else {
                let text = rest.to_string();
                self.push(Tok::Text(text));
                self.at = self.s.len();
                break;
            };
            let marker = rest.as_bytes()[open + 1];
            let control = rest.as_bytes().get(open + 2).copied();
            let mut text = &rest[..open];
            if control == Some(b'-') {
                text = text.trim_end_matches(is_space);
            } else if marker != b'{' && control != Some(b'+') {
                // lstrip_blocks: white space between the start of the line and the tag.
                let line = text.rfind('\n').map_or(0, |i| i + 1);
                if (line > 0 || self.line_starts) && text[line..].chars().all(is_space) {
                    text = &text[..line];
                }
            }
            if !text.is_empty() {
                let text = text.to_string();
                self.push(Tok::Text(text));
            }
            self.skip(open + 2);
            if matches!(control, Some(b'-' | b'+')) {
                self.skip(1);
            }
            match marker {
                b'#' => {
                    let end = self.rest().find("#}").ok_or("a comment `{#` is not closed")?;
                    let strip = self.rest()[..end].ends_with('-');
                    let keep = self.rest()[..end].ends_with('+');
                    self.skip(end + 2);
                    self.after(strip, !keep);
                }
                b'%' if self.raw()? => {}
                b'%' => {
                    self.push(Tok::BlockStart);
                    self.code("%}", Tok::BlockEnd)?;
                }
                _ => {
                    self.push(Tok::VarStart);
                    self.code("}}", Tok::VarEnd)?;
                }
            }
        }
        Ok(())
    }

    /// White space after a tag: all of it after `-`, else one newline after a block.
    fn after(&mut self, strip: bool, trim: bool) {
        let n = if strip {
            self.rest().len() - self.rest().trim_start_matches(is_space).len()
        } else {
            usize::from(trim && self.rest().starts_with('\n'))
        };
        self.line_starts = n > 0 && self.rest()[..n].ends_with('\n');
        self.skip(n);
    }

    /// `{% raw %}` up to `{% endraw %}`; true if there was one.
    fn raw(&mut self) -> R<bool> {
        let head = self.rest();
        let inner = head.trim_start_matches(is_space);
        let Some(tail) = inner.strip_prefix("raw") else { return Ok(false) };
        let tail = tail.trim_start_matches(is_space);
        let (tail, strip) = match tail.strip_prefix("-%}") {
            Some(t) => (t, true),
            None => match tail.strip_prefix("%}") {
                Some(t) => (t, false),
                None => return Ok(false),
            },
        };
        let start = head.len() - tail.len();
        self.skip(start);
        self.after(strip, true);
        let body = self.rest();
        let mut from = 0;
        loop {
            let i = from + body[from..].find("{%").ok_or("a `raw` block is not closed")?;
            let tag = &body[i + 2..];
            let (tag, left) = match tag.strip_prefix('-') {
                Some(t) => (t, true),
                None => (tag.strip_prefix('+').unwrap_or(tag), false),
            };
            let tag = tag.trim_start_matches(is_space);
            let Some(tag) = tag.strip_prefix("endraw") else {
                from = i + 2;
                continue;
            };
            let tag = tag.trim_start_matches(is_space);
            let (tag, right) = match tag.strip_prefix("-%}") {
                Some(t) => (t, true),
                None => (tag.strip_prefix("%}").ok_or("`endraw` is not closed")?, false),
            };
            let mut text = &body[..i];
            if left {
                text = text.trim_end_matches(is_space);
            } else {
                let line = text.rfind('\n').map_or(0, |i| i + 1);
                if line > 0 && text[line..].chars().all(is_space) {
                    text = &text[..line];
                }
            }
            let (text, used) = (text.to_string(), body.len() - tag.len());
            if !text.is_empty() {
                self.push(Tok::Text(text));
            }
            self.skip(used);
            self.after(right, true);
            return Ok(true);
        }
    }

    /// Tokens up to the closing marker.
    fn code(&mut self, end: &str, tok: Tok) -> R<()> {
        let mut braces: Vec<u8> = vec![];
        loop {
            let n = self.rest().len() - self.rest().trim_start_matches(is_space).len();
            self.skip(n);
            let rest = self.rest();
            let Some(c) = rest.chars().next() else {
                return Err(format!("line {}: a tag is not closed", self.line));
            };
            if braces.is_empty() {
                let (body, control) = match c {
                    '-' | '+' if rest[1..].starts_with(end) => (3, c),
                    _ if rest.starts_with(end) => (2, ' '),
                    _ => (0, ' '),
                };
                // `+}}` is an operator for Jinja: only blocks have it.
                if body > 0 && !(control == '+' && end == "}}") {
                    self.push(tok.clone());
                    self.skip(body);
                    self.after(control == '-', end == "%}" && control != '+');
                    return Ok(());
                }
            }
            if c.is_alphabetic() || c == '_' {
                let n = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                let name = rest[..n].to_string();
                self.push(Tok::Name(name));
                self.skip(n);
            } else if c.is_ascii_digit() {
                self.number()?;
            } else if c == '"' || c == '\'' {
                self.string(c)?;
            } else {
                let Some(op) = OPS.iter().find(|o| rest.starts_with(**o)) else {
                    return Err(format!("line {}: unexpected character {c:?}", self.line));
                };
                match op.as_bytes()[0] {
                    b @ (b'(' | b'[' | b'{') => braces.push(b),
                    b @ (b')' | b']' | b'}') => {
                        let want = match b {
                            b')' => b'(',
                            b']' => b'[',
                            _ => b'{',
                        };
                        if braces.pop() != Some(want) {
                            return Err(format!("line {}: unexpected `{op}`", self.line));
                        }
                    }
                    _ => {}
                }
                self.push(Tok::Op(op));
                self.skip(op.len());
            }
        }
    }

    fn number(&mut self) -> R<()> {
        let rest = self.rest();
        let digits = |s: &str| s.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(s.len());
        let mut n = digits(rest);
        let mut float = false;
        if rest[n..].starts_with('.') && rest[n + 1..].starts_with(|c: char| c.is_ascii_digit()) {
            float = true;
            n += 1 + digits(&rest[n + 1..]);
        }
        if rest[n..].starts_with(['e', 'E']) {
            let sign = usize::from(rest[n + 1..].starts_with(['+', '-']));
            if rest[n + 1 + sign..].starts_with(|c: char| c.is_ascii_digit()) {
                float = true;
                n += 1 + sign + digits(&rest[n + 1 + sign..]);
            }
        }
        let text = rest[..n].replace('_', "");
        let bad = || format!("line {}: `{}` is not a number", self.line, crate::error::brief(&text, 40));
        let tok = if float {
            Tok::Float(text.parse().map_err(|_| bad())?)
        } else {
            Tok::Int(text.parse().map_err(|_| bad())?)
        };
        self.push(tok);
        self.skip(n);
        Ok(())
    }

    fn string(&mut self, quote: char) -> R<()> {
        let mut out = String::new();
        let mut chars = self.rest()[1..].char_indices();
        let not_closed = format!("line {}: a string is not closed", self.line);
        let end = loop {
            let (i, c) = chars.next().ok_or(&not_closed)?;
            if c == quote {
                break i + 2;
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let (_, e) = chars.next().ok_or(&not_closed)?;
            let hex = match e {
                'n' => ok(&mut out, '\n'),
                't' => ok(&mut out, '\t'),
                'r' => ok(&mut out, '\r'),
                '\\' | '\'' | '"' => ok(&mut out, e),
                'a' => ok(&mut out, '\u{7}'),
                'b' => ok(&mut out, '\u{8}'),
                'f' => ok(&mut out, '\u{c}'),
                'v' => ok(&mut out, '\u{b}'),
                '\n' => 0,
                '0' => ok(&mut out, '\0'),
                'x' => 2,
                'u' => 4,
                'U' => 8,
                _ => {
                    out.push('\\');
                    ok(&mut out, e)
                }
            };
            if hex > 0 {
                let mut code = 0u32;
                for _ in 0..hex {
                    let d = chars.next().and_then(|(_, c)| c.to_digit(16));
                    let d = d.ok_or_else(|| format!("line {}: a bad \\{e} escape", self.line))?;
                    code = code.checked_mul(16).map_or(u32::MAX, |c| c | d);
                }
                out.push(char::from_u32(code).unwrap_or('\u{fffd}'));
            }
        };
        self.push(Tok::Str(out));
        self.skip(end);
        Ok(())
    }
}

fn ok(out: &mut String, c: char) -> usize {
    out.push(c);
    0
}

/// What Python's `\s` strips.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}
