//! Stop strings, and why a sequence ended.

use serde::Serialize;

use crate::SampleError;

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// An end token or a stop string.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
    /// The sequence failed.
    Error,
    /// Somebody no longer wants it.
    Cancelled,
    /// Time was up.
    Deadline,
}

/// Most stop strings per request.
pub const MAX_STOPS: usize = 16;
/// Longest stop string, bytes.
pub const MAX_STOP_BYTES: usize = 512;

/// Finds the first stop string in a stream of text. Text that may still turn out to be the start of a stop string is
/// held back, so nothing of a stop string is ever given out.
///
/// The first stop string to be *complete* wins, the longest among those that end together; where the pieces of the
/// stream begin and end makes no difference.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    stops: Vec<String>,
    held: String,
    hit: bool,
}

impl Matcher {
    /// A matcher for `stops`; refuses empty, too long or too many.
    pub fn new(stops: &[String]) -> Result<Matcher, SampleError> {
        let refuse = |got: String, want: String| Err(SampleError::Range { field: "stop", got, want });
        if stops.len() > MAX_STOPS {
            return refuse(format!("{} strings", stops.len()), format!("at most {MAX_STOPS} strings"));
        }
        if let Some(s) = stops.iter().find(|s| s.is_empty() || s.len() > MAX_STOP_BYTES) {
            return refuse(format!("a string of {} bytes", s.len()), format!("1 to {MAX_STOP_BYTES} bytes"));
        }
        Ok(Matcher { stops: stops.to_vec(), held: String::new(), hit: false })
    }

    /// Takes the next piece of text and returns what may be given out. After a stop string it returns nothing more.
    pub fn push(&mut self, piece: &str) -> String {
        if self.hit {
            return String::new();
        }
        if self.stops.is_empty() {
            return piece.to_string();
        }
        let from = self.held.len();
        self.held.push_str(piece);
        let bytes = self.held.as_bytes();
        for end in from + 1..=bytes.len() {
            let longest =
                self.stops.iter().filter(|s| bytes[..end].ends_with(s.as_bytes())).map(String::len).max();
            if let Some(n) = longest {
                self.hit = true;
                let mut out = std::mem::take(&mut self.held);
                out.truncate(end - n);
                return out;
            }
        }
        // A suffix that begins a stop string begins with a leading byte, so the cut is a character boundary.
        let keep = self.stops.iter().map(|s| overlap(bytes, s.as_bytes())).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// A stop string was found.
    pub fn hit(&self) -> bool {
        self.hit
    }

    /// What was held back, when the stream ends without a stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest proper prefix of `stop` that ends `text`.
fn overlap(text: &[u8], stop: &[u8]) -> usize {
    (1..stop.len().min(text.len() + 1)).rev().find(|&n| text.ends_with(&stop[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Byte by byte over the whole text.
    fn naive(text: &str, stops: &[String]) -> (String, bool) {
        for end in 1..=text.len() {
            let longest = stops
                .iter()
                .filter(|s| text.as_bytes()[..end].ends_with(s.as_bytes()))
                .map(String::len)
                .max();
            if let Some(n) = longest {
                return (text[..end - n].to_string(), true);
            }
        }
        (text.to_string(), false)
    }

    proptest! {
        #[test]
        fn nothing_of_a_stop_string_leaks_however_the_text_is_cut(
            pieces in prop::collection::vec("[abé]{0,4}", 0..12),
            stops in prop::collection::vec("[abé]{1,5}", 0..4),
        ) {
            let mut m = Matcher::new(&stops).unwrap();
            let mut out = String::new();
            let (want, hit) = naive(&pieces.concat(), &stops);
            for p in &pieces {
                out += &m.push(p);
                prop_assert!(want.starts_with(&out), "{} leaked beyond {}", out, want);
            }
            prop_assert_eq!(m.hit(), hit);
            if !hit {
                out += &m.finish();
            }
            prop_assert_eq!(out, want);
        }
    }

    #[test]
    fn only_a_possible_start_is_held_back() {
        let mut m = Matcher::new(&["\n\n".into()]).unwrap();
        assert_eq!(m.push("one\n"), "one");
        assert_eq!(m.push("two"), "\ntwo");
        assert_eq!(m.push("\n\nthree"), "");
        assert!(m.hit());
        assert_eq!(m.push("four"), "");
        assert_eq!(m.finish(), "");
    }

    #[test]
    fn bad_stop_strings_are_refused() {
        assert!(Matcher::new(&[String::new()]).is_err());
        assert!(Matcher::new(&vec!["x".into(); 17]).is_err());
        assert!(Matcher::new(&["x".repeat(513)]).is_err());
    }
}
