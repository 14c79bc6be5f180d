//! `tamp eval ppl`: perplexity with the windows of `llama-perplexity`, so that the figures can be laid side by side.
//!
//! The text is cut into windows of `ctx` tokens; the first token of each is replaced by BOS where the model wants one;
//! only the second half of a window is scored, each token given everything before it in the window. A rest shorter
//! than a window is left out.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::Serialize;
use tamp_engine::EngineError;
use tamp_kernels::cpu::Cpu;
use tamp_kv::Kv;
use tamp_model::batch::{Batch, Node, Want};
use tamp_model::{LoadOptions, Model, Run};
use tamp_text::Special;

use crate::args::PplArgs;
use crate::cmd::load::{Opened, named, settle};
use crate::cmd::{Ctx, tokenize};
use crate::fail::{At, Code, Done, Fail};
use crate::say;

/// Rows per forward pass where no logits are wanted, and where they are: one row's logits are a whole vocabulary.
const ROWS: usize = 256;
const SCORED_ROWS: usize = 64;

/// The JSON contract.
#[derive(Serialize)]
struct Perplexity {
    ppl: f64,
    stderr: f64,
    /// scored
    tokens: usize,
    windows: usize,
    ctx: usize,
    kernels: Vec<(String, String)>,
}

/// Scores a text.
pub fn ppl(ctx: &Ctx, a: &PplArgs) -> Done {
    let text = String::from_utf8_lossy(&std::fs::read(&a.text).at("read", &a.text)?).into_owned();
    let path = ctx.finder().find(a.model.as_deref())?;
    let opened = Opened::new(ctx, &path, &ctx.settings, a.threads.unwrap_or(0) as usize)?;
    let tokenizer = tokenize::tokenizer(&opened.weights).map_err(|e| named(e.into(), &path))?;
    let tokens = tokenizer.encode(&text, Special::Plain, true);
    let window = a.ctx as usize;
    if tokens.len() < 2 * window {
        let (n, file) = (tokens.len(), a.text.display());
        return Err(Fail::usage(format!(
            "{file} has {n} tokens; windows of {window} need at least {}",
            2 * window
        ))
        .hint("give a longer text or a smaller --ctx"));
    }
    let windows = (tokens.len() / window).min(a.chunks.map_or(usize::MAX, |n| n as usize));
    let mut scorer = Scorer::load(ctx, &opened, window).map_err(|e| named(e.into(), &path))?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let mut out = a.logits.as_deref().map(writer).transpose()?;
    let mut bar = ctx.ui.steps("scoring windows", windows as u64);
    let (mut sum, mut squares, mut count) = (0.0, 0.0, 0usize);
    for (i, w) in tokens.chunks_exact(window).take(windows).enumerate() {
        let mut w = w.to_vec();
        if let Some(bos) = bos {
            w[0] = bos;
        }
        scorer.window(&w, &mut |logits, next| {
            let nll = nll(logits, next);
            sum += nll;
            squares += nll * nll;
            count += 1;
            match &mut out {
                Some((path, to)) => {
                    logits.iter().try_for_each(|l| to.write_all(&l.to_le_bytes())).at("write", path)
                }
                None => Ok(()),
            }
        })?;
        bar.at(i as u64 + 1);
    }
    bar.done(windows as u64);
    settle(opened.bundle.as_ref())?;
    if let Some((path, to)) = &mut out {
        to.flush().at("write", path)?;
    }
    let mean = sum / count as f64;
    let variance = squares / count as f64 - mean * mean;
    let ppl = mean.exp();
    let stderr = if variance > 0.0 { (variance / (count as f64 - 1.0)).sqrt() * ppl } else { 0.0 };
    let row =
        Perplexity { ppl, stderr, tokens: count, windows, ctx: window, kernels: scorer.model.kernels() };
    if ctx.json {
        return ctx.json(&row);
    }
    say!("ppl: {ppl:.4} ± {stderr:.4} over {count} tokens in {windows} windows of {window}");
    Ok(())
}

fn writer(path: &Path) -> Done<(&Path, BufWriter<File>)> {
    Ok((path, BufWriter::with_capacity(1 << 20, File::create(path).at("write", path)?)))
}

/// −ln softmax(logits)[token].
fn nll(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    let own = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    sum.ln() - f64::from(own - max)
}

struct Scorer {
    model: Model<Cpu>,
    kv: Kv<Cpu>,
    run: Run,
}

impl Scorer {
    fn load(ctx: &Ctx, o: &Opened, window: usize) -> Result<Self, EngineError> {
        let kv = *tamp_kv::codec::TABLE.open(&(), &ctx.settings)?.0;
        let decode = ctx.settings.used("weights.decode") == Some("f32");
        let how = LoadOptions { rows: ROWS.min(window), logits: SCORED_ROWS, ctx: window, kv, decode };
        let mut bar = (o.weights.file_bytes() > 300 << 20).then(|| ctx.ui.bytes("loading", 0));
        let model = Model::load(&o.weights, o.device.clone(), &how, &mut |done, total| {
            if let Some(bar) = &mut bar {
                bar.set_total(total);
                bar.at(done);
            }
        })?;
        if window > model.shape.ctx_train {
            let why =
                format!("the model was made for {} positions; use a smaller --ctx", model.shape.ctx_train);
            return Err(EngineError::Option { name: "ctx", got: window, why });
        }
        let mut groups = model.kv_groups();
        groups.iter_mut().for_each(|g| g.kind = kv);
        let pages = window.div_ceil(tamp_base::ids::PAGE) + 1;
        let kv = Kv::new(&*o.device, &groups, pages)?;
        Ok(Self { model, kv, run: Run::default() })
    }

    /// Runs one window; `score` gets the logits of position p and the token at p + 1, for the second half.
    fn window(&mut self, tokens: &[u32], score: &mut dyn FnMut(&[f32], u32) -> Done) -> Done {
        let seq = self.kv.open();
        let done = self.rows(seq, tokens, score);
        self.kv.close(seq);
        done
    }

    fn rows(
        &mut self,
        seq: tamp_base::ids::SeqId,
        tokens: &[u32],
        score: &mut dyn FnMut(&[f32], u32) -> Done,
    ) -> Done {
        let (first, end) = (tokens.len() / 2, tokens.len() - 1);
        let mut at = 0;
        while at < end {
            let scored = at >= first;
            let n = if scored { SCORED_ROWS.min(end - at) } else { ROWS.min(first - at) };
            let want = if scored { Want::Full } else { Want::Nothing };
            let nodes: Vec<Node> = (0..n)
                .map(|i| Node { token: tokens[at + i], parent: i.checked_sub(1).map(|p| p as u32), want })
                .collect();
            self.kv.reserve(seq, n).map_err(EngineError::from)?;
            let mut batch = Batch::new(self.kv.groups());
            let rows = batch.push(seq, at, self.kv.tables(seq), &nodes);
            let out = self.model.forward(&batch, &mut self.kv, &mut self.run).map_err(EngineError::from)?;
            for r in rows.filter(|_| scored) {
                let logits =
                    out.logits(r).ok_or_else(|| Fail::new(Code::Other, "the forward pass gave no logits"))?;
                score(logits, tokens[at + r + 1])?;
            }
            let kept: Vec<u32> = (0..n as u32).collect();
            self.kv.commit(seq, &kept).map_err(EngineError::from)?;
            at += n;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_of_a_known_distribution_is_known() {
        let ln = |p: f64| p.ln() as f32;
        let logits = [ln(0.5) + 3.0, ln(0.25) + 3.0, ln(0.25) + 3.0];
        assert!((nll(&logits, 0) - 2f64.ln()).abs() < 1e-6 && (nll(&logits, 2) - 4f64.ln()).abs() < 1e-6);
    }
}
