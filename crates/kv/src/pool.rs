//! Pages of one KV group: who is free, who is held how often.

use tamp_base::ids::PageId;

/// Reference counts and the free list of one group's pages.
#[derive(Debug)]
pub(crate) struct Pool {
    /// free pages; the last one goes next
    free: Vec<PageId>,
    /// `[pages]` how many page tables name the page, the prefix tree included
    refs: Vec<u32>,
    /// `[pages]` the page's node in the prefix tree
    nodes: Vec<Option<u32>>,
    /// pages that only the tree holds
    idle: usize,
}

impl Pool {
    pub(crate) fn new(pages: usize) -> Pool {
        // Low ids go first and come back first: untouched pages stay unbacked by the operating system.
        let free = (0..pages as u32).rev().map(PageId).collect();
        Pool { free, refs: vec![0; pages], nodes: vec![None; pages], idle: 0 }
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Free pages and those that can be had by evicting.
    pub(crate) fn room(&self) -> usize {
        self.free.len() + self.idle
    }

    pub(crate) fn total(&self) -> usize {
        self.refs.len()
    }

    /// A page for one holder; `None` when all are held.
    pub(crate) fn take(&mut self) -> Option<PageId> {
        let page = self.free.pop()?;
        self.refs[page.0 as usize] = 1;
        Some(page)
    }

    pub(crate) fn share(&mut self, page: PageId) {
        let i = page.0 as usize;
        self.idle -= usize::from(self.refs[i] == 1 && self.nodes[i].is_some());
        self.refs[i] += 1;
    }

    pub(crate) fn shared(&self, page: PageId) -> bool {
        self.refs[page.0 as usize] > 1
    }

    pub(crate) fn holders(&self, page: PageId) -> u32 {
        self.refs[page.0 as usize]
    }

    pub(crate) fn give_back(&mut self, page: PageId) {
        let i = page.0 as usize;
        self.refs[i] -= 1;
        match self.refs[i] {
            0 => self.free.push(page),
            1 if self.nodes[i].is_some() => self.idle += 1,
            _ => {}
        }
    }

    /// The tree holds a page that somebody holds.
    pub(crate) fn keep(&mut self, page: PageId, node: u32) {
        self.refs[page.0 as usize] += 1;
        self.nodes[page.0 as usize] = Some(node);
    }

    /// The only holder makes the tree the only holder.
    pub(crate) fn hand_over(&mut self, page: PageId, node: u32) {
        self.nodes[page.0 as usize] = Some(node);
        self.idle += 1;
    }

    /// The tree gives a page back.
    pub(crate) fn let_go(&mut self, page: PageId) {
        let i = page.0 as usize;
        self.idle -= usize::from(self.refs[i] == 1);
        self.nodes[i] = None;
        self.give_back(page);
    }

    /// The page's node in the tree.
    pub(crate) fn node(&self, page: PageId) -> Option<u32> {
        self.nodes[page.0 as usize]
    }

    /// Compares the counts with the references that the tables really hold.
    pub(crate) fn integrity<'a>(
        &self,
        tables: impl Iterator<Item = &'a [PageId]>,
        tree: impl Iterator<Item = PageId>,
    ) -> Result<(), String> {
        let mut seen = vec![0u32; self.refs.len()];
        for page in tables.flatten() {
            let n = seen.get_mut(page.0 as usize).ok_or(format!("page {} is not in the pool", page.0))?;
            *n += 1;
        }
        let by_sequences = seen.iter().filter(|&&n| n > 0).count();
        let mut idle = 0;
        for page in tree {
            let n = seen.get_mut(page.0 as usize).ok_or(format!("page {} is not in the pool", page.0))?;
            idle += usize::from(*n == 0);
            *n += 1;
        }
        if idle != self.idle {
            return Err(format!("{idle} pages are held by the tree alone, {} are counted", self.idle));
        }
        for (page, (&refs, &seen)) in self.refs.iter().zip(&seen).enumerate() {
            if refs != seen {
                return Err(format!("page {page} counts {refs} holders, the tables name it {seen} times"));
            }
        }
        let mut free = vec![false; self.refs.len()];
        for page in &self.free {
            let i = page.0 as usize;
            if free[i] {
                return Err(format!("page {i} is twice in the free list"));
            }
            if self.refs[i] != 0 {
                return Err(format!("page {i} is free and held"));
            }
            free[i] = true;
        }
        let (free, total) = (self.free.len(), self.refs.len());
        if free + by_sequences + idle != total {
            return Err(format!(
                "{free} free + {by_sequences} of sequences + {idle} of the tree ≠ {total} pages"
            ));
        }
        Ok(())
    }
}
