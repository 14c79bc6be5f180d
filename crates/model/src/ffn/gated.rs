//! SwiGLU (arXiv 2002.05202).

use tamp_kernels::device::{Device, FfnWeights, RowMap};

/// One layer's feed-forward block.
pub struct Gated<D: Device> {
    /// its weights
    pub w: FfnWeights<D>,
}

impl<D: Device> Gated<D> {
    /// `x += down · (silu(gate · n) ∘ (up · n))`, `n = norm(x)`.
    pub fn forward(&self, device: &D, rows: &RowMap, buf: &mut D::Buf) {
        device.phase_d(&self.w, rows, buf);
        device.phase_e(&self.w, rows, buf);
    }
}
