//! A weight matrix repacked into tiles, once, at load.

use tamp_formats::Kind;
use tamp_os::mem::Aligned;

use crate::device::DeviceError;
use crate::pool::Pool;
use crate::rung::{Kernel, Rung};
use crate::shared::SharedMut;
use crate::tile::ROWS;

/// `[rows, cols]` in R16k4 tiles; the last tile is padded with zero rows.
pub struct Linear {
    /// output rows
    pub rows: usize,
    /// input columns
    pub cols: usize,
    /// the format's kernels on the chosen rung
    pub kernel: Kernel,
    /// superblocks per row
    pub supers: usize,
    data: Aligned<u8>,
}

impl Linear {
    /// Repacks a matrix from its file layout.
    pub fn pack(
        pool: &Pool,
        rung: &Rung,
        kind: Kind,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<Self, DeviceError> {
        let row_bytes = kind.row_bytes(cols);
        let want = row_bytes.and_then(|b| b.checked_mul(rows)).filter(|&b| b > 0);
        let (Some(row_bytes), Some(want)) = (row_bytes, want) else {
            return Err(DeviceError::Unsupported { what: format!("a {rows}×{cols} matrix of {kind}") });
        };
        if want != bytes.len() {
            return Err(DeviceError::Size { rows, cols, kind, want, got: bytes.len() });
        }
        let kernel = (rung.kernel)(kind);
        let supers = cols.div_ceil(kernel.k);
        let tiles = rows.div_ceil(ROWS);
        let size = tiles.checked_mul(supers).and_then(|n| n.checked_mul(kernel.bytes));
        let memory = || DeviceError::Memory { bytes: size.unwrap_or(usize::MAX), what: "repacked weights" };
        let mut data = size.and_then(|s| Aligned::<u8>::zeroed(s).ok()).ok_or_else(memory)?;
        let super_bytes = kernel.k / kind.block() * kind.bytes();
        let tile_bytes = supers * kernel.bytes;
        let out = SharedMut::new(&mut data);
        pool.run(|w| {
            w.share(0, tiles, 4, |range| {
                for tile in range {
                    // SAFETY: every tile is handed out once.
                    let to = unsafe { out.slice(tile * tile_bytes, tile_bytes) };
                    for lane in 0..ROWS.min(rows - tile * ROWS) {
                        let row = &bytes[(tile * ROWS + lane) * row_bytes..][..row_bytes];
                        for (sb, src) in row.chunks(super_bytes).enumerate() {
                            (kernel.pack)(src, lane, &mut to[sb * kernel.bytes..][..kernel.bytes]);
                        }
                    }
                }
            });
        });
        Ok(Linear { rows, cols, kernel, supers, data })
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Bytes of one tile.
    pub fn tile_bytes(&self) -> usize {
        self.supers * self.kernel.bytes
    }

    /// Bytes of the matrix as packed.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Start of a tile.
    pub fn tile(&self, tile: usize) -> *const u8 {
        self.data[tile * self.tile_bytes()..].as_ptr()
    }

    /// One row in its file layout again: the exact inverse of packing.
    pub fn row(&self, row: usize) -> Vec<u8> {
        let kind = self.kernel.kind;
        let super_bytes = self.kernel.k / kind.block() * kind.bytes();
        let mut out = vec![0; kind.row_bytes(self.cols).unwrap_or(0)];
        let tile = &self.data[row / ROWS * self.tile_bytes()..][..self.tile_bytes()];
        for (dst, src) in out.chunks_mut(super_bytes).zip(tile.chunks_exact(self.kernel.bytes)) {
            (self.kernel.unpack)(src, row % ROWS, dst);
        }
        out
    }

    /// One row as floats, by the reference decoder.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        (self.kernel.kind.row().decode)(&self.row(row), out);
    }
}
