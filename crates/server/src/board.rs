//! What the page shows that no engine knows: the machine's ceiling, all techniques, what was measured of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tamp_base::card::Room;

/// What an experiment found about a technique.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// the experiment's title
    pub title: String,
    /// the verdict's word
    pub verdict: String,
    /// in a sentence
    pub reason: String,
    /// what was measured
    pub metric: String,
    /// candidate over control, more than 1 is better
    pub ratio: f64,
    /// bounds of its interval
    pub interval: (f64, f64),
    /// each pair's ratio, in the order they ran
    pub pairs: Vec<f64>,
    /// the ledger's row
    pub row: String,
}

/// Handed in by whoever starts the server.
#[derive(Clone, Default)]
pub struct Board {
    /// model → bytes per second that this machine can read, 10⁹
    pub ceilings: BTreeMap<Arc<str>, f64>,
    /// every room; when empty, those of engine and server
    pub rooms: Vec<Room>,
    /// `room.card` → what was found, newest first
    pub findings: BTreeMap<String, Vec<Finding>>,
}

impl Board {
    /// Every room, its null technique or default first.
    pub fn rooms(&self) -> Vec<Room> {
        if !self.rooms.is_empty() {
            return self.rooms.clone();
        }
        tamp_engine::rooms().into_iter().chain(crate::send::rooms()).collect()
    }
}
