//! Causal attention with grouped KV heads.

use tamp_kernels::device::{AttnWeights, Device, RowMap};
use tamp_kv::Kv;

/// One layer's attention.
pub struct Attention<D: Device> {
    /// its weights
    pub w: AttnWeights<D>,
}

impl<D: Device> Attention<D> {
    /// `x += O · attend(rope(Q x), cache ∪ K x, V x)`; where the layer's cache lives is the memory's business.
    pub fn forward(&self, device: &D, layer: usize, maps: &[RowMap], kv: &mut Kv<D>, buf: &mut D::Buf) {
        let at = kv.layer(layer);
        let rows = &maps[at.group];
        device.phase_a(&self.w, rows, at.index, kv.pages_mut(at.group), buf);
        device.phase_b(&self.w.shape, rows, at.index, kv.pages(at.group), buf);
        device.phase_c(&self.w, rows, buf);
    }
}
