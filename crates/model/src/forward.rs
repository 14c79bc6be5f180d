//! The function that is the model. Prefill, decode, verification and many streams are this same call (DESIGN §4).

use tamp_kernels::device::{Device, Read};
use tamp_kv::Kv;

use crate::batch::{Batch, Outputs, Want};
use crate::error::ModelError;
use crate::load::Model;
use crate::run::Run;

impl<D: Device> Model<D> {
    /// Computes every row of `batch` (`[rows]` tokens at their positions) and stores its K and V. The time goes to
    /// phases D and E (two thirds of the weights), then A and C, then the head; B grows with the context.
    pub fn forward(&mut self, batch: &Batch, kv: &mut Kv<D>, run: &mut Run) -> Result<Outputs, ModelError> {
        self.check(batch)?;
        let (device, buf) = (&*self.device, &mut self.buf);
        for group in 0..kv.groups() {
            let moves = kv.take_moves(group);
            device.copy_pages(kv.pages_mut(group), &moves);
        }
        let rows = &batch.maps[0];
        device.embed(&self.embed, &batch.tokens, rows, &self.rope, buf); // x [rows, d]
        for l in run.layers(self.layers.len()) {
            let layer = &self.layers[l];
            layer.mixer.forward(device, l, &batch.maps, kv, buf); // x += mix(norm x), K and V written
            layer.ffn.forward(device, rows, buf); // x += ffn(norm x)
            run.leave(l, device, buf);
        }

        let mut out = Outputs::new(batch.rows.len());
        let wanted: Vec<usize> =
            (0..batch.rows.len()).filter(|&r| batch.rows[r].want != Want::Nothing).collect();
        for rows in wanted.chunks(self.options.logits) {
            let full: Vec<usize> =
                rows.iter().copied().filter(|&r| batch.rows[r].want == Want::Full).collect();
            let best = device.head(&self.norm, self.shape.eps, &self.head, rows, &full, buf); // [rows, vocab]
            for (&r, b) in rows.iter().zip(best) {
                out.set_best(r, b);
            }
            for r in full {
                let mut logits = Vec::new();
                device.wait(device.read_back(buf, Read::Logits(r)), &mut logits);
                out.set_logits(r, logits);
            }
        }
        run.work.target_forwards += 1;
        run.work.target_positions += batch.rows.len() as u64;
        run.work.kv_bytes_spared += (device.spared(buf) * kv.position_bytes()) as u64;
        run.work.weight_bytes += self.bytes_read(run.layers(self.layers.len()).len(), !wanted.is_empty());
        Ok(out)
    }

    fn check(&self, batch: &Batch) -> Result<(), ModelError> {
        let rows = batch.rows.len();
        if rows > self.options.rows {
            return Err(ModelError::Rows { got: rows, most: self.options.rows });
        }
        for r in &batch.rows {
            if r.token as usize >= self.shape.vocab {
                return Err(ModelError::Token { token: r.token, vocab: self.shape.vocab });
            }
            if r.position as usize >= self.options.ctx {
                return Err(ModelError::Position { position: r.position, ctx: self.options.ctx });
            }
        }
        Ok(())
    }
}
