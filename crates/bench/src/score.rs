//! The quality of an engine's output beyond the tokens it chooses: a pinned text scored token by token, its
//! distributions against a reference that another process wrote, and graded items answered by likelihood. Everything
//! runs through the engine's own loop.

use std::path::PathBuf;

use tamp_base::ids::Token;
use tamp_base::scored::{Scored, kl, log_softmax, nano};
use tamp_kernels::device::Device;
use tamp_text::{Special, Tokenizer};

mod reference;

pub use reference::{KIND, Kept, Known};

use crate::prompt::hash;
use crate::{BenchError, Subject};

/// A text written for this purpose: no model was trained on it when it was written.
pub const HELD_OUT: &str = include_str!("../data/held-out.txt");
/// Graded items: context, right answer, wrong answers, between tabs. Made by `data/task.py`.
pub const TASK: &str = include_str!("../data/task.tsv");
/// Tokens of the text that are read before the first one is scored.
pub const LEAD: usize = 32;

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Scoring {
    /// tokens of [`HELD_OUT`] to score, after [`LEAD`] that are read
    pub positions: Option<usize>,
    /// writes the distribution at each of these positions here
    pub keep: Option<PathBuf>,
    /// compares them with those that another process wrote
    pub against: Option<PathBuf>,
    /// asks the graded items
    pub task: bool,
}

impl Scoring {
    /// Whether anything is asked.
    pub fn any(&self) -> bool {
        self.positions.is_some() || self.task
    }
}

/// Measures what is asked. What cannot be measured is in the record too: a sample whose quality is unknown must say so,
/// not be lost.
pub fn score<D: Device>(s: &mut Subject<'_, D>, ask: &Scoring) -> Scored {
    let mut out = Scored::default();
    let done = text(s, ask, &mut out).and_then(|()| if ask.task { task(s, &mut out) } else { Ok(()) });
    match done {
        Ok(()) => out,
        Err(e) => Scored { failed: Some(e.to_string()), ..Scored::default() },
    }
}

fn text<D: Device>(s: &mut Subject<'_, D>, ask: &Scoring, out: &mut Scored) -> Result<(), BenchError> {
    let Some(positions) = ask.positions else { return Ok(()) };
    let tokenizer = s.engine.tokenizer().clone();
    let ids = crate::prompt::tokens(&tokenizer, HELD_OUT, 0, LEAD + positions)?;
    let (lead, rest) = ids.split_at(LEAD);
    out.text = hash(&ids);
    out.bytes = rest.iter().map(|&t| tokenizer.bytes(t).len() as u64).sum();
    let vocab = s.engine.plan().model.vocab;
    let mut keep = ask.keep.as_deref().map(|p| Kept::new(p, vocab, positions, &out.text)).transpose()?;
    let mut known =
        ask.against.as_deref().map(|p| Known::open(p, vocab, positions, &out.text)).transpose()?;
    s.engine.score(lead, rest, &mut |at, logits| -> Result<(), BenchError> {
        let own = log_softmax(logits).map_err(|why| BenchError::Logits { at, why })?;
        out.nll.push(nano(-own[rest[at] as usize]));
        out.best.push(best(logits));
        if let Some(k) = &mut keep {
            k.row(logits)?;
        }
        if let Some(k) = &mut known {
            let theirs = log_softmax(k.row()?).map_err(|why| BenchError::Logits { at, why })?;
            out.kl.push(nano(kl(&theirs, &own)));
        }
        Ok(())
    })?;
    if let Some(k) = keep {
        out.kept = k.close()?;
    }
    if let Some(k) = known {
        out.against = k.close()?;
    }
    Ok(())
}

/// The largest logit, ties to the lowest id.
fn best(logits: &[f32]) -> Token {
    let mut at = 0;
    for (i, l) in logits.iter().enumerate() {
        if *l > logits[at] {
            at = i;
        }
    }
    at as Token
}

/// One graded item in a model's tokens.
struct Item {
    context: Vec<Token>,
    /// the right one first
    answers: Vec<Vec<Token>>,
}

fn items(t: &Tokenizer) -> Result<Vec<Item>, BenchError> {
    let plain = |text: &str, bos| t.encode(text, Special::Plain, bos);
    let lines = TASK.lines().enumerate().filter(|(_, l)| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|(n, line)| {
            let cells: Vec<&str> = line.split('\t').collect();
            let [context, answers @ ..] = cells.as_slice() else { return Err(BenchError::Items(n + 1)) };
            if answers.len() < 2 {
                return Err(BenchError::Items(n + 1));
            }
            let context_ids = plain(context, true);
            // Together where the tokens of both begin as the context's do, so that the model meets what it would write.
            let answer = |a: &&str| {
                let both = plain(&format!("{context}{a}"), true);
                match both.strip_prefix(context_ids.as_slice()) {
                    Some(rest) if !rest.is_empty() => rest.to_vec(),
                    _ => plain(a, false),
                }
            };
            Ok(Item { answers: answers.iter().map(answer).collect(), context: context_ids })
        })
        .collect()
}

fn task<D: Device>(s: &mut Subject<'_, D>, out: &mut Scored) -> Result<(), BenchError> {
    let tokenizer = s.engine.tokenizer().clone();
    for item in items(&tokenizer)? {
        // All answers begin at the same logits; those of one token need no more.
        let mut first: Option<Vec<f64>> = None;
        let mut sums = Vec::new();
        for answer in &item.answers {
            let known = first.as_ref().filter(|_| answer.len() == 1);
            if let (Some(f), Some(&token)) = (known, answer.first()) {
                sums.push(f[token as usize]);
                continue;
            }
            let mut sum = 0.0;
            s.engine.score(&item.context, answer, &mut |at, logits| -> Result<(), BenchError> {
                let own = log_softmax(logits).map_err(|why| BenchError::Logits { at, why })?;
                sum += own[answer[at] as usize];
                if at == 0 {
                    first.get_or_insert(own);
                }
                Ok(())
            })?;
            sums.push(sum);
        }
        let wrong = sums[1..].iter().copied().fold(f64::NEG_INFINITY, f64::max);
        out.margins.push(nano(sums[0] - wrong));
    }
    out.task = blake3::hash(TASK.as_bytes()).to_hex().to_string();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_graded_items_are_over_a_hundred_each_its_own_and_no_answer_is_given_twice() {
        let lines: Vec<&str> = TASK.lines().filter(|l| !l.starts_with('#')).collect();
        assert!(lines.len() >= 100, "{}", lines.len());
        let contexts: BTreeSet<&str> = lines.iter().filter_map(|l| l.split('\t').next()).collect();
        assert_eq!(contexts.len(), lines.len());
        for l in &lines {
            let cells: Vec<&str> = l.split('\t').collect();
            let answers: BTreeSet<&str> = cells[1..].iter().copied().collect();
            assert!(answers.len() >= 2 && answers.len() == cells.len() - 1, "{l}");
            assert!(cells[1..].iter().all(|a| a.starts_with(' ')), "{l}");
        }
    }

    #[test]
    fn the_held_out_text_does_not_repeat_itself() {
        let words: Vec<&str> = HELD_OUT.split_whitespace().collect();
        let mut seen = BTreeSet::new();
        assert_eq!(words.windows(8).filter(|w| !seen.insert(w.to_vec())).count(), 0);
        assert!(HELD_OUT.len() > 2500);
    }
}
