//! The book's prefix cache: full committed pages enter the tree, new sequences start from it, and pages that only the
//! tree holds make room on demand.
//!
//! A sequence whose page the tree already has, computed by somebody else, changes over to the tree's: equal paths have
//! equal bits (DESIGN 5.1). So whoever holds a page of the tree holds the tree's pages before it too, every page that
//! only the tree holds can be evicted, and counting those is enough to know the room.

use std::sync::Arc;

use tamp_base::clock::Clock;
use tamp_base::ids::{PAGE, PageId, SeqId, Token};

use super::tree::{self, Node, NodeId};
use super::{Book, Entry, Group};
use crate::prefix::{Hot, Ids, KvEvent, Miss, PrefixCounts, PrefixKey, PrefixLimits, Reason, chain};

/// Nodes that [`Book::hot`] looks at: bounds one call on a very large tree.
const LOOK: usize = 1 << 16;

impl Book {
    /// Sets the caps of the tree, and evicts what is above them and in nobody's use.
    pub fn limit(&mut self, limits: PrefixLimits) {
        self.tree.limits = limits;
        while self.tree.len() > limits.pages && self.evict(None, None) {}
        let over = |(n, c): (u64, PrefixCounts)| (c.cached > limits.per_namespace).then_some(n);
        for namespace in self.tree.namespaces().filter_map(over).collect::<Vec<_>>() {
            while self.tree.counts(namespace).cached > limits.per_namespace
                && self.evict(Some(namespace), None)
            {}
        }
    }

    /// The time by which uses decay; without it they never do.
    pub fn set_clock(&mut self, clock: Arc<dyn Clock>) {
        self.tree.clock = clock;
    }

    /// Puts the full committed pages of a sequence into the tree, as far as the caps allow, and returns how many of its
    /// pages are there. `tokens` are the sequence's ids from its first on. To be called after every commit: it costs
    /// nothing until another page is full. A sequence stays under the root it was first published or adopted under.
    pub fn publish(&mut self, seq: SeqId, root: PrefixKey, tokens: &[Token]) -> usize {
        let Some(entry) = self.seqs.get(&seq) else { return 0 };
        let (done, full) = (entry.path.len(), entry.len.min(tokens.len()) / PAGE);
        if full <= done
            || entry.path.first().is_some_and(|&p| self.tree.node(p).is_none_or(|n| n.root != root))
        {
            return done;
        }
        let mut up = entry.path.last().copied();
        for (at, ids) in tokens.as_chunks::<PAGE>().0.iter().enumerate().take(full).skip(done) {
            let known =
                up.or_else(|| self.tree.root(&root)).and_then(|u| self.tree.node(u)?.children.get(ids));
            let page = match known.copied() {
                Some(node) => {
                    self.change_over(seq, at, node);
                    self.tree.touch(node);
                    Some(node)
                }
                None => self.enter(seq, at, root, up, ids),
            };
            let (Some(node), Some(entry)) = (page, self.seqs.get_mut(&seq)) else { break };
            entry.path.push(node);
            up = Some(node);
        }
        self.seqs.get(&seq).map_or(0, |e| e.path.len())
    }

    /// A new page of the tree, held by the sequence and the tree.
    fn enter(
        &mut self,
        seq: SeqId,
        at: usize,
        root: PrefixKey,
        up: Option<NodeId>,
        ids: &Ids,
    ) -> Option<NodeId> {
        let tables = &self.seqs.get(&seq)?.tables;
        let pages = tables.iter().map(|t| t.get(at).copied()).collect::<Option<Box<[PageId]>>>()?;
        // A fork that is published under another root than its origin: the page has its place already.
        if self.groups.iter().zip(&pages).any(|(g, &p)| g.pool.node(p).is_some()) || !self.place(&root, None)
        {
            return None;
        }
        let up = up.unwrap_or_else(|| self.tree.open_root(&root));
        let node = self.tree.insert(up, ids, pages.clone())?;
        for (group, &page) in self.groups.iter_mut().zip(&pages) {
            group.pool.keep(page, node);
        }
        Some(node)
    }

    /// Room for one more page under the caps, evicting if need be; never `keep`.
    fn place(&mut self, root: &PrefixKey, keep: Option<NodeId>) -> bool {
        let limits = self.tree.limits;
        (self.tree.counts(root.namespace).cached < limits.per_namespace
            || self.evict(Some(root.namespace), keep))
            && (self.tree.len() < limits.pages || self.evict(None, keep))
            && limits.pages > 0
            && limits.per_namespace > 0
    }

    /// Puts the tree's page in the place of whatever page sequences have at index `at` where this one's is.
    fn change_over(&mut self, seq: SeqId, at: usize, node: NodeId) {
        let Some(node) = self.tree.node(node) else { return };
        for (g, (group, &theirs)) in self.groups.iter_mut().zip(&node.pages).enumerate() {
            let Some(&own) = self.seqs.get(&seq).and_then(|e| e.tables[g].get(at)) else { continue };
            if own == theirs {
                continue;
            }
            // Forks that share the page change over with it: else they would hold pages below one they do not hold.
            for slot in self.seqs.values_mut().filter_map(|e| e.tables[g].get_mut(at)).filter(|s| **s == own)
            {
                *slot = theirs;
                group.pool.share(theirs);
                group.pool.give_back(own);
            }
        }
    }

    /// Positions that [`Book::adopt`] would find. Changes nothing, and counts as no use.
    pub fn matched(&self, root: &PrefixKey, tokens: &[Token]) -> usize {
        self.tree.find(root, tokens).positions()
    }

    /// Gives an empty sequence the longest cached prefix of `tokens`, at most `most` positions, and returns its length.
    /// A page of which only a part fits is shared, and copied at the first write.
    pub fn adopt(&mut self, seq: SeqId, root: PrefixKey, tokens: &[Token], most: usize) -> usize {
        let Some(entry) = self.seqs.get_mut(&seq).filter(|e| e.len == 0 && e.rows == 0) else { return 0 };
        let found = self.tree.find(&root, tokens);
        let len = found.positions().min(most);
        let mut nodes = found.path;
        nodes.extend(found.tail.map(|t| t.0));
        nodes.truncate(len.div_ceil(PAGE));
        for node in nodes.iter().filter_map(|&n| self.tree.node(n)) {
            for ((group, table), &page) in self.groups.iter_mut().zip(&mut entry.tables).zip(&node.pages) {
                group.pool.share(page);
                table.push(page);
            }
        }
        nodes.iter().for_each(|&n| self.tree.touch(n));
        nodes.truncate(len / PAGE);
        (entry.len, entry.path) = (len, nodes);
        self.tree.count(root.namespace, tokens.len().min(most), len);
        len
    }

    /// What is cached of a prompt, and why no more.
    pub fn explain(&self, root: &PrefixKey, tokens: &[Token]) -> Miss {
        let found = self.tree.find(root, tokens);
        let (matched, at) = (found.positions(), found.path.len() * PAGE);
        let rest = &tokens[at..];
        let last = found.path.last().copied().or_else(|| self.tree.root(root));
        let key = last.and_then(|l| self.tree.node(l)).map_or(root.hash, |n| n.key);
        let dropped = rest.first_chunk().is_some_and(|ids| self.tree.gone.has(&chain(&key, ids)));
        let cached = last.and_then(|l| tree::nearest(self.tree.node(l)?, rest)).and_then(|(child, n)| {
            let got = *tokens.get(at + n)?;
            Some(Reason::Diverges { at: at + n, got, cached: self.tree.node(child)?.ids[n.min(PAGE - 1)] })
        });
        let reason = if matched == tokens.len() {
            Reason::Whole
        } else if dropped {
            Reason::Evicted { at }
        } else if let Some(diverges) = cached {
            diverges
        } else if rest.len() < PAGE {
            Reason::Short { rest: rest.len() }
        } else if last.is_none() {
            Reason::Empty
        } else {
            Reason::Ends { at }
        };
        Miss { matched, of: tokens.len(), reason }
    }

    /// Drops the least recently used page that no sequence holds, of a namespace or of all; never `keep`.
    pub(super) fn evict(&mut self, namespace: Option<u64>, keep: Option<NodeId>) -> bool {
        let idle = |id: NodeId, n: &Node| {
            Some(id) != keep && self.groups.iter().zip(&n.pages).all(|(g, &p)| !g.pool.shared(p))
        };
        let oldest = self.tree.oldest(namespace, idle);
        oldest.is_some_and(|id| self.drop_node(id, true))
    }

    /// The tree lets go of a leaf.
    pub(super) fn drop_node(&mut self, id: NodeId, evicted: bool) -> bool {
        let Some(node) = self.tree.remove(id, evicted) else { return false };
        for (group, &page) in self.groups.iter_mut().zip(&node.pages) {
            group.pool.let_go(page);
        }
        true
    }

    /// The node whose page is the partly filled tail of this sequence and no other's: the tree can do without it, and
    /// what is below, when there is no page to copy it to.
    pub(super) fn own_tail(&self, entry: &Entry) -> Option<NodeId> {
        let at = entry.len / PAGE;
        let held = |(g, t): (&Group, &Vec<PageId>)| {
            let &page = t.get(at)?;
            g.pool.node(page).filter(|_| g.pool.holders(page) == 2)
        };
        let mut nodes = self.groups.iter().zip(&entry.tables).map(held);
        let first = nodes.next()?.filter(|_| !entry.len.is_multiple_of(PAGE))?;
        nodes.all(|n| n == Some(first)).then_some(first)
    }

    /// The tree lets go of a node and of all below it.
    pub(super) fn drop_below(&mut self, top: NodeId) {
        let mut at = top;
        while let Some(node) = self.tree.node(at) {
            let up = node.up;
            match node.children.values().next() {
                Some(&child) => at = child,
                None => {
                    self.drop_node(at, true);
                    match up {
                        Some(up) if at != top => at = up,
                        _ => return,
                    }
                }
            }
        }
    }

    /// Empties the tree. Sequences keep the pages they hold.
    pub fn forget_prefixes(&mut self) {
        while let Some(id) = self.tree.oldest(None, |_, _| true) {
            self.drop_node(id, false);
        }
        self.seqs.values_mut().for_each(|e| e.path.clear());
        self.tree.log.cleared();
    }

    /// Counts of all namespaces together.
    pub fn prefix_counts(&self) -> PrefixCounts {
        self.tree.total()
    }

    /// Counts by namespace. Those without a cached page are forgotten when there are many.
    pub fn prefix_counts_of(&self) -> impl Iterator<Item = (u64, PrefixCounts)> {
        self.tree.namespaces()
    }

    /// Keeps up to `most` events for [`Book::take_events`] from now on; 0 keeps none. Who takes them too late finds
    /// [`KvEvent::Cleared`] in the place of those that did not fit.
    pub fn listen(&mut self, most: usize) {
        self.tree.log.listen(most);
    }

    /// Events since the last call, oldest first.
    pub fn take_events(&mut self) -> Vec<KvEvent> {
        self.tree.log.take()
    }

    /// Up to `n` prefixes worth having before anybody asks: those used at least twice, each as long as the uses go on,
    /// by decayed uses times length.
    pub fn hot(&self, n: usize) -> Vec<Hot> {
        let worth = |h: &Hot| h.uses * h.tokens.len() as f64;
        let mut all: Vec<(NodeId, f64)> = Vec::new();
        for (id, node) in self.tree.pages().take(LOOK) {
            let uses = self.tree.heat(node);
            let below = node.children.values().filter_map(|&c| self.tree.node(c)).map(|c| self.tree.heat(c));
            // The end of a common prefix: no continuation has half of its uses.
            if uses >= 1.5 && below.fold(0.0, f64::max) < uses / 2.0 {
                all.push((id, uses));
            }
        }
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        let hot = all.iter().take(n.saturating_mul(4)).filter_map(|&(id, uses)| {
            Some(Hot { root: self.tree.node(id)?.root, tokens: self.tree.tokens(id), uses })
        });
        let mut hot: Vec<Hot> = hot.collect();
        hot.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
        hot.truncate(n);
        hot
    }

    /// Whether the tree's pages are those that the pools and the sequences believe them to be.
    pub(super) fn prefix_integrity(&self) -> Result<(), String> {
        self.tree.integrity()?;
        for (g, group) in self.groups.iter().enumerate() {
            for (id, node) in self.tree.pages() {
                if group.pool.node(node.pages[g]) != Some(id) {
                    return Err(format!("KV group {g}: page {} does not know its node", node.pages[g].0));
                }
                let above = node.up.and_then(|u| self.tree.node(u)).filter(|n| n.up.is_some());
                if group.pool.shared(node.pages[g]) && above.is_some_and(|a| !group.pool.shared(a.pages[g])) {
                    return Err(format!("KV group {g}: node {id} is held, the one before it is not"));
                }
            }
            for (seq, e) in &self.seqs {
                let same = |(n, p): (&NodeId, &PageId)| self.tree.node(*n).is_some_and(|n| n.pages[g] == *p);
                if e.path.len() > e.len / PAGE || !e.path.iter().zip(&e.tables[g]).all(same) {
                    return Err(format!("KV group {g}: sequence {} left the tree's path", seq.0));
                }
            }
        }
        Ok(())
    }
}
