//! Bookkeeping of the pages, without a device: which sequence holds which pages, how far it is committed, and which
//! positions the device must copy before its next forward pass.

mod log;
mod prefix;
mod tree;

use std::collections::BTreeMap;

use tamp_base::ids::{PAGE, PageId, SeqId};
use tamp_kernels::device::{Move, Slot};

use crate::KvError;
use crate::pool::Pool;
use tree::{NodeId, Tree};

/// Page tables of all sequences over the pools of all groups.
#[derive(Debug)]
pub struct Book {
    groups: Vec<Group>,
    seqs: BTreeMap<SeqId, Entry>,
    next: u64,
    tree: Tree,
}

#[derive(Debug)]
struct Group {
    pool: Pool,
    /// copies in the order they were decided; a later one may overwrite an earlier one's source
    moves: Vec<Move>,
}

#[derive(Debug, Default)]
struct Entry {
    /// committed positions: position `i` sits in slot `i`
    len: usize,
    /// rows of the uncommitted batch, in slots `len..len + rows`
    rows: usize,
    /// `[groups]` page ids
    tables: Vec<Vec<PageId>>,
    /// nodes of the leading full pages that are in the prefix tree
    path: Vec<NodeId>,
}

impl Book {
    /// `groups` pools of `pages` pages.
    pub fn new(groups: usize, pages: usize) -> Book {
        let groups = (0..groups).map(|_| Group { pool: Pool::new(pages), moves: Vec::new() }).collect();
        Book { groups, seqs: BTreeMap::new(), next: 0, tree: Tree::default() }
    }

    /// Opens an empty sequence.
    pub fn open(&mut self) -> SeqId {
        let tables = vec![Vec::new(); self.groups.len()];
        self.add(Entry { tables, ..Entry::default() })
    }

    fn add(&mut self, entry: Entry) -> SeqId {
        let id = SeqId(self.next);
        self.next += 1;
        self.seqs.insert(id, entry);
        id
    }

    /// Ends a sequence; unknown ids are ignored.
    pub fn close(&mut self, seq: SeqId) {
        if let Some(mut entry) = self.seqs.remove(&seq) {
            trim(&mut self.groups, &mut entry.tables, 0);
        }
    }

    /// A second sequence with the same past, sharing its pages.
    pub fn fork(&mut self, seq: SeqId) -> Result<SeqId, KvError> {
        let entry = self.seqs.get(&seq).ok_or(KvError::Unknown(seq))?;
        if entry.rows > 0 {
            return Err(KvError::Busy { seq, rows: entry.rows });
        }
        for (group, table) in self.groups.iter_mut().zip(&entry.tables) {
            table.iter().for_each(|&page| group.pool.share(page));
        }
        let twin = Entry { len: entry.len, rows: 0, tables: entry.tables.clone(), path: entry.path.clone() };
        Ok(self.add(twin))
    }

    /// Committed positions; 0 for an unknown sequence.
    pub fn len(&self, seq: SeqId) -> usize {
        self.seqs.get(&seq).map_or(0, |e| e.len)
    }

    /// No sequence is open.
    pub fn is_empty(&self) -> bool {
        self.seqs.is_empty()
    }

    /// Page ids of a sequence in a group; empty for an unknown sequence or group.
    pub fn table(&self, seq: SeqId, group: usize) -> &[PageId] {
        self.seqs.get(&seq).and_then(|e| e.tables.get(group)).map_or(&[], Vec::as_slice)
    }

    /// Pages to be had, in the fullest group: free ones, and those that only the prefix tree holds.
    pub fn room(&self) -> usize {
        self.groups.iter().map(|g| g.pool.room()).min().unwrap_or(0)
    }

    /// Pages per group.
    pub fn total(&self) -> usize {
        self.groups.first().map_or(0, |g| g.pool.total())
    }

    /// Pages that [`Book::reserve`] would take, in the group that needs most.
    pub fn need(&self, seq: SeqId, rows: usize) -> usize {
        let Some(entry) = self.seqs.get(&seq) else { return 0 };
        let need = self.needs(entry, rows).max().unwrap_or(0);
        // The one page more goes to a copy that the prefix tree must not cost a sequence its place for.
        if need > self.room() && rows > 0 && self.own_tail(entry).is_some() { need - 1 } else { need }
    }

    fn needs(&self, entry: &Entry, rows: usize) -> impl Iterator<Item = usize> {
        let pages = entry.len.saturating_add(rows).div_ceil(PAGE);
        self.groups.iter().zip(&entry.tables).map(move |(group, table)| {
            let fresh = pages.saturating_sub(table.len());
            fresh + usize::from(rows > 0 && shared_tail(&group.pool, table, entry.len).is_some())
        })
    }

    /// Makes slots `len..len + rows` writable for this sequence alone, all or nothing. Pages that only the prefix tree
    /// holds are evicted as they are needed, the least recently used first.
    pub fn reserve(&mut self, seq: SeqId, rows: usize) -> Result<(), KvError> {
        let entry = self.seqs.get(&seq).ok_or(KvError::Unknown(seq))?;
        let need = self.needs(entry, rows).max().unwrap_or(0);
        if need > self.room() {
            let (need, free, total) = (self.need(seq, rows), self.room(), self.total());
            match self.own_tail(entry).filter(|_| need <= free) {
                Some(node) => self.drop_below(node),
                None => return Err(KvError::Full { need, free, total }),
            };
        }
        while self.groups.iter().any(|g| g.pool.free() < need.min(g.pool.room())) && self.evict(None, None) {}
        let Some(entry) = self.seqs.get_mut(&seq) else { return Err(KvError::Unknown(seq)) };
        let (len, pages) = (entry.len, (entry.len + rows).div_ceil(PAGE));
        for (group, table) in self.groups.iter_mut().zip(&mut entry.tables) {
            if rows > 0
                && let Some(at) = shared_tail(&group.pool, table, len)
                && let Some(own) = group.pool.take()
            {
                let theirs = std::mem::replace(&mut table[at], own);
                group.moves.extend((0..(len % PAGE) as u8).map(|offset| Move {
                    from: Slot { page: theirs, offset },
                    to: Slot { page: own, offset },
                }));
                group.pool.give_back(theirs);
            }
            while table.len() < pages
                && let Some(page) = group.pool.take()
            {
                table.push(page);
            }
        }
        entry.rows = rows;
        trim(&mut self.groups, &mut entry.tables, pages);
        Ok(())
    }

    /// Ends the uncommitted batch: `kept` rows, in path order, become positions `len..`; the rest is forgotten.
    pub fn commit(&mut self, seq: SeqId, kept: &[u32]) -> Result<(), KvError> {
        let entry = self.seqs.get_mut(&seq).ok_or(KvError::Unknown(seq))?;
        let ascending = kept.windows(2).all(|w| w[0] < w[1]);
        if !ascending || kept.last().is_some_and(|&k| k as usize >= entry.rows) {
            return Err(KvError::Path { seq, kept: kept.to_vec(), rows: entry.rows });
        }
        // Ascending rows: the source of a copy is never a slot that an earlier copy has filled.
        for (group, table) in self.groups.iter_mut().zip(&entry.tables) {
            for (i, &k) in kept.iter().enumerate().filter(|&(i, &k)| i != k as usize) {
                let slot = |row| Slot::of(table, entry.len + row);
                group.moves.push(Move { from: slot(k as usize), to: slot(i) });
            }
        }
        entry.len += kept.len();
        entry.rows = 0;
        trim(&mut self.groups, &mut entry.tables, entry.len.div_ceil(PAGE));
        Ok(())
    }

    /// Forgets positions from `len` on, and any uncommitted rows; returns the length it honours.
    pub fn rewind(&mut self, seq: SeqId, len: usize) -> usize {
        let Some(entry) = self.seqs.get_mut(&seq) else { return 0 };
        entry.len = entry.len.min(len);
        entry.rows = 0;
        entry.path.truncate(entry.len / PAGE);
        trim(&mut self.groups, &mut entry.tables, entry.len.div_ceil(PAGE));
        entry.len
    }

    /// Queued copies of a group, in order.
    pub fn take_moves(&mut self, group: usize) -> Vec<Move> {
        self.groups.get_mut(group).map(|g| std::mem::take(&mut g.moves)).unwrap_or_default()
    }

    /// Whether the books balance: free + held by sequences + held by the tree alone = total, counts equal references,
    /// tables cover their positions, the tree's pages are its own.
    pub fn integrity(&self) -> Result<(), String> {
        self.prefix_integrity()?;
        for (g, group) in self.groups.iter().enumerate() {
            let tables = self.seqs.values().map(|e| e.tables[g].as_slice());
            let tree = self.tree.pages().map(|(_, n)| n.pages[g]);
            group.pool.integrity(tables, tree).map_err(|e| format!("KV group {g}: {e}"))?;
            for (id, e) in &self.seqs {
                let want = (e.len + e.rows).div_ceil(PAGE);
                if e.tables[g].len() != want {
                    let got = e.tables[g].len();
                    return Err(format!("KV group {g}: sequence {} has {got} pages, needs {want}", id.0));
                }
                let first = if e.rows > 0 { e.len / PAGE } else { want };
                if let Some(p) = e.tables[g][first..].iter().find(|&&p| group.pool.shared(p)) {
                    return Err(format!("KV group {g}: sequence {} may write shared page {}", id.0, p.0));
                }
            }
        }
        Ok(())
    }
}

/// Index of the page that the next position falls into, if it is partly filled and somebody else reads it too.
fn shared_tail(pool: &Pool, table: &[PageId], len: usize) -> Option<usize> {
    let at = len / PAGE;
    (!len.is_multiple_of(PAGE) && table.get(at).is_some_and(|&p| pool.shared(p))).then_some(at)
}

/// Gives back the pages from index `pages` on.
fn trim(groups: &mut [Group], tables: &mut [Vec<PageId>], pages: usize) {
    for (group, table) in groups.iter_mut().zip(tables) {
        while table.len() > pages
            && let Some(page) = table.pop()
        {
            group.pool.give_back(page);
        }
    }
}
