//! Nothing happens unasked.

use std::time::Duration;

use tamp_base::card::{Card, Effect, Entry};
use tamp_base::count::Acts;
use tamp_kv::Hot;

use super::Idle;

pub(super) static ENTRY: Entry<dyn Idle, ()> = Entry {
    card: Card {
        name: "none",
        aka: "",
        about: "computes nothing before it is asked for",
        paper: "",
        claim: "",
        effect: Effect::Identical,
        needs: &[],
        knobs: &[],
    },
    open: |(), _| Ok(Box::new(Rests)),
};

struct Rests;

impl Idle for Rests {
    fn next(
        &mut self,
        _: Duration,
        _: &mut dyn FnMut(usize) -> Vec<Hot>,
        _: &dyn Fn(&Hot) -> usize,
    ) -> Option<Hot> {
        None
    }

    fn acts(&self) -> Acts {
        Acts::default()
    }
}
