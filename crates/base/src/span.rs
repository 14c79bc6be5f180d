//! What took how long, for whom: spans in a ring that writers never wait for.
//!
//! A span is five words. Writing one is a claim of a slot, five stores and a release; a slot that another thread holds
//! is skipped and counted as lost, so no writer ever waits. The ring keeps the newest spans; readers copy them out and
//! drop those that changed underneath.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

/// What a span measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// a request from its receipt to its end; rows = tokens of the answer
    Request = 0,
    /// receipt → first forward pass
    Queue = 1,
    /// a forward pass in which rows of a prompt took part
    Prefill = 2,
    /// a forward pass in which a sequence chose one token
    Decode = 3,
    /// a forward pass that judged drafts; rows = those laid, kept = tokens that stay
    Verify = 4,
    /// a whole turn of the engine; rows = all rows, kept = sequences
    Step = 5,
    /// pages that came from elsewhere instead of being computed; rows = positions
    Fetch = 6,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Kind; 7] =
        [Kind::Request, Kind::Queue, Kind::Prefill, Kind::Decode, Kind::Verify, Kind::Step, Kind::Fetch];

    /// The word in exports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Request => "request",
            Kind::Queue => "queue",
            Kind::Prefill => "prefill",
            Kind::Decode => "decode",
            Kind::Verify => "verify",
            Kind::Step => "step",
            Kind::Fetch => "kv_fetch",
        }
    }
}

/// One thing that took time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// what it was
    pub kind: Kind,
    /// whose: the number the request brought; 0 = nobody's in particular
    pub trace: u64,
    /// start on the engine's clock, ns
    pub start_ns: u64,
    /// length, ns
    pub len_ns: u64,
    /// rows, as the kind says
    pub rows: u32,
    /// kept, as the kind says
    pub kept: u32,
}

impl Span {
    /// From one moment to another; an end before the start is a length of 0.
    pub fn between(kind: Kind, trace: u64, start: Duration, end: Duration) -> Span {
        let (start_ns, end_ns) = (start.as_nanos() as u64, end.as_nanos() as u64);
        Span { kind, trace, start_ns, len_ns: end_ns.saturating_sub(start_ns), rows: 0, kept: 0 }
    }

    /// With its counts.
    pub fn counts(self, rows: usize, kept: usize) -> Span {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Span { rows: count(rows), kept: count(kept), ..self }
    }

    fn pack(&self) -> [u64; WORDS] {
        let counts = u64::from(self.rows) << 32 | u64::from(self.kept);
        [self.kind as u64, self.trace, self.start_ns, self.len_ns, counts]
    }

    fn unpack(words: [u64; WORDS]) -> Option<Span> {
        let [kind, trace, start_ns, len_ns, counts] = words;
        let kind = *Kind::ALL.get(usize::try_from(kind).ok()?)?;
        Some(Span { kind, trace, start_ns, len_ns, rows: (counts >> 32) as u32, kept: counts as u32 })
    }
}

const WORDS: usize = 5;

/// A slot: odd stamp = being written; `2 * (n + 1)` = holds the span number `n`.
#[derive(Default)]
struct Slot {
    stamp: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// The newest spans. Shared by everybody who writes and reads them.
pub struct Collector {
    slots: Box<[Slot]>,
    next: AtomicU64,
    lost: AtomicU64,
}

impl Collector {
    /// A ring of at least `keep` spans, 48 bytes each.
    pub fn new(keep: usize) -> Collector {
        let n = keep.clamp(2, 1 << 24).next_power_of_two();
        let slots = (0..n).map(|_| Slot::default()).collect();
        Collector { slots, next: AtomicU64::new(0), lost: AtomicU64::new(0) }
    }

    /// Keeps a span; never waits.
    pub fn record(&self, span: Span) {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let slot = &self.slots[n as usize & (self.slots.len() - 1)];
        let (seen, mine) = (slot.stamp.load(Ordering::Relaxed), 2 * n + 1);
        // Somebody is still writing here, or a later round has been: that one stays.
        let free = seen & 1 == 0 && seen < mine;
        if !free || slot.stamp.compare_exchange(seen, mine, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        fence(Ordering::Release);
        for (to, word) in slot.words.iter().zip(span.pack()) {
            to.store(word, Ordering::Relaxed);
        }
        slot.stamp.store(mine + 1, Ordering::Release);
    }

    /// Spans from number `from` on that are still there, and the number to go on with. Those that are being written or
    /// were written over meanwhile are left out.
    pub fn since(&self, from: u64) -> (Vec<Span>, u64) {
        let end = self.next.load(Ordering::Acquire);
        let first = from.max(end.saturating_sub(self.slots.len() as u64)).min(end);
        let spans = (first..end).filter_map(|n| self.read(n)).collect();
        (spans, end)
    }

    fn read(&self, n: u64) -> Option<Span> {
        let slot = &self.slots[n as usize & (self.slots.len() - 1)];
        let whole = 2 * n + 2;
        if slot.stamp.load(Ordering::Acquire) != whole {
            return None;
        }
        let words = std::array::from_fn(|i| slot.words[i].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        if slot.stamp.load(Ordering::Relaxed) != whole {
            return None;
        }
        Span::unpack(words)
    }

    /// Spans asked to be kept since the start.
    pub fn recorded(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Of these, how many found their slot taken.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::*;

    /// A span whose every word follows from `x`, so that a mixture of two shows.
    fn span(x: u64) -> Span {
        Span {
            kind: Kind::ALL[(x % 7) as usize],
            trace: x,
            start_ns: x.wrapping_mul(3),
            len_ns: !x,
            rows: x as u32,
            kept: (x >> 7) as u32,
        }
    }

    proptest! {
        #[test]
        fn the_ring_gives_back_the_newest_spans_in_order(keep in 2usize..40, n in 0u64..200, from in 0u64..220) {
            let ring = Collector::new(keep);
            (0..n).for_each(|x| ring.record(span(x)));
            let (got, next) = ring.since(from);
            let first = from.max(n.saturating_sub(keep.next_power_of_two() as u64)).min(n);
            prop_assert_eq!(got, (first..n).map(span).collect::<Vec<_>>());
            prop_assert_eq!((next, ring.recorded(), ring.lost()), (n, n, 0));
        }
    }

    #[test]
    fn a_span_read_while_others_write_is_never_a_mixture_of_two() {
        // A small ring, so that writers meet and readers are overtaken.
        let ring = Arc::new(Collector::new(8));
        let ends = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..3u64)
            .map(|w| {
                let (ring, ends) = (ring.clone(), ends.clone());
                std::thread::spawn(move || {
                    let mut x = w;
                    while !ends.load(Ordering::Relaxed) {
                        ring.record(span(x));
                        x += 3;
                    }
                })
            })
            .collect();
        let mut seen = 0;
        while seen < 20_000 {
            for got in ring.since(0).0 {
                assert_eq!(got, span(got.trace));
                seen += 1;
            }
        }
        ends.store(true, Ordering::Relaxed);
        writers.into_iter().for_each(|w| w.join().unwrap());
        assert!(ring.lost() < ring.recorded());
    }

    #[test]
    fn a_span_costs_less_than_a_microsecond() {
        let ring = Collector::new(1 << 12);
        let n = 200_000u64;
        let start = std::time::Instant::now();
        (0..n).for_each(|x| ring.record(span(std::hint::black_box(x))));
        let each = start.elapsed().as_nanos() as f64 / n as f64;
        println!("{each:.1} ns per span");
        assert!(each < 1000.0 || std::env::var_os("TAMP_FULL").is_none(), "{each}");
    }
}
