//! Phase A and the head: what surrounds products and attention.
//!
//! Planted and seen to fail: sine and cosine swapped, ties to the later id, a NaN logit unreported, NaN left behind a
//! row of the feed-forward.

use tamp_base::ids::PageId;
use tamp_formats::Kind;
use tamp_kernels::cpu::Cpu;
use tamp_kernels::device::{
    AttnShape, AttnWeights, BufShape, Device, FfnWeights, KvShape, Pairing, Projection, Read, Rope, RowMap,
    SeqRows,
};

use crate::tools::*;

fn shape(rows: usize, d: usize, head_dim: usize, vocab: usize) -> BufShape {
    let (heads, kv_heads) = (3, 1);
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    BufShape { rows, d, q, kv, heads, kv_heads, head_dim, ff: 16, vocab, logits: rows, ctx: 64 }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn normals(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.normal()).collect()
}

fn norm(x: &[f64], w: &[f32], eps: f64) -> Vec<f64> {
    let r = (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64 + eps).sqrt();
    x.iter().zip(w).map(|(x, w)| x / r * *w as f64).collect()
}

fn near(got: f32, want: f64, what: &str) {
    assert!((got as f64 - want).abs() <= 1e-5 * (1.0 + want.abs()), "{what}: {got}, want {want}");
}

#[test]
fn queries_keys_and_values_are_f64s_after_bias_head_norm_and_both_rotations() {
    for (n, pairing) in [Pairing::Half, Pairing::Interleaved].into_iter().enumerate() {
        for head_dim in [16, 48, 64] {
            let mut rng = Rng(30 + n as u64);
            let (d, rows, vocab, committed) = (80, 9, 11, 14);
            let s = shape(rows, d, head_dim, vocab);
            // Only part of a head rotates in some families.
            let pairs = if head_dim == 48 { 12 } else { head_dim / 2 };
            let rope =
                Rope { freq: (0..pairs).map(|i| 1.0 / (1.0 + i as f64)).collect(), scale: 1.25, pairing };
            let table = normals(&mut rng, vocab * d);
            let (wn, qn, kn) =
                (normals(&mut rng, d), normals(&mut rng, head_dim), normals(&mut rng, head_dim));
            let sizes = [s.q, s.kv, s.kv];
            let w = sizes.map(|n| normals(&mut rng, n * d));
            let b = sizes.map(|n| normals(&mut rng, n));
            let tokens: Vec<u32> = (0..rows).map(|_| rng.below(vocab) as u32).collect();
            let map = RowMap {
                pos: (committed..committed + rows).map(|p| p as u32).collect(),
                seq: vec![0; rows],
                seqs: vec![SeqRows { first: 0, count: rows, committed, table: 0 }],
                table: vec![PageId(2), PageId(0)],
                path: vec![],
                path_at: vec![None; rows],
                alike: vec![],
            };
            // The definition.
            let mut want = vec![];
            for (r, &t) in tokens.iter().enumerate() {
                let x: Vec<f64> = table[t as usize * d..][..d].iter().map(|v| *v as f64).collect();
                let x = norm(&x, &wn, 1e-5);
                let out: [Vec<Vec<f64>>; 3] = std::array::from_fn(|part| {
                    let line =
                        |i: usize| product_f64(&w[part][i * d..][..d], x.iter().copied()) + b[part][i] as f64;
                    let all: Vec<f64> = (0..sizes[part]).map(line).collect();
                    let head = |h: &[f64]| {
                        let mut h = match part {
                            0 => norm(h, &qn, 1e-5),
                            1 => norm(h, &kn, 1e-5),
                            _ => return h.to_vec(),
                        };
                        for (i, f) in rope.freq.iter().enumerate() {
                            let (sin, cos) = ((committed + r) as f64 * f).sin_cos();
                            let (i, j) = match pairing {
                                Pairing::Half => (i, i + pairs),
                                Pairing::Interleaved => (2 * i, 2 * i + 1),
                            };
                            (h[i], h[j]) =
                                (1.25 * (h[i] * cos - h[j] * sin), 1.25 * (h[i] * sin + h[j] * cos));
                        }
                        h
                    };
                    all.chunks(head_dim).map(head).collect()
                });
                want.push(out);
            }
            for cpu in devices() {
                let linear = |part: usize| Projection::<Cpu> {
                    w: cpu.linear(Kind::F32, sizes[part], d, &bytes(&w[part])).unwrap(),
                    bias: Some(cpu.vector(&b[part]).unwrap()),
                };
                let weights = AttnWeights {
                    norm: cpu.vector(&wn).unwrap(),
                    q: linear(0),
                    k: linear(1),
                    v: linear(2),
                    o: Projection { w: cpu.linear(Kind::F32, 1, 1, &[0; 4]).unwrap(), bias: None },
                    q_norm: Some(cpu.vector(&qn).unwrap()),
                    k_norm: Some(cpu.vector(&kn).unwrap()),
                    shape: AttnShape {
                        heads: s.heads,
                        kv_heads: s.kv_heads,
                        head_dim,
                        scale: 1.0,
                        eps: 1e-5,
                        rope: rope.clone().into(),
                    },
                };
                let kv = KvShape { layers: 2, heads: 1, head_dim, kind: Kind::F32 };
                let mut pages = cpu.pages(&kv, 3).unwrap();
                let mut buf = cpu.buf(&s).unwrap();
                let table = cpu.linear(Kind::F32, vocab, d, &bytes(&table)).unwrap();
                cpu.embed(&table, &tokens, &map, &rope, &mut buf);
                cpu.phase_a(&weights, &map, 1, &mut pages, &mut buf);
                for r in 0..rows {
                    let slot = map.slot(r);
                    for h in 0..s.heads {
                        for i in 0..head_dim {
                            let got = buf.q.data[r * buf.q.stride + h * head_dim + i];
                            near(got, want[r][0][h][i], &format!("{} {pairing:?} q {r} {h} {i}", name(&cpu)));
                        }
                    }
                    for i in 0..head_dim {
                        let (k, v) =
                            (pages.k(1, slot.page, 0).cast::<f32>(), pages.v(1, slot.page, 0).cast::<f32>());
                        let at = slot.offset as usize;
                        // SAFETY: a page's head holds 16 keys of `head_dim` floats each way.
                        let (k, v) = unsafe { (*k.add(i * 16 + at), *v.add(at * head_dim + i)) };
                        near(k, want[r][1][0][i], &format!("{} {pairing:?} k {r} {i}", name(&cpu)));
                        near(v, want[r][2][0][i], &format!("{} v {r} {i}", name(&cpu)));
                    }
                }
            }
        }
    }
}

const NO_ROPE: Rope = Rope { freq: vec![], scale: 1.0, pairing: Pairing::Half };

/// The first position of `rows` sequences.
fn first_rows(rows: usize) -> RowMap {
    RowMap {
        pos: vec![0; rows],
        seq: (0..rows as u32).collect(),
        seqs: (0..rows).map(|r| SeqRows { first: r, count: 1, committed: 0, table: r }).collect(),
        table: (0..rows as u32).map(PageId).collect(),
        path: vec![],
        path_at: vec![None; rows],
        alike: vec![],
    }
}

#[test]
fn a_nan_in_one_batch_never_reaches_the_next_one_whatever_the_feed_forward_width() {
    let (d, rows) = (32, 5);
    let (mut rng, map) = (Rng(77), first_rows(rows));
    // The second half of the vocabulary is NaN.
    let mut table = normals(&mut rng, 2 * rows * d);
    table[rows * d..].fill(f32::NAN);
    let tokens = |from: usize| (from..from + rows).map(|t| t as u32).collect::<Vec<_>>();
    for ff in [8, 16, 24, 172, 256, 300] {
        for (kind, bias) in [(Kind::F32, false), (Kind::F32, true), (Kind::Q8_0, true)] {
            let [gate, up] = [0; 2].map(|_| matrix(&mut rng, kind, ff, d, Scales::Tame));
            let down = normals(&mut rng, d * ff);
            let (b, ones) = (normals(&mut rng, ff), vec![1.0; d]);
            for cpu in devices() {
                let part = |bytes: &[u8]| Projection::<Cpu> {
                    w: cpu.linear(kind, ff, d, bytes).unwrap(),
                    bias: bias.then(|| cpu.vector(&b).unwrap()),
                };
                let w = FfnWeights {
                    norm: cpu.vector(&ones).unwrap(),
                    gate: part(&gate),
                    up: part(&up),
                    down: Projection { w: cpu.linear(Kind::F32, d, ff, &bytes(&down)).unwrap(), bias: None },
                    eps: 1e-5,
                };
                let table = cpu.linear(Kind::F32, 2 * rows, d, &bytes(&table)).unwrap();
                let new = || cpu.buf(&BufShape { ff, ..shape(rows, d, 16, 2 * rows) }).unwrap();
                let batch = |from: usize, buf: &mut <Cpu as Device>::Buf| {
                    cpu.embed(&table, &tokens(from), &map, &NO_ROPE, buf);
                    cpu.phase_d(&w, &map, buf);
                    cpu.phase_e(&w, &map, buf);
                    let row = |r| {
                        let mut out = vec![];
                        cpu.wait(cpu.read_back(buf, Read::Hidden(r)), &mut out);
                        out
                    };
                    (0..rows).flat_map(row).collect::<Vec<f32>>()
                };
                let what = format!("{} {kind} ff {ff} bias {bias}", name(&cpu));
                let (mut fresh, mut used) = (new(), new());
                assert!(batch(rows, &mut used).iter().all(|v| v.is_nan()), "{what}");
                let (want, got) = (batch(0, &mut fresh), batch(0, &mut used));
                assert!(want.iter().all(|v| v.is_finite()), "{what}");
                let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert!(bits(&got) == bits(&want), "{what}");
            }
        }
    }
}

#[test]
fn the_head_names_the_lowest_of_equal_best_tokens_and_reports_nan_whatever_the_workers() {
    let (d, vocab, rows) = (32, 5_003, 4);
    // Logit of a token is its weight times the sum of the normed row, so equal weights tie exactly.
    let line = |t: usize| if [17, 4_095, 4_096, 5_002].contains(&t) { 1.0 } else { (t % 13) as f32 / 20.0 };
    let mut weights: Vec<f32> = (0..vocab).flat_map(|t| vec![line(t); d]).collect();
    let embed: Vec<f32> = (0..rows).flat_map(|r| vec![if r == 2 { -1.0 } else { 1.0 }; d]).collect();
    for broken in [false, true] {
        if broken {
            weights[3_000 * d] = f32::NAN;
        }
        for cpu in devices() {
            let mut buf = cpu.buf(&shape(rows, d, 16, vocab)).unwrap();
            let (map, rope) = (first_rows(rows), NO_ROPE);
            let table = cpu.linear(Kind::F32, rows, d, &bytes(&embed)).unwrap();
            cpu.embed(&table, &[0, 1, 2, 3], &map, &rope, &mut buf);
            let head = cpu.linear(Kind::F32, vocab, d, &bytes(&weights)).unwrap();
            let norm = cpu.vector(&vec![1.0; d]).unwrap();
            let best = cpu.head(&norm, 1e-6, &head, &[3, 2, 0], &[2, 3], &mut buf);
            // Row 2 is negative, so its best are the multiples of 13, and 0 the lowest.
            assert_eq!(best.iter().map(|b| b.token).collect::<Vec<_>>(), [17, 0, 17], "{}", name(&cpu));
            assert!(best.iter().all(|b| b.nan == broken), "{}: {best:?}", name(&cpu));
            for (row, i) in [(3, 0), (2, 1)] {
                let mut logits = vec![];
                cpu.wait(cpu.read_back(&buf, Read::Logits(row)), &mut logits);
                assert_eq!(logits.len(), vocab);
                assert_eq!(logits[best[i].token as usize].to_bits(), best[i].logit.to_bits());
                assert_eq!(logits[3_000].is_nan(), broken);
            }
        }
    }
}
