//! IEEE half rows.

use tamp_base::card::{Card, Effect, Entry};
use tamp_formats::Kind;

pub(super) static ENTRY: Entry<Kind, ()> = Entry {
    card: Card {
        name: "f16",
        aka: "",
        about: "K and V stored as IEEE half, 2 bytes per element",
        paper: "",
        claim: "",
        effect: Effect::Identical,
        needs: &[],
        knobs: &[],
    },
    open: |_, _| Ok(Box::new(Kind::F16)),
};
