//! Pages of one KV group: who is free, who is held how often.

use tamp_base::ids::PageId;

/// Reference counts and the free list of one group's pages.
#[derive(Debug)]
pub(crate) struct Pool {
    /// free pages; the last one goes next
    free: Vec<PageId>,
    /// `[pages]` how many page tables name the page
    refs: Vec<u32>,
}

impl Pool {
    pub(crate) fn new(pages: usize) -> Pool {
        // Low ids go first and come back first: untouched pages stay unbacked by the operating system.
        Pool { free: (0..pages as u32).rev().map(PageId).collect(), refs: vec![0; pages] }
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
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
        self.refs[page.0 as usize] += 1;
    }

    pub(crate) fn shared(&self, page: PageId) -> bool {
        self.refs[page.0 as usize] > 1
    }

    pub(crate) fn give_back(&mut self, page: PageId) {
        let refs = &mut self.refs[page.0 as usize];
        *refs -= 1;
        if *refs == 0 {
            self.free.push(page);
        }
    }

    /// Compares the counts with the references that the tables really hold.
    pub(crate) fn integrity<'a>(&self, tables: impl Iterator<Item = &'a [PageId]>) -> Result<(), String> {
        let mut seen = vec![0u32; self.refs.len()];
        for page in tables.flatten() {
            let n = seen.get_mut(page.0 as usize).ok_or(format!("page {} is not in the pool", page.0))?;
            *n += 1;
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
        let held = self.refs.iter().filter(|&&r| r > 0).count();
        if held + self.free.len() != self.refs.len() {
            return Err(format!("{} free + {held} held ≠ {} pages", self.free.len(), self.refs.len()));
        }
        Ok(())
    }
}
