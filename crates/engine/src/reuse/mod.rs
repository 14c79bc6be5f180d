//! The room `kv.prefix`: whether a sequence starts from positions that another one computed (DESIGN 5.7).

mod none;
mod tree;

use tamp_base::card::{Card, Effect, Table};
use tamp_base::count::Acts;
use tamp_base::ids::{Namespace, SeqId, Token};
use tamp_kv::{Book, PrefixKey};

use crate::plan::Plan;

/// Gives sequences their cached beginning, and keeps what they compute.
pub trait Reuse: Send {
    /// Sets the memory up, once.
    fn open(&self, _: &mut Book) {}
    /// Gives an empty sequence the longest cached prefix of its tokens, at most `most` positions; returns its length.
    fn begin(&mut self, book: &mut Book, seq: SeqId, root: PrefixKey, tokens: &[Token], most: usize)
    -> usize;
    /// Keeps the pages that a sequence has filled; called after every commit.
    fn keep(&mut self, book: &mut Book, seq: SeqId, root: PrefixKey, tokens: &[Token]);
    /// asked: sequences that began; acted: those that found something
    fn acts(&self) -> Acts;
}

/// The members; the default first.
pub static TABLE: Table<dyn Reuse, ()> = Table { room: "kv.prefix", rows: &[&none::ENTRY, &tree::ENTRY] };

/// Everything beside tokens and caller that K and V depend on.
pub(crate) struct Roots([u8; 32]);

impl Roots {
    /// `content`: hash of the model's files where pages outlive the process, else anything. Cards that change the
    /// output are part of it with their knobs.
    pub fn new(plan: &Plan, content: &[u8; 32], rope: &str, decoded: bool) -> Roots {
        let lossy: Vec<_> = plan
            .techniques
            .iter()
            .filter(|t| matches!(t.effect, Effect::Lossy | Effect::SameDistribution))
            .map(|t| (t.room, t.name, &t.knobs))
            .collect();
        let text = format!(
            "tamp.prefix 1|{}|{:?}|{:?}|{rope}|{decoded}|{lossy:?}",
            tamp_model::NUMERICS,
            plan.model,
            (&plan.kv.formats, plan.kv.page),
        );
        let mut hasher = blake3::Hasher::new();
        hasher.update(content);
        hasher.update(text.as_bytes());
        Roots(*hasher.finalize().as_bytes())
    }

    /// Where the tree of a namespace starts.
    pub fn of(&self, namespace: &Namespace) -> PrefixKey {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(&namespace.0);
        let id = namespace.0.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        PrefixKey { hash: *hasher.finalize().as_bytes(), namespace: id }
    }
}

pub(crate) const fn card(
    name: &'static str,
    about: &'static str,
    knobs: &'static [tamp_base::card::Knob],
) -> Card {
    Card { name, aka: "", about, paper: "", claim: "", effect: Effect::Identical, needs: &[], knobs }
}
