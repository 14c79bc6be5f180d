//! No tier: what is evicted is gone.

use std::time::Duration;

use tamp_base::card::{Card, Effect, Entry};
use tamp_base::count::Acts;

use super::{PageName, Tier, TierCounts, TierCtx};
use crate::prefix::{Hash, Hot};

pub(super) static ENTRY: Entry<dyn Tier, TierCtx> = Entry {
    card: Card {
        name: "none",
        aka: "",
        about: "cached pages live in memory only",
        paper: "",
        claim: "",
        effect: Effect::Identical,
        needs: &[],
        knobs: &[],
    },
    open: |_, _| Ok(Box::new(Nowhere)),
};

/// Takes nothing, has nothing.
pub(crate) struct Nowhere;

impl Tier for Nowhere {
    fn room(&self) -> usize {
        0
    }
    fn has(&self, _: &Hash) -> bool {
        false
    }
    fn load(&mut self, _: &PageName, _: usize, out: &mut Vec<u8>) -> bool {
        out.clear();
        false
    }
    fn save(&mut self, _: &PageName, _: Vec<u8>) -> bool {
        false
    }
    fn flush(&mut self, _: Duration) -> bool {
        true
    }
    fn remember(&mut self, _: &[Hot]) {}
    fn recall(&self) -> (Vec<Hot>, Duration) {
        (Vec::new(), Duration::ZERO)
    }
    fn counts(&self) -> TierCounts {
        TierCounts::default()
    }
    fn acts(&self) -> Acts {
        Acts::default()
    }
    fn note(&mut self) -> Option<String> {
        None
    }
}
