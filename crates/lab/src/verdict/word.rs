//! The words of verdicts.

use serde::{Deserialize, Serialize};

/// The eight verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// the claim holds
    Retain,
    /// it does not
    Reject,
    /// it was kept, and had to be undone
    Revert,
    /// something it needs does not exist; typed
    Block,
    /// the interval crosses the gate at the pair limit
    Inconclusive,
    /// this machine cannot resolve what was asked
    NotMeasurable,
    /// the question does not arise under this contract
    NotApplicable,
    /// it was not measured: a check failed
    Void,
}

impl Verdict {
    /// As people write them.
    pub const NAMES: [&'static str; 8] =
        ["retain", "reject", "revert", "block", "inconclusive", "not_measurable", "not_applicable", "void"];

    /// Whether `name` is one.
    pub fn known(name: &str) -> bool {
        Verdict::NAMES.contains(&name)
    }

    /// Whether it says something about the idea; the others may be asked again.
    pub fn answers(self) -> bool {
        !matches!(self, Verdict::Block | Verdict::NotMeasurable | Verdict::Void)
    }

    /// As people read it.
    pub fn word(self) -> &'static str {
        ["retain", "reject", "revert", "block", "inconclusive", "not measurable", "not applicable", "void"]
            [self as usize]
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}
