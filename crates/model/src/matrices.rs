//! One tensor at a time onto a device. A tensor is repacked and its source pages dropped before the next, so weights
//! are never in memory twice; a matrix that a bundle holds as the device wants it is used where it lies.

use tamp_formats::Kind;
use tamp_kernels::device::{Device, DeviceError, Projection};
use tamp_weights::Weights;
use tamp_weights::bundle::Packed;

use crate::error::ModelError;

/// How a model's matrices were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// used where the bundle holds them
    pub adopted: u32,
    /// bytes of those
    pub adopted_bytes: u64,
    /// packed from file order
    pub repacked: u32,
    /// made in a second way or a second time: a bundle's layout was not the device's, or memory was short
    pub retried: u32,
    /// attempts that ended without a matrix
    pub failed: u32,
}

pub(crate) struct Loader<'a, D: Device> {
    weights: &'a Weights,
    device: &'a D,
    decode: bool,
    pub made: Made,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a, D: Device> Loader<'a, D> {
    pub fn new(
        weights: &'a Weights,
        device: &'a D,
        decode: bool,
        total: u64,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Self {
        Loader { weights, device, decode, made: Made::default(), done: 0, total, progress }
    }

    /// A matrix of exactly `rows × cols`.
    pub fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<D::Linear, ModelError> {
        let shape = |got: &[usize]| {
            let want = vec![cols, rows];
            let ok = got[0] == cols && got[1..].iter().product::<usize>() == rows;
            if ok { Ok(()) } else { Err(ModelError::Shape { name: name.into(), got: got.to_vec(), want }) }
        };
        if let Some(p) = self.weights.packed(name).filter(|_| !self.decode) {
            shape(&[p.cols, p.rows])?;
            return self.adopt(p);
        }
        let t = self.weights.tensor(name)?.ok_or_else(|| ModelError::Missing(name.into()))?;
        shape(t.shape)?;
        let read = t.bytes.len();
        let linear = if self.decode && t.kind != Kind::F32 {
            let mut values = vec![0f32; rows * cols];
            (t.kind.row().decode)(&t.bytes, &mut values);
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            drop(values);
            self.pack(name, Kind::F32, rows, cols, &bytes)?
        } else {
            self.pack(name, t.kind, rows, cols, &t.bytes)?
        };
        self.made.retried += u32::from(self.weights.bundle().is_some() && !self.decode);
        self.finish(name, read);
        Ok(linear)
    }

    fn adopt(&mut self, p: Packed<'_>) -> Result<D::Linear, ModelError> {
        let in_place = p.layout == self.device.layout(p.kind);
        let bytes = p.bytes.len() as u64;
        let linear = self.device.adopt(p.kind, p.rows, p.cols, p.layout, p.bytes)?;
        if in_place {
            self.made.adopted += 1;
            self.made.adopted_bytes += bytes;
        } else {
            self.made.repacked += 1;
            self.made.retried += 1;
        }
        self.count(bytes);
        Ok(linear)
    }

    /// Memory that is short once may be there a moment later: the tensors before this one have just given their
    /// source pages back.
    fn pack(
        &mut self,
        name: &str,
        kind: Kind,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<D::Linear, ModelError> {
        let mut made = self.device.linear(kind, rows, cols, bytes);
        if matches!(made, Err(DeviceError::Memory { .. })) {
            self.made.failed += 1;
            self.made.retried += 1;
            self.weights.release(name);
            made = self.device.linear(kind, rows, cols, bytes);
        }
        self.made.repacked += u32::from(made.is_ok());
        Ok(made?)
    }

    /// A small tensor as numbers; `None` when it is not there.
    pub fn numbers(&mut self, name: &str, want: Option<usize>) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(t) = self.weights.tensor(name)? else { return Ok(None) };
        let len: usize = t.shape.iter().product();
        if want.is_some_and(|w| w != len) {
            let want = want.into_iter().collect();
            return Err(ModelError::Shape { name: name.into(), got: t.shape.to_vec(), want });
        }
        let mut out = vec![0f32; len];
        (t.kind.row().decode)(&t.bytes, &mut out);
        let read = t.bytes.len();
        self.finish(name, read);
        Ok(Some(out))
    }

    pub fn vector(&mut self, name: &str, len: usize) -> Result<D::Vector, ModelError> {
        let values = self.numbers(name, Some(len))?.ok_or_else(|| ModelError::Missing(name.into()))?;
        Ok(self.device.vector(&values)?)
    }

    /// `{name}.weight` with `{name}.bias` where the file has one.
    pub fn projection(&mut self, name: &str, rows: usize, cols: usize) -> Result<Projection<D>, ModelError> {
        let w = self.matrix(&format!("{name}.weight"), rows, cols)?;
        let bias = self.numbers(&format!("{name}.bias"), Some(rows))?;
        Ok(Projection { w, bias: bias.map(|b| self.device.vector(&b)).transpose()? })
    }

    fn finish(&mut self, name: &str, bytes: usize) {
        self.weights.release(name);
        self.count(bytes as u64);
    }

    fn count(&mut self, bytes: u64) {
        self.done += bytes;
        (self.progress)(self.done.min(self.total), self.total);
    }
}
