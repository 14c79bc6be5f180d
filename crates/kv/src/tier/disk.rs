//! Pages on disk: evicted prefixes and whole restarts cost a read instead of a prefill.
//!
//! One file per page, named by its chained key, so that the longest prefix is found by walking keys, files can go one
//! by one, and nothing has to be rewritten. The header and the payload carry their hashes; what does not fit is a miss
//! and is removed. A writer thread behind a bounded queue does all that waits for the disk but a restore's reads.

mod file;
mod hot;
mod index;
mod store;

use std::time::Duration;

use tamp_base::card::{Card, CardError, Effect, Entry, Knob, KnobKind, Knobs};
use tamp_base::count::Acts;

use super::{PageName, Tier, TierCounts, TierCtx};
use crate::prefix::{Hash, Hot};
use store::{Place, Store};

pub(super) static ENTRY: Entry<dyn Tier, TierCtx> = Entry {
    card: Card {
        name: "disk",
        aka: "PersistentContextCache (wave 21/22)",
        about: "cached pages are kept in files too: by key, checked, written in the background, the oldest removed first",
        paper: "",
        claim: "prefix recompute FLOPs: TTL-cached KV",
        effect: Effect::Identical,
        needs: &[],
        knobs: &[
            Knob {
                name: "dir",
                about: "folder of the files; made when missing, readable by its owner alone; empty: the cache folder of tamp",
                kind: KnobKind::Text,
                default: "",
            },
            Knob {
                name: "mib",
                about: "size of all files at most, MiB; the least recently used go first",
                kind: KnobKind::Int(1, 1 << 30),
                default: "4096",
            },
            Knob {
                name: "ttl_s",
                about: "seconds a page is kept after it was written",
                kind: KnobKind::Int(1, 10 * 366 * 86400),
                default: "604800",
            },
        ],
    },
    open,
};

fn open(ctx: &TierCtx, knobs: &Knobs) -> Result<Box<dyn Tier>, CardError> {
    let chosen = Some(knobs.text("dir")).filter(|d| !d.is_empty()).map(Into::into);
    let dir = chosen.or_else(|| ctx.home.clone()).ok_or(CardError::Refused {
        card: "kv.tier.disk".into(),
        why: "no folder is known for it; set kv.tier.disk.dir".into(),
    })?;
    let most = (knobs.int("mib") as u64) << 20;
    let place = Place { dir, most, ttl: knobs.int("ttl_s") as u64, now: ctx.now };
    Ok(Box::new(Disk { store: Store::open(place), acts: Acts::default() }))
}

struct Disk {
    store: Store,
    acts: Acts,
}

impl Tier for Disk {
    fn room(&self) -> usize {
        self.store.room()
    }

    fn has(&self, key: &Hash) -> bool {
        self.store.has(key)
    }

    fn load(&mut self, page: &PageName, bytes: usize, out: &mut Vec<u8>) -> bool {
        let got = self.store.load(page, bytes, out);
        self.acts.asked += 1;
        *(if got { &mut self.acts.acted } else { &mut self.acts.declined }) += 1;
        got
    }

    fn save(&mut self, page: &PageName, bytes: Vec<u8>) -> bool {
        self.store.save(page, bytes)
    }

    fn flush(&mut self, within: Duration) -> bool {
        self.store.flush(within)
    }

    fn remember(&mut self, hot: &[Hot]) {
        let place = self.store.place();
        hot::write(&place.temp(u64::MAX), &place.dir.join(hot::NAME), hot, (place.now)());
    }

    fn recall(&self) -> (Vec<Hot>, Duration) {
        let place = self.store.place();
        hot::read(&place.dir.join(hot::NAME), (place.now)())
    }

    fn counts(&self) -> TierCounts {
        self.store.counts()
    }

    fn acts(&self) -> Acts {
        self.acts
    }

    fn note(&mut self) -> Option<String> {
        self.store.note()
    }
}
