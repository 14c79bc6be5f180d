//! The read ceiling, before and after a workload in the same process; the higher counts.

use std::io;
use std::time::Duration;

use serde::Serialize;
use tamp_kernels::pool::Pool;
use tamp_kernels::probe;

/// Time for each probe.
const BUDGET: Duration = Duration::from_millis(400);

/// The read ceiling over a working set of the bytes a token reads.
#[derive(Clone, Debug, Serialize)]
pub struct Bracket {
    /// before the workload, GB/s
    pub before_gb_s: f64,
    /// after it, GB/s
    pub after_gb_s: f64,
    /// threads × streams × prefetch that won
    pub best: String,
}

impl Bracket {
    /// Runs `work` between two probes over `bytes` bytes.
    pub fn around<T>(pool: &Pool, bytes: u64, work: impl FnOnce() -> T) -> io::Result<(Bracket, T)> {
        let before = probe::read_bandwidth(pool, bytes as usize, BUDGET)?;
        let out = work();
        let after = probe::read_bandwidth(pool, bytes as usize, BUDGET)?;
        let best = if after.gb_s > before.gb_s { after.best } else { before.best };
        Ok((Bracket { before_gb_s: before.gb_s, after_gb_s: after.gb_s, best }, out))
    }

    /// The ceiling, GB/s.
    pub fn gb_s(&self) -> f64 {
        self.before_gb_s.max(self.after_gb_s)
    }

    /// What share of the ceiling `gb_s` is, and a word when that share cannot be right.
    pub fn fraction(&self, gb_s: f64) -> (f64, Option<&'static str>) {
        let f = if self.gb_s() > 0.0 { gb_s / self.gb_s() } else { 0.0 };
        let word = if f > 1.0 {
            Some("void: above the ceiling")
        } else if f < 0.15 {
            Some("wrong path?")
        } else {
            None
        };
        (f, word)
    }
}
