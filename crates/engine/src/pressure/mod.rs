//! The room `engine.pressure`: what the engine gives up when memory runs short, before the system takes it.
//!
//! Asked once per turn; whether it measures then is its own business. What it says holds until it is asked again. The
//! engine obeys; it never loses a sequence by that: one that gives its pages up is computed again later.

mod degrade;
mod none;

use std::time::Duration;

use serde::Serialize;
use tamp_base::card::Table;

/// What can be measured, all in bytes or counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// anonymous memory of this process
    pub used: u64,
    /// what it can still take without swapping or meeting the limit of its control group; 0 = not known
    pub available: u64,
    /// pages that were written before and are free now: memory in `used` that new work takes first
    pub idle: u64,
    /// one KV page
    pub page: u64,
    /// KV pages to be had: free ones, and cached ones that nobody holds
    pub pages_free: usize,
    /// KV pages
    pub pages_total: usize,
    /// sequences that hold pages
    pub running: usize,
    /// sequences that wait for their first
    pub waiting: usize,
}

/// What the engine is to do until it asks again; the default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Actions {
    /// 0 = none, 1 = cached pages go, 2 = and no drafts, 3 = and fewer sequences, 4 = and newcomers are refused
    pub level: u8,
    /// pages of cached prefixes to let go now; 0 also where the last measurement still holds
    pub evict_pages: usize,
    /// guess nothing
    pub no_draft: bool,
    /// sequences that may hold pages, 0 = no bound
    pub most_running: usize,
    /// seconds after which a refused newcomer may come again; 0 = nobody is refused
    pub refuse_s: u32,
}

/// Decides what to give up.
pub trait Pressure: Send {
    /// `measure` costs some ten microseconds.
    fn look(&mut self, now: Duration, measure: &mut dyn FnMut() -> Facts) -> Actions;
}

/// The members; the default first.
pub static TABLE: Table<dyn Pressure, ()> =
    Table { room: "engine.pressure", rows: &[&none::ENTRY, &degrade::ENTRY] };
