//! Attention over pages: chains, trees, boundaries, neighbours.
//!
//! Planted and seen to fail: a chunk's merge dropped, parts merged right to left, the running state carried over a
//! chunk's edge when one worker has all chunks, paths ignored, only whole uncommitted blocks gathered, one key too
//! many, the page before the last as the stand-in.

use std::collections::HashMap;

use tamp_base::ids::{PAGE, PageId};
use tamp_formats::Kind;
use tamp_kernels::cpu::Cpu;
use tamp_kernels::device::{AttnShape, BufShape, Device, KvShape, Pairing, Rope, RowMap, SeqRows, Slot};

use crate::tools::*;

#[derive(Clone, Copy, Debug)]
struct Shape {
    head_dim: usize,
    kv_heads: usize,
    per_head: usize,
    kind: Kind,
}

/// One row: the query's seed, its position, and the slots of `committed..=pos` where they leave slot order.
#[derive(Clone, Debug)]
struct Query {
    seed: u64,
    pos: usize,
    path: Option<Vec<usize>>,
}

/// A sequence: the seed of the key in every slot, and the rows that sit in the slots from `committed` on.
#[derive(Clone, Debug)]
struct Seq {
    keys: Vec<u64>,
    committed: usize,
    rows: Vec<Query>,
}

impl Seq {
    /// Seeds of the keys a row sees, in position order.
    fn seen(&self, row: &Query) -> Vec<u64> {
        (0..=row.pos)
            .map(|p| match &row.path {
                Some(path) if p >= self.committed => self.keys[path[p - self.committed]],
                _ => self.keys[p],
            })
            .collect()
    }
}

fn chain(keys: &[u64], committed: usize) -> Seq {
    let rows = (committed..keys.len()).map(|pos| Query { seed: keys[pos], pos, path: None }).collect();
    Seq { keys: keys.to_vec(), committed, rows }
}

/// The seed of a key and value that are not numbers.
const BROKEN: u64 = u64::MAX;

fn values(seed: u64, salt: u64, n: usize, kind: Kind) -> Vec<f32> {
    if seed == BROKEN {
        return vec![f32::NAN; n];
    }
    let mut rng = Rng(seed.wrapping_mul(31) ^ salt);
    let round = |v: f32| if kind == Kind::F16 { half::f16::from_f32(v).to_f32() } else { v };
    (0..n).map(|_| round(rng.normal())).collect()
}

fn key(seed: u64, head: usize, s: &Shape) -> Vec<f32> {
    values(seed, 0x1000 + head as u64, s.head_dim, s.kind)
}

fn value(seed: u64, head: usize, s: &Shape) -> Vec<f32> {
    values(seed, 0x2000 + head as u64, s.head_dim, s.kind)
}

fn query(seed: u64, s: &Shape) -> Vec<f32> {
    let mut q = values(seed, 0x3000, s.head_dim * s.kv_heads * s.per_head, Kind::F32);
    // Every other head looks sharply at few keys.
    for (h, head) in q.chunks_mut(s.head_dim).enumerate() {
        head.iter_mut().for_each(|v| *v *= if h % 2 == 0 { 1.0 } else { 4.0 });
    }
    q
}

/// Phase B over sequences whose pages lie scattered; `[row][heads * head_dim]`.
fn attend(cpu: &Cpu, s: &Shape, seqs: &[Seq], scatter: u64) -> Vec<Vec<f32>> {
    let layers = 2;
    let pages_of = |q: &Seq| q.keys.len().div_ceil(PAGE);
    let all: usize = seqs.iter().map(pages_of).sum();
    let kv = KvShape { layers, heads: s.kv_heads, head_dim: s.head_dim, kind: s.kind };
    let mut pages = cpu.pages(&kv, all + 3).unwrap();
    let mut ids: Vec<PageId> = (0..all as u32 + 3).map(PageId).collect();
    let mut rng = Rng(scatter);
    for i in (1..ids.len()).rev() {
        ids.swap(i, rng.below(i + 1));
    }
    let mut map = RowMap::default();
    let mut queries = vec![];
    let mut ctx = 1;
    for (n, seq) in seqs.iter().enumerate() {
        let table = map.table.len();
        map.table.extend(ids.drain(..pages_of(seq)));
        // What no row may see is loud: unused slots of the last page hold huge numbers.
        for at in 0..pages_of(seq) * PAGE {
            let slot = Slot::of(&map.table[table..], at);
            for layer in 0..layers {
                for head in 0..s.kv_heads {
                    let (k, v) = match seq.keys.get(at) {
                        Some(&id) if layer == 1 => (key(id, head, s), value(id, head, s)),
                        _ => (vec![3e4; s.head_dim], vec![-3e4; s.head_dim]),
                    };
                    // SAFETY: nobody else writes.
                    unsafe { pages.writer(layer).write(cpu.rung(), slot, head, &k, &v) };
                }
            }
        }
        let first = map.pos.len();
        map.seqs.push(SeqRows { first, count: seq.rows.len(), committed: seq.committed, table });
        for row in &seq.rows {
            map.pos.push(row.pos as u32);
            map.seq.push(n as u32);
            map.path_at.push(row.path.as_ref().map(|_| map.path.len() as u32));
            map.path.extend(row.path.iter().flatten().map(|&p| p as u32));
            queries.push(query(row.seed, s));
            ctx = ctx.max(row.pos + 1);
        }
    }
    let heads = s.kv_heads * s.per_head;
    let width = heads * s.head_dim;
    let shape = BufShape {
        rows: map.rows(),
        d: 16,
        q: width,
        kv: s.kv_heads * s.head_dim,
        heads,
        kv_heads: s.kv_heads,
        head_dim: s.head_dim,
        ff: 16,
        vocab: 1,
        logits: 0,
        ctx,
    };
    let mut buf = cpu.buf(&shape).unwrap();
    let table = cpu.linear(Kind::F32, 1, 16, &[0; 64]).unwrap();
    let rope = Rope { freq: vec![1.0; s.head_dim / 2], scale: 1.0, pairing: Pairing::Half };
    cpu.embed(&table, &vec![0; map.rows()], &map, &rope, &mut buf);
    for (r, q) in queries.iter().enumerate() {
        let at = r * buf.q.stride;
        buf.q.data[at..at + width].copy_from_slice(q);
    }
    let shape = AttnShape {
        heads,
        kv_heads: s.kv_heads,
        head_dim: s.head_dim,
        scale: (s.head_dim as f32).sqrt().recip(),
        eps: 1e-5,
        rope: rope.into(),
    };
    cpu.phase_b(&shape, &map, 1, &pages, &mut buf);
    (0..map.rows()).map(|r| buf.att.data[r * buf.att.stride..][..width].to_vec()).collect()
}

/// The definition, in f64.
fn naive(s: &Shape, seen: &[u64], seed: u64) -> Vec<f64> {
    let q = query(seed, s);
    let scale = (s.head_dim as f32).sqrt().recip();
    let mut out = vec![];
    for kv in 0..s.kv_heads {
        let keys: Vec<_> = seen.iter().map(|&id| (key(id, kv, s), value(id, kv, s))).collect();
        for h in kv * s.per_head..(kv + 1) * s.per_head {
            let q = &q[h * s.head_dim..][..s.head_dim];
            let score = |k: &[f32]| product_f64(k, q.iter().map(|v| (*v * scale) as f64));
            let scores: Vec<f64> = keys.iter().map(|(k, _)| score(k)).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let p: Vec<f64> = scores.iter().map(|v| (v - top).exp()).collect();
            let sum: f64 = p.iter().sum();
            for d in 0..s.head_dim {
                out.push(keys.iter().zip(&p).map(|((_, v), p)| v[d] as f64 * p).sum::<f64>() / sum);
            }
        }
    }
    out
}

fn close(got: &[f32], want: &[f64], what: &str) {
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((*got as f64 - want).abs() <= 2e-5, "{what}: element {i} is {got}, want {want}");
    }
}

fn ids(from: u64, n: usize) -> Vec<u64> {
    (from..from + n as u64).collect()
}

/// A tree behind `committed` keys: node `i` hangs on a random earlier node or on the stem.
fn tree(rng: &mut Rng, base: u64, committed: usize, nodes: usize) -> Seq {
    let keys = ids(base, committed + nodes);
    let mut rows: Vec<Query> = vec![];
    for i in 0..nodes {
        let mut path = match rng.below(i + 1) {
            0 => vec![],
            n => rows[n - 1].path.clone().unwrap_or_default(),
        };
        path.push(committed + i);
        rows.push(Query { seed: base + 7_000 + i as u64, pos: committed + path.len() - 1, path: Some(path) });
    }
    Seq { keys, committed, rows }
}

#[test]
fn attention_is_f64s_for_every_head_size_grouping_and_page_format() {
    let devices = devices();
    let mut n = 0;
    for head_dim in [16, 32, 48, 64, 80, 128] {
        for (kv_heads, per_head) in [(2, 1), (1, 2), (2, 3), (1, 4), (1, 7), (3, 8)] {
            for kind in [Kind::F16, Kind::F32] {
                let s = Shape { head_dim, kv_heads, per_head, kind };
                let mut rng = Rng(n);
                let seqs =
                    [chain(&ids(1, 70 + n as usize % 9), 60), tree(&mut rng, 5_000, n as usize % 40, 6)];
                let cpu = &devices[n as usize % devices.len()];
                let got = attend(cpu, &s, &seqs, n);
                let rows = seqs.iter().flat_map(|q| q.rows.iter().map(move |r| (q, r)));
                for (got, (seq, row)) in got.iter().zip(rows) {
                    close(got, &naive(&s, &seq.seen(row), row.seed), &format!("{s:?} {} {row:?}", name(cpu)));
                }
                n += 1;
            }
        }
    }
}

/// Runs everything on all devices, and compares each row with what it gives alone, all its keys committed in order,
/// on the portable rung and one worker; that in turn with f64.
fn one_answer(s: &Shape, batches: &[Vec<Seq>]) {
    let devices = devices();
    let mut alone: HashMap<(Vec<u64>, u64), Vec<f32>> = HashMap::new();
    for (n, batch) in batches.iter().enumerate() {
        for cpu in &devices {
            let got = attend(cpu, s, batch, n as u64);
            let rows = batch.iter().flat_map(|q| q.rows.iter().map(move |r| (q, r)));
            for (got, (seq, row)) in got.iter().zip(rows) {
                let seen = seq.seen(row);
                let want = alone.entry((seen.clone(), row.seed)).or_insert_with(|| {
                    let only = Query { seed: row.seed, pos: row.pos, path: None };
                    let single = Seq { keys: seen.clone(), committed: row.pos, rows: vec![only] };
                    let out = attend(&devices[0], s, &[single], 999).remove(0);
                    close(&out, &naive(s, &seen, row.seed), &format!("{s:?} position {}", row.pos));
                    out
                });
                for (i, (got, want)) in got.iter().zip(want.iter()).enumerate() {
                    same(*got, *want, || {
                        format!("{s:?} batch {n} on {}: element {i} of position {}", name(cpu), row.pos)
                    });
                }
            }
        }
    }
}

const EDGES: [usize; 6] = [PAGE, 64, 128, 512, 1024, 1536];

#[test]
fn a_row_has_the_same_bits_in_every_chunk_of_a_prompt_around_page_block_and_chunk_edges() {
    let mut rng = Rng(20);
    for kind in [Kind::F16, Kind::F32] {
        let s = Shape { head_dim: 16, kv_heads: 1, per_head: 2, kind };
        let mut batches = vec![];
        for edge in EDGES {
            let keys = ids(edge as u64 * 10_000, edge + 4);
            // Three before the edge to three behind: one by one, all at once, cut anywhere.
            batches.push(vec![chain(&keys, edge - 4)]);
            for cut in edge - 3..edge + 4 {
                batches.push(vec![chain(&keys[..cut], edge - 4)]);
                batches.push(vec![chain(&keys, cut)]);
                batches.push(vec![chain(&keys[..cut + 1], cut)]);
            }
        }
        // A long prompt in one piece and in pieces of any size: more rows than one task takes.
        let keys = ids(7, 200);
        let mut from = 0;
        while from < 200 {
            let to = (from + 1 + rng.below(90)).min(200);
            batches.push(vec![chain(&keys[..to], from)]);
            from = to;
        }
        batches.push(vec![chain(&keys, 0)]);
        one_answer(&s, &batches);
    }
}

#[test]
fn a_row_has_the_same_bits_on_every_branch_of_a_tree_around_the_edges() {
    let mut rng = Rng(21);
    for (kind, head_dim, per_head) in [(Kind::F16, 64, 3), (Kind::F32, 48, 5)] {
        let s = Shape { head_dim, kv_heads: 2, per_head, kind };
        let mut batches = vec![];
        for edge in [16, 64, 512, 1024] {
            for stem in [edge - 3, edge - 1, edge, edge + 2] {
                let base = (edge * 100_000 + stem) as u64;
                // Two siblings in both orders, a random tree, and a tree whose last branch is long.
                let keys = ids(base, stem + 4);
                let branch = |order: [usize; 4]| {
                    let row = |i: usize, path: &[usize]| Query {
                        seed: base + 50 + i as u64,
                        pos: stem + path.len() - 1,
                        path: Some(path.iter().map(|&n| stem + order[n]).collect()),
                    };
                    let mut slots = [0; 4];
                    let mut rows = vec![None, None, None, None];
                    for (node, path) in [vec![0], vec![0, 1], vec![2], vec![2, 3]].iter().enumerate() {
                        slots[order[node]] = node;
                        rows[order[node]] = Some(row(node, path));
                    }
                    let mut keys = keys.clone();
                    for (i, node) in slots.iter().enumerate() {
                        keys[stem + i] = base + 9_000 + *node as u64;
                    }
                    Seq { keys, committed: stem, rows: rows.into_iter().flatten().collect() }
                };
                batches.push(vec![branch([0, 1, 2, 3])]);
                batches.push(vec![branch([2, 3, 0, 1])]);
                batches.push(vec![tree(&mut rng, base, stem, 7)]);
            }
        }
        one_answer(&s, &batches);
    }
}

#[test]
fn a_row_has_the_same_bits_whatever_else_is_in_the_batch() {
    let mut rng = Rng(22);
    let s = Shape { head_dim: 32, kv_heads: 2, per_head: 4, kind: Kind::F16 };
    let pool: Vec<Seq> = vec![
        chain(&ids(1, 1), 0),
        chain(&ids(100, 530), 529),
        chain(&ids(1_000, 40), 0),
        chain(&ids(2_000, 515), 505),
        tree(&mut rng, 3_000, 62, 9),
        chain(&ids(4_000, 1_100), 1_099),
        tree(&mut rng, 6_000, 0, 5),
        chain(&ids(9_000, 65), 63),
    ];
    let mut batches: Vec<Vec<Seq>> = pool.iter().map(|q| vec![q.clone()]).collect();
    batches.push(pool.clone());
    batches.push(pool.iter().rev().cloned().collect());
    for _ in 0..6 {
        let n = 2 + rng.below(4);
        batches.push((0..n).map(|_| pool[rng.below(pool.len())].clone()).collect());
    }
    one_answer(&s, &batches);
}

#[test]
fn a_later_or_sibling_row_that_is_not_a_number_leaves_the_others_their_bits() {
    let s = Shape { head_dim: 32, kv_heads: 1, per_head: 3, kind: Kind::F16 };
    let devices = devices();
    for committed in [0, 15, 60, 63, 510] {
        let mut keys = ids(1, committed + 9);
        keys[committed + 4] = BROKEN;
        let mut broken = chain(&keys, committed);
        broken.rows[4].seed = 77;
        let want = attend(&devices[0], &s, &[chain(&keys[..committed + 4], committed)], 1);
        let leaf = |slot: usize| Query { seed: keys[slot] ^ 77, pos: committed, path: Some(vec![slot]) };
        let siblings = (committed..committed + 9).map(leaf).collect();
        let siblings = Seq { keys: keys.clone(), committed, rows: siblings };
        for cpu in &devices {
            let got = attend(cpu, &s, std::slice::from_ref(&broken), 2);
            for (r, (got, want)) in got.iter().zip(&want).enumerate() {
                for (got, want) in got.iter().zip(want) {
                    same(*got, *want, || format!("row {r} before a broken one, {committed} committed"));
                }
            }
            assert!(got[5].iter().all(|v| v.is_nan()), "a row that sees a broken key must say so");
            for (r, got) in attend(cpu, &s, std::slice::from_ref(&siblings), 3).iter().enumerate() {
                assert_eq!(got.iter().all(|v| v.is_finite()), r != 4, "sibling {r} of a broken row");
            }
        }
    }
}
