#![allow(dead_code, clippy::unwrap_used)]

use tamp_weights::Weights;

/// A forward pass written as plainly as possible: the oracle of layouts.
pub struct Naive<'a> {
    w: &'a Weights,
    arch: String,
}

impl<'a> Naive<'a> {
    pub fn new(w: &'a Weights) -> Self {
        Naive { w, arch: w.meta.str("general.architecture").unwrap().into() }
    }

    fn values(&self, name: &str) -> Option<(Vec<f32>, usize)> {
        let t = self.w.tensor(name).unwrap()?;
        let mut v = vec![0.0; t.shape.iter().product()];
        (t.kind.row().decode)(&t.bytes, &mut v);
        Some((v, t.shape[0]))
    }

    fn count(&self, key: &str) -> Option<usize> {
        self.w.meta.count_opt(&format!("{}.{key}", self.arch)).unwrap()
    }

    /// Matrix times vector, plus the bias if there is one.
    fn linear(&self, name: &str, x: &[f32]) -> Vec<f32> {
        let (m, cols) = self.values(&format!("{name}.weight")).unwrap();
        assert_eq!(cols, x.len(), "{name}");
        let mut y: Vec<f32> = m.chunks(cols).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect();
        if let Some((b, _)) = self.values(&format!("{name}.bias")) {
            y.iter_mut().zip(b).for_each(|(y, b)| *y += b);
        }
        y
    }

    fn norm(&self, name: &str, x: &[f32]) -> Vec<f32> {
        let eps =
            self.w.meta.float(&format!("{}.attention.layer_norm_rms_epsilon", self.arch)).unwrap() as f32;
        let (g, _) = self.values(&format!("{name}.weight")).unwrap();
        let r = (x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32 + eps).sqrt();
        x.iter().zip(g).map(|(x, g)| x / r * g).collect()
    }

    fn rope(&self, x: &mut [f32], pos: usize, head: usize) {
        let base = self.w.meta.float(&format!("{}.rope.freq_base", self.arch)).unwrap();
        let half = match self.w.meta.str_opt("tamp.rope.pairing").unwrap() {
            Some(p) => p == "half",
            None => self.arch != "llama",
        };
        for h in x.chunks_mut(head) {
            for i in 0..head / 2 {
                let (a, b) = if half { (i, i + head / 2) } else { (2 * i, 2 * i + 1) };
                let (s, c) = (pos as f64 * base.powf(-2.0 * i as f64 / head as f64)).sin_cos();
                let (u, v) = (h[a], h[b]);
                h[a] = u * c as f32 - v * s as f32;
                h[b] = u * s as f32 + v * c as f32;
            }
        }
    }

    /// Logits after the last of the tokens.
    pub fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let (embd, d) = self.values("token_embd.weight").unwrap();
        let heads = self.count("attention.head_count").unwrap();
        let kv = self.count("attention.head_count_kv").unwrap();
        let head = self.count("attention.key_length").unwrap_or(d / heads);
        let mut rows: Vec<Vec<f32>> =
            tokens.iter().map(|&t| embd[t as usize * d..(t as usize + 1) * d].to_vec()).collect();
        for l in 0..self.count("block_count").unwrap() {
            let n = |s: &str| format!("blk.{l}.{s}");
            let (mut ks, mut vs) = (vec![], vec![]);
            for (pos, x) in rows.iter_mut().enumerate() {
                let a = self.norm(&n("attn_norm"), x);
                let mut q = self.linear(&n("attn_q"), &a);
                let mut k = self.linear(&n("attn_k"), &a);
                for (name, v) in [("attn_q_norm", &mut q), ("attn_k_norm", &mut k)] {
                    if self.w.tensor(&n(&format!("{name}.weight"))).unwrap().is_some() {
                        *v = v.chunks(head).flat_map(|h| self.norm(&n(name), h)).collect();
                    }
                }
                self.rope(&mut q, pos, head);
                self.rope(&mut k, pos, head);
                ks.push(k);
                vs.push(self.linear(&n("attn_v"), &a));
                let mut o = vec![0.0; heads * head];
                for h in 0..heads {
                    let g = h / (heads / kv) * head;
                    let q = &q[h * head..(h + 1) * head];
                    let e: Vec<f32> = ks
                        .iter()
                        .map(|k| {
                            q.iter().zip(&k[g..]).map(|(a, b)| a * b).sum::<f32>() / (head as f32).sqrt()
                        })
                        .collect();
                    let max = e.iter().copied().fold(f32::MIN, f32::max);
                    let e: Vec<f32> = e.iter().map(|e| (e - max).exp()).collect();
                    let sum: f32 = e.iter().sum();
                    for (p, v) in e.iter().zip(&vs) {
                        for i in 0..head {
                            o[h * head + i] += p / sum * v[g + i];
                        }
                    }
                }
                let o = self.linear(&n("attn_output"), &o);
                x.iter_mut().zip(o).for_each(|(x, o)| *x += o);
                let a = self.norm(&n("ffn_norm"), x);
                let gate = self.linear(&n("ffn_gate"), &a);
                let up = self.linear(&n("ffn_up"), &a);
                let m: Vec<f32> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                let m = self.linear(&n("ffn_down"), &m);
                x.iter_mut().zip(m).for_each(|(x, m)| *x += m);
            }
        }
        let x = self.norm("output_norm", rows.last().unwrap());
        let untied = self.w.tensor("output.weight").unwrap().is_some();
        self.linear(if untied { "output" } else { "token_embd" }, &x)
    }

    pub fn greedy(&self, prompt: &[u32], n: usize) -> Vec<u32> {
        let mut t = prompt.to_vec();
        for _ in 0..n {
            let l = self.logits(&t);
            let best = (0..l.len()).max_by(|&a, &b| l[a].total_cmp(&l[b])).unwrap();
            t.push(best as u32);
        }
        t.split_off(prompt.len())
    }
}

/// Small files of the other kinds, made by hand.
pub mod make;
