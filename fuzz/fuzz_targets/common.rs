//! What every target does with a model that loads.

use tamp_weights::{Result, Weights};

/// Reads every tensor; nothing a file says may make that panic.
#[allow(dead_code)]
pub fn read(model: Result<Weights>) {
    let Ok(w) = model else { return };
    for t in w.tensors() {
        if let Ok(Some(t)) = w.tensor(t.name) {
            let rows: usize = t.shape[1..].iter().product();
            assert_eq!(t.kind.row_bytes(t.shape[0]).map(|b| b * rows), Some(t.bytes.len()));
        }
    }
}

/// The first part up to a 32-bit length that the input begins with, and the rest: two files in one input.
#[allow(dead_code)]
pub fn two(data: &[u8]) -> (&[u8], &[u8]) {
    let Some((n, rest)) = data.split_first_chunk::<4>() else { return (&[], data) };
    rest.split_at((u32::from_le_bytes(*n) as usize).min(rest.len()))
}
