//! How much memory an engine takes, before it does.

use serde::Serialize;

/// Anonymous memory of an engine, bytes. Mapped files are apart: the system takes their pages back when it must.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Forecast {
    /// weights as the device holds them
    pub weights: u64,
    /// activations and scratch of a batch
    pub buffers: u64,
    /// KV pages, all of them used
    pub kv: u64,
    /// sum without KV: pages are taken from the system when they are first written
    pub after_load: u64,
    /// sum
    pub at_full: u64,
}

impl Forecast {
    /// The two sums from their parts.
    pub fn of(weights: u64, buffers: u64, kv: u64) -> Forecast {
        let after_load = weights.saturating_add(buffers);
        Forecast { weights, buffers, kv, after_load, at_full: after_load.saturating_add(kv) }
    }
}
