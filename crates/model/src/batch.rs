//! The ragged batch: prefill chunks, decode rows and draft trees of many sequences, one after another, no padding.

use tamp_base::ids::{SeqId, Token};
use tamp_kernels::device::{Best, RowMap, SeqRows};

/// What a row's result is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// only its K and V
    Nothing,
    /// the best token
    Choose,
    /// all logits
    Full,
}

/// One row: a token at a position of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// the token to embed
    pub token: Token,
    /// position on its own path
    pub position: u32,
    /// the sequence it belongs to
    pub seq: SeqId,
    /// batch row of the token before it; `None` = the last committed position
    pub parent: Option<u32>,
    /// what is wanted
    pub want: Want,
}

/// A batch under construction and in flight.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// all rows, sequence by sequence
    pub rows: Vec<Row>,
    /// `[rows]` tokens, for the embedding
    pub tokens: Vec<Token>,
    /// one map per KV group
    pub maps: Vec<RowMap>,
}

/// A node offered to [`Batch::push`]: a token, its parent among the nodes pushed for the same sequence, a want.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// the token
    pub token: Token,
    /// index of the parent node within this sequence's nodes; `None` = the committed end
    pub parent: Option<u32>,
    /// what is wanted
    pub want: Want,
}

impl Batch {
    /// An empty batch over `groups` KV groups.
    pub fn new(groups: usize) -> Self {
        Batch { maps: vec![RowMap::default(); groups], ..Batch::default() }
    }

    /// Adds a sequence's rows. `nodes` are in topological order (a parent before its children); the first nodes
    /// usually form a chain. `tables[g]` is the sequence's page table in group `g`, long enough for
    /// `committed + nodes.len()` positions (the KV room reserves before the batch is built).
    ///
    /// Returns the batch rows added.
    pub fn push<'a>(
        &mut self,
        seq: SeqId,
        committed: usize,
        tables: impl Iterator<Item = &'a [tamp_base::ids::PageId]>,
        nodes: &[Node],
    ) -> std::ops::Range<usize> {
        let first = self.rows.len();
        for n in nodes {
            let position = match n.parent {
                Some(p) => self.rows[first + p as usize].position + 1,
                None => committed as u32,
            };
            let parent = n.parent.map(|p| first as u32 + p);
            self.rows.push(Row { token: n.token, position, seq, parent, want: n.want });
            self.tokens.push(n.token);
        }
        for (map, table) in self.maps.iter_mut().zip(tables) {
            let index = map.seqs.len() as u32;
            map.seqs.push(SeqRows { first, count: nodes.len(), committed, table: map.table.len() });
            map.table.extend_from_slice(table);
            for i in 0..nodes.len() {
                let row = self.rows[first + i];
                map.pos.push(row.position);
                map.seq.push(index);
                // Slot order and path order agree when every ancestor sits right before its child.
                let depth = row.position as usize - committed;
                let at = if depth == i { None } else { Some(map.path.len() as u32) };
                if at.is_some() {
                    let start = map.path.len();
                    map.path.resize(start + depth + 1, 0);
                    let mut at = first + i;
                    for k in (0..=depth).rev() {
                        map.path[start + k] = (committed + at - first) as u32;
                        if let Some(p) = self.rows[at].parent {
                            at = p as usize;
                        }
                    }
                }
                map.path_at.push(at);
            }
        }
        first..self.rows.len()
    }
}

/// What a forward pass returns, by batch row.
#[derive(Debug, Default)]
pub struct Outputs {
    /// `[rows]`
    best: Vec<Option<Best>>,
    /// `[rows]` all logits, where asked for
    logits: Vec<Option<Vec<f32>>>,
}

impl Outputs {
    /// Room for `rows` rows.
    pub fn new(rows: usize) -> Self {
        Outputs { best: vec![None; rows], logits: vec![None; rows] }
    }

    /// Sets the best token of a row.
    pub fn set_best(&mut self, row: usize, best: Best) {
        self.best[row] = Some(best);
    }

    /// Sets the logits of a row.
    pub fn set_logits(&mut self, row: usize, logits: Vec<f32>) {
        self.logits[row] = Some(logits);
    }

    /// The best token of a row that wanted `Choose` or `Full`.
    pub fn best(&self, row: usize) -> Option<Best> {
        self.best.get(row).copied().flatten()
    }

    /// The logits of a row that wanted `Full`; the logits chain may change them in place.
    pub fn logits_mut(&mut self, row: usize) -> Option<&mut [f32]> {
        self.logits.get_mut(row).and_then(|l| l.as_deref_mut())
    }

    /// The logits of a row that wanted `Full`.
    pub fn logits(&self, row: usize) -> Option<&[f32]> {
        self.logits.get(row).and_then(|l| l.as_deref())
    }
}
