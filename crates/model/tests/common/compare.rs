//! Whole comparisons that several test files make.

use tamp_base::ids::{SeqId, Token};
use tamp_model::batch::Node;
use tamp_weights::Weights;
use tamp_weights::testing::Noise;

use super::*;

/// Stems of `−3…+3` around every boundary in `around`: siblings forked off a stem, in both orders, have the logits of
/// fresh sequences of their own.
pub fn siblings_around(w: &Weights, how: How, around: &[usize], more: usize) {
    let mut rig = Rig::new(w, how);
    let mut alone = Rig::new(w, how.threads(1));
    let vocab = rig.vocab();
    let longest = around.iter().max().unwrap() + 3 + more;
    let first = prompt(11, longest, vocab);
    let other = prompt(12, more, vocab);
    let want_first = alone.fresh(&first, &[1]);
    let stem = rig.kv.open();
    for stem_len in around.iter().flat_map(|b| b - 3..=b + 3) {
        let have = rig.kv.len(stem);
        rig.feed(stem, &first[have..stem_len], &[23]);
        let whole = [&first[..stem_len], &other].concat();
        let want_other = alone.fresh(&whole, &[whole.len()]).split_off(stem_len);
        let want = [&want_first[stem_len..stem_len + more], &want_other];
        let tokens = [&first[stem_len..stem_len + more], &other];
        for order in [[0, 1], [1, 0]] {
            // Turn by turn, and one after the other; in one batch, and in batches of their own.
            for (chunk, together) in [(1, true), (1, false), (more, true), (2, false)] {
                let seqs = [rig.kv.fork(stem).unwrap(), rig.kv.fork(stem).unwrap()];
                let mut got = [Logits::new(), Logits::new()];
                if together {
                    for at in (0..more).step_by(chunk) {
                        let parts = order.map(|i| (seqs[i], &tokens[i][at..at + chunk]));
                        for (i, mut l) in order.into_iter().zip(rig.extend(&parts)) {
                            got[i].append(&mut l);
                        }
                    }
                } else {
                    order.iter().for_each(|&i| got[i] = rig.feed(seqs[i], tokens[i], &[chunk]));
                }
                for i in [0, 1] {
                    let what =
                        format!("stem {stem_len}, sibling {i}, order {order:?}, chunk {chunk}, {together}");
                    assert_same(&got[i], want[i], what);
                    rig.kv.close(seqs[i]);
                }
            }
        }
        // The stem itself is still what it was.
        let again = rig.kv.fork(stem).unwrap();
        let got = rig.extend(&[(again, &first[stem_len..stem_len + more])]).remove(0);
        assert_same(&got, want[0], format!("stem {stem_len} after its siblings"));
        rig.kv.close(again);
    }
}

/// Answers of several sequences generated together: tokens and the logits behind them.
pub fn answers(
    rig: &mut Rig,
    prompts: &[Vec<Token>],
    temperature: f32,
    n: usize,
    chunk: usize,
) -> Vec<(Vec<Token>, Logits)> {
    let vocab = rig.vocab();
    let seqs: Vec<SeqId> = prompts.iter().map(|_| rig.kv.open()).collect();
    let mut chains: Vec<_> = (0..prompts.len()).map(|i| chooser(temperature, i as u64, vocab)).collect();
    let mut tokens = prompts.to_vec();
    let mut out: Vec<(Vec<Token>, Logits)> = vec![Default::default(); prompts.len()];
    while out.iter().any(|o| o.0.len() < n) {
        let parts: Vec<_> = (0..prompts.len())
            .filter(|&i| out[i].0.len() < n)
            .map(|i| {
                let have = rig.kv.len(seqs[i]);
                (i, tokens[i][have..(have + chunk).min(tokens[i].len())].to_vec())
            })
            .collect();
        let batch: Vec<(SeqId, &[Token])> = parts.iter().map(|(i, t)| (seqs[*i], &t[..])).collect();
        for ((i, _), mut logits) in parts.iter().zip(rig.extend(&batch)) {
            let i = *i;
            if rig.kv.len(seqs[i]) == tokens[i].len() {
                let last = logits.pop().unwrap();
                let token = choose(&mut chains[i], &last, tokens[i].len());
                tokens[i].push(token);
                out[i].0.push(token);
                out[i].1.push(last);
            }
        }
    }
    seqs.into_iter().for_each(|s| rig.kv.close(s));
    out
}

/// Batch rows from the root to `node`.
pub fn path(nodes: &[Node], node: usize) -> Vec<u32> {
    let mut out = vec![node as u32];
    while let Some(p) = nodes[out[0] as usize].parent {
        out.insert(0, p);
    }
    out
}

/// The tokens on these rows.
pub fn along(nodes: &[Node], rows: &[u32]) -> Vec<Token> {
    rows.iter().map(|&r| nodes[r as usize].token).collect()
}

/// Every node has the logits of its own path as a fresh sequence fed token by token. Returns the tree's logits.
#[track_caller]
pub fn assert_nodes_alone(
    rig: &mut Rig,
    alone: &mut Rig,
    stem: &[Token],
    seq: SeqId,
    nodes: &[Node],
    what: &str,
) -> Logits {
    let got = rig.logits(&[(seq, nodes.to_vec())]).remove(0);
    let base = alone.kv.open();
    alone.feed(base, stem, &[stem.len().max(1)]);
    for i in 0..nodes.len() {
        // A leaf's run shows all its ancestors; inner nodes are shown by their leaves.
        if nodes.iter().any(|n| n.parent == Some(i as u32)) {
            continue;
        }
        let rows = path(nodes, i);
        let twin = alone.kv.fork(base).unwrap();
        let want = alone.feed(twin, &along(nodes, &rows), &[1]);
        alone.kv.close(twin);
        let mine: Logits = rows.iter().map(|&r| got[r as usize].clone()).collect();
        assert_same(&mine, &want, format!("{what}, stem {}, rows {rows:?}", stem.len()));
    }
    alone.kv.close(base);
    got
}

pub type Shape = &'static [Option<u32>];

/// Two branches off a shared stem, one after the other, and their rows interleaved.
pub const TWO: Shape = &[None, Some(0), Some(1), Some(0), Some(3)];
pub const TWO_INTERLEAVED: Shape = &[None, Some(0), Some(0), Some(1), Some(2), Some(3), Some(4)];
/// Three branches of depth 1, 3 and 5, rows in turn.
pub const THREE: Shape =
    &[None, Some(0), Some(0), Some(0), Some(2), Some(3), Some(4), Some(5), Some(7), Some(8)];
/// Several roots: each hangs on the committed end.
pub const ROOTS: Shape = &[None, None, Some(1), None, Some(0), Some(4)];
pub const SHAPES: [(&str, Shape); 4] =
    [("two", TWO), ("interleaved", TWO_INTERLEAVED), ("three", THREE), ("roots", ROOTS)];

pub fn plant(shape: Shape, seed: u64, vocab: usize) -> Vec<Node> {
    let tokens = prompt(seed, shape.len(), vocab);
    tree(&tokens.into_iter().zip(shape.iter().copied()).collect::<Vec<_>>())
}

/// Any tree, of `n` nodes.
pub fn random_tree(seed: u64, n: usize, vocab: usize) -> Vec<Node> {
    let mut noise = Noise(seed);
    let tokens = prompt(seed, n, vocab);
    // Parents near the end make long branches, far ones make wide trees.
    let parent = |i: usize, noise: &mut Noise| match noise.below(3) {
        0 => noise.below(i + 1).checked_sub(1),
        1 => i.checked_sub(1),
        _ => Some(i.saturating_sub(3)).filter(|_| i > 0),
    };
    let nodes: Vec<_> =
        tokens.into_iter().enumerate().map(|(i, t)| (t, parent(i, &mut noise).map(|p| p as u32))).collect();
    tree(&nodes)
}

/// Commits the path to `node`, continues, and returns the logits of the continuation.
pub fn commit_and_continue(
    rig: &mut Rig,
    stem: &[Token],
    nodes: &[Node],
    kept: &[u32],
    more: &[Token],
) -> Logits {
    let seq = rig.kv.open();
    rig.feed(seq, stem, &[stem.len()]);
    rig.logits(&[(seq, nodes.to_vec())]);
    rig.kv.commit(seq, kept).unwrap();
    rig.kv.integrity().unwrap();
    assert_eq!(rig.kv.len(seq), stem.len() + kept.len());
    let out = rig.feed(seq, more, &[2, 1, 5]);
    rig.kv.close(seq);
    out
}
