//! A tree of full pages: a sequence starts from the longest prefix that anybody in its namespace computed, be it done
//! or still running.

use tamp_base::card::{Entry, Knob, KnobKind};
use tamp_base::count::Acts;
use tamp_base::ids::{SeqId, Token};
use tamp_kv::{Book, PrefixKey, PrefixLimits};

use super::{Reuse, card};

pub(super) static ENTRY: Entry<dyn Reuse, ()> = Entry {
    card: card(
        "tree",
        "radix tree of full KV pages per namespace, copy-on-write, least recently used leaves go first",
        &[
            Knob {
                name: "pages",
                about: "pages the tree may keep; 0 = all that no sequence needs",
                kind: KnobKind::Int(0, 1 << 28),
                default: "0",
            },
            Knob {
                name: "share",
                about: "part of the pool that one namespace may keep",
                kind: KnobKind::Float(0.0, 1.0),
                default: "1",
            },
        ],
    ),
    open: |(), knobs| {
        let pages = match knobs.int("pages") {
            0 => usize::MAX,
            n => n as usize,
        };
        Ok(Box::new(Tree { pages, share: knobs.float("share"), acts: Acts::default() }))
    },
};

struct Tree {
    pages: usize,
    share: f64,
    acts: Acts,
}

impl Reuse for Tree {
    fn open(&self, book: &mut Book) {
        let per_namespace = (book.total() as f64 * self.share) as usize;
        book.limit(PrefixLimits { pages: self.pages, per_namespace, ..PrefixLimits::default() });
    }

    fn begin(
        &mut self,
        book: &mut Book,
        seq: SeqId,
        root: PrefixKey,
        tokens: &[Token],
        most: usize,
    ) -> usize {
        let found = book.adopt(seq, root, tokens, most);
        self.acts.asked += 1;
        self.acts.acted += u64::from(found > 0);
        found
    }

    fn keep(&mut self, book: &mut Book, seq: SeqId, root: PrefixKey, tokens: &[Token]) {
        book.publish(seq, root, tokens);
    }

    fn acts(&self) -> Acts {
        self.acts
    }
}
