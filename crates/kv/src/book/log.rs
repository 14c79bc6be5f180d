//! What the tree remembers beside its pages: events for whoever asked, and keys of pages that were dropped.

use std::collections::{HashSet, VecDeque};

use crate::prefix::{Hash, KvEvent};

/// Dropped pages remembered, to explain a miss.
const GONE: usize = 4096;

/// Events until somebody takes them; costs nothing while nobody asked.
#[derive(Default)]
pub(super) struct Log {
    events: VecDeque<KvEvent>,
    /// 0: nobody listens
    most: usize,
}

impl Log {
    pub fn listen(&mut self, most: usize) {
        self.most = most;
        self.events.clear();
    }

    pub fn push(&mut self, event: impl FnOnce() -> KvEvent) {
        if self.most == 0 {
            return;
        }
        if self.events.len() >= self.most {
            // A router that misses one event believes wrong things for ever; one that is told so starts over.
            self.events.clear();
            self.events.push_back(KvEvent::Cleared);
        }
        self.events.push_back(event());
    }

    /// All that was said before is void.
    pub fn cleared(&mut self) {
        self.events.clear();
        if self.most > 0 {
            self.events.push_back(KvEvent::Cleared);
        }
    }

    pub fn take(&mut self) -> Vec<KvEvent> {
        self.events.drain(..).collect()
    }
}

/// Keys of dropped pages, the oldest forgotten first.
#[derive(Default)]
pub(super) struct Gone {
    order: VecDeque<u64>,
    keys: HashSet<u64>,
}

impl Gone {
    pub fn add(&mut self, key: &Hash) {
        if self.keys.insert(short(key)) {
            self.order.push_back(short(key));
        }
        while self.order.len() > GONE
            && let Some(old) = self.order.pop_front()
        {
            self.keys.remove(&old);
        }
    }

    pub fn has(&self, key: &Hash) -> bool {
        self.keys.contains(&short(key))
    }
}

/// Eight bytes of a hash: enough for a sentence, never for a hit.
fn short(key: &Hash) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&key[..8]);
    u64::from_le_bytes(bytes)
}
