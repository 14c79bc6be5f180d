//! What one forward pass is asked to do besides its batch, and what it did.

use tamp_base::count::Work;
use tamp_kernels::device::{Device, Read};

/// Layer choice, taps and work counters of forward passes.
#[derive(Debug, Default)]
pub struct Run {
    /// layers to execute in order; `None` = all
    pub only: Option<Vec<usize>>,
    /// `(layer, batch row)` pairs whose residual stream after the layer is wanted (pre-norm)
    pub taps: Vec<(usize, usize)>,
    /// what the taps caught: `[d]` values each, in tap order per layer
    pub caught: Vec<(usize, usize, Vec<f32>)>,
    /// work done so far
    pub work: Work,
}

impl Run {
    /// The layers to execute.
    pub fn layers(&self, n: usize) -> Vec<usize> {
        self.only.clone().unwrap_or_else(|| (0..n).collect())
    }

    /// Copies the rows tapped after layer `l`.
    pub fn leave<D: Device>(&mut self, l: usize, device: &D, buf: &D::Buf) {
        for &(_, row) in self.taps.iter().filter(|t| t.0 == l) {
            let mut x = Vec::new();
            device.wait(device.read_back(buf, Read::Hidden(row)), &mut x);
            self.caught.push((l, row, x));
        }
        self.work.layers += 1;
    }
}
