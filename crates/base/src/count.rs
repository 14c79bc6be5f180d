//! Counters that make phantoms visible (DESIGN 5.5).

use serde::{Deserialize, Serialize};

/// How often a technique was asked to act, declined, and acted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acts {
    /// Times the core offered the technique a chance.
    pub asked: u64,
    /// Times it had nothing to offer.
    pub declined: u64,
    /// Times it changed what the engine did.
    pub acted: u64,
}

/// Work really done, counted where it is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Forward passes of the target model.
    pub target_forwards: u64,
    /// Rows (positions) those forwards computed.
    pub target_positions: u64,
    /// Layers executed, summed over forwards.
    pub layers: u64,
    /// Weight bytes read, packed size, summed over forwards.
    pub weight_bytes: u64,
    /// KV bytes that were not read again because rows of several sequences took them together.
    #[serde(default, skip_serializing_if = "none")]
    pub kv_bytes_spared: u64,
    /// Draft tokens the target judged.
    pub draft_tested: u64,
    /// Draft tokens kept.
    pub draft_accepted: u64,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, o: Self) {
        self.target_forwards += o.target_forwards;
        self.target_positions += o.target_positions;
        self.layers += o.layers;
        self.weight_bytes += o.weight_bytes;
        self.kv_bytes_spared += o.kv_bytes_spared;
        self.draft_tested += o.draft_tested;
        self.draft_accepted += o.draft_accepted;
    }
}

/// Records from before a counter existed read the same as those in which it stayed at 0.
fn none(n: &u64) -> bool {
    *n == 0
}
