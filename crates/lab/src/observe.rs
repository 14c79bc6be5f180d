//! Observed facts by path, and what is demanded of them.
//!
//! A path walks the JSON of a [`Sample`]: `plan.ctx`, `observed.backend.head`, `work.target_forwards`,
//! `counter.spec.propose.none.acted`, `metric.ttft_ms`, `plan_hash`. Keys may hold dots: the longest key that fits is
//! taken. A predicate is a word of
//!
//! | word | holds when the fact |
//! |---|---|
//! | `== X`, `!= X` | is, is not X (number, `true`, `false`, or text) |
//! | `> X`, `>= X`, `< X`, `<= X` | is a number that compares so |
//! | `contains X` | is text with X in it |
//! | `present`, `absent` | is there, is not there |
//! | `differs`, `same` | differs from the control's, is the same |
//! | `token_identity` | (no fact) every request gave the control's tokens |

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tamp_base::record::Sample;

/// What is demanded of a fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pred {
    op: Op,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
    Contains,
    Present,
    Absent,
    Differs,
    Same,
    Identity,
}

const OPS: &[(&str, Op)] = &[
    ("==", Op::Eq),
    ("!=", Op::Ne),
    (">=", Op::Ge),
    ("<=", Op::Le),
    (">", Op::Gt),
    ("<", Op::Lt),
    ("contains", Op::Contains),
    ("present", Op::Present),
    ("absent", Op::Absent),
    ("differs", Op::Differs),
    ("same", Op::Same),
    ("token_identity", Op::Identity),
];

impl TryFrom<String> for Pred {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        let s = s.trim();
        let Some((word, op)) = OPS.iter().find(|(w, _)| s.starts_with(w)) else {
            let known: Vec<&str> = OPS.iter().map(|o| o.0).collect();
            return Err(format!("{s:?} is no predicate; known words: {}", known.join(", ")));
        };
        let text = s[word.len()..].trim().to_string();
        let wants = matches!(op, Op::Eq | Op::Ne | Op::Gt | Op::Ge | Op::Lt | Op::Le | Op::Contains);
        if wants == text.is_empty() {
            return Err(format!(
                "{s:?}: {word} takes {}",
                if wants { "a value" } else { "nothing after it" }
            ));
        }
        if matches!(op, Op::Gt | Op::Ge | Op::Lt | Op::Le) && text.parse::<f64>().is_err() {
            return Err(format!("{s:?}: {word} compares numbers"));
        }
        Ok(Pred { op: *op, text })
    }
}

impl From<Pred> for String {
    fn from(p: Pred) -> String {
        p.to_string()
    }
}

impl fmt::Display for Pred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = OPS.iter().find(|o| o.1 == self.op).map_or("", |o| o.0);
        if self.text.is_empty() { f.write_str(word) } else { write!(f, "{word} {}", self.text) }
    }
}

impl Pred {
    /// The predicate about tokens, which has no fact.
    pub fn is_token_identity(&self) -> bool {
        self.op == Op::Identity
    }

    /// Whether a fact fits; `control` is the control's, for `differs` and `same`.
    pub fn holds(&self, fact: Option<&Value>, control: Option<&Value>) -> bool {
        let number = || fact.and_then(Value::as_f64).zip(self.text.parse::<f64>().ok());
        match self.op {
            Op::Present => fact.is_some_and(|f| !f.is_null()),
            Op::Absent => fact.is_none_or(Value::is_null),
            Op::Differs => fact != control,
            Op::Same => fact == control,
            Op::Eq => fact.is_some_and(|f| equals(f, &self.text)),
            Op::Ne => fact.is_some_and(|f| !equals(f, &self.text)),
            Op::Gt => number().is_some_and(|(a, b)| a > b),
            Op::Ge => number().is_some_and(|(a, b)| a >= b),
            Op::Lt => number().is_some_and(|(a, b)| a < b),
            Op::Le => number().is_some_and(|(a, b)| a <= b),
            Op::Contains => fact.and_then(Value::as_str).is_some_and(|s| s.contains(&self.text)),
            // Looked at over whole requests, by `check::identity`.
            Op::Identity => false,
        }
    }
}

fn equals(fact: &Value, text: &str) -> bool {
    match fact {
        Value::String(s) => s == text.trim_matches('"'),
        Value::Number(n) => text.parse::<f64>().is_ok_and(|t| n.as_f64() == Some(t)),
        Value::Bool(b) => text == if *b { "true" } else { "false" },
        other => serde_json::from_str::<Value>(text).is_ok_and(|t| *other == t),
    }
}

/// The JSON a path walks: the sample with its metrics, counters under `counter`.
pub fn facts(sample: &Sample) -> Value {
    let mut value = serde_json::to_value(sample).unwrap_or_default();
    if let Some(o) = value.as_object_mut() {
        let counters = o.remove("counters").unwrap_or_default();
        o.insert("counter".into(), counters);
        o.insert("metric".into(), serde_json::to_value(sample.metrics()).unwrap_or_default());
    }
    value
}

/// The fact at a path.
pub fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    if path.is_empty() {
        return Some(value);
    }
    match value {
        Value::Object(o) => {
            let mut ends: Vec<usize> = path.match_indices('.').map(|(i, _)| i).collect();
            ends.push(path.len());
            ends.iter().rev().find_map(|&end| {
                let inner = o.get(&path[..end])?;
                at(inner, path.get(end + 1..).unwrap_or(""))
            })
        }
        Value::Array(a) => {
            let (index, rest) = path.split_once('.').unwrap_or((path, ""));
            at(a.get(index.parse::<usize>().ok()?)?, rest)
        }
        _ => None,
    }
}

/// Paths at which two values differ, deepest first named; `prefix` is put before each.
pub fn differences(a: &Value, b: &Value, prefix: &str) -> Vec<String> {
    fn walk(a: &Value, b: &Value, at: String, out: &mut Vec<String>) {
        let below = |key: &str| if at.is_empty() { key.to_string() } else { format!("{at}.{key}") };
        match (a, b) {
            (Value::Object(x), Value::Object(y)) => {
                let mut keys: Vec<&String> = x.keys().chain(y.keys()).collect();
                keys.sort();
                keys.dedup();
                for k in keys {
                    walk(x.get(k).unwrap_or(&Value::Null), y.get(k).unwrap_or(&Value::Null), below(k), out);
                }
            }
            (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
                for (i, (p, q)) in x.iter().zip(y).enumerate() {
                    walk(p, q, below(&i.to_string()), out);
                }
            }
            _ if a != b => out.push(at),
            _ => {}
        }
    }
    let mut out = Vec::new();
    walk(a, b, prefix.to_string(), &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pred(s: &str) -> Pred {
        Pred::try_from(s.to_string()).unwrap()
    }

    #[test]
    fn paths_take_the_longest_key_that_leads_somewhere() {
        let v = json!({"counter": {"spec.propose.none": {"acted": 3}, "spec": {"propose": 1}}, "list": [{"a": 7}]});
        assert_eq!(at(&v, "counter.spec.propose.none.acted"), Some(&json!(3)));
        assert_eq!(at(&v, "counter.spec.propose"), Some(&json!(1)));
        assert_eq!(at(&v, "list.0.a"), Some(&json!(7)));
        assert_eq!(at(&v, "list.1.a"), None);
        assert_eq!(at(&v, "counter.nothing"), None);
    }

    #[test]
    fn each_word_holds_for_what_it_says_and_for_nothing_else() {
        let (three, text, yes) = (json!(3), json!("avx512.q8_0"), json!(true));
        for (word, fact, holds) in [
            ("== 3", &three, true),
            ("== 3.0", &three, true),
            ("!= 3", &three, false),
            ("> 2", &three, true),
            ("> 3", &three, false),
            (">= 3", &three, true),
            ("<= 2.9", &three, false),
            ("< 4", &three, true),
            ("== avx512.q8_0", &text, true),
            ("contains avx512", &text, true),
            ("contains avx2.", &text, false),
            ("> 1", &text, false),
            ("== true", &yes, true),
            ("== false", &yes, false),
            ("present", &yes, true),
            ("absent", &yes, false),
        ] {
            assert_eq!(pred(word).holds(Some(fact), None), holds, "{word} on {fact}");
        }
        assert!(pred("absent").holds(None, None) && !pred("present").holds(None, None));
        // A missing fact fulfils no demand, not even a negative one.
        assert!(!pred("!= 3").holds(None, None));
        assert!(
            pred("differs").holds(Some(&three), Some(&text))
                && !pred("differs").holds(Some(&three), Some(&three))
        );
        assert!(pred("same").holds(Some(&three), Some(&three)));
    }

    #[test]
    fn a_wrong_predicate_is_refused_with_the_known_words() {
        for bad in ["=> 3", "", "==", "present 3", "> lots"] {
            assert!(Pred::try_from(bad.to_string()).is_err(), "{bad}");
        }
        assert!(Pred::try_from("about 3".to_string()).unwrap_err().contains("contains"));
    }

    #[test]
    fn differences_name_every_path_and_only_those() {
        let a = json!({"plan": {"ctx": 128, "kv": {"pages": 8, "page": 16}, "list": [1, 2]}});
        let b = json!({"plan": {"ctx": 256, "kv": {"pages": 16, "page": 16}, "list": [1, 3]}});
        assert_eq!(differences(&a, &b, ""), ["plan.ctx", "plan.kv.pages", "plan.list.1"]);
        assert!(differences(&a, &a, "").is_empty());
    }
}
