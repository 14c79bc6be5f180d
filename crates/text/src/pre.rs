//! Pre-tokenizers: how text is cut into words before the model merges within each.
//!
//! Published patterns are regular expressions of the Oniguruma kind. Ours run on automata, so that no pattern and no
//! text can make the search worse than linear. The one look-ahead that published patterns use, `\s+(?!\S)` ("white
//! space, but leave the last one for the next word"), is rewritten into alternatives that match one character more
//! and give it back.

use std::ops::Range;

use regex_automata::{Input, meta, util::syntax};
use serde::{Deserialize, Serialize};

use crate::error::{Error, brief};

/// What happens to what a pattern matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behavior {
    /// a word of its own
    Isolated,
    /// dropped
    Removed,
    /// end of the word before it
    MergedWithPrevious,
    /// start of the word after it
    MergedWithNext,
    /// neighbouring matches form one word
    Contiguous,
}

/// A cut as data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cut {
    at: At,
    behavior: Behavior,
    invert: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum At {
    /// a regular expression
    Pattern(String),
    /// a text
    Literal(String),
}

impl Cut {
    /// Cuts at a regular expression.
    pub fn pattern(pattern: &str, behavior: Behavior, invert: bool) -> Self {
        Self { at: At::Pattern(pattern.into()), behavior, invert }
    }

    /// Cuts at a literal text.
    pub fn literal(text: &str, behavior: Behavior, invert: bool) -> Self {
        Self { at: At::Literal(text.into()), behavior, invert }
    }
}

/// One cut, ready to run. Steps run one after the other, each on the words of the one before.
#[derive(Debug)]
pub struct Step {
    find: Find,
    behavior: Behavior,
    invert: bool,
}

#[derive(Debug)]
enum Find {
    Pattern(Pattern),
    Literal(String),
    /// Groups of three digits counted from the right, in numbers that end at a word boundary.
    Thousands,
}

/// Longest pattern and largest automaton; the largest published pattern needs about 1 MB.
const MAX_PATTERN: usize = 8 << 10;
const MAX_AUTOMATON: usize = 4 << 20;

/// Patterns with possessive quantifiers or look-aheads that are the same without them, because what follows cannot
/// match what they hold.
const SAME: &[(&str, &str)] = &[
    (r"[^\r\n\p{L}\p{N}]?+\p{L}", r"[^\r\n\p{L}\p{N}]?\p{L}"),
    (r"[^\s\p{L}\p{N}]++[\r\n]*", r"[^\s\p{L}\p{N}]+[\r\n]*"),
    (r"\p{N}{1,3}+|", r"\p{N}{1,3}|"),
    (r"|\s++$|", r"|\s+$|"),
];

/// Cohere's digit groups.
const THOUSANDS: &str = r"\d{1,3}(?=(?:\d{3})*\b)";

impl Step {
    /// Makes the automaton.
    pub fn new(cut: &Cut) -> Result<Self, Error> {
        let find = match &cut.at {
            At::Literal(l) => Find::Literal(l.clone()),
            At::Pattern(p) if p == THOUSANDS => Find::Thousands,
            At::Pattern(p) => Find::Pattern(Pattern::new(p)?),
        };
        Ok(Self { find, behavior: cut.behavior, invert: cut.invert })
    }

    fn next(&self, text: &str, from: usize) -> Option<Range<usize>> {
        match &self.find {
            Find::Pattern(p) => p.next(text, from),
            Find::Literal(l) if l.is_empty() => None,
            Find::Literal(l) => text[from..].find(l.as_str()).map(|i| from + i..from + i + l.len()),
            Find::Thousands => next_thousands(text, from),
        }
    }

    /// Cuts one word; ranges are in bytes of `text`.
    fn cut(&self, text: &str, mut emit: impl FnMut(Range<usize>)) {
        // (range, matched) in order, without gaps, merged as the behaviour says on the fly.
        let mut open: Option<(Range<usize>, bool)> = None;
        let mut give = |range: Range<usize>, matched: bool| {
            if range.is_empty() {
                return;
            }
            let matched = matched != self.invert;
            let join = match (self.behavior, &open) {
                (Behavior::MergedWithPrevious, Some((_, last))) => matched && !last,
                (Behavior::MergedWithNext, Some((_, last))) => !matched && *last,
                (Behavior::Contiguous, Some((_, last))) => matched == *last,
                _ => false,
            };
            match &mut open {
                Some((r, last)) if join => {
                    r.end = range.end;
                    *last = matched;
                }
                _ => {
                    if let Some((r, last)) = open.take()
                        && !(last && self.behavior == Behavior::Removed)
                    {
                        emit(r);
                    }
                    open = Some((range, matched));
                }
            }
        };
        let (mut done, mut from) = (0, 0);
        while from < text.len() {
            let Some(m) = self.next(text, from) else { break };
            if m.is_empty() {
                from = next_char(text, m.end);
                continue;
            }
            give(done..m.start, false);
            done = m.end;
            from = m.end;
            give(m, true);
        }
        give(done..text.len(), false);
        if let Some((r, last)) = open
            && !(last && self.behavior == Behavior::Removed)
        {
            emit(r);
        }
    }
}

/// Runs the steps over a text and gives out the words.
pub fn words<'t>(steps: &[Step], text: &'t str, emit: &mut dyn FnMut(&'t str)) {
    match steps {
        [] if text.is_empty() => {}
        [] => emit(text),
        [step, rest @ ..] => step.cut(text, |r| words(rest, &text[r], emit)),
    }
}

fn next_char(text: &str, at: usize) -> usize {
    at + text[at..].chars().next().map_or(1, char::len_utf8)
}

/// `THOUSANDS` by hand: a run of digits counts only if no letter follows it.
fn next_thousands(text: &str, from: usize) -> Option<Range<usize>> {
    let digit = |c: char| c.is_ascii_digit() || is_decimal(c);
    let mut at = from;
    loop {
        let start = at + text[at..].find(digit)?;
        let rest = &text[start..];
        let len = rest.find(|c| !digit(c)).unwrap_or(rest.len());
        let end = start + len;
        if text[end..].chars().next().is_some_and(|c| c.is_alphanumeric() || c == '_') {
            at = end;
            continue;
        }
        let n = text[start..end].chars().count();
        let take = if n.is_multiple_of(3) { 3 } else { n % 3 };
        let bytes: usize = text[start..end].chars().take(take).map(char::len_utf8).sum();
        return Some(start..start + bytes);
    }
}

/// Decimal digits of the common scripts outside ASCII; `\d` is the category Nd.
fn is_decimal(c: char) -> bool {
    const ZEROS: [u32; 12] =
        [0x660, 0x6f0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xe50, 0xff10];
    ZEROS.iter().any(|&z| (z..z + 10).contains(&(c as u32)))
}

/// A compiled pattern: its alternatives in order, and for each whether it gives back its last character.
#[derive(Debug)]
struct Pattern {
    regex: meta::Regex,
    gives_back: Vec<bool>,
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, Error> {
        let no = |why: &str| Error::Unsupported {
            what: "pre-tokenizer pattern",
            name: brief(pattern, 60),
            known: format!("regular expressions without look-around but `(?!\\S)` after white space ({why})"),
        };
        if pattern.len() > MAX_PATTERN {
            return Err(no("this one is too long"));
        }
        let mut same = pattern.to_string();
        for (from, to) in SAME {
            same = same.replace(from, to);
        }
        let (mut alternatives, mut gives_back) = (vec![], vec![]);
        for a in split_alternatives(&same).ok_or_else(|| no("unbalanced"))? {
            if let Some(head) = a.strip_suffix(r"(?!\S)") {
                if !is_white_space(head) {
                    return Err(no("look-ahead after something else"));
                }
                alternatives.extend([format!(r"(?:{head})\z"), format!(r"(?:{head})\s")]);
                gives_back.extend([false, true]);
            } else {
                if has_possessive(a) {
                    return Err(no("possessive quantifier"));
                }
                alternatives.push(format!("(?:{a})"));
                gives_back.push(false);
            }
        }
        let regex = meta::Regex::builder()
            .configure(meta::Config::new().nfa_size_limit(Some(MAX_AUTOMATON)).hybrid_cache_capacity(1 << 20))
            .syntax(syntax::Config::new().nest_limit(50))
            .build_many(&alternatives)
            .map_err(|e| no(&brief(&e.to_string(), 200)))?;
        Ok(Self { regex, gives_back })
    }

    fn next(&self, text: &str, from: usize) -> Option<Range<usize>> {
        let m = self.regex.search(&Input::new(text).range(from..))?;
        let mut r = m.range();
        if self.gives_back[m.pattern().as_usize()] {
            r.end -= text[r.clone()].chars().next_back().map_or(0, char::len_utf8);
        }
        Some(r)
    }
}

/// `\s` with any quantifier.
fn is_white_space(p: &str) -> bool {
    p.strip_prefix(r"\s").is_some_and(|q| {
        matches!(q, "" | "+")
            || q.strip_prefix('{')
                .and_then(|q| q.strip_suffix('}'))
                .is_some_and(|q| q.bytes().all(|b| b.is_ascii_digit() || b == b','))
    })
}

/// Walks a pattern outside of classes and escapes, calling `at(index, byte, depth)`; false if unbalanced.
fn walk(p: &str, mut at: impl FnMut(usize, u8, usize)) -> bool {
    let (mut depth, mut class, mut escaped) = (0usize, 0usize, false);
    for (i, b) in p.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'[' => class += 1,
            b']' if class > 0 => class -= 1,
            _ if class > 0 => {}
            b'(' => {
                at(i, b, depth);
                depth += 1;
            }
            b')' if depth == 0 => return false,
            b')' => depth -= 1,
            _ => at(i, b, depth),
        }
    }
    depth == 0 && class == 0 && !escaped
}

/// The alternatives of the outermost level.
fn split_alternatives(p: &str) -> Option<Vec<&str>> {
    let mut cuts = vec![];
    if !walk(p, |i, b, depth| {
        if b == b'|' && depth == 0 {
            cuts.push(i);
        }
    }) {
        return None;
    }
    let mut out = vec![];
    let mut from = 0;
    for c in cuts {
        out.push(&p[from..c]);
        from = c + 1;
    }
    out.push(&p[from..]);
    Some(out)
}

/// A quantifier followed by `+`: our automata would read it as a quantifier of a quantifier.
fn has_possessive(p: &str) -> bool {
    let mut found = false;
    let bytes = p.as_bytes();
    walk(p, |i, b, _| {
        if b == b'+' && i > 0 {
            // `\++` is a quantified literal, `\p{L}+` a quantified class.
            let literal = i > 1 && bytes[i - 2] == b'\\';
            let counted = p[..i]
                .strip_suffix('}')
                .and_then(|q| q.rsplit_once('{'))
                .is_some_and(|(_, n)| n.bytes().all(|b| b.is_ascii_digit() || b == b','));
            found |= matches!(bytes[i - 1], b'+' | b'*' | b'?') && !literal || counted;
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut<'t>(steps: &[Step], text: &'t str) -> Vec<&'t str> {
        let mut out = vec![];
        words(steps, text, &mut |w| out.push(w));
        out
    }

    fn step(p: &str, b: Behavior) -> Vec<Step> {
        vec![Step::new(&Cut::pattern(p, b, false)).unwrap()]
    }

    #[test]
    fn white_space_before_a_word_leaves_its_last_character_to_the_word() {
        let s = step(r" ?\p{L}+|\s+(?!\S)|\s+", Behavior::Isolated);
        assert_eq!(cut(&s, "a   b"), ["a", "  ", " b"]);
        assert_eq!(cut(&s, "a \n"), ["a", " \n"]);
        assert_eq!(cut(&s, "a\u{3000}\u{3000}b"), ["a", "\u{3000}", "\u{3000}", "b"]);
        let s = step(r"\s{4}(?!\S)|\s{1,2}(?!\S)|\s", Behavior::Isolated);
        assert_eq!(cut(&s, "      x"), ["    ", " ", " ", "x"]);
        assert_eq!(cut(&s, "      "), ["    ", "  "]);
    }

    #[test]
    fn behaviours_follow_their_names() {
        let go = |b, text| cut(&step("-", b), text).join("|");
        assert_eq!(go(Behavior::Isolated, "the-final--countdown"), "the|-|final|-|-|countdown");
        assert_eq!(go(Behavior::Removed, "the-final--countdown"), "the|final|countdown");
        assert_eq!(go(Behavior::MergedWithPrevious, "the-final--countdown"), "the-|final-|-|countdown");
        assert_eq!(go(Behavior::MergedWithNext, "the-final--countdown"), "the|-final|-|-countdown");
        assert_eq!(go(Behavior::Contiguous, "the-final--countdown"), "the|-|final|--|countdown");
        let s = [Step::new(&Cut::pattern(r"\w+", Behavior::Removed, true)).unwrap()];
        assert_eq!(cut(&s, "a, b"), ["a", "b"]);
    }

    #[test]
    fn digits_group_from_the_right() {
        let s = step(THOUSANDS, Behavior::Isolated);
        assert_eq!(cut(&s, "x 1234567 y12z 12"), ["x ", "1", "234", "567", " y12z ", "12"]);
    }

    #[test]
    fn patterns_that_would_mean_something_else_are_refused() {
        for p in [r"a(?=b)", r"a(?!\S)", r"(?<=x)y", r"a*+a", "(", "[", r"(?:\pL{1000}){1000}", "a)|(b"] {
            assert!(Step::new(&Cut::pattern(p, Behavior::Isolated, false)).is_err(), "{p}");
        }
        let deep = "(".repeat(2000) + &")".repeat(2000);
        assert!(Step::new(&Cut::pattern(&deep, Behavior::Isolated, false)).is_err());
    }
}
