//! Named tensors → a bundle, each matrix as the device holds it.

use std::path::Path;

use tamp_kernels::device::Device;
use tamp_weights::Weights;
use tamp_weights::bundle::{About, Behavior, ROWS, Writer};

use crate::error::ModelError;

/// What a bundle's matrices look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// as the device holds them: loads by a map alone where the device has that layout
    Packed,
    /// in file order: any device takes them, and repacks at load
    Rows,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// bytes of the file
    pub bytes: u64,
    /// matrices in the device's layout
    pub packed: usize,
    /// tensors
    pub tensors: usize,
    /// layout of the matrices
    pub layout: String,
}

/// Writes a bundle. No weight changes: every layout has an exact inverse. `compiled`: form and bytes of the tokenizer,
/// when the caller has better ones than the source's own. `progress(done, total)` counts source bytes.
pub fn bundle<D: Device>(
    weights: &Weights,
    device: &D,
    form: Form,
    compiled: Option<(String, Vec<u8>)>,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, ModelError> {
    let matrix = |shape: &[usize]| shape[1..].iter().product::<usize>() > 1;
    let layouts =
        weights.tensors().filter(|t| form == Form::Packed && matrix(t.shape)).filter_map(|t| t.kind);
    // A device may hold formats in several layouts; the name of the first stands for the bundle, the table for each.
    let layout = layouts.map(|k| device.layout(k)).next().unwrap_or(ROWS).to_string();
    let about = About { layout: layout.clone(), behavior: Behavior::Exact, compiled, draft: None };
    let mut writer = Writer::create(out, weights, about)?;
    let total = weights.tensors().map(|t| t.bytes as u64).sum();
    let (mut done, mut packed, mut tensors) = (0, 0, 0);
    for info in weights.tensors() {
        let Some(t) = weights.tensor(info.name)? else { continue };
        if form == Form::Packed && matrix(t.shape) {
            let (cols, rows) = (t.shape[0], t.shape[1..].iter().product());
            let w = device.linear(t.kind, rows, cols, &t.bytes)?;
            writer.tensor(t.name, t.kind, t.shape, device.layout(t.kind), device.packed(&w))?;
            packed += 1;
        } else {
            writer.tensor(t.name, t.kind, t.shape, ROWS, &t.bytes)?;
        }
        tensors += 1;
        weights.release(info.name);
        done += info.bytes as u64;
        progress(done, total);
    }
    Ok(Report { bytes: writer.finish()?, packed, tensors, layout })
}
