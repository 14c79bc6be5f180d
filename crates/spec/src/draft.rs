//! A draft is a tree.

use tamp_base::ids::Token;

/// A node of a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DraftNode {
    /// the guessed token
    pub token: Token,
    /// the node it follows; `None` = the last token of the sequence
    pub parent: Option<u32>,
    /// 1 for a child of the last token
    pub depth: u32,
}

/// A tree of guesses after the last token of one sequence, parents before children. A chain is a tree; nothing is
/// the empty tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    nodes: Vec<DraftNode>,
}

impl Draft {
    /// A chain of guesses.
    pub fn chain(tokens: &[Token]) -> Draft {
        let mut draft = Draft::default();
        let mut at = None;
        for &token in tokens {
            at = draft.push(token, at);
        }
        draft
    }

    /// Adds a guess and returns its index. A parent that is not in the tree yet is refused with `None`.
    pub fn push(&mut self, token: Token, parent: Option<u32>) -> Option<u32> {
        let depth = match parent {
            None => 1,
            Some(p) => self.nodes.get(p as usize)?.depth + 1,
        };
        self.nodes.push(DraftNode { token, parent, depth });
        Some(self.nodes.len() as u32 - 1)
    }

    /// The nodes, parents before children.
    pub fn nodes(&self) -> &[DraftNode] {
        &self.nodes
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Nobody guessed.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Drops nodes that do not fit: beyond `rows` nodes, deeper than `depth`, outside the vocabulary, and their
    /// descendants.
    pub fn clip(&mut self, rows: usize, depth: usize, vocab: usize) {
        let mut kept: Vec<Option<u32>> = Vec::with_capacity(self.nodes.len());
        let mut out = Draft::default();
        for n in &self.nodes {
            let parent = n.parent.map(|p| kept[p as usize]);
            let fits = out.len() < rows && n.depth as usize <= depth && (n.token as usize) < vocab;
            kept.push(match parent {
                Some(None) => None,
                _ if !fits => None,
                parent => out.push(n.token, parent.flatten()),
            });
        }
        *self = out;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_children() {
        let mut d = Draft::default();
        assert_eq!(d.push(5, Some(0)), None);
        assert_eq!(d.push(5, None), Some(0));
        assert_eq!(d.push(6, Some(0)), Some(1));
        assert_eq!(d.nodes()[1].depth, 2);
        assert_eq!(d.push(6, Some(2)), None);
    }

    #[test]
    fn clipping_drops_descendants_with_their_ancestor() {
        let mut d = Draft::default();
        for (token, parent) in [(1, None), (99, None), (2, Some(1)), (3, Some(0)), (4, Some(3)), (5, Some(0))]
        {
            assert!(d.push(token, parent).is_some());
        }
        let clipped = |rows, depth| {
            let mut c = d.clone();
            c.clip(rows, depth, 50);
            c.nodes().iter().map(|n| (n.token, n.parent)).collect::<Vec<_>>()
        };
        assert_eq!(clipped(9, 9), [(1, None), (3, Some(0)), (4, Some(1)), (5, Some(0))]);
        assert_eq!(clipped(9, 2), [(1, None), (3, Some(0)), (5, Some(0))]);
        assert_eq!(clipped(2, 9), [(1, None), (3, Some(0))]);
        assert!(clipped(0, 9).is_empty() && clipped(9, 0).is_empty());
    }
}
