//! The prefix tree: one node is one full page of every group, below the page before it. It counts and orders; the
//! reference counts of the pages are the pools'.
//!
//! A walk compares token ids, never hashes, so a hit is exact. Children are ordered by their ids: the longest common
//! prefix with any child is with a neighbour of the place where the wanted ids would stand.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tamp_base::clock::{Clock, ManualClock};
use tamp_base::ids::{PAGE, PageId, Token};

use super::log::{Gone, Log};
use crate::prefix::{Hash, Hot, Ids, KvEvent, PrefixCounts, PrefixKey, PrefixLimits, chain};

/// Namespaces remembered after their last page has gone; counts of forgotten ones stay in the total.
const NAMESPACES: usize = 1024;

/// Index of a node; reused after a removal.
pub(super) type NodeId = u32;

pub(super) struct Node {
    pub key: Hash,
    pub root: PrefixKey,
    /// `None` for a root, which holds no page
    pub up: Option<NodeId>,
    pub ids: Ids,
    /// `[groups]`
    pub pages: Box<[PageId]>,
    pub children: BTreeMap<Ids, NodeId>,
    /// tick of the last use; a use goes from the root down, so what is below is never older by more than one use
    last: u64,
    /// uses, decayed to `warm_at`
    heat: f64,
    warm_at: Duration,
    /// tells a node from a later one with the same index
    pub born: u64,
}

/// Result of a walk: full pages, and the child that shares some ids more.
pub(super) struct Found {
    pub path: Vec<NodeId>,
    /// (child, ids in common), fewer than a page
    pub tail: Option<(NodeId, usize)>,
}

impl Found {
    pub fn positions(&self) -> usize {
        self.path.len() * PAGE + self.tail.map_or(0, |t| t.1)
    }
}

pub(super) struct Tree {
    nodes: Vec<Option<Node>>,
    vacant: Vec<NodeId>,
    roots: HashMap<Hash, NodeId>,
    /// leaves by last use
    lru: BTreeSet<(u64, NodeId)>,
    spaces: BTreeMap<u64, Space>,
    total: PrefixCounts,
    tick: u64,
    pub limits: PrefixLimits,
    pub clock: Arc<dyn Clock>,
    pub gone: Gone,
    pub log: Log,
    /// pages that no tier was given yet, parents first, with their birth; `None` while there is no tier
    pub unsaved: Option<VecDeque<(NodeId, u64)>>,
    /// hot prefixes of an earlier process, with their heat at `past_at`
    pub past: Vec<Hot>,
    pub past_at: Duration,
}

#[derive(Default)]
struct Space {
    counts: PrefixCounts,
    lru: BTreeSet<(u64, NodeId)>,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("total", &self.total).field("limits", &self.limits).finish()
    }
}

impl Default for Tree {
    fn default() -> Self {
        Tree {
            nodes: Vec::new(),
            vacant: Vec::new(),
            roots: HashMap::new(),
            lru: BTreeSet::new(),
            spaces: BTreeMap::new(),
            total: PrefixCounts::default(),
            tick: 0,
            limits: PrefixLimits::default(),
            clock: Arc::new(ManualClock::default()),
            gone: Gone::default(),
            log: Log::default(),
            unsaved: None,
            past: Vec::new(),
            past_at: Duration::ZERO,
        }
    }
}

impl Tree {
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id as usize)?.as_ref()
    }

    fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id as usize)?.as_mut()
    }

    /// All nodes but the roots.
    pub fn pages(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        let live = self.nodes.iter().enumerate().filter_map(|(i, n)| Some((i as NodeId, n.as_ref()?)));
        live.filter(|(_, n)| n.up.is_some())
    }

    pub fn root(&self, root: &PrefixKey) -> Option<NodeId> {
        self.roots.get(&root.hash).copied()
    }

    /// Cached pages per group.
    pub fn len(&self) -> usize {
        self.total.cached
    }

    pub fn counts(&self, namespace: u64) -> PrefixCounts {
        self.spaces.get(&namespace).map(|s| s.counts).unwrap_or_default()
    }

    pub fn total(&self) -> PrefixCounts {
        self.total
    }

    pub fn namespaces(&self) -> impl Iterator<Item = (u64, PrefixCounts)> {
        self.spaces.iter().map(|(&n, s)| (n, s.counts))
    }

    /// The longest cached prefix of `tokens`.
    pub fn find(&self, root: &PrefixKey, tokens: &[Token]) -> Found {
        let mut found = Found { path: Vec::new(), tail: None };
        let Some(mut node) = self.root(root).and_then(|r| self.node(r)) else { return found };
        let mut rest = tokens;
        while let Some((ids, more)) = rest.split_first_chunk::<PAGE>()
            && let Some(&child) = node.children.get(ids)
            && let Some(next) = self.node(child)
        {
            found.path.push(child);
            (node, rest) = (next, more);
        }
        found.tail = nearest(node, rest).filter(|t| t.1 > 0);
        found
    }

    /// The root's node, made when missing.
    pub fn open_root(&mut self, root: &PrefixKey) -> NodeId {
        if let Some(id) = self.root(root) {
            return id;
        }
        let id = self.add(Node {
            key: root.hash,
            root: *root,
            up: None,
            ids: [0; PAGE],
            pages: Box::default(),
            children: BTreeMap::new(),
            last: 0,
            heat: 0.0,
            warm_at: Duration::ZERO,
            born: 0,
        });
        self.roots.insert(root.hash, id);
        id
    }

    fn add(&mut self, mut node: Node) -> NodeId {
        self.tick += 1;
        node.born = self.tick;
        match self.vacant.pop() {
            Some(id) => {
                self.nodes[id as usize] = Some(node);
                id
            }
            None => {
                self.nodes.push(Some(node));
                (self.nodes.len() - 1) as NodeId
            }
        }
    }

    /// A page below `up`. The caller has looked that it is not there yet. `used`: by a sequence, so that it is hot and
    /// worth saving; else it comes from a tier.
    pub fn insert(&mut self, up: NodeId, ids: &Ids, pages: Box<[PageId]>, used: bool) -> Option<NodeId> {
        let above = self.node(up)?;
        let (root, key, was_leaf) = (above.root, chain(&above.key, ids), above.children.is_empty());
        let parent = above.up.map(|_| above.key);
        if was_leaf {
            self.unlist(up);
        }
        let warm_at = self.clock.now();
        let last = self.tick + 1;
        let id = self.add(Node {
            key,
            root,
            up: Some(up),
            ids: *ids,
            pages,
            children: BTreeMap::new(),
            last,
            heat: f64::from(used),
            warm_at,
            born: 0,
        });
        self.node_mut(up)?.children.insert(*ids, id);
        if let Some(unsaved) = self.unsaved.as_mut().filter(|_| used) {
            unsaved.push_back((id, last));
        }
        self.list(id);
        self.space(root.namespace).counts.cached += 1;
        self.total.cached += 1;
        self.log.push(|| KvEvent::Stored { hash: key, parent, tokens: *ids });
        Some(id)
    }

    /// Takes a leaf out; its pages are the caller's to give back. `evicted`: to make room.
    pub fn remove(&mut self, id: NodeId, evicted: bool) -> Option<Node> {
        if !self.node(id)?.children.is_empty() {
            return None;
        }
        self.unlist(id);
        let node = self.nodes[id as usize].take()?;
        self.vacant.push(id);
        let up = node.up?;
        let space = self.space(node.root.namespace);
        space.counts.cached -= 1;
        space.counts.evicted += u64::from(evicted);
        self.total.cached -= 1;
        self.total.evicted += u64::from(evicted);
        self.gone.add(&node.key);
        // Where nobody saves, the queue of those that are gone must not grow.
        if self.unsaved.as_ref().is_some_and(|u| u.len() > 2 * self.total.cached + 64) {
            let nodes = &self.nodes;
            let live = |&(id, born): &(NodeId, u64)| {
                nodes.get(id as usize).and_then(Option::as_ref).is_some_and(|n| n.born == born)
            };
            if let Some(unsaved) = &mut self.unsaved {
                unsaved.retain(live);
            }
        }
        self.log.push(|| KvEvent::Removed { hash: node.key });
        if let Some(above) = self.node_mut(up) {
            above.children.remove(&node.ids);
            if above.children.is_empty() {
                if above.up.is_some() {
                    self.list(up);
                } else {
                    self.roots.remove(&node.root.hash);
                    self.nodes[up as usize] = None;
                    self.vacant.push(up);
                }
            }
        }
        Some(node)
    }

    /// The least recently used leaf that `free` allows, of a namespace or of all. Leaves that it refuses are in use by
    /// sequences, so there are few.
    pub fn oldest(&self, namespace: Option<u64>, free: impl Fn(NodeId, &Node) -> bool) -> Option<NodeId> {
        let lru = match namespace {
            Some(n) => &self.spaces.get(&n)?.lru,
            None => &self.lru,
        };
        lru.iter().map(|l| l.1).find(|&id| self.node(id).is_some_and(|n| free(id, n)))
    }

    /// One more use of a page; its place in the order.
    pub fn touch(&mut self, id: NodeId) {
        let (now, half_life) = (self.clock.now(), self.limits.half_life);
        self.tick += 1;
        let tick = self.tick;
        let leaf = self.node(id).is_some_and(|n| n.children.is_empty());
        if leaf {
            self.unlist(id);
        }
        if let Some(n) = self.node_mut(id) {
            n.heat = n.heat_at(now, half_life) + 1.0;
            (n.warm_at, n.last) = (now, tick);
        }
        if leaf {
            self.list(id);
        }
    }

    /// Decayed uses of a page until now.
    pub fn heat(&self, node: &Node) -> f64 {
        node.heat_at(self.clock.now(), self.limits.half_life)
    }

    fn list(&mut self, id: NodeId) {
        let Some(n) = self.node(id).filter(|n| n.up.is_some()) else { return };
        let (at, namespace) = ((n.last, id), n.root.namespace);
        self.lru.insert(at);
        self.space(namespace).lru.insert(at);
    }

    fn unlist(&mut self, id: NodeId) {
        let Some(n) = self.node(id).filter(|n| n.up.is_some()) else { return };
        let (at, namespace) = ((n.last, id), n.root.namespace);
        self.lru.remove(&at);
        self.space(namespace).lru.remove(&at);
    }

    fn space(&mut self, namespace: u64) -> &mut Space {
        if self.spaces.len() >= NAMESPACES && !self.spaces.contains_key(&namespace) {
            self.spaces.retain(|_, s| s.counts.cached > 0);
        }
        self.spaces.entry(namespace).or_default()
    }

    /// A sequence asked for `asked` positions and got `hits`.
    pub fn count(&mut self, namespace: u64, asked: usize, hits: usize) {
        let add = |c: &mut PrefixCounts| {
            c.queries += 1;
            c.asked += asked as u64;
            c.hits += hits as u64;
        };
        add(&mut self.space(namespace).counts);
        add(&mut self.total);
    }

    /// The next page to save, if it is still there.
    pub fn next_unsaved(&mut self) -> Option<NodeId> {
        loop {
            let (id, born) = self.unsaved.as_mut()?.pop_front()?;
            if self.node(id).is_some_and(|n| n.born == born) {
                return Some(id);
            }
        }
    }

    /// Index of a node's page in its sequence.
    pub fn index(&self, mut id: NodeId) -> u32 {
        let mut above = 0u32;
        while let Some(up) = self.node(id).and_then(|n| n.up) {
            (id, above) = (up, above + 1);
        }
        above.saturating_sub(1)
    }

    /// Ids from the root to a node, whole pages.
    pub fn tokens(&self, mut id: NodeId) -> Vec<Token> {
        let mut pages = Vec::new();
        while let Some(n) = self.node(id)
            && let Some(up) = n.up
        {
            pages.push(n.ids);
            id = up;
        }
        pages.iter().rev().flatten().copied().collect()
    }

    /// Whether links, order and counts agree.
    pub fn integrity(&self) -> Result<(), String> {
        let mut cached: BTreeMap<u64, usize> = BTreeMap::new();
        let mut leaves = 0;
        for (id, n) in self.pages() {
            let up = n.up.and_then(|u| self.node(u)).ok_or(format!("node {id} hangs in the air"))?;
            if up.children.get(&n.ids) != Some(&id) || n.key != chain(&up.key, &n.ids) || n.root != up.root {
                return Err(format!("node {id} is not the child its parent names"));
            }
            *cached.entry(n.root.namespace).or_default() += 1;
            let listed = self.lru.contains(&(n.last, id));
            leaves += usize::from(listed);
            if listed != n.children.is_empty() {
                return Err(format!("node {id} is a leaf or listed as one, not both"));
            }
        }
        let lists: usize = self.spaces.values().map(|s| s.lru.len()).sum();
        if leaves != self.lru.len() || leaves != lists {
            return Err(format!("{leaves} leaves, {} and {lists} are listed", self.lru.len()));
        }
        let spaces = self.spaces.iter().filter(|s| s.1.counts.cached > 0).map(|(&n, s)| (n, s.counts.cached));
        if spaces.collect::<BTreeMap<_, _>>() != cached || cached.values().sum::<usize>() != self.len() {
            return Err(format!("namespaces hold {cached:?} pages, the counts say otherwise"));
        }
        if self.roots.values().any(|&r| self.node(r).is_none_or(|n| n.up.is_some() || n.children.is_empty()))
        {
            return Err("a root without pages".into());
        }
        Ok(())
    }
}

impl Node {
    fn heat_at(&self, now: Duration, half_life: Duration) -> f64 {
        let halves = now.saturating_sub(self.warm_at).as_secs_f64() / half_life.as_secs_f64().max(1e-9);
        self.heat * (-halves).exp2()
    }
}

/// The child with the longest common prefix with `rest`, cut to fewer than a page's ids.
pub(super) fn nearest(node: &Node, rest: &[Token]) -> Option<(NodeId, usize)> {
    let rest = &rest[..rest.len().min(PAGE)];
    let mut want = [0; PAGE];
    want[..rest.len()].copy_from_slice(rest);
    let common = |ids: &Ids| ids.iter().zip(rest).take_while(|(a, b)| a == b).count();
    let before = node.children.range(..want).next_back();
    let after = node.children.range(want..).next();
    let ends = [before, after].into_iter().flatten().map(|(ids, &id)| (id, common(ids)));
    ends.max_by_key(|&(_, n)| n)
}
