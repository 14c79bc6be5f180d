//! Keys that several sequences of a batch have in the same pages are read once for all their rows. Only the order of
//! work changes: every row still reduces each chunk of keys by itself and merges its chunks left to right.

use tamp_base::card::{Card, Effect, Entry};
use tamp_base::count::Acts;
use tamp_base::ids::PAGE;
use tamp_kernels::attend::KEY_CHUNK;
use tamp_kernels::device::{Alike, RowMap};

use super::Pick;

pub(super) static ENTRY: Entry<dyn Pick, ()> = Entry {
    card: Card {
        name: "dedupe",
        aka: "AttentionDeduplicator (wave 21/22)",
        about: "keys that several sequences share, 512 at a time, are read once for all rows of a batch",
        paper: "arXiv 2402.05099",
        claim: "FLOPs (dedup attention): hit rate × FLOPs saved",
        effect: Effect::Identical,
        needs: &[],
        knobs: &[],
    },
    open: |(), _| Ok(Box::new(Dedupe(Acts::default()))),
};

struct Dedupe(Acts);

/// Whole chunks of keys that two sequences have in the same pages, of every KV group; at most `most`.
fn common(maps: &[RowMap], a: usize, b: usize, most: usize) -> usize {
    let same = maps.iter().map(|m| {
        let of = |s: usize| m.table[m.seqs[s].table..].iter().take(most * (KEY_CHUNK / PAGE));
        of(a).zip(of(b)).take_while(|(x, y)| x == y).count() / (KEY_CHUNK / PAGE)
    });
    same.min().unwrap_or(0)
}

impl Pick for Dedupe {
    fn pick(&mut self, maps: &mut [RowMap]) {
        let Some(map) = maps.first() else { return };
        self.0.asked += 1;
        // Sequences and whole chunks that they have in common.
        let mut found: Vec<(Vec<u32>, usize)> = Vec::new();
        for (s, seq) in map.seqs.iter().enumerate() {
            let own = seq.committed / KEY_CHUNK;
            if own == 0 {
                continue;
            }
            // Who joins must not cost the others more than it spares: `sequences - 1` times the chunks.
            let shared = |(seqs, chunks): &(Vec<u32>, usize)| {
                let chunks_then = common(maps, seqs[0] as usize, s, own.min(*chunks));
                (chunks_then > 0 && seqs.len() * chunks_then >= (seqs.len() - 1) * chunks)
                    .then_some(chunks_then)
            };
            let best = found.iter().enumerate().filter_map(|(i, g)| Some((shared(g)?, i))).max();
            match best {
                Some((chunks, i)) => {
                    found[i].0.push(s as u32);
                    found[i].1 = chunks;
                }
                None => found.push((vec![s as u32], own)),
            }
        }
        // One alone reads its past more than once when its rows branch.
        let branches = |s: u32| {
            let s = &map.seqs[s as usize];
            map.path_at[s.first..s.first + s.count].iter().any(Option::is_some)
        };
        found.retain(|(seqs, _)| seqs.len() > 1 || branches(seqs[0]));
        *(if found.is_empty() { &mut self.0.declined } else { &mut self.0.acted }) += 1;
        let alike: Vec<Alike> =
            found.into_iter().map(|(seqs, chunks)| Alike { seqs, keys: chunks * KEY_CHUNK }).collect();
        maps.iter_mut().for_each(|m| m.alike.clone_from(&alike));
    }

    fn acts(&self) -> Acts {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tamp_base::ids::PageId;
    use tamp_kernels::device::SeqRows;

    use super::*;

    const PAGES: usize = KEY_CHUNK / PAGE;

    /// Sequences by page table and committed positions, one row each; `branch`: its second row leaves the slot order.
    fn map(seqs: &[(Vec<u32>, usize, bool)]) -> RowMap {
        let mut m = RowMap::default();
        for (i, (table, committed, branch)) in seqs.iter().enumerate() {
            let count = 1 + usize::from(*branch);
            m.seqs.push(SeqRows { first: m.pos.len(), count, committed: *committed, table: m.table.len() });
            m.table.extend(table.iter().map(|&p| PageId(p)));
            for r in 0..count {
                m.pos.push(*committed as u32);
                m.seq.push(i as u32);
                m.path_at.push((r > 0).then_some(0));
            }
        }
        m.path = vec![0; 2];
        m
    }

    fn picked(maps: &mut [RowMap]) -> Vec<Alike> {
        Dedupe(Acts::default()).pick(maps);
        maps[0].alike.clone()
    }

    /// `shared` chunks from 0 on, then pages of its own up to `chunks` chunks and one page.
    fn seq(own: u32, shared: usize, chunks: usize) -> (Vec<u32>, usize, bool) {
        let (same, all) = ((shared * PAGES) as u32, (chunks * PAGES + 1) as u32);
        ((0..same).chain(own * 10_000 + same..own * 10_000 + all).collect(), chunks * KEY_CHUNK + 3, false)
    }

    #[test]
    fn sequences_go_together_as_far_as_whole_chunks_agree() {
        let got = picked(&mut [map(&[seq(1, 2, 4), seq(2, 0, 3), seq(3, 2, 2), seq(4, 1, 1)])]);
        // The last would cost the first two a chunk and spares one: as much as before, so it may join.
        assert_eq!(got, [Alike { seqs: vec![0, 2, 3], keys: KEY_CHUNK }]);
        let got = picked(&mut [map(&[seq(1, 4, 4), seq(2, 4, 5), seq(3, 1, 2)])]);
        assert_eq!(got, [Alike { seqs: vec![0, 1], keys: 4 * KEY_CHUNK }], "the third would cost more");
        assert_eq!(picked(&mut [map(&[seq(1, 0, 3), seq(2, 0, 3)])]), []);
    }

    #[test]
    fn a_group_where_the_tables_differ_keeps_sequences_apart() {
        let one = map(&[seq(1, 2, 2), seq(2, 2, 2)]);
        let two = map(&[seq(1, 0, 2), seq(2, 0, 2)]);
        assert_eq!(picked(&mut [one.clone(), one.clone()]).len(), 1);
        assert_eq!(picked(&mut [one, two]), []);
    }

    #[test]
    fn a_sequence_alone_is_named_when_its_rows_branch() {
        let mut branched = seq(1, 0, 1);
        branched.2 = true;
        assert_eq!(picked(&mut [map(&[branched])]), [Alike { seqs: vec![0], keys: KEY_CHUNK }]);
        assert_eq!(picked(&mut [map(&[seq(1, 0, 1)])]), []);
    }

    proptest! {
        #[test]
        fn what_is_named_is_true_and_nobody_is_named_twice(
            seqs in prop::collection::vec((1u32..4, 0usize..4, 0usize..4, any::<bool>()), 0..12),
        ) {
            let seqs: Vec<_> = seqs
                .iter()
                .enumerate()
                .map(|(i, &(family, shared, chunks, branch))| {
                    // Up to three families, each with pages of its own.
                    let mut s = seq(10 + i as u32, shared.min(chunks), chunks);
                    s.0.iter_mut().for_each(|p| *p += 1_000_000 * family);
                    (s.0, s.1, branch)
                })
                .collect();
            let got = picked(&mut [map(&seqs)]);
            let mut named: Vec<u32> = got.iter().flat_map(|a| a.seqs.clone()).collect();
            for a in &got {
                prop_assert!(a.keys > 0 && a.keys % KEY_CHUNK == 0);
                for &s in &a.seqs {
                    let (table, committed, _) = &seqs[s as usize];
                    prop_assert!(*committed >= a.keys);
                    prop_assert_eq!(&table[..a.keys / PAGE], &seqs[a.seqs[0] as usize].0[..a.keys / PAGE]);
                }
            }
            let all = named.len();
            named.sort_unstable();
            named.dedup();
            prop_assert_eq!(named.len(), all);
        }
    }
}
