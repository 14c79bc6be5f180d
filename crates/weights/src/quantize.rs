//! A model's matrices in other formats.

use std::path::Path;

use tamp_base::meta::Value;
use tamp_formats::{Kind, Recipe};

use crate::convert::{Progress, file_type, gguf_meta};
use crate::error::{Error, Result};
use crate::export::{Export, Target};
use crate::gguf;
use crate::store::{TensorInfo, Weights};

/// Elements one thread decodes and encodes at a time: 4 MB of floats.
const BAND: usize = 1 << 20;

/// What a quantisation did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// tensors written
    pub tensors: usize,
    /// tensors whose kind changed
    pub changed: usize,
    /// bytes of tensor data read
    pub bytes_in: u64,
    /// bytes of tensor data written
    pub bytes_out: u64,
    /// weights (numbers) in the model
    pub weights: u64,
}

impl Report {
    /// Bits per weight of what was written.
    pub fn bits(&self) -> f64 {
        self.bytes_out as f64 * 8.0 / (self.weights.max(1)) as f64
    }
}

/// Writes the model as a GGUF file with every tensor in the kind `recipe` names for it, on `threads` threads. A tensor
/// that already has its kind is copied. `progress` is called with (bytes written, bytes in all).
pub fn quantize(
    src: &Weights,
    out: &Path,
    recipe: &Recipe,
    threads: usize,
    progress: &mut Progress<'_>,
) -> Result<Report> {
    let mut export = Export::new(src, Target::Gguf)?;
    let tied = !export.items.iter().any(|i| i.name == "output.weight");
    let mut report = Report::default();
    let mut kinds = Vec::new();
    for i in &export.items {
        let from = i.kind.ok_or_else(|| Error::Unsupported {
            what: format!("the tensor `{}`", i.name),
            hint: "its type is unknown, so it cannot be quantised".into(),
        })?;
        let (cols, rows) = i.size();
        let to = recipe.kind_for(i.name, rows, cols, tied);
        let bytes = to.row_bytes(cols).and_then(|b| b.checked_mul(rows)).ok_or_else(|| {
            Error::bad(format!("the row length of `{}`", i.name), cols, format!("whole blocks of {to}"))
        })?;
        report.tensors += 1;
        report.changed += usize::from(from != to);
        report.bytes_in += i.bytes as u64;
        report.bytes_out += bytes as u64;
        report.weights += (rows * cols) as u64;
        kinds.push((from, to, bytes));
    }
    if let Some(t) = file_type(kinds.iter().map(|k| (k.1, k.2))) {
        export.meta.set("general.file_type", Value::U32(t));
    }
    export.meta.set("general.quantization_version", Value::U32(2));
    let meta = gguf_meta(src, std::mem::take(&mut export.meta))?;
    let infos: Vec<TensorInfo> = export
        .items
        .iter()
        .zip(&kinds)
        .map(|(i, (_, to, bytes))| TensorInfo { kind: Some(*to), bytes: *bytes, ..i.info() })
        .collect();
    let mut done = 0;
    gguf::write(out, &meta, &infos, &mut |n, w| {
        let (item, (from, to, _)) = (&export.items[n], kinds[n]);
        let bytes = export.bytes(item)?;
        let mut put = |band: &[u8]| {
            done += band.len() as u64;
            w.write_all(band)?;
            progress(done, report.bytes_out);
            Ok(())
        };
        if from == to {
            put(&bytes)?
        } else {
            recode(&bytes, from, to, item.size().0, threads, &mut put)?
        }
        export.done(item);
        Ok(())
    })?;
    Ok(report)
}

/// Decodes and encodes whole rows, band by band, the rows of a band shared out among threads. The bytes do not depend
/// on the number of threads, because every row is encoded alone.
fn recode(
    bytes: &[u8],
    from: Kind,
    to: Kind,
    cols: usize,
    threads: usize,
    put: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let (Some(row_in), Some(row_out)) = (from.row_bytes(cols), to.row_bytes(cols)) else {
        return Err(Error::bad("a row length", cols, format!("whole blocks of {from} and {to}")));
    };
    let threads = threads.max(1);
    let share = (BAND / cols).max(1);
    for band in bytes.chunks(share * threads * row_in) {
        let mut out = vec![0; band.len() / row_in * row_out];
        std::thread::scope(|s| {
            for (src, dst) in band.chunks(share * row_in).zip(out.chunks_mut(share * row_out)) {
                s.spawn(move || {
                    let mut values = vec![0f32; cols];
                    for (src, dst) in src.chunks_exact(row_in).zip(dst.chunks_exact_mut(row_out)) {
                        (from.row().decode)(src, &mut values);
                        (to.row().encode)(&values, dst);
                    }
                });
            }
        });
        put(&out)?;
    }
    Ok(())
}
