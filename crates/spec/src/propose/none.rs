//! Nobody guesses: plain decoding.

use tamp_base::card::{Card, Effect, Entry};
use tamp_base::count::Acts;
use tamp_base::ids::SeqId;

use super::{Kept, Proposer, SeqView};
use crate::Draft;

pub(super) static ENTRY: Entry<dyn Proposer, ()> = Entry {
    card: Card {
        name: "none",
        aka: "",
        about: "offers no draft: plain decoding, the oracle of every proposer",
        paper: "",
        claim: "",
        effect: Effect::Identical,
        needs: &[],
        knobs: &[],
    },
    open: |_, _| Ok(Box::new(Nobody)),
};

struct Nobody;

impl Proposer for Nobody {
    fn propose(&mut self, seqs: &[SeqView<'_>]) -> Vec<Draft> {
        vec![Draft::default(); seqs.len()]
    }

    fn learn(&mut self, _: &[Kept<'_>]) {}

    fn forget(&mut self, _: SeqId) {}

    fn acts(&self) -> Acts {
        Acts::default()
    }
}
