//! No forecast.

use tamp_base::card::{Card, Effect, Entry};

use super::{Forecast, Known};

pub(super) static ENTRY: Entry<dyn Forecast, ()> = Entry {
    card: Card {
        name: "none",
        aka: "",
        about: "foretells nothing: an answer may be as long as it is allowed to be",
        paper: "",
        claim: "",
        effect: Effect::Service,
        needs: &[],
        knobs: &[],
    },
    open: |_, _| Ok(Box::new(Silent)),
};

struct Silent;

impl Forecast for Silent {
    fn whole(&self, _: Known) -> Option<f64> {
        None
    }

    fn learn(&mut self, _: Known) {}
}
