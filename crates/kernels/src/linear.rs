//! A weight matrix in tiles: repacked once at load, or used where a bundle holds it.

use tamp_formats::Kind;
use tamp_os::arena::Part;
use tamp_os::held::Span;
use tamp_os::mem::ALIGN;

use crate::device::DeviceError;
use crate::pool::Pool;
use crate::repack;
use crate::rung::{Kernel, Rung};
use crate::shared::SharedMut;
use crate::tile::ROWS;

/// Name of the tiles' layout in bundles. Raised whenever a tile's bytes change, which `tests/layout.rs` notices; the
/// inverse of the old one then stays here as another row of [`Linear::adopt`].
pub const LAYOUT: &str = "r16k4.1";

/// Name of the file order, in which a portable bundle keeps its matrices.
pub const FILE_ORDER: &str = "rows";

/// Huge pages that workers clear at the same time before they pack: each one that is not filled in the end is memory in
/// vain.
const TOGETHER: usize = 4;

/// Where the tiles are.
enum Tiles {
    Owned(Part),
    Shared(Span),
}

impl std::ops::Deref for Tiles {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Tiles::Owned(a) => a,
            Tiles::Shared(s) => s,
        }
    }
}

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
    data: Tiles,
}

/// Superblocks per row, tiles, and bytes of all tiles; `None` when they cannot be counted.
fn sizes(kernel: &Kernel, rows: usize, cols: usize) -> (usize, usize, Option<usize>) {
    let (supers, tiles) = (cols.div_ceil(kernel.k), rows.div_ceil(ROWS));
    (supers, tiles, tiles.checked_mul(supers).and_then(|n| n.checked_mul(kernel.bytes)))
}

/// Bytes of a row and of the matrix in file order.
fn file_bytes(kind: Kind, rows: usize, cols: usize) -> Result<(usize, usize), DeviceError> {
    let row = kind.row_bytes(cols);
    let all = row.and_then(|b| b.checked_mul(rows)).filter(|&b| b > 0);
    let unsupported = || DeviceError::Unsupported { what: format!("a {rows}×{cols} matrix of {kind}") };
    row.zip(all).ok_or_else(unsupported)
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
        let (row_bytes, want) = file_bytes(kind, rows, cols)?;
        if want != bytes.len() {
            return Err(DeviceError::Size { rows, cols, kind, want, got: bytes.len() });
        }
        let kernel = (rung.kernel)(kind);
        let (supers, tiles, size) = sizes(&kernel, rows, cols);
        let memory = || DeviceError::Memory { bytes: size.unwrap_or(usize::MAX), what: "repacked weights" };
        let part = size.and_then(|s| pool.memory().part(s, pool.threads().min(TOGETHER)).ok());
        let (mut data, cold) = part.ok_or_else(memory)?;
        let super_bytes = kernel.k / kind.block() * kind.bytes();
        let tile_bytes = supers * kernel.bytes;
        let pack = repack::of(kind).unwrap_or(kernel.pack);
        let out = SharedMut::new(&mut data);
        pool.run(|w| {
            if cold.pages() > 0 {
                w.share(1, cold.pages(), 1, |range| range.for_each(|i| cold.enter(i)));
                w.barrier();
            }
            w.share(0, tiles, 4, |range| {
                for tile in range {
                    // SAFETY: every tile is handed out once.
                    let to = unsafe { out.slice(tile * tile_bytes, tile_bytes) };
                    for lane in 0..ROWS.min(rows - tile * ROWS) {
                        let row = &bytes[(tile * ROWS + lane) * row_bytes..][..row_bytes];
                        for (sb, src) in row.chunks(super_bytes).enumerate() {
                            pack(src, lane, &mut to[sb * kernel.bytes..][..kernel.bytes]);
                        }
                    }
                }
            });
        });
        Ok(Linear { rows, cols, kernel, supers, data: Tiles::Owned(data) })
    }

    /// Takes a matrix as a bundle holds it: in [`LAYOUT`] it is used where it lies, in [`FILE_ORDER`] it is repacked,
    /// and any other layout is refused by name.
    pub fn adopt(
        pool: &Pool,
        rung: &Rung,
        kind: Kind,
        rows: usize,
        cols: usize,
        layout: &str,
        bytes: Span,
    ) -> Result<Self, DeviceError> {
        match layout {
            FILE_ORDER => return Self::pack(pool, rung, kind, rows, cols, &bytes),
            LAYOUT => {}
            _ => {
                return Err(DeviceError::Layout {
                    layout: layout.into(),
                    known: [LAYOUT, FILE_ORDER].join(", "),
                });
            }
        }
        file_bytes(kind, rows, cols)?;
        let kernel = (rung.kernel)(kind);
        let (supers, _, size) = sizes(&kernel, rows, cols);
        if size != Some(bytes.len()) {
            let want = size.unwrap_or(usize::MAX);
            return Err(DeviceError::Size { rows, cols, kind, want, got: bytes.len() });
        }
        let data = if bytes.as_ptr().addr().is_multiple_of(ALIGN) {
            Tiles::Shared(bytes)
        } else {
            let size = bytes.len();
            let memory = |_| DeviceError::Memory { bytes: size, what: "weights at an odd address" };
            let (mut data, _) = pool.memory().part(size, 0).map_err(memory)?;
            data.copy_from_slice(&bytes);
            Tiles::Owned(data)
        };
        Ok(Linear { rows, cols, kernel, supers, data })
    }

    /// The bytes as packed, for a bundle.
    pub fn packed(&self) -> &[u8] {
        &self.data
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
