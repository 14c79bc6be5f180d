//! Who may run now, and in which order: the surest, simplest and most easily undone first. What is missing, typed, and
//! who waits for it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ledger::{Body, Row};
use crate::spec::{Blocker, BlockerKind, Frozen, Revert, Spec};
use crate::verdict::Verdict;

/// Ids of specs by the file they are in, as `requires` may name them.
pub type Names = BTreeMap<String, String>;

/// Sort key: confidence falls, then assumptions and the price of undoing rise.
pub fn rank(spec: &Spec) -> (i64, u32, Revert) {
    (-(spec.confidence * 1e6) as i64, spec.assumptions, spec.revert)
}

/// The key in words.
pub fn rank_words(spec: &Spec) -> String {
    let undo = match spec.revert {
        Revert::Flag => "leaving out a flag",
        Revert::Delete => "deleting a file",
        Revert::Revert => "reverting a commit",
    };
    let s = if spec.assumptions == 1 { "" } else { "s" };
    format!("confidence {:.2}, {} assumption{s}, undone by {undo}", spec.confidence, spec.assumptions)
}

/// Why an experiment may not run now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    /// What it requires has no verdict yet.
    #[error("waits for {0}, which has no verdict yet")]
    Yet(String),
    /// What it requires was not answered: blocked, void, or not measurable.
    #[error("waits for {0}, which is {1}")]
    Open(String, String),
    /// What it requires has another verdict.
    #[error("closed: {0} was to be {1} and is {2}")]
    Closed(String, &'static str, String),
    /// `requires` cannot be read.
    #[error("requires {need:?}: {word:?} is no verdict; known: {}", Verdict::NAMES.join(", "))]
    Word {
        /// all of it
        need: String,
        /// the word that should be a verdict
        word: String,
    },
}

/// One word of `requires`: whose verdict, and which one.
fn need(text: &str) -> Result<(&str, usize), Wait> {
    let (who, word) = text.trim().rsplit_once(char::is_whitespace).unwrap_or((text.trim(), "retain"));
    let place = Verdict::NAMES.iter().position(|n| *n == word);
    place.map(|p| (who.trim(), p)).ok_or_else(|| Wait::Word { need: text.into(), word: word.into() })
}

/// Whether `file` is `name`, or ends in it as a path does.
fn is_file(file: &str, name: &str) -> bool {
    file == name || file.strip_suffix(name).is_some_and(|folder| folder.ends_with('/'))
}

/// The spec that `who` names: a file of `names` first, then an id or its beginning, then a file that the ledger has a
/// question from, the newest.
pub fn id_of(rows: &[Row], names: &Names, who: &str) -> Option<String> {
    if let Some((_, id)) = names.iter().find(|(file, _)| is_file(file, who)) {
        return Some(id.clone());
    }
    let opened = |fits: &dyn Fn(&str, &str) -> bool| {
        rows.iter().rev().find_map(|r| match &r.body {
            Body::Opened { spec, file, .. } if fits(spec, file) => Some(spec.clone()),
            _ => None,
        })
    };
    opened(&|spec, _| spec.starts_with(who)).or_else(|| opened(&|_, file| is_file(file, who)))
}

/// The verdicts of the newest attempt at a spec, one per candidate; empty before the first.
pub fn verdicts_of(rows: &[Row], id: &str) -> Vec<Verdict> {
    let mut all: Vec<Verdict> = Vec::new();
    let mut newest = None;
    for row in rows {
        let Body::Decided { spec, attempt, decision, .. } = &row.body else { continue };
        if spec == id {
            if newest != Some(*attempt) {
                all.clear();
                newest = Some(*attempt);
            }
            all.extend(decision.verdict);
        }
    }
    all
}

/// Whether everything a spec waits for has happened. Of a spec with several candidates, one with the verdict is enough.
pub fn ready(rows: &[Row], names: &Names, spec: &Frozen) -> Result<(), Wait> {
    for text in &spec.spec.requires {
        let (who, wanted) = need(text)?;
        let have = id_of(rows, names, who).map(|id| verdicts_of(rows, &id)).unwrap_or_default();
        if have.is_empty() {
            return Err(Wait::Yet(who.into()));
        }
        if !have.iter().any(|v| *v as usize == wanted) {
            let is: Vec<&str> = have.iter().map(|v| v.word()).collect();
            // What says nothing of the idea may still be asked again.
            let open = have.iter().any(|v| !v.answers());
            return Err(match open {
                true => Wait::Open(who.into(), is.join(", ")),
                false => Wait::Closed(who.into(), Verdict::NAMES[wanted], is.join(", ")),
            });
        }
    }
    Ok(())
}

/// Where an experiment stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// It may run.
    Ready {
        /// why it is asked again, where it was asked before
        #[serde(default, skip_serializing_if = "Option::is_none")]
        again: Option<String>,
    },
    /// The ledger has the answer.
    Answered {
        /// hash of the row that holds it
        row: String,
        /// in a sentence
        why: String,
    },
    /// Something it needs does not exist.
    Blocked {
        /// what
        by: Vec<Blocker>,
    },
    /// What it requires has no verdict yet.
    Waits {
        /// in a sentence
        why: String,
    },
    /// What it requires has another verdict.
    Closed {
        /// in a sentence
        why: String,
    },
}

/// An experiment in its queue.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// its file
    pub file: String,
    /// id of its spec
    pub id: String,
    /// title
    pub title: String,
    /// why it stands where it does
    pub rank: String,
    /// where it stands
    #[serde(flatten)]
    pub state: State,
}

/// Specs in the order they would run; those of equal rank stay as they came.
pub fn ordered(specs: &[(String, Frozen)]) -> Vec<&(String, Frozen)> {
    let mut all: Vec<&(String, Frozen)> = specs.iter().collect();
    all.sort_by_key(|s| rank(&s.1.spec));
    all
}

/// The queue of `specs` (file and spec): the order, and where each stands. `hash_of` gives today's hash of a dependency
/// of a spec.
pub fn queue(
    rows: &[Row],
    specs: &[(String, Frozen)],
    hash_of: &mut dyn FnMut(&Frozen, &str) -> String,
) -> Vec<Entry> {
    let names: Names = specs.iter().map(|(file, s)| (file.clone(), s.id.clone())).collect();
    let mut all = Vec::new();
    for (file, spec) in ordered(specs) {
        let state = match crate::why::answer(rows, spec, &mut |name| hash_of(spec, name)) {
            Some((row, why)) => State::Answered { row: row.hash, why },
            None if !spec.spec.blocked.is_empty() => State::Blocked { by: spec.spec.blocked.clone() },
            None => match ready(rows, &names, spec) {
                Ok(()) => {
                    State::Ready { again: crate::why::again(rows, spec, &mut |name| hash_of(spec, name)) }
                }
                Err(why @ Wait::Closed(..)) => State::Closed { why: why.to_string() },
                Err(why) => State::Waits { why: why.to_string() },
            },
        };
        all.push(Entry {
            file: file.clone(),
            id: spec.id.clone(),
            title: spec.spec.title.clone(),
            rank: rank_words(&spec.spec),
            state,
        });
    }
    all
}

/// Something that is missing, and everybody who waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// what kind of thing
    pub kind: BlockerKind,
    /// what exactly
    pub needs: String,
    /// titles of the experiments that name it, in order of rank
    pub blocks: Vec<String>,
    /// titles of those that require one of these
    pub behind: Vec<String>,
}

/// What is missing, grouped by kind and thing: said by the specs themselves, or found when they ran and still the newest
/// word on them.
pub fn blockers(rows: &[Row], specs: &[(String, Frozen)]) -> Vec<Missing> {
    let names: Names = specs.iter().map(|(file, s)| (file.clone(), s.id.clone())).collect();
    let mut found: BTreeMap<(BlockerKind, String), Vec<&Frozen>> = BTreeMap::new();
    let found_in_run = found_when_run(rows);
    for (_, spec) in ordered(specs) {
        let mut all = spec.spec.blocked.clone();
        all.extend(found_in_run.get(spec.id.as_str()).into_iter().flatten().map(|b| (*b).clone()));
        all.sort_by(|a, b| (a.kind, &a.needs).cmp(&(b.kind, &b.needs)));
        all.dedup();
        for b in all {
            found.entry((b.kind, b.needs)).or_default().push(spec);
        }
    }
    found
        .into_iter()
        .map(|((kind, needs), blocked)| {
            let mut reached: Vec<&str> = blocked.iter().map(|s| s.id.as_str()).collect();
            let mut behind = Vec::new();
            // Who requires one of these, and who requires those in turn.
            while let Some((_, next)) = ordered(specs).into_iter().find(|(_, s)| {
                let waits = |text: &String| {
                    let who = need(text).ok().and_then(|(who, _)| id_of(rows, &names, who));
                    who.is_some_and(|id| reached.contains(&id.as_str()))
                };
                !reached.contains(&s.id.as_str()) && s.spec.requires.iter().any(waits)
            }) {
                reached.push(&next.id);
                behind.push(next.spec.title.clone());
            }
            let blocks = blocked.iter().map(|s| s.spec.title.clone()).collect();
            Missing { kind, needs, blocks, behind }
        })
        .collect()
}

/// Blockers of the newest attempt of each spec.
fn found_when_run(rows: &[Row]) -> BTreeMap<&str, Vec<&Blocker>> {
    let mut newest: BTreeMap<&str, (u32, Vec<&Blocker>)> = BTreeMap::new();
    for row in rows {
        let Body::Decided { spec, attempt, decision, .. } = &row.body else { continue };
        let at = newest.entry(spec).or_default();
        if at.0 != *attempt {
            *at = (*attempt, Vec::new());
        }
        if decision.verdict == Some(Verdict::Block) {
            at.1.extend(&decision.blocker);
        }
    }
    newest.into_iter().map(|(id, (_, by))| (id, by)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::spec::tests::EXAMPLE;
    use crate::verdict::{Decision, blocked};

    /// The example with another title and rank; `more` goes among its first keys.
    pub fn spec(title: &str, confidence: f64, more: &str) -> Frozen {
        let text = EXAMPLE
            .replace("title = \"one thread or two\"", &format!("title = \"{title}\"\n{more}"))
            .replace("confidence = 0.9", &format!("confidence = {confidence}"))
            .replace("[\"threads\", \"engine.core\"]", &format!("[\"{title}\"]"));
        Frozen::parse(&text, title).unwrap()
    }

    pub fn row(n: u64, body: Body) -> Row {
        let hash = blake3::hash(&n.to_le_bytes()).to_hex().to_string();
        Row { kind: crate::ledger::ROW.into(), v: 1, n, at_ms: n, prev: String::new(), body, hash }
    }

    pub fn opened(s: &Frozen, file: &str) -> Body {
        Body::Opened {
            spec: s.id.clone(),
            value: s.value.clone(),
            file: file.into(),
            program: None,
            rank: 0,
            depends: BTreeMap::new(),
        }
    }

    pub fn decided(s: &Frozen, attempt: u32, verdict: Verdict) -> Body {
        let none = Blocker { kind: BlockerKind::Data, needs: "a corpus".into() };
        let mut d: Decision = blocked(s, "candidate", &none);
        d.verdict = Some(verdict);
        if verdict != Verdict::Block {
            d.blocker = None;
        }
        Body::Decided {
            spec: s.id.clone(),
            attempt,
            calibration: None,
            decision: Box::new(d),
            commit: None,
            action: String::new(),
        }
    }

    fn rows(bodies: Vec<Body>) -> Vec<Row> {
        bodies.into_iter().enumerate().map(|(n, b)| row(n as u64, b)).collect()
    }

    #[test]
    fn the_surest_runs_first_then_the_simplest_then_the_most_easily_undone() {
        let s = |title: &str, c: f64, a: u32, r: &str| {
            let text = EXAMPLE
                .replace("one thread or two", title)
                .replace("confidence = 0.9", &format!("confidence = {c}"))
                .replace("assumptions = 0", &format!("assumptions = {a}"))
                .replace("revert = \"flag\"", &format!("revert = \"{r}\""));
            (title.to_string(), Frozen::parse(&text, title).unwrap())
        };
        let all = [
            s("e", 0.5, 1, "revert"),
            s("d", 0.5, 1, "flag"),
            s("c", 0.5, 0, "revert"),
            s("b", 0.51, 9, "revert"),
            s("a", 0.9, 9, "revert"),
            s("f", 0.5, 1, "revert"),
        ];
        let order: String = ordered(&all).iter().map(|s| s.0.as_str()).collect();
        assert_eq!(order, "abcdef");
    }

    #[test]
    fn a_requirement_is_named_by_the_beginning_of_an_id_or_by_a_file() {
        let first = spec("first", 0.9, "");
        let ledger = rows(vec![opened(&first, "lab/specs/first.toml"), decided(&first, 0, Verdict::Retain)]);
        let names = Names::new();
        let wait =
            |need: &str| ready(&ledger, &names, &spec("then", 0.5, &format!("requires = [\"{need}\"]")));
        for need in [&first.id, &first.id[..8], "first.toml", "specs/first.toml"] {
            assert_eq!(wait(&format!("{need} retain")), Ok(()), "{need}");
            assert_eq!(wait(need), Ok(()), "{need} alone asks for retain");
            assert!(matches!(wait(&format!("{need} reject")), Err(Wait::Closed(..))), "{need}");
        }
        // The end of a file's name is not its name.
        assert!(matches!(wait("irst.toml retain"), Err(Wait::Yet(_))));
        assert!(matches!(wait("0000 retain"), Err(Wait::Yet(_))));
        assert!(matches!(wait("first.toml keep"), Err(Wait::Word { .. })));
        // What the program says a file is goes before what the ledger once had from it.
        let other = Names::from([("first.toml".to_string(), "another".to_string())]);
        let then = spec("then", 0.5, "requires = [\"first.toml retain\"]");
        assert!(matches!(ready(&ledger, &other, &then), Err(Wait::Yet(_))));
    }

    #[test]
    fn only_the_newest_attempt_counts_and_one_candidate_is_enough() {
        let first = spec("first", 0.9, "");
        let then = spec("then", 0.5, &format!("requires = [\"{} retain\"]", &first.id[..12]));
        let mut bodies = vec![opened(&first, "f"), decided(&first, 0, Verdict::Retain)];
        bodies.push(decided(&first, 1, Verdict::Reject));
        assert!(matches!(ready(&rows(bodies.clone()), &Names::new(), &then), Err(Wait::Closed(..))));
        bodies.push(decided(&first, 1, Verdict::Retain));
        assert_eq!(ready(&rows(bodies), &Names::new(), &then), Ok(()));
        // What was not answered closes nothing.
        for v in [Verdict::Block, Verdict::Void, Verdict::NotMeasurable] {
            let rows = rows(vec![opened(&first, "f"), decided(&first, 0, v)]);
            assert!(matches!(ready(&rows, &Names::new(), &then), Err(Wait::Open(..))), "{v}");
        }
    }

    #[test]
    fn the_queue_says_where_each_stands() {
        let a = spec("a", 0.9, "");
        let b = spec("b", 0.8, "requires = [\"a.toml retain\"]");
        let c = spec("c", 0.7, "requires = [\"b.toml retain\"]");
        let d = spec("d", 0.6, "blocked = [{ kind = \"runtime\", needs = \"x\" }]");
        let specs: Vec<(String, Frozen)> = [("c", &c), ("d", &d), ("b", &b), ("a", &a)]
            .map(|(n, s)| (format!("{n}.toml"), s.clone()))
            .into();
        let states = |rows: &[Row]| -> Vec<State> {
            queue(rows, &specs, &mut |_, _| String::new()).into_iter().map(|e| e.state).collect()
        };
        let s = states(&[]);
        assert_eq!(s[0], State::Ready { again: None });
        assert!(matches!(&s[1], State::Waits { why } if why.contains("a.toml")));
        assert!(matches!(&s[3], State::Blocked { by } if by[0].needs == "x"));
        let s = states(&rows(vec![opened(&a, "a.toml"), decided(&a, 0, Verdict::Reject)]));
        assert!(matches!(&s[0], State::Answered { why, .. } if why.contains("reject")));
        assert!(matches!(&s[1], State::Closed { why } if why.contains("reject")));
        assert!(matches!(&s[2], State::Waits { .. }));
    }

    #[test]
    fn an_answered_question_that_is_ready_again_says_why() {
        let a = spec("a", 0.9, "");
        let specs = [("a.toml".to_string(), a.clone())];
        let why =
            |bodies: Vec<Body>, hash: &str| match queue(&rows(bodies), &specs, &mut |_, _| hash.to_string())
                .remove(0)
                .state
            {
                State::Ready { again } => again.unwrap_or_default(),
                other => panic!("{other:?}"),
            };
        let asked = |verdict| {
            let mut first = opened(&a, "a.toml");
            if let Body::Opened { depends, .. } = &mut first {
                depends.insert("crate:kernels".into(), "as it was".into());
            }
            vec![first, decided(&a, 0, verdict)]
        };
        let moved = why(asked(Verdict::Reject), "another");
        assert!(moved.contains("reject") && moved.contains("crate:kernels has changed"), "{moved}");
        let void = why(asked(Verdict::Void), "as it was");
        assert!(void.contains("void") && void.contains("no answer"), "{void}");
        assert_eq!(why(vec![], "as it was"), "");
        let stopped = why(vec![opened(&a, "a.toml")], "");
        assert!(stopped.contains("stopped"), "{stopped}");
    }

    #[test]
    fn a_missing_thing_is_listed_once_with_all_who_wait_for_it() {
        let thing = "blocked = [{ kind = \"runtime\", needs = \"a draft model\" }]";
        let a = spec("a", 0.2, thing);
        let b = spec("b", 0.8, thing);
        let c = spec("c", 0.7, "requires = [\"a.toml retain\"]");
        let d = spec("d", 0.6, "requires = [\"c.toml retain\"]");
        let e = spec("e", 0.5, "");
        let specs: Vec<(String, Frozen)> = [("a", &a), ("b", &b), ("c", &c), ("d", &d), ("e", &e)]
            .map(|(n, s)| (format!("{n}.toml"), s.clone()))
            .into();
        let ledger = rows(vec![opened(&e, "e.toml"), decided(&e, 0, Verdict::Block)]);
        let all = blockers(&ledger, &specs);
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].kind, all[0].blocks.clone()),
            (BlockerKind::Runtime, vec!["b".into(), "a".into()])
        );
        assert_eq!(all[0].behind, ["c", "d"]);
        assert_eq!((all[1].kind, all[1].needs.as_str()), (BlockerKind::Data, "a corpus"));
        assert_eq!(all[1].blocks, ["e"]);
        // A later attempt that ran takes it off the list.
        let ledger =
            rows(vec![opened(&e, "e.toml"), decided(&e, 0, Verdict::Block), decided(&e, 1, Verdict::Retain)]);
        assert_eq!(blockers(&ledger, &specs).len(), 1);
    }
}
