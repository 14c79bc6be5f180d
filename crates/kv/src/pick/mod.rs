//! The room `kv.pick`: which keys a batch's rows read, and which of them together.
//!
//! A pick is asked once per batch, when the rows are laid, and writes what it found into the row maps.

mod dedupe;
mod own;

use tamp_base::card::Table;
use tamp_base::count::Acts;
use tamp_kernels::device::RowMap;

/// Looks at a batch before it runs.
pub trait Pick: Send {
    /// `maps`: one per KV group, all of the same rows.
    fn pick(&mut self, maps: &mut [RowMap]);
    /// asked: batches; acted: batches in which something was found
    fn acts(&self) -> Acts;
}

/// The members, null first.
pub static TABLE: Table<dyn Pick, ()> = Table { room: "kv.pick", rows: &[&own::ENTRY, &dedupe::ENTRY] };
