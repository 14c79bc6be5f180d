//! Single-precision rows, the oracle.

use tamp_base::card::{Card, Effect, Entry};
use tamp_formats::Kind;

pub(super) static ENTRY: Entry<Kind, ()> = Entry {
    card: Card {
        name: "f32",
        aka: "",
        about: "K and V stored as computed, 4 bytes per element: the oracle of every other codec; other bits than f16, held to it by the model oracle test",
        paper: "",
        claim: "",
        effect: Effect::Lossy,
        needs: &[],
        knobs: &[],
    },
    open: |_, _| Ok(Box::new(Kind::F32)),
};
