//! Models on the CPU device, sequences fed in any cut, and comparison by bits.
#![allow(dead_code, clippy::unwrap_used)]

pub mod compare;

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;

use tamp_base::ids::{SeqId, Token};
use tamp_formats::Kind;
use tamp_kernels::cpu::Cpu;
use tamp_kernels::pool::Pool;
use tamp_kernels::rung::{self, Rung};
use tamp_kv::Kv;
use tamp_model::batch::{Batch, Node, Outputs, Want};
use tamp_model::{LoadOptions, Model, Run};
use tamp_sample::{Chain, Params};
use tamp_weights::Weights;
use tamp_weights::testing::{Arch, Noise, Tiny};

/// Logits of consecutive positions.
pub type Logits = Vec<Vec<f32>>;

/// Longest context of the tiny models here.
pub const CTX: usize = 1200;

/// How a model is set up. Nothing in here but `kv` and `decode` may change an answer of an integer-format model.
#[derive(Clone, Copy)]
pub struct How {
    pub rung: &'static Rung,
    pub threads: usize,
    pub kv: Kind,
    pub decode: bool,
    pub ctx: usize,
}

impl How {
    /// Best rung, one thread, F16 pages.
    pub fn usual() -> How {
        let rung = rung::available().next().unwrap();
        How { rung, threads: 1, kv: Kind::F16, decode: false, ctx: CTX }
    }

    pub fn threads(self, threads: usize) -> How {
        How { threads, ..self }
    }

    pub fn kv(self, kv: Kind) -> How {
        How { kv, ..self }
    }

    pub fn rung(self, rung: &'static Rung) -> How {
        How { rung, ..self }
    }
}

/// A model and its memory.
pub struct Rig {
    pub model: Model<Cpu>,
    pub kv: Kv<Cpu>,
    pub run: Run,
}

impl Rig {
    pub fn new(weights: &Weights, how: How) -> Rig {
        // Steady: each run has every worker, or a busy machine would test one.
        let pool = Arc::new(Pool::new(how.threads, false).steady());
        assert_eq!(pool.threads(), how.threads);
        let device = Arc::new(Cpu::new(pool, how.rung));
        let options = LoadOptions { rows: how.ctx, logits: 7, ctx: how.ctx, kv: how.kv, decode: how.decode };
        let model = Model::load(weights, device, &options, &mut |_, _| ()).unwrap();
        let kv = Kv::new(&**model.device(), &model.kv_groups(), how.ctx.div_ceil(16) + 40).unwrap();
        Rig { model, kv, run: Run::default() }
    }

    pub fn vocab(&self) -> usize {
        self.model.shape.vocab
    }

    /// Runs the nodes of several sequences as one batch; nothing is committed.
    pub fn forward(&mut self, parts: &[(SeqId, Vec<Node>)]) -> Outputs {
        let mut batch = Batch::new(self.kv.groups());
        for (seq, nodes) in parts {
            self.kv.reserve(*seq, nodes.len()).unwrap();
            let committed = self.kv.len(*seq);
            batch.push(*seq, committed, self.kv.tables(*seq), nodes);
        }
        self.forward_batch(&batch)
    }

    pub fn forward_batch(&mut self, batch: &Batch) -> Outputs {
        let out = self.model.forward(batch, &mut self.kv, &mut self.run).unwrap();
        self.kv.integrity().unwrap();
        for (r, row) in batch.rows.iter().enumerate() {
            let (best, logits) = (out.best(r), out.logits(r));
            assert_eq!(
                (best.is_some(), logits.is_some()),
                (row.want != Want::Nothing, row.want == Want::Full)
            );
            if let (Some(best), Some(logits)) = (best, logits) {
                assert_eq!((best.token, best.nan), (argmax(logits), false), "best token of row {r}");
                assert_eq!(best.logit.to_bits(), logits[best.token as usize].to_bits());
            }
        }
        out
    }

    /// [`Rig::forward`], as logits per sequence and node.
    pub fn logits(&mut self, parts: &[(SeqId, Vec<Node>)]) -> Vec<Logits> {
        let out = self.forward(parts);
        let mut row = 0;
        parts
            .iter()
            .map(|(_, nodes)| {
                let of = |i: usize| out.logits(row + i).unwrap_or(&[]).to_vec();
                let all = (0..nodes.len()).map(of).collect();
                row += nodes.len();
                all
            })
            .collect()
    }

    /// Appends chains to several sequences in one batch and commits them.
    pub fn extend(&mut self, parts: &[(SeqId, &[Token])]) -> Vec<Logits> {
        let nodes: Vec<_> = parts.iter().map(|&(s, t)| (s, chain(t, Want::Full))).collect();
        let out = self.logits(&nodes);
        for (seq, tokens) in parts {
            self.keep(*seq, tokens.len());
        }
        out
    }

    /// Commits the first `n` rows of a sequence's batch.
    pub fn keep(&mut self, seq: SeqId, n: usize) {
        self.kv.commit(seq, &(0..n as u32).collect::<Vec<_>>()).unwrap();
        self.kv.integrity().unwrap();
    }

    /// Appends a chain, in chunks of the given sizes (the last one repeats).
    pub fn feed(&mut self, seq: SeqId, tokens: &[Token], chunks: &[usize]) -> Logits {
        let (mut out, mut at, mut i) = (Logits::new(), 0, 0);
        while at < tokens.len() {
            let n = chunks[i.min(chunks.len() - 1)].min(tokens.len() - at);
            out.append(&mut self.extend(&[(seq, &tokens[at..at + n])])[0]);
            (at, i) = (at + n, i + 1);
        }
        out
    }

    /// Logits of every position of a fresh sequence, in chunks of the given sizes.
    pub fn fresh(&mut self, tokens: &[Token], chunks: &[usize]) -> Logits {
        let seq = self.kv.open();
        let out = self.feed(seq, tokens, chunks);
        self.kv.close(seq);
        out
    }
}

/// Nodes that follow one another.
pub fn chain(tokens: &[Token], want: Want) -> Vec<Node> {
    let node =
        |(i, &token): (usize, &Token)| Node { token, parent: i.checked_sub(1).map(|p| p as u32), want };
    tokens.iter().enumerate().map(node).collect()
}

/// Nodes with their parents, all logits wanted.
pub fn tree(nodes: &[(Token, Option<u32>)]) -> Vec<Node> {
    nodes.iter().map(|&(token, parent)| Node { token, parent, want: Want::Full }).collect()
}

/// The choice the head must make: the largest, of equals the lowest.
pub fn argmax(logits: &[f32]) -> Token {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    best as Token
}

pub fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// Same logits, bit by bit.
#[track_caller]
pub fn assert_same(got: &[Vec<f32>], want: &[Vec<f32>], what: impl Display) {
    assert_eq!(got.len(), want.len(), "{what}: positions");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(
            !w.is_empty() && g.len() == w.len(),
            "{what}: position {i}: {} of {} logits",
            g.len(),
            w.len()
        );
        if bits(g) != bits(w) {
            let n = g.iter().zip(w).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            let worst = g.iter().zip(w).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            panic!("{what}: position {i} of {}: {n} logits differ, by up to {worst:e}", got.len());
        }
    }
}

/// A lively model in memory.
pub fn weights(tiny: &Tiny) -> Weights {
    Weights::from_gguf_bytes(tiny.build()).unwrap()
}

/// A lively model of this format; width and family differ from format to format, so that all are met.
pub fn of_kind(kind: Kind, seed: u64) -> Weights {
    let arch = Arch::ALL[kind as usize % 3];
    weights(&Tiny::new(arch, seed).kind(kind).tied(seed.is_multiple_of(2)))
}

/// Tokens that follow from a number.
pub fn prompt(number: u64, n: usize, vocab: usize) -> Vec<Token> {
    let mut noise = Noise(number.wrapping_mul(0x5851_f42d_4c95_7f2d));
    (0..n).map(|_| noise.below(vocab) as Token).collect()
}

/// Random chunk sizes that follow from a number.
pub fn chunking(number: u64, total: usize, most: usize) -> Vec<usize> {
    let mut noise = Noise(number ^ 0x00c0_ffee);
    (0..total).map(|_| 1 + noise.below(most)).collect()
}

/// The chain of a sequence at a temperature.
pub fn chooser(temperature: f32, seed: u64, vocab: usize) -> Chain {
    Chain::new(Params { temperature, seed, ..Params::default() }, &[], vocab).unwrap()
}

/// The token a chain chooses at a position.
pub fn choose(chain: &mut Chain, logits: &[f32], position: usize) -> Token {
    let token = chain.choose(&mut logits.to_vec(), position).unwrap().token;
    if chain.params().temperature == 0.0 {
        assert_eq!(token, argmax(logits));
    }
    chain.advance(token);
    token
}

/// Number of different tokens.
pub fn distinct(tokens: &[Token]) -> usize {
    tokens.iter().collect::<std::collections::BTreeSet<_>>().len()
}

/// `smollm2`, for checks on a real model: `TAMP_TEST_MODEL`, or the local store. Says so when there is none.
pub fn real_model(test: &str) -> Option<Weights> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let store = var("TAMP_STORE")
        .or_else(|| var("XDG_DATA_HOME").map(|d| d.join("tamp/models")))
        .or_else(|| var("HOME").map(|d| d.join(".local/share/tamp/models")));
    let path = var("TAMP_TEST_MODEL").or_else(|| Some(store?.join("smollm2.gguf")))?;
    if !path.is_file() {
        println!("skipped: {test}: no smollm2 in the local store and no TAMP_TEST_MODEL");
        return None;
    }
    Some(Weights::open(&path).unwrap())
}

/// Whether the long sweeps were asked for. Says so when not.
pub fn full(test: &str) -> bool {
    let on = std::env::var_os("TAMP_FULL").is_some_and(|v| v == "1");
    if !on {
        println!("skipped: {test}: set TAMP_FULL=1 for the long sweeps");
    }
    on
}
