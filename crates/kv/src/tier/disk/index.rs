//! What is in the folder, in the order in which it would go: the least recently used first, of one chain the last page
//! first.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use crate::prefix::Hash;

/// A file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub parent: Hash,
    /// index of the page in its sequence
    pub index: u32,
    /// of the file
    pub bytes: u64,
    /// seconds since 1970
    pub used: u64,
    /// seconds since 1970
    pub written: u64,
}

/// Rows by key, and their order.
#[derive(Default)]
pub(super) struct Index {
    rows: HashMap<Hash, Row>,
    order: BTreeSet<(u64, Reverse<u32>, Hash)>,
    bytes: u64,
}

impl Index {
    pub fn get(&self, key: &Hash) -> Option<&Row> {
        self.rows.get(key)
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn keys(&self) -> impl Iterator<Item = &Hash> {
        self.rows.keys()
    }

    /// Adds or replaces a row; what is before it in its chain counts as used no earlier.
    pub fn put(&mut self, key: Hash, row: Row) {
        self.remove(&key);
        self.order.insert((row.used, Reverse(row.index), key));
        self.bytes += row.bytes;
        self.rows.insert(key, row);
        self.touch(&row.parent, row.used);
    }

    pub fn remove(&mut self, key: &Hash) -> Option<Row> {
        let row = self.rows.remove(key)?;
        self.order.remove(&(row.used, Reverse(row.index), *key));
        self.bytes -= row.bytes;
        Some(row)
    }

    /// A use of a page is one of all before it, so that a page never goes before those that need it.
    pub fn touch(&mut self, key: &Hash, used: u64) {
        let mut at = *key;
        // A parent whose index is not lower would be a loop, which no chain of hashes has and a hostile file might claim.
        let mut below = u32::MAX;
        while let Some(row) = self.rows.get_mut(&at)
            && row.used < used
            && row.index < below
        {
            self.order.remove(&(row.used, Reverse(row.index), at));
            row.used = used;
            self.order.insert((used, Reverse(row.index), at));
            (at, below) = (row.parent, row.index);
        }
    }

    /// Makes up for rows that came after those that need them.
    pub fn settle(&mut self) {
        let uses: Vec<(Hash, u64)> = self.rows.values().map(|r| (r.parent, r.used)).collect();
        uses.iter().for_each(|(parent, used)| self.touch(parent, *used));
    }

    /// The first to go.
    pub fn oldest(&self) -> Option<Hash> {
        self.order.first().map(|o| o.2)
    }

    /// Pages written before `time`.
    pub fn written_before(&self, time: u64) -> Vec<Hash> {
        self.rows.iter().filter(|r| r.1.written < time).map(|r| *r.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(parent: u8, index: u32, used: u64) -> Row {
        Row { parent: [parent; 32], index, bytes: 10, used, written: 0 }
    }

    #[test]
    fn a_page_goes_after_all_that_need_it() {
        let mut index = Index::default();
        // A chain 1 ← 2 ← 3, each written later than the one before, and 4 between them.
        for (key, parent, at, used) in [(1, 0, 0, 5), (2, 1, 1, 6), (4, 0, 0, 7), (3, 2, 2, 8)] {
            index.put([key; 32], row(parent, at, used));
        }
        assert_eq!(index.oldest(), Some([4; 32]), "1 and 2 are as young as 3, which needs them");
        // One that comes before the page it needs, as in a listing.
        index.put([6; 32], row(5, 1, 10));
        index.put([5; 32], row(0, 0, 1));
        index.settle();
        index.touch(&[2; 32], 9);
        let mut gone = vec![];
        while let Some(key) = index.oldest() {
            gone.push(key[0]);
            index.remove(&key);
        }
        assert_eq!(gone, [4, 3, 2, 1, 6, 5]);
        assert_eq!((index.bytes(), index.len()), (0, 0));
    }

    #[test]
    fn a_loop_of_parents_ends() {
        let mut index = Index::default();
        index.put([1; 32], row(2, 0, 1));
        index.put([2; 32], row(1, 0, 1));
        index.touch(&[1; 32], 5);
    }
}
