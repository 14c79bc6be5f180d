//! What the prefix cache says and is told: keys, limits, counts, events, and why it missed (DESIGN 5.7).

use std::time::Duration;

use tamp_base::ids::{PAGE, Token};

/// Token ids of one full page.
pub type Ids = [Token; PAGE];

/// A chained hash.
pub type Hash = [u8; 32];

/// Where a tree of cached prefixes starts: everything beside the tokens that K and V depend on, and who may see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefixKey {
    /// key₀ of DESIGN 5.7: model, numerics, layout, rope, lossy cards and namespace, hashed by the engine
    pub hash: Hash,
    /// whose pages these are, for caps and counts; visibility follows from `hash` alone
    pub namespace: u64,
}

/// keyᵢ = blake3(keyᵢ₋₁, page token ids, little-endian).
pub fn chain(parent: &Hash, ids: &Ids) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(parent);
    ids.iter().for_each(|id| {
        hasher.update(&id.to_le_bytes());
    });
    *hasher.finalize().as_bytes()
}

/// How much the tree may keep. Pages that a sequence holds too are counted, though they cost nothing extra.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixLimits {
    /// pages per group, of all namespaces
    pub pages: usize,
    /// pages per group of one namespace
    pub per_namespace: usize,
    /// time after which an old use counts half, see [`crate::Book::hot`]
    pub half_life: Duration,
}

impl Default for PrefixLimits {
    /// No caps beside the pool itself; uses count half after an hour.
    fn default() -> Self {
        PrefixLimits { pages: usize::MAX, per_namespace: usize::MAX, half_life: Duration::from_secs(3600) }
    }
}

/// What the cache did for a namespace, or for all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixCounts {
    /// sequences that asked
    pub queries: u64,
    /// positions they asked for
    pub asked: u64,
    /// positions they got
    pub hits: u64,
    /// pages dropped to make room
    pub evicted: u64,
    /// pages per group cached now
    pub cached: usize,
}

/// A change to the set of cached pages, for routers that choose a replica by what it has cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// A page entered.
    Stored {
        /// its key
        hash: Hash,
        /// key of the page before it; `None` for the first
        parent: Option<Hash>,
        /// its ids
        tokens: Ids,
    },
    /// A page left.
    Removed {
        /// its key
        hash: Hash,
    },
    /// All pages left, or events were lost because nobody took them: whatever was known before is void.
    Cleared,
}

/// What was found for a prompt, and why no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// positions found
    pub matched: usize,
    /// positions asked for
    pub of: usize,
    /// why it ends there
    pub reason: Reason,
}

/// Why a cached prefix ends where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It does not: all positions were found.
    Whole,
    /// Only full pages are kept, and what remains is shorter.
    Short {
        /// positions that remain
        rest: usize,
    },
    /// Nothing is cached for this model, settings and namespace.
    Empty,
    /// What is cached goes on with another token.
    Diverges {
        /// position of the difference
        at: usize,
        /// the prompt's token
        got: Token,
        /// the cached one nearest to it
        cached: Token,
    },
    /// It went on, and was dropped to make room.
    Evicted {
        /// first position that is gone
        at: usize,
    },
    /// Nobody has gone further.
    Ends {
        /// first position never cached
        at: usize,
    },
}

impl std::fmt::Display for Miss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} positions cached: ", self.matched, self.of)?;
        match self.reason {
            Reason::Whole => write!(f, "the whole prompt"),
            Reason::Short { rest } => {
                write!(f, "the remaining {rest} do not fill a page of {PAGE}, and only full pages are kept")
            }
            Reason::Empty => write!(f, "nothing is cached for this model, these settings and this key yet"),
            Reason::Diverges { at, got, cached } => {
                write!(f, "position {at} is token {got}, the nearest cached prompt has {cached} there")
            }
            Reason::Evicted { at } => write!(f, "position {at} on was cached and dropped to make room"),
            Reason::Ends { at } => write!(f, "no earlier prompt went on at position {at}"),
        }
    }
}

/// A prefix that is asked for often.
#[derive(Clone, Debug, PartialEq)]
pub struct Hot {
    /// where its tree starts
    pub root: PrefixKey,
    /// its ids, whole pages
    pub tokens: Vec<Token>,
    /// decayed number of uses
    pub uses: f64,
}
