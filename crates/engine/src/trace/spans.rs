//! Spans of every request and turn, kept in a ring: queue, prompt chunk, decode, verify, the turn itself.

use std::sync::Arc;
use std::time::Duration;

use tamp_base::card::{Card, Effect, Entry, Knob, KnobKind};
use tamp_base::span::{Collector, Kind, Span};

use super::{Laid, Trace};

pub(super) static ENTRY: Entry<dyn Trace, ()> = Entry {
    card: Card {
        name: "spans",
        aka: "SpanCollector (wave 21/22)",
        about: "keeps spans of requests, prompt chunks, steps and verifications for export",
        paper: "",
        claim: "trace overhead: < 1 µs per span",
        effect: Effect::Service,
        needs: &[],
        knobs: &[Knob {
            name: "keep",
            about: "newest spans that are kept, 48 bytes each",
            kind: KnobKind::Int(16, 1 << 24),
            default: "65536",
        }],
    },
    open: |(), knobs| Ok(Box::new(Spans::new(knobs.int("keep") as usize))),
};

struct Spans {
    ring: Arc<Collector>,
    /// of the turn under way
    laid: Vec<(Laid, usize)>,
}

impl Spans {
    fn new(keep: usize) -> Spans {
        Spans { ring: Arc::new(Collector::new(keep)), laid: Vec::new() }
    }
}

impl Trace for Spans {
    fn laid(&mut self, laid: Laid) {
        self.laid.push((laid, 0));
    }

    fn kept(&mut self, trace: u64, tokens: usize) {
        if let Some(l) = self.laid.iter_mut().find(|l| l.0.trace == trace) {
            l.1 = tokens;
        }
    }

    fn turn(&mut self, start: Duration, end: Duration) {
        let (mut rows, sequences) = (0, self.laid.len());
        for (l, kept) in self.laid.drain(..) {
            rows += l.rows;
            if let Some(received) = l.received {
                self.ring.record(Span::between(Kind::Queue, l.trace, received, start));
            }
            let kind = match (l.prompt, l.draft) {
                (0, 0) => Kind::Decode,
                (0, _) => Kind::Verify,
                _ => Kind::Prefill,
            };
            self.ring.record(Span::between(kind, l.trace, start, end).counts(l.rows, kept));
        }
        self.ring.record(Span::between(Kind::Step, 0, start, end).counts(rows, sequences));
    }

    fn span(&mut self, span: Span) {
        self.ring.record(span);
    }

    fn collector(&self) -> Option<Arc<Collector>> {
        Some(self.ring.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_becomes_one_span_per_sequence_and_one_of_its_own() {
        let at = Duration::from_millis;
        let mut spans = Spans::new(64);
        spans.laid(Laid { trace: 1, rows: 40, prompt: 40, draft: 0, received: Some(at(3)) });
        spans.laid(Laid { trace: 2, rows: 1, prompt: 0, draft: 0, received: None });
        spans.laid(Laid { trace: 3, rows: 5, prompt: 0, draft: 4, received: None });
        for (trace, kept) in [(1, 0), (2, 1), (3, 3)] {
            spans.kept(trace, kept);
        }
        spans.turn(at(10), at(18));
        let got: Vec<_> = spans.ring.since(0).0.iter().map(|s| (s.kind, s.trace, s.rows, s.kept)).collect();
        let want = [
            (Kind::Queue, 1, 0, 0),
            (Kind::Prefill, 1, 40, 0),
            (Kind::Decode, 2, 1, 1),
            (Kind::Verify, 3, 5, 3),
            (Kind::Step, 0, 46, 3),
        ];
        assert_eq!(got, want);
        assert_eq!(spans.ring.since(0).0[0].len_ns, 7_000_000);
        assert_eq!(spans.ring.since(0).0[4].len_ns, 8_000_000);
        spans.turn(at(20), at(21));
        assert_eq!(spans.ring.since(5).0.len(), 1, "nothing of the turn before is told again");
    }
}
