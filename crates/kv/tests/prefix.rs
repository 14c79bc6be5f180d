//! The prefix tree against a naive model: what a position holds is a function of the ids before it, a page is a plain
//! array, what is cached is a set of prefixes rebuilt from the events.
#![allow(clippy::unwrap_used)]

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tamp_base::clock::ManualClock;
use tamp_base::ids::{PAGE, PageId, SeqId, Token};
use tamp_kernels::device::Slot;
use tamp_kv::prefix::chain;
use tamp_kv::{Book, KvEvent, PrefixKey, PrefixLimits, Reason};

const GROUPS: usize = 2;

fn root(n: u8) -> PrefixKey {
    PrefixKey { hash: [n; 32], namespace: u64::from(n % 2) }
}

#[derive(Clone, Debug)]
enum Op {
    Open(u8),
    Close(usize),
    Fork(usize),
    Rewind(usize, usize),
    /// ids as runs of one value, and which rows stay
    Forward(usize, Vec<(u8, usize)>, u64),
    Publish(usize),
    /// a new sequence under a root, whose prompt begins like this one's for so long, then goes on with a run
    Adopt(u8, usize, usize, (u8, usize), usize),
    Limit(usize, usize),
    Forget,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let runs = || prop::collection::vec((0u8..2, 1usize..24), 1..4);
    let op = prop_oneof![
        2 => (0u8..3).prop_map(Op::Open),
        2 => (0usize..8).prop_map(Op::Close),
        1 => (0usize..8).prop_map(Op::Fork),
        2 => (0usize..8, 0usize..80).prop_map(|(s, n)| Op::Rewind(s, n)),
        8 => (0usize..8, runs(), any::<u64>(), any::<bool>())
            .prop_map(|(s, r, m, all)| Op::Forward(s, r, if all { u64::MAX } else { m })),
        8 => (0usize..8).prop_map(Op::Publish),
        6 => (0u8..3, 0usize..8, 0usize..90, (0u8..2, 0usize..40), prop_oneof![Just(usize::MAX), 0usize..80])
            .prop_map(|(r, s, n, run, most)| Op::Adopt(r, s, n, run, most)),
        1 => (0usize..12, 0usize..8).prop_map(|(a, b)| Op::Limit(a, b)),
        1 => Just(Op::Forget),
    ];
    prop::collection::vec(op, 1..80)
}

/// What position `at` holds: a function of its whole past, as K and V are.
fn content(root: u8, tokens: &[Token], at: usize, group: usize) -> u64 {
    let mut h = DefaultHasher::new();
    (root, &tokens[..=at], group).hash(&mut h);
    h.finish() | 1
}

struct World {
    book: Book,
    /// `[group][page]`
    memory: Vec<Vec<[u64; PAGE]>>,
    seqs: BTreeMap<SeqId, (u8, Vec<Token>)>,
    /// cached pages by hash: (parent, ids), replayed from the events
    cached: HashMap<[u8; 32], (Option<[u8; 32]>, [Token; PAGE])>,
    caps: (usize, usize),
    junk: u64,
}

impl World {
    fn new(pages: usize) -> World {
        let mut book = Book::new(GROUPS, pages);
        book.listen(1 << 20);
        World {
            book,
            memory: vec![vec![[0; PAGE]; pages]; GROUPS],
            seqs: BTreeMap::new(),
            cached: HashMap::new(),
            caps: (usize::MAX, usize::MAX),
            junk: 0,
        }
    }

    fn at(&mut self, group: usize, slot: Slot) -> &mut u64 {
        &mut self.memory[group][slot.page.0 as usize][slot.offset as usize]
    }

    fn run_moves(&mut self) {
        for g in 0..GROUPS {
            for m in self.book.take_moves(g) {
                *self.at(g, m.to) = *self.at(g, m.from);
            }
        }
    }

    fn held(&self) -> BTreeSet<PageId> {
        self.seqs.keys().flat_map(|&s| self.book.table(s, 0).to_vec()).collect()
    }

    fn replay(&mut self) -> Result<(), TestCaseError> {
        for event in self.book.take_events() {
            match event {
                KvEvent::Stored { hash, parent, tokens } => {
                    prop_assert!(self.cached.insert(hash, (parent, tokens)).is_none(), "stored twice");
                    prop_assert!(
                        parent.is_none_or(|p| self.cached.contains_key(&p)),
                        "stored before its parent"
                    );
                }
                KvEvent::Removed { hash } => {
                    prop_assert!(self.cached.remove(&hash).is_some(), "removed and not there");
                    prop_assert!(
                        !self.cached.values().any(|c| c.0 == Some(hash)),
                        "removed before its children"
                    );
                }
                KvEvent::Cleared => self.cached.clear(),
            }
        }
        prop_assert_eq!(self.cached.len(), self.book.prefix_counts().cached);
        Ok(())
    }

    /// The longest common prefix with anything cached, position by position.
    fn longest(&self, r: u8, tokens: &[Token]) -> usize {
        let mut key = root(r).hash;
        let mut first = true;
        let mut at = 0;
        loop {
            let children = self.cached.iter().filter(|(h, (parent, ids))| match (first, parent) {
                (true, None) => chain(&key, ids) == **h,
                (false, Some(p)) => *p == key,
                _ => false,
            });
            let common =
                |ids: &[Token; PAGE]| ids.iter().zip(&tokens[at..]).take_while(|(a, b)| a == b).count();
            let best = children.map(|(h, (_, ids))| (common(ids), *h)).max();
            match best {
                Some((PAGE, h)) => (key, at, first) = (h, at + PAGE, false),
                Some((n, _)) => return at + n,
                None => return at,
            }
        }
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        self.book.integrity().map_err(TestCaseError::fail)?;
        let held = self.held().len();
        prop_assert_eq!(self.book.room(), self.book.total() - held, "what no sequence holds is to be had");
        self.replay()?;
        let by: usize = self.book.prefix_counts_of().map(|c| c.1.cached).sum();
        prop_assert_eq!(by, self.cached.len());
        Ok(())
    }

    fn contents(&mut self) -> Result<(), TestCaseError> {
        self.run_moves();
        for (id, (r, tokens)) in self.seqs.clone() {
            prop_assert_eq!(self.book.len(id), tokens.len());
            for g in 0..GROUPS {
                let table = self.book.table(id, g).to_vec();
                for i in 0..tokens.len() {
                    let want = content(r, &tokens, i, g);
                    prop_assert_eq!(*self.at(g, Slot::of(&table, i)), want, "position {}", i);
                }
            }
        }
        Ok(())
    }

    fn forward(&mut self, id: SeqId, new: Vec<Token>, mask: u64) -> Result<(), TestCaseError> {
        let (r, past) = self.seqs[&id].clone();
        // What the reservation would take if there were no tree: one copy only for a tail that another sequence reads.
        let (len, table) = (past.len(), self.book.table(id, 0).to_vec());
        let tail = table.get(len / PAGE).filter(|_| !len.is_multiple_of(PAGE));
        let others: Vec<PageId> =
            self.seqs.keys().filter(|&&s| s != id).flat_map(|&s| self.book.table(s, 0).to_vec()).collect();
        let copies = usize::from(tail.is_some_and(|t| others.contains(t)));
        let least = (len + new.len()).div_ceil(PAGE) - table.len() + copies;
        let (room, need) = (self.book.room(), self.book.need(id, new.len()));
        let ok = self.book.reserve(id, new.len()).is_ok();
        prop_assert_eq!(ok, need <= room);
        prop_assert_eq!(ok, least <= room, "the tree costs no sequence its place: {} of {}", least, room);
        if !ok {
            prop_assert_eq!(self.book.room(), room, "all or nothing");
            return Ok(());
        }
        self.book.integrity().map_err(TestCaseError::fail)?;
        self.run_moves();
        let kept: Vec<u32> = (0..new.len() as u32).filter(|&i| mask >> (i % 64) & 1 == 1).collect();
        let path: Vec<Token> = past.iter().copied().chain(kept.iter().map(|&k| new[k as usize])).collect();
        for g in 0..GROUPS {
            let table = self.book.table(id, g).to_vec();
            for i in 0..new.len() {
                let value = match kept.iter().position(|&k| k as usize == i) {
                    Some(at) => content(r, &path, len + at, g),
                    None => {
                        self.junk += 2;
                        self.junk
                    }
                };
                *self.at(g, Slot::of(&table, len + i)) = value;
            }
        }
        self.book.commit(id, &kept).unwrap();
        self.seqs.insert(id, (r, path));
        Ok(())
    }

    fn run(&mut self, op: Op) -> Result<(), TestCaseError> {
        let nth = |i: usize| self.seqs.keys().nth(i % self.seqs.len().max(1)).copied();
        match op {
            Op::Open(r) => {
                let id = self.book.open();
                self.seqs.insert(id, (r, vec![]));
            }
            Op::Close(i) => {
                let Some(id) = nth(i) else { return Ok(()) };
                self.book.close(id);
                self.seqs.remove(&id);
            }
            Op::Fork(i) => {
                let Some(id) = nth(i) else { return Ok(()) };
                let twin = self.book.fork(id).unwrap();
                let past = self.seqs[&id].clone();
                self.seqs.insert(twin, past);
            }
            Op::Rewind(i, n) => {
                let Some(id) = nth(i) else { return Ok(()) };
                self.book.rewind(id, n);
                self.seqs.get_mut(&id).unwrap().1.truncate(n);
            }
            Op::Forward(i, runs, mask) => {
                let Some(id) = nth(i) else { return Ok(()) };
                let new = runs.iter().flat_map(|&(v, n)| vec![Token::from(v); n]).collect();
                self.forward(id, new, mask)?;
            }
            Op::Publish(i) => {
                let Some(id) = nth(i) else { return Ok(()) };
                let (r, tokens) = self.seqs[&id].clone();
                let (before, evicted) =
                    (self.book.matched(&root(r), &tokens), self.book.prefix_counts().evicted);
                let pages = self.book.publish(id, root(r), &tokens);
                prop_assert!(pages <= tokens.len() / PAGE);
                let after = self.book.matched(&root(r), &tokens);
                prop_assert!(
                    after >= pages * PAGE && (after >= before || self.book.prefix_counts().evicted > evicted)
                );
                if self.caps == (usize::MAX, usize::MAX) {
                    prop_assert_eq!(pages, tokens.len() / PAGE);
                }
                self.replay()?;
                let counts = self.book.prefix_counts();
                prop_assert_eq!(self.book.publish(id, root(r), &tokens) >= pages, true);
                if pages == tokens.len() / PAGE {
                    prop_assert_eq!(self.book.prefix_counts(), counts, "a second time changes nothing");
                }
            }
            Op::Adopt(r, i, n, run, most) => {
                let mut tokens = nth(i).map_or(vec![], |id| self.seqs[&id].1.clone());
                tokens.truncate(n);
                tokens.extend(vec![Token::from(run.0); run.1]);
                let found = self.longest(r, &tokens);
                let before = self.book.prefix_counts();
                prop_assert_eq!(self.book.matched(&root(r), &tokens), found);
                let miss = self.book.explain(&root(r), &tokens);
                prop_assert_eq!((miss.matched, miss.of), (found, tokens.len()));
                prop_assert_eq!(miss.reason == Reason::Whole, found == tokens.len());
                prop_assert_eq!(self.book.prefix_counts(), before);
                let id = self.book.open();
                let got = self.book.adopt(id, root(r), &tokens, most);
                prop_assert_eq!(got, found.min(most));
                let after = self.book.prefix_counts();
                prop_assert_eq!((after.queries, after.hits), (before.queries + 1, before.hits + got as u64));
                prop_assert_eq!(self.book.adopt(id, root(r), &tokens, most), 0);
                tokens.truncate(got);
                self.seqs.insert(id, (r, tokens));
            }
            Op::Limit(pages, per_namespace) => {
                self.caps = (pages, per_namespace);
                self.book.limit(PrefixLimits { pages, per_namespace, ..PrefixLimits::default() });
            }
            Op::Forget => {
                self.book.forget_prefixes();
                prop_assert_eq!(self.book.prefix_counts().cached, 0);
            }
        }
        Ok(())
    }
}

fn run(ops: Vec<Op>, pages: usize) -> Result<(), TestCaseError> {
    let mut world = World::new(pages);
    for (i, op) in ops.into_iter().enumerate() {
        world.run(op)?;
        world.check()?;
        // Copies may wait for several steps.
        if i % 3 == 0 {
            world.contents()?;
        }
    }
    world.contents()?;
    for id in world.seqs.keys() {
        world.book.close(*id);
    }
    world.seqs.clear();
    world.check()?;
    prop_assert_eq!(world.book.room(), pages);
    world.book.forget_prefixes();
    world.check()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_shared_prefix_reads_back_as_if_it_had_been_computed(ops in ops(), pages in 1usize..28) {
        run(ops, pages)?;
    }
}

/// A sequence of these tokens, computed and published.
fn told(book: &mut Book, key: PrefixKey, tokens: &[Token]) -> SeqId {
    let id = book.open();
    let got = book.adopt(id, key, tokens, usize::MAX);
    let rows = tokens.len() - got;
    book.reserve(id, rows).unwrap();
    book.commit(id, &(0..rows as u32).collect::<Vec<_>>()).unwrap();
    assert_eq!(book.publish(id, key, tokens), tokens.len() / PAGE);
    book.integrity().unwrap();
    id
}

fn words(seed: u32, n: usize) -> Vec<Token> {
    (0..n as u32).map(|i| seed.wrapping_mul(7919).wrapping_add(i * i + i) % 5000).collect()
}

#[test]
fn the_least_recently_used_prefix_makes_room_leaf_by_leaf() {
    let mut book = Book::new(1, 8);
    let (a, b) = (words(1, 48), words(2, 48));
    for t in [&a, &b] {
        let id = told(&mut book, root(0), t);
        book.close(id);
    }
    // a is used again, so b goes first, from its end.
    let id = book.open();
    assert_eq!(book.adopt(id, root(0), &a, 47), 47);
    book.close(id);
    let id = book.open();
    book.reserve(id, 3 * PAGE).unwrap();
    assert_eq!((book.matched(&root(0), &a), book.matched(&root(0), &b)), (48, 32));
    book.reserve(id, 5 * PAGE).unwrap();
    assert_eq!((book.matched(&root(0), &a), book.matched(&root(0), &b)), (48, 0));
    assert_eq!(book.prefix_counts().evicted, 3);
    book.integrity().unwrap();
}

#[test]
fn one_namespace_cannot_push_the_others_pages_out() {
    let mut book = Book::new(1, 64);
    book.limit(PrefixLimits { per_namespace: 4, ..PrefixLimits::default() });
    let mine = words(9, 64);
    let id = told(&mut book, root(0), &mine);
    book.close(id);
    for i in 0..30 {
        let id = told(&mut book, root(1), &words(i, 64));
        book.close(id);
    }
    assert_eq!(book.matched(&root(0), &mine), 64);
    let counts: BTreeMap<_, _> = book.prefix_counts_of().collect();
    assert_eq!((counts[&0].cached, counts[&1].cached), (4, 4));
    assert_eq!((counts[&0].evicted, counts[&1].evicted), (0, 29 * 4));
}

#[test]
fn nobody_finds_a_page_under_another_root() {
    let mut book = Book::new(1, 16);
    let tokens = words(3, 64);
    told(&mut book, root(0), &tokens);
    let other = PrefixKey { hash: [1; 32], namespace: 0 };
    assert_eq!(book.matched(&other, &tokens), 0);
    assert_eq!(book.explain(&other, &tokens).reason, Reason::Empty);
}

#[test]
fn two_who_computed_the_same_page_hold_one() {
    let mut book = Book::new(2, 16);
    let tokens = words(4, 40);
    let seqs: Vec<SeqId> = (0..3)
        .map(|_| {
            let id = book.open();
            book.reserve(id, 40).unwrap();
            book.commit(id, &(0..40).collect::<Vec<_>>()).unwrap();
            id
        })
        .collect();
    // A fork shares the second one's pages and must change over with it.
    let twin = book.fork(seqs[1]).unwrap();
    assert_eq!(book.room(), 16 - 9);
    for &id in &seqs {
        book.publish(id, root(0), &tokens);
        book.integrity().unwrap();
    }
    assert_eq!(book.room(), 16 - 5);
    assert_eq!(book.table(twin, 0)[..2], book.table(seqs[0], 0)[..2]);
}

#[test]
fn every_miss_says_why() {
    let mut book = Book::new(1, 6);
    let key = root(0);
    let a = words(5, 64);
    assert_eq!(book.explain(&key, &a).reason, Reason::Empty);
    assert_eq!(book.explain(&key, &a[..9]).reason, Reason::Short { rest: 9 });
    let id = told(&mut book, key, &a);
    book.close(id);
    assert_eq!(book.explain(&key, &a).reason, Reason::Whole);
    let mut longer = a.clone();
    longer.extend([1; 5]);
    assert_eq!(book.explain(&key, &longer).reason, Reason::Short { rest: 5 });
    longer.extend([1; 50]);
    assert_eq!(book.explain(&key, &longer).reason, Reason::Ends { at: 64 });
    for at in [0, 5, 16, 37, 63] {
        let mut other = a.clone();
        other[at] += 1;
        let miss = book.explain(&key, &other);
        assert_eq!(miss.reason, Reason::Diverges { at, got: other[at], cached: a[at] });
        assert_eq!(miss.matched, at);
        assert!(miss.to_string().contains(&format!("position {at} is token {}", other[at])), "{miss}");
    }
    let id = book.open();
    book.reserve(id, 5 * PAGE).unwrap();
    assert_eq!(book.explain(&key, &a).reason, Reason::Evicted { at: 16 });
    book.reserve(id, 6 * PAGE).unwrap();
    assert_eq!(book.explain(&key, &a).reason, Reason::Evicted { at: 0 });
}

#[test]
fn the_hottest_prefixes_are_the_common_ones_and_cool_down() {
    let mut book = Book::new(1, 256);
    let clock = Arc::new(ManualClock::default());
    book.set_clock(clock.clone());
    book.limit(PrefixLimits { half_life: Duration::from_secs(100), ..PrefixLimits::default() });
    let ask = |book: &mut Book, system: &[Token], i: u32| {
        let tokens = [system, &words(100 + i, 40)].concat();
        let id = told(book, root(0), &tokens);
        book.close(id);
    };
    let (old, new) = (words(1, 64), words(2, 64));
    (0..8).for_each(|i| ask(&mut book, &old, i));
    assert_eq!(book.hot(9).len(), 1);
    let hot = book.hot(1).remove(0);
    assert_eq!((&hot.tokens, hot.root), (&old, root(0)));
    assert!((hot.uses - 8.0).abs() < 1e-9, "{}", hot.uses);
    clock.advance(Duration::from_secs(200));
    assert!((book.hot(1)[0].uses - 2.0).abs() < 1e-9);
    (0..3).for_each(|i| ask(&mut book, &new, i));
    assert_eq!(book.hot(2).iter().map(|h| &h.tokens).collect::<Vec<_>>(), [&new, &old]);
}

#[test]
fn lost_events_are_announced() {
    let mut book = Book::new(1, 64);
    let id = told(&mut book, root(0), &words(1, 64));
    assert!(book.take_events().is_empty(), "nobody asked");
    book.close(id);
    book.listen(4);
    told(&mut book, root(0), &words(2, 64));
    assert_eq!(book.take_events().len(), 4);
    told(&mut book, root(0), &words(3, 80));
    let events = book.take_events();
    assert_eq!(events[0], KvEvent::Cleared);
    assert_eq!(events.len(), 2);
}
