//! Normalizers: what happens to text before it is cut into words.

use std::borrow::Cow;

use regex_automata::meta;
use serde::{Deserialize, Serialize};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::error::{Error, brief};

/// One rewriting of a fragment, between two tokens that were found in the raw text.
#[derive(Debug, Serialize, Deserialize)]
pub enum Norm {
    /// canonical composition
    Nfc,
    /// canonical decomposition
    Nfd,
    /// compatibility composition
    Nfkc,
    /// compatibility decomposition
    Nfkd,
    /// literal replacement
    Replace(String, String),
    /// pattern replacement
    ReplacePattern(Pattern, String),
    /// put before a fragment that is not empty
    Prepend(String),
    /// put before a fragment that does not start with it; only the first fragment if so asked
    PrependOnce(String, First),
    /// white space off the ends: left, right
    Strip(bool, bool),
    /// Unicode lower case
    Lowercase,
    /// combining marks dropped
    StripAccents,
}

/// Which fragments a rule applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum First {
    /// every fragment
    Every,
    /// the one that starts the text
    Only,
}

/// A regular expression, written and read as its source.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    source: String,
    regex: meta::Regex,
}

impl Pattern {
    /// Makes the automaton.
    pub fn new(source: &str) -> Result<Self, Error> {
        let regex = meta::Regex::builder()
            .configure(meta::Config::new().nfa_size_limit(Some(1 << 20)))
            .build(source)
            .map_err(|_| Error::Unsupported {
                what: "normalizer pattern",
                name: brief(source, 60),
                known: "regular expressions without look-around".into(),
            })?;
        Ok(Self { source: source.into(), regex })
    }
}

impl TryFrom<String> for Pattern {
    type Error = Error;

    fn try_from(source: String) -> Result<Self, Error> {
        Self::new(&source)
    }
}

impl From<Pattern> for String {
    fn from(p: Pattern) -> String {
        p.source
    }
}

/// Largest text a normalizer may make out of one fragment: replacements may not blow it up.
const MAX_GROWTH: usize = 8;

impl Norm {
    /// Rewrites a fragment; `first` says that it starts the text.
    pub fn apply<'t>(&self, text: Cow<'t, str>, first: bool) -> Cow<'t, str> {
        match self {
            Self::Nfc if is_nfc_quick(text.chars()) == IsNormalized::Yes => text,
            Self::Nfc => text.nfc().collect::<String>().into(),
            Self::Nfd | Self::Nfkc | Self::Nfkd | Self::Lowercase | Self::StripAccents
                if self.keeps_ascii() && text.is_ascii() =>
            {
                text
            }
            Self::Nfd => text.nfd().collect::<String>().into(),
            Self::Nfkc => text.nfkc().collect::<String>().into(),
            Self::Nfkd => text.nfkd().collect::<String>().into(),
            Self::Lowercase => text.to_lowercase().into(),
            Self::StripAccents => text
                .chars()
                .filter(|&c| !unicode_normalization::char::is_combining_mark(c))
                .collect::<String>()
                .into(),
            Self::Replace(from, to) if from.is_empty() || !text.contains(from.as_str()) => {
                let _ = to;
                text
            }
            Self::Replace(from, to) => {
                replace(&text, to, |at| text[at..].find(from.as_str()).map(|i| at + i..at + i + from.len()))
                    .into()
            }
            Self::ReplacePattern(re, to) => replace(&text, to, |at| {
                re.regex.search(&regex_automata::Input::new(text.as_ref()).range(at..)).map(|m| m.range())
            })
            .into(),
            Self::Prepend(p) if !text.is_empty() => format!("{p}{text}").into(),
            Self::PrependOnce(p, which)
                if !text.is_empty() && (first || *which == First::Every) && !text.starts_with(p.as_str()) =>
            {
                format!("{p}{text}").into()
            }
            Self::Prepend(_) | Self::PrependOnce(..) => text,
            Self::Strip(left, right) => {
                let mut s = text.as_ref();
                if *left {
                    s = s.trim_start();
                }
                if *right {
                    s = s.trim_end();
                }
                if s.len() == text.len() { text } else { s.to_string().into() }
            }
        }
    }

    fn keeps_ascii(&self) -> bool {
        !matches!(self, Self::Lowercase)
    }
}

fn replace(text: &str, to: &str, next: impl Fn(usize) -> Option<std::ops::Range<usize>>) -> String {
    let limit = text.len().saturating_mul(MAX_GROWTH).saturating_add(1 << 16);
    let mut out = String::with_capacity(text.len());
    let (mut done, mut at) = (0, 0);
    while at <= text.len() {
        let Some(m) = next(at) else { break };
        if out.len() > limit {
            break;
        }
        if m.is_empty() {
            at = m.end + text[m.end..].chars().next().map_or(1, char::len_utf8);
            continue;
        }
        out.push_str(&text[done..m.start]);
        out.push_str(to);
        done = m.end;
        at = m.end;
    }
    out.push_str(&text[done..]);
    out
}
