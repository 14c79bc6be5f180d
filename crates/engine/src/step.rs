//! The only loop there is. Plain decoding, prefill, verification and many streams are the same call.

use tamp_kv::Device;

use crate::Engine;
use crate::error::EngineError;
use crate::turn::{Outcome, Turn};

impl<D: Device> Engine<D> {
    /// One turn of the engine: one forward pass over rows of as many sequences as fit. Never blocks; an empty turn
    /// means that nobody can be scheduled. An error means that the engine itself is broken: a sequence's own failure
    /// ends that sequence and nothing else.
    pub fn step(&mut self) -> Result<Turn, EngineError> {
        let began = self.now_ns();
        self.trust()?;
        self.take_in();
        let turn = self.choose();
        if turn.parts.is_empty() {
            return Ok(turn);
        }
        let rows = self.build(&turn);
        let mut out = self.models[turn.model].forward(&rows.batch, &mut self.kv, &mut self.run)?;
        let kept: Vec<Outcome> = rows.parts.iter().map(|part| self.judge(part, &mut out)).collect();
        self.commit(&kept)?;
        self.learn(&kept);
        let booked = self.book(began, &rows.parts, &kept);
        self.give_out(kept);
        self.meter.late(booked, self.now_ns());
        Ok(turn)
    }
}
