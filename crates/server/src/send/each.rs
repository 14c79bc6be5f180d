//! Every token on its own.

use std::time::Duration;

use tamp_base::card::{Card, Effect, Entry};

use super::Pace;

/// Sends each token.
struct Each;

/// The card.
pub static ENTRY: Entry<dyn Pace, ()> = Entry {
    card: Card {
        name: "each",
        aka: "",
        about: "every token is an event of its own, sent when it is there",
        paper: "",
        claim: "",
        effect: Effect::Service,
        needs: &[],
        knobs: &[],
    },
    open: |(), _| Ok(Box::new(Each)),
};

impl Pace for Each {
    fn wait(&self, _: usize, _: Duration) -> Option<Duration> {
        None
    }
}
