//! Character classes that the standard library has no tables for, from the pattern engine's.

use std::sync::OnceLock;

use regex_automata::meta::Regex;

/// General category P.
pub fn is_punctuation(c: char) -> bool {
    static RE: OnceLock<Option<Regex>> = OnceLock::new();
    let mut buf = [0; 4];
    RE.get_or_init(|| Regex::new(r"^\p{P}$").ok())
        .as_ref()
        .is_some_and(|re| re.is_match(c.encode_utf8(&mut buf).as_bytes()))
}
