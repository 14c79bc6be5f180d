//! Where a layer's memory lives. The model asks for a layer and learns a group and an index; which pages, which
//! format and who shares them stays here.

use tamp_kernels::device::KvShape;

/// A model layer's place in the KV memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerView {
    /// the KV group
    pub group: usize,
    /// layer index within the group's pages
    pub index: usize,
}

impl LayerView {
    /// The place of model layer `layer` when the groups hold consecutive layers. A layer beyond the last group maps
    /// to the last group's end, which no page has: the device's bounds checks speak.
    pub(crate) fn of(groups: &[KvShape], layer: usize) -> LayerView {
        let mut index = layer;
        for (group, shape) in groups.iter().enumerate() {
            if index < shape.layers || group + 1 == groups.len() {
                return LayerView { group, index };
            }
            index -= shape.layers;
        }
        LayerView { group: 0, index }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tamp_formats::Kind;

    #[test]
    fn layers_are_numbered_within_their_group() {
        let g = |layers| KvShape { layers, heads: 1, head_dim: 8, kind: Kind::F16 };
        let groups = [g(2), g(3)];
        let at = |l| LayerView::of(&groups, l);
        assert_eq!(at(0), LayerView { group: 0, index: 0 });
        assert_eq!(at(1), LayerView { group: 0, index: 1 });
        assert_eq!(at(2), LayerView { group: 1, index: 0 });
        assert_eq!(at(4), LayerView { group: 1, index: 2 });
    }
}
