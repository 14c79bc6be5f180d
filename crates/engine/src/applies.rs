//! Which techniques could act on the loaded model, by the checks that choosing them would make.

use tamp_base::card::{Card, CardError};
use tamp_base::settings::Settings;
use tamp_kv::Device;

use crate::policy::{self, PolicyCtx};
use crate::{Engine, budget, forecast, plan, rooms};

impl<D: Device> Engine<D> {
    /// Whether `card` of `room` could be chosen for this model and act, or why not. What is in use applies.
    pub fn applies(&self, room: &str, card: &'static Card) -> Result<(), CardError> {
        if self.plan.techniques.iter().any(|t| t.room == room && t.name == card.name) {
            return Ok(());
        }
        plan::needs(room, card)?;
        let mut settings = Settings::default();
        settings.add_use(&format!("{room}={}", card.name), "")?;
        let ctx = PolicyCtx { chunk: self.plan.chunk, batch: self.plan.batch, share: self.plan.share };
        if room == policy::TABLE.room {
            policy::TABLE.open(&ctx, &settings)?;
        } else if room == forecast::TABLE.room {
            forecast::TABLE.open(&(), &settings)?;
        } else if room == budget::TABLE.room {
            budget::TABLE.open(&(), &settings)?;
        } else if room == tamp_spec::propose::TABLE.room {
            tamp_spec::propose::TABLE.open(&(), &settings)?;
        } else if room == tamp_spec::accept::TABLE.room {
            tamp_spec::accept::TABLE.open(&(), &settings)?;
        } else if room == tamp_kv::codec::TABLE.room {
            tamp_kv::codec::TABLE.open(&(), &settings)?;
        } else if room == rooms::RESIDENCY && self.watch.is_none() {
            let why =
                "the model is not a bundle, and weights of other files are copied out of them either way";
            return Err(CardError::Refused { card: format!("{room}.{}", card.name), why: why.into() });
        }
        Ok(())
    }
}
