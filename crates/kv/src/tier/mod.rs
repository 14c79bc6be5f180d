//! The room `kv.tier`: where cached pages go beside memory.
//!
//! A tier is a set of pages by key. It never blocks its caller for longer than one read, it never gives a byte that is
//! not the one it took, and whatever goes wrong in it is a page it does not have. It changes no bookkeeping.

mod disk;
mod none;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tamp_base::card::Table;
use tamp_base::count::Acts;

use crate::prefix::{Hash, Hot, Ids};

/// The members; `none` is the oracle.
pub static TABLE: Table<dyn Tier, TierCtx> = Table { room: "kv.tier", rows: &[&none::ENTRY, &disk::ENTRY] };

/// The null tier.
pub(crate) fn nowhere() -> Box<dyn Tier> {
    Box::new(none::Nowhere)
}

/// What a tier is opened with.
#[derive(Clone, Debug)]
pub struct TierCtx {
    /// folder to use when the settings name none
    pub home: Option<PathBuf>,
    /// the time since 1970, for what must outlast the process
    pub now: fn() -> Duration,
}

impl Default for TierCtx {
    /// No folder, the machine's time.
    fn default() -> Self {
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        TierCtx { home: None, now }
    }
}

/// A page's name: its key, and what the key was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageName {
    /// chained hash of all before and this page's ids
    pub key: Hash,
    /// the key before it: a page's, or the root's
    pub parent: Hash,
    /// the page's ids
    pub ids: Ids,
    /// index of the page in its sequence
    pub index: u32,
}

/// What a tier holds and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierCounts {
    /// pages held now, as far as known
    pub pages: usize,
    /// their bytes
    pub bytes: u64,
    /// pages written
    pub saved: u64,
    /// pages given back
    pub loaded: u64,
    /// pages removed for age or room
    pub expired: u64,
    /// pages removed because something was wrong with them
    pub damaged: u64,
}

/// A place for pages beside memory.
pub trait Tier: Send {
    /// Pages it would take now without making the caller wait; 0 when it takes none at all.
    fn room(&self) -> usize;
    /// Whether a page is there, as far as can be said without reading it.
    fn has(&self, key: &Hash) -> bool;
    /// Puts a page's `bytes` bytes in the place of `out`'s, checked; `false`, and an empty `out`, when it has no such page.
    fn load(&mut self, page: &PageName, bytes: usize, out: &mut Vec<u8>) -> bool;
    /// Takes a page to keep; `false` when there is no room for it.
    fn save(&mut self, page: &PageName, bytes: Vec<u8>) -> bool;
    /// Waits until what was taken is kept, for so long at most; whether it is.
    fn flush(&mut self, within: Duration) -> bool;
    /// Keeps the prefixes asked for most, in the place of those kept before.
    fn remember(&mut self, hot: &[Hot]);
    /// The prefixes kept last, and their age.
    fn recall(&self) -> (Vec<Hot>, Duration);
    /// What it holds and did.
    fn counts(&self) -> TierCounts;
    /// Asked, declined, acted: one per page looked for.
    fn acts(&self) -> Acts;
    /// One sentence when it stopped working since the last call, with what to do.
    fn note(&mut self) -> Option<String>;
}
