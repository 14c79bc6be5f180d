//! The room `engine.coalesce`: a newcomer whose prompt begins like one that is being computed waits for those pages
//! instead of computing them again. Pages are published after every step, so it starts the moment they stand.

use std::collections::{HashMap, HashSet};

use tamp_base::card::{Card, Effect, Entry, Knob, KnobKind, Table};
use tamp_base::count::Acts;
use tamp_base::ids::{PAGE, SeqId, Token};
use tamp_kv::PrefixKey;

/// What a coalescer sees of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Prefix<'a> {
    /// the sequence
    pub seq: SeqId,
    /// where its tree starts
    pub root: PrefixKey,
    /// its known tokens
    pub tokens: &'a [Token],
    /// committed positions; 0: it has not started
    pub committed: usize,
    /// it may run
    pub ready: bool,
}

/// Newcomers looked at in a step: it bounds the work when very many wait, and they cannot all start anyway.
const LOOK: usize = 64;

/// Holds newcomers back.
pub trait Coalesce: Send {
    /// For each sequence, in order of arrival, whether it must not start in this step. `cached` looks up how many
    /// positions the cache holds for a newcomer now.
    fn hold(&mut self, lines: &[Prefix<'_>], cached: &dyn Fn(&Prefix<'_>) -> usize) -> Vec<bool>;
    /// Forgets a sequence.
    fn forget(&mut self, _: SeqId) {}
    /// asked: newcomers seen; acted: newcomers that waited
    fn acts(&self) -> Acts;
}

/// The members, null first.
pub static TABLE: Table<dyn Coalesce, ()> = Table { room: "engine.coalesce", rows: &[&NONE, &PREFIX] };

static NONE: Entry<dyn Coalesce, ()> = Entry {
    card: Card {
        name: "none",
        aka: "",
        about: "newcomers start at once and compute what is not cached yet",
        paper: "",
        claim: "",
        effect: Effect::Identical,
        needs: &[],
        knobs: &[],
    },
    open: |(), _| Ok(Box::new(AtOnce)),
};

static PREFIX: Entry<dyn Coalesce, ()> = Entry {
    card: Card {
        name: "prefix",
        aka: "PrefixCoalescer (wave 21/22)",
        about: "newcomers wait for the pages of a common prefix that another sequence is computing",
        paper: "",
        claim: "prefill FLOPs (coalesce): LCP × (n−1) tokens saved",
        effect: Effect::Identical,
        needs: &[],
        knobs: &[Knob {
            name: "window",
            about: "steps that a newcomer waits for one that has not started either",
            kind: KnobKind::Int(0, 1000),
            default: "4",
        }],
    },
    open: |(), knobs| Ok(Box::new(Waits::new(knobs.int("window") as u32))),
};

struct AtOnce;

impl Coalesce for AtOnce {
    fn hold(&mut self, lines: &[Prefix<'_>], _: &dyn Fn(&Prefix<'_>) -> usize) -> Vec<bool> {
        vec![false; lines.len()]
    }

    fn acts(&self) -> Acts {
        Acts::default()
    }
}

struct Waits {
    window: u32,
    /// steps that a newcomer has waited for somebody who has not started
    waited: HashMap<SeqId, u32>,
    /// newcomers seen, and whether they ever waited
    seen: HashMap<SeqId, bool>,
    acts: Acts,
}

/// A common page: the tree it belongs to, its index, a hash of all tokens up to its end.
type Mark = (PrefixKey, usize, u64);

impl Waits {
    fn new(window: u32) -> Waits {
        Waits { window, waited: HashMap::new(), seen: HashMap::new(), acts: Acts::default() }
    }
}

/// The full pages of a prompt from page `from` on. A collision makes somebody wait a moment in vain and nothing else.
fn marks<'a>(l: &Prefix<'a>, from: usize) -> impl Iterator<Item = Mark> + use<'a> {
    let root = l.root;
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    l.tokens.as_chunks::<PAGE>().0.iter().enumerate().filter_map(move |(i, page)| {
        for &t in page {
            hash = (hash ^ u64::from(t)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
        (i >= from).then_some((root, i, hash))
    })
}

impl Coalesce for Waits {
    fn hold(&mut self, lines: &[Prefix<'_>], cached: &dyn Fn(&Prefix<'_>) -> usize) -> Vec<bool> {
        // Nobody waits for pages that a started sequence has already: those are cached, or were and are gone.
        let (mut started, mut fresh) = (HashSet::new(), HashSet::new());
        for l in lines.iter().filter(|l| l.committed > 0 && l.ready && l.committed + 1 < l.tokens.len()) {
            started.extend(marks(l, l.committed / PAGE));
        }
        let mut out = vec![false; lines.len()];
        let newcomers = out.iter_mut().zip(lines).filter(|(_, l)| l.committed == 0 && l.ready);
        for (out, l) in newcomers.take(LOOK) {
            // A prompt is computed up to its last token at least, so its last page is of no use when that ends it.
            let useful = (l.tokens.len() - 1) / PAGE;
            // Most prompts have no page in common with another, and are spared the look into the cache.
            let alike = marks(l, 0).any(|m| fresh.contains(&m) || started.contains(&m));
            let from = if alike { cached(l) / PAGE } else { 0 };
            let next = marks(l, from).next().filter(|m| alike && m.1 < useful);
            let waited = self.waited.get(&l.seq).copied().unwrap_or(0);
            let for_fresh = waited < self.window && next.is_some_and(|m| fresh.contains(&m));
            *out = for_fresh || next.is_some_and(|m| started.contains(&m));
            if for_fresh {
                self.waited.insert(l.seq, waited + 1);
            }
            if !*out {
                fresh.extend(marks(l, from));
            }
            let seen = self.seen.entry(l.seq).or_insert_with(|| {
                self.acts.asked += 1;
                false
            });
            self.acts.acted += u64::from(*out && !*seen);
            *seen |= *out;
        }
        out
    }

    fn forget(&mut self, seq: SeqId) {
        self.waited.remove(&seq);
        self.seen.remove(&seq);
    }

    fn acts(&self) -> Acts {
        Acts { declined: self.acts.asked - self.acts.acted, ..self.acts }
    }
}
