//! The CPU device: one pool, one rung, five phases.

mod attention;
mod buf;
mod matmul;
mod memory;
mod parts;
mod phases;

pub use buf::Buf;
pub use memory::Pages;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tamp_base::ids::{PageId, Token};
use tamp_formats::Kind;
use tamp_os::held::Span;
use tamp_os::mem::Aligned;

use crate::device::{
    AttnShape, AttnWeights, Best, BufShape, Device, DeviceError, FfnWeights, KvShape, Move, Read, Rope,
    RowMap,
};
use crate::linear::{LAYOUT, Linear};
use crate::pool::Pool;
use crate::rung::Rung;

/// Weights and activations in main memory, arithmetic by the chosen rung on the pool's workers.
pub struct Cpu {
    pool: Arc<Pool>,
    rung: &'static Rung,
    made: AtomicU64,
}

/// A vector padded with zeros to a multiple of 16.
pub struct Vector {
    data: Aligned<f32>,
    len: usize,
}

impl Vector {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn ptr(&self) -> *const f32 {
        self.data.as_ptr()
    }
}

impl Cpu {
    /// A device over a pool and a rung.
    pub fn new(pool: Arc<Pool>, rung: &'static Rung) -> Self {
        Cpu { pool, rung, made: AtomicU64::new(0) }
    }

    /// Its workers.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Its rung.
    pub fn rung(&self) -> &'static Rung {
        self.rung
    }
}

/// Zeroed memory or the error that names what it was for.
fn zeroed<T: tamp_os::mem::Plain>(len: usize, what: &'static str) -> Result<Aligned<T>, DeviceError> {
    Aligned::zeroed(len).map_err(|_| DeviceError::Memory { bytes: len.saturating_mul(size_of::<T>()), what })
}

impl Device for Cpu {
    type Buf = Buf;
    type Linear = Linear;
    type Vector = Vector;
    type Pages = Pages;
    type Ticket = Vec<f32>;

    fn linear(&self, kind: Kind, rows: usize, cols: usize, bytes: &[u8]) -> Result<Linear, DeviceError> {
        let made = Linear::pack(&self.pool, self.rung, kind, rows, cols, bytes)?;
        self.made.fetch_add(1, Ordering::Relaxed);
        Ok(made)
    }

    fn layout(&self, _: Kind) -> &'static str {
        LAYOUT
    }

    fn packed<'a>(&self, w: &'a Linear) -> &'a [u8] {
        w.packed()
    }

    fn adopt(
        &self,
        kind: Kind,
        rows: usize,
        cols: usize,
        layout: &str,
        bytes: Span,
    ) -> Result<Linear, DeviceError> {
        let made = Linear::adopt(&self.pool, self.rung, kind, rows, cols, layout, bytes)?;
        self.made.fetch_add(1, Ordering::Relaxed);
        Ok(made)
    }

    fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    fn vector(&self, values: &[f32]) -> Result<Vector, DeviceError> {
        let mut data = zeroed::<f32>(values.len().next_multiple_of(16), "a vector")?;
        data[..values.len()].copy_from_slice(values);
        Ok(Vector { data, len: values.len() })
    }

    fn buf(&self, shape: &BufShape) -> Result<Buf, DeviceError> {
        Buf::new(shape, self.pool.threads())
    }

    fn pages(&self, shape: &KvShape, pages: usize) -> Result<Pages, DeviceError> {
        Pages::new(shape, pages)
    }

    fn embed(&self, table: &Linear, tokens: &[Token], rows: &RowMap, rope: &Rope, buf: &mut Buf) {
        phases::embed(self, table, tokens, rows, rope, buf);
    }

    fn phase_a(&self, w: &AttnWeights<Cpu>, rows: &RowMap, layer: usize, pages: &mut Pages, buf: &mut Buf) {
        phases::project(self, w, rows, layer, pages, buf);
    }

    fn phase_b(&self, shape: &AttnShape, rows: &RowMap, layer: usize, pages: &Pages, buf: &mut Buf) {
        attention::attend(self, shape, rows, layer, pages, buf);
    }

    fn phase_c(&self, w: &AttnWeights<Cpu>, rows: &RowMap, buf: &mut Buf) {
        phases::output(self, &w.o, rows.rows(), buf);
    }

    fn phase_d(&self, w: &FfnWeights<Cpu>, rows: &RowMap, buf: &mut Buf) {
        phases::gate(self, w, rows.rows(), buf);
    }

    fn phase_e(&self, w: &FfnWeights<Cpu>, rows: &RowMap, buf: &mut Buf) {
        phases::down(self, &w.down, rows.rows(), buf);
    }

    fn head(
        &self,
        norm: &Vector,
        eps: f32,
        head: &Linear,
        rows: &[usize],
        full: &[usize],
        buf: &mut Buf,
    ) -> Vec<Best> {
        phases::head(self, norm, eps, head, rows, full, buf)
    }

    fn copy_pages(&self, pages: &mut Pages, moves: &[Move]) {
        pages.copy(moves);
    }

    fn page_layout(&self) -> &'static str {
        memory::LAYOUT
    }

    fn read_page(&self, pages: &Pages, page: PageId, out: &mut Vec<u8>) {
        pages.read(page, out);
    }

    fn write_page(&self, pages: &mut Pages, page: PageId, bytes: &[u8]) -> Result<(), DeviceError> {
        pages.replace(page, bytes)
    }

    fn read_back(&self, buf: &Buf, what: Read) -> Vec<f32> {
        buf.read(what)
    }

    fn wait(&self, ticket: Vec<f32>, out: &mut Vec<f32>) {
        *out = ticket;
    }

    fn spared(&self, buf: &Buf) -> usize {
        buf.spared
    }

    fn buf_bytes(&self, buf: &Buf) -> usize {
        buf.bytes()
    }

    fn linear_bytes(&self, w: &Linear) -> usize {
        w.bytes()
    }

    fn linear_kernel(&self, w: &Linear) -> String {
        format!("{}.{}", self.rung.name, w.kernel.kind)
    }

    fn name(&self) -> String {
        format!("cpu.{}", self.rung.name)
    }
}
