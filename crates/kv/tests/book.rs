//! The book against a naive model: every sequence is a plain list of values, every page a plain array.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use tamp_base::ids::{PAGE, SeqId};
use tamp_kernels::device::Slot;
use tamp_kv::{Book, KvError};

const GROUPS: usize = 2;

#[derive(Clone, Debug)]
enum Op {
    Open,
    Close(usize),
    Fork(usize),
    Rewind(usize, usize),
    /// forward over some sequences: (sequence, parents of its rows, leaf to keep)
    Forward(Vec<(usize, Vec<u8>, u8)>),
    /// reserve, then forget
    Abandon(usize, usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let rows = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 1..6),
        1 => (1usize..40).prop_map(|n| vec![255; n])
    ];
    let op = prop_oneof![
        2 => Just(Op::Open),
        1 => (0usize..8).prop_map(Op::Close),
        2 => (0usize..8).prop_map(Op::Fork),
        2 => (0usize..8, 0usize..80).prop_map(|(s, n)| Op::Rewind(s, n)),
        6 => prop::collection::vec((0usize..8, rows, any::<u8>()), 1..4).prop_map(Op::Forward),
        1 => (0usize..8, 0usize..40).prop_map(|(s, n)| Op::Abandon(s, n)),
    ];
    prop::collection::vec(op, 1..60)
}

/// Device memory: one value per slot.
struct Memory(Vec<Vec<[u64; PAGE]>>);

impl Memory {
    fn at(&mut self, group: usize, slot: Slot) -> &mut u64 {
        &mut self.0[group][slot.page.0 as usize][slot.offset as usize]
    }

    fn run_moves(&mut self, book: &mut Book) {
        for g in 0..GROUPS {
            for m in book.take_moves(g) {
                *self.at(g, m.to) = *self.at(g, m.from);
            }
        }
    }
}

fn check(book: &Book, memory: &mut Memory, naive: &BTreeMap<SeqId, Vec<u64>>) -> Result<(), TestCaseError> {
    book.integrity().map_err(TestCaseError::fail)?;
    for (&id, values) in naive {
        prop_assert_eq!(book.len(id), values.len());
        for g in 0..GROUPS {
            let table = book.table(id, g).to_vec();
            for (i, &v) in values.iter().enumerate() {
                prop_assert_eq!(*memory.at(g, Slot::of(&table, i)), v + g as u64);
            }
        }
    }
    Ok(())
}

fn run(ops: Vec<Op>, pages: usize) -> Result<(), TestCaseError> {
    let mut book = Book::new(GROUPS, pages);
    let mut memory = Memory(vec![vec![[0; PAGE]; pages]; GROUPS]);
    let mut naive: BTreeMap<SeqId, Vec<u64>> = BTreeMap::new();
    let mut fresh = 0u64;
    for op in ops {
        let nth = |i: usize| naive.keys().nth(i % naive.len().max(1)).copied();
        match op {
            Op::Open => {
                let id = book.open();
                prop_assert!(naive.insert(id, vec![]).is_none());
            }
            Op::Close(i) => {
                let Some(id) = nth(i) else { continue };
                book.close(id);
                naive.remove(&id);
            }
            Op::Fork(i) => {
                let Some(id) = nth(i) else { continue };
                let twin = book.fork(id).unwrap();
                let past = naive[&id].clone();
                naive.insert(twin, past);
            }
            Op::Rewind(i, n) => {
                let Some(id) = nth(i) else { continue };
                let got = book.rewind(id, n);
                prop_assert_eq!(got, n.min(naive[&id].len()));
                naive.get_mut(&id).unwrap().truncate(n);
            }
            Op::Abandon(i, n) => {
                let Some(id) = nth(i) else { continue };
                let (room, need) = (book.room(), book.need(id, n));
                let ok = book.reserve(id, n).is_ok();
                prop_assert_eq!(ok, need <= room);
                if ok {
                    prop_assert_eq!(book.room(), room - need);
                }
                match book.fork(id) {
                    Err(KvError::Busy { .. }) => prop_assert!(ok && n > 0),
                    Err(e) => panic!("{e}"),
                    Ok(twin) => {
                        prop_assert!(!ok || n == 0, "a fork of an uncommitted batch");
                        book.close(twin);
                    }
                }
                book.commit(id, &[]).unwrap();
            }
            Op::Forward(parts) => {
                let mut batch: BTreeMap<SeqId, (Vec<Option<usize>>, usize)> = BTreeMap::new();
                for (i, parents, leaf) in parts {
                    let Some(id) = nth(i) else { continue };
                    let n = parents.len();
                    let room = book.room();
                    match book.reserve(id, n) {
                        Err(KvError::Full { need, free, .. }) => {
                            prop_assert!(need > free);
                            prop_assert_eq!(book.room(), room, "all or nothing");
                            // the earlier reservation of the same sequence, if any, stands
                        }
                        Err(e) => panic!("{e}"),
                        Ok(()) => {
                            let parents = parents
                                .iter()
                                .enumerate()
                                .map(|(i, &p)| match p {
                                    255 => i.checked_sub(1),
                                    p => (p as usize % (i + 1)).checked_sub(1),
                                })
                                .collect();
                            batch.insert(id, (parents, leaf as usize % (n + 1)));
                        }
                    }
                }
                book.integrity().map_err(TestCaseError::fail)?;
                memory.run_moves(&mut book);
                for (&id, (parents, leaf)) in &batch {
                    let len = naive[&id].len();
                    let values: Vec<u64> = parents
                        .iter()
                        .map(|_| {
                            fresh += 10;
                            fresh
                        })
                        .collect();
                    for g in 0..GROUPS {
                        let table = book.table(id, g).to_vec();
                        for (i, v) in values.iter().enumerate() {
                            *memory.at(g, Slot::of(&table, len + i)) = v + g as u64;
                        }
                    }
                    let mut kept = vec![];
                    let mut at = leaf.checked_sub(1);
                    while let Some(i) = at {
                        kept.push(i as u32);
                        at = parents[i];
                    }
                    kept.reverse();
                    naive.get_mut(&id).unwrap().extend(kept.iter().map(|&k| values[k as usize]));
                    book.commit(id, &kept).unwrap();
                }
            }
        }
        // Copies may wait for several steps; look through a memory that has run them.
        book.integrity().map_err(TestCaseError::fail)?;
        if fresh.is_multiple_of(3) {
            memory.run_moves(&mut book);
            check(&book, &mut memory, &naive)?;
        }
    }
    memory.run_moves(&mut book);
    check(&book, &mut memory, &naive)?;
    for id in naive.keys() {
        book.close(*id);
    }
    prop_assert_eq!(book.room(), pages);
    book.integrity().map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_sequence_reads_back_what_it_committed(ops in ops(), pages in 1usize..24) {
        run(ops, pages)?;
    }
}

#[test]
fn a_partial_tail_is_copied_at_the_first_write_only() {
    let mut book = Book::new(1, 8);
    let a = book.open();
    book.reserve(a, 20).unwrap();
    book.commit(a, &(0..20).collect::<Vec<_>>()).unwrap();
    let b = book.fork(a).unwrap();
    assert_eq!(book.room(), 6);
    assert_eq!(book.need(b, 1), 1);
    book.reserve(b, 1).unwrap();
    assert_eq!(book.room(), 5);
    assert_eq!(book.table(a, 0)[0], book.table(b, 0)[0], "the full page stays shared");
    assert_ne!(book.table(a, 0)[1], book.table(b, 0)[1]);
    assert_eq!(book.take_moves(0).len(), 4);
    book.commit(b, &[0]).unwrap();
    book.reserve(a, 1).unwrap();
    assert!(book.take_moves(0).is_empty(), "the last holder writes in place");
}

#[test]
fn a_kept_path_that_is_none_is_refused() {
    let mut book = Book::new(1, 4);
    let a = book.open();
    book.reserve(a, 3).unwrap();
    for bad in [&[3][..], &[1, 0], &[1, 1]] {
        assert!(matches!(book.commit(a, bad), Err(KvError::Path { .. })), "{bad:?}");
    }
    book.commit(a, &[0, 2]).unwrap();
    assert_eq!(book.len(a), 2);
    assert!(matches!(book.reserve(SeqId(9), 1), Err(KvError::Unknown(_))));
}
