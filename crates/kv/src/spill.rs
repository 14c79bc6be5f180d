//! Pages on their way to a tier and back. A restored page enters the prefix tree, so everything else finds it there.
//!
//! Copies that wait are run before a page is read or written: until then its bytes may be another's.

use std::time::{Duration, Instant};

use tamp_base::ids::{PAGE, Token};

use crate::prefix::{Hot, PrefixKey, chain};
use crate::tier::{PageName, Tier};
use crate::{Device, Kv, KvShape};

/// Prefixes remembered for the next process.
const HOT: usize = 64;

impl<D: Device> Kv<D> {
    /// Gives the cache a tier. Pages published before are not saved.
    pub fn with_tier(mut self, tier: Box<dyn Tier>) -> Self {
        let (hot, age) = tier.recall();
        self.book.recall(hot, age);
        self.tier = tier;
        self.book.save_pages(true);
        self
    }

    /// The tier, for its counts, acts and notes.
    pub fn tier(&mut self) -> &mut dyn Tier {
        &mut *self.tier
    }

    /// Full pages of `tokens` that the tier has from position `from` on, without a gap: what [`Kv::restore`] would try.
    pub fn lookup_disk(&self, root: &PrefixKey, tokens: &[Token], from: usize) -> usize {
        names(root, tokens).skip(from / PAGE).take_while(|page| self.tier.has(&page.key)).count()
    }

    /// Brings up to `most` pages of `tokens` that are not in memory back from the tier, making room among pages that
    /// nobody holds, and returns the positions that are cached now. A page that cannot be had ends it.
    pub fn restore(&mut self, device: &D, root: &PrefixKey, tokens: &[Token], most: usize) -> usize {
        let mut nodes = self.book.nodes(root, tokens);
        let bytes = self.shapes.iter().map(KvShape::page_bytes).sum();
        let mut page_bytes = Vec::with_capacity(bytes);
        let missing: Vec<PageName> = names(root, tokens).skip(nodes.len()).take(most).collect();
        for page in missing {
            if !self.tier.has(&page.key) || !self.tier.load(&page, bytes, &mut page_bytes) {
                break;
            }
            let Some((node, pages)) = self.book.graft(root, nodes.last().copied(), &page.ids) else { break };
            self.settle(device);
            let mut rest = page_bytes.as_slice();
            let mut whole = true;
            for ((pool, shape), &id) in self.pages.iter_mut().zip(&self.shapes).zip(&pages) {
                let Some((part, more)) = rest.split_at_checked(shape.page_bytes()) else { break };
                whole &= device.write_page(pool, id, part).is_ok();
                rest = more;
            }
            if !whole {
                self.book.drop_node(node, false);
                break;
            }
            nodes.push(node);
        }
        nodes.len() * PAGE
    }

    /// Hands up to `budget` cached pages to the tier, as far as it takes them without a wait, and returns how many. For
    /// an idle engine, or a few per step for a busy one: what is evicted before is not saved.
    pub fn spill_idle(&mut self, device: &D, budget: usize) -> usize {
        let mut given = 0;
        if self.book.unsaved() == 0 {
            return 0;
        }
        let mut room = self.tier.room().min(budget);
        while given < room {
            let Some((page, pages)) = self.book.next_unsaved() else { break };
            if self.tier.has(&page.key) {
                continue;
            }
            self.settle(device);
            let mut bytes = Vec::with_capacity(self.shapes.iter().map(KvShape::page_bytes).sum());
            for (pool, &id) in self.pages.iter().zip(&pages) {
                device.read_page(pool, id, &mut bytes);
            }
            if self.tier.save(&page, bytes) {
                given += 1;
            } else {
                room = given;
            }
        }
        given
    }

    /// Saves what is cached, and the hottest prefixes, before the process ends; whether all of it was done `within` the
    /// time. A tier that takes nothing ends it at once.
    pub fn flush(&mut self, device: &D, within: Duration) -> bool {
        let start = Instant::now();
        self.tier.remember(&self.book.hot(HOT));
        loop {
            self.spill_idle(device, usize::MAX);
            let left = within.saturating_sub(start.elapsed());
            let written = self.tier.flush(left);
            if self.book.unsaved() == 0 || !written || left.is_zero() || self.tier.room() == 0 {
                return written && self.book.unsaved() == 0;
            }
        }
    }

    /// Prefixes worth having before anybody asks, of this process and the one before: [`crate::Book::hot`].
    pub fn hot(&self, n: usize) -> Vec<Hot> {
        self.book.hot(n)
    }

    /// Runs the copies that wait, as the forward pass would.
    fn settle(&mut self, device: &D) {
        for (group, pool) in self.pages.iter_mut().enumerate() {
            let moves = self.book.take_moves(group);
            if !moves.is_empty() {
                device.copy_pages(pool, &moves);
            }
        }
    }
}

/// Names of the full pages of `tokens`.
fn names<'a>(root: &PrefixKey, tokens: &'a [Token]) -> impl Iterator<Item = PageName> + use<'a> {
    let mut parent = root.hash;
    tokens.as_chunks::<PAGE>().0.iter().zip(0u32..).map(move |(ids, index)| {
        let page = PageName { key: chain(&parent, ids), parent, ids: *ids, index };
        parent = page.key;
        page
    })
}
