//! Who may run now, and in which order: the surest, simplest and most easily undone first.

use crate::ledger::{Body, Row};
use crate::spec::{Frozen, Spec};
use crate::verdict::Verdict;

/// Sort key: confidence falls, then assumptions and the price of undoing rise.
pub fn rank(spec: &Spec) -> (i64, u32, crate::spec::Revert) {
    (-(spec.confidence * 1e6) as i64, spec.assumptions, spec.revert)
}

/// The newest verdict on a spec, by id or its beginning.
pub fn verdict_of(rows: &[Row], id: &str) -> Option<Verdict> {
    rows.iter().rev().find_map(|r| match &r.body {
        Body::Decided { spec, decision, .. } if spec.starts_with(id) => decision.verdict,
        _ => None,
    })
}

/// Whether everything a spec waits for has happened; otherwise a sentence that says for what.
pub fn ready(rows: &[Row], spec: &Frozen) -> Result<(), String> {
    for need in &spec.spec.requires {
        let (id, word) = need.rsplit_once(' ').unwrap_or((need, "retain"));
        let Some(wanted) = Verdict::NAMES.iter().position(|n| *n == word) else {
            return Err(format!(
                "requires {need:?}: {word:?} is no verdict; known: {}",
                Verdict::NAMES.join(", ")
            ));
        };
        match verdict_of(rows, id.trim()) {
            Some(v) if v as usize == wanted => {}
            Some(v) => return Err(format!("closed: {id} was to be {word} and is {v}")),
            None => return Err(format!("waits for {id}, which has no verdict yet")),
        }
    }
    Ok(())
}
