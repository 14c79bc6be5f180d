//! Every sequence reads its own keys.

use tamp_base::card::{Card, Effect, Entry};
use tamp_base::count::Acts;
use tamp_kernels::device::RowMap;

use super::Pick;

pub(super) static ENTRY: Entry<dyn Pick, ()> = Entry {
    card: Card {
        name: "own",
        aka: "",
        about: "every sequence reads all keys of its own past for itself",
        paper: "",
        claim: "",
        effect: Effect::Identical,
        needs: &[],
        knobs: &[],
    },
    open: |(), _| Ok(Box::new(Own)),
};

struct Own;

impl Pick for Own {
    fn pick(&mut self, _: &mut [RowMap]) {}

    fn acts(&self) -> Acts {
        Acts::default()
    }
}
