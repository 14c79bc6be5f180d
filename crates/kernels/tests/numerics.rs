//! The bits of this build, held to committed hashes on every rung: prefix caches and recorded runs outlive a build,
//! so bits may change only together with the numerics id.
#![allow(clippy::unwrap_used)]

#[path = "ladder/tools.rs"]
#[allow(dead_code)]
mod tools;

use tamp_base::ids::PageId;
use tamp_formats::Kind;
use tamp_kernels::cpu::Cpu;
use tamp_kernels::device::{
    AttnShape, AttnWeights, BufShape, Device, FfnWeights, KvShape, Pairing, Projection, Read, Rope, RowMap,
    SeqRows,
};
use tamp_kernels::numerics::NUMERICS;
use tools::*;

/// The id these hashes belong to.
const ID: &str = "2";

/// What each part of the arithmetic gives.
const GOLDEN: [(&str, u64); 16] = [
    ("f32", 0x5fe0_3be6_2172_4903),
    ("f16", 0xd3c6_9253_a97a_7326),
    ("q4_0", 0xce2b_cc9a_bdb9_eff0),
    ("q4_1", 0x9413_508c_5b52_2928),
    ("q5_0", 0xcf13_83d3_1bd0_0e26),
    ("q5_1", 0x3b1c_7e10_6ad9_eda4),
    ("q8_0", 0x8169_b6d0_69e1_9627),
    ("q2_k", 0xb9ff_dd8a_589d_cfec),
    ("q3_k", 0xce35_271b_90d6_c234),
    ("q4_k", 0xfa57_c9cb_4a69_490f),
    ("q5_k", 0xd458_5b3e_6c2e_a603),
    ("q6_k", 0x11e7_f335_40af_16c2),
    ("iq4_nl", 0x776f_7796_adb8_493d),
    ("bf16", 0x634b_0630_1dd5_cf6d),
    ("layer", 0x825d_ad2b_73ea_e15c),
    ("head", 0x3cb4_3aa9_da81_01ec),
];

/// FNV-1a over the bits.
fn hash<'a>(values: impl IntoIterator<Item = &'a f32>) -> u64 {
    let bytes = values.into_iter().flat_map(|v| v.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3))
}

fn product_of(cpu: &Cpu, kind: Kind) -> u64 {
    let mut rng = Rng(100 + kind as u64);
    let (rows, cols, n) = (37, if kind.block() == 256 { 512 } else { 160 }, 11);
    let bytes = matrix(&mut rng, kind, rows, cols, Scales::Tame);
    let xs: Vec<Vec<f32>> = (0..n).map(|_| (0..cols).map(|_| rng.normal()).collect()).collect();
    let xs: Vec<&[f32]> = xs.iter().map(|x| x.as_slice()).collect();
    let out = Multiplier::new(cpu, kind, rows, cols, &bytes, n).run(cpu, &xs);
    hash(out.iter().flatten())
}

/// A layer and a head: 580 rows of a prompt, then three more. Residual stream, and logits with the best tokens.
fn layer(cpu: &Cpu) -> (u64, u64) {
    let (d, heads, kv_heads, head_dim, ff, vocab) = (64, 4, 2, 16, 96, 53);
    let mut rng = Rng(200);
    let mut linear = |kind: Kind, rows: usize, cols: usize| {
        cpu.linear(kind, rows, cols, &matrix(&mut rng, kind, rows, cols, Scales::Tame)).unwrap()
    };
    let table = linear(Kind::F16, vocab, d);
    let plain = |w| Projection { w, bias: None };
    let bias: Vec<f32> = (0..heads * head_dim).map(|i| i as f32 / 64.0 - 0.3).collect();
    let rope = Rope {
        freq: (0..head_dim / 2).map(|i| 1.0 / (1 + 13 * i * i) as f64).collect(),
        scale: 1.0,
        pairing: Pairing::Interleaved,
    };
    let vector =
        |n: usize| cpu.vector(&(0..n).map(|i| 0.5 + i as f32 / n as f32).collect::<Vec<_>>()).unwrap();
    let attn = AttnWeights {
        norm: vector(d),
        q: Projection { w: linear(Kind::Q8_0, heads * head_dim, d), bias: Some(cpu.vector(&bias).unwrap()) },
        k: plain(linear(Kind::Q4_1, kv_heads * head_dim, d)),
        v: plain(linear(Kind::Q5_0, kv_heads * head_dim, d)),
        o: plain(linear(Kind::F32, d, heads * head_dim)),
        q_norm: Some(vector(head_dim)),
        k_norm: Some(vector(head_dim)),
        shape: AttnShape { heads, kv_heads, head_dim, scale: 0.25, eps: 1e-5, rope: rope.clone().into() },
    };
    let ffn = FfnWeights {
        norm: vector(d),
        gate: plain(linear(Kind::F16, ff, d)),
        up: plain(linear(Kind::Q4_0, ff, d)),
        down: plain(linear(Kind::Q8_0, d, ff)),
        eps: 1e-5,
    };
    let head = linear(Kind::F16, vocab, d);
    let all = 583;
    let shape = BufShape {
        rows: 580,
        d,
        q: heads * head_dim,
        kv: kv_heads * head_dim,
        heads,
        kv_heads,
        head_dim,
        ff,
        vocab,
        logits: 2,
        ctx: all,
    };
    let mut buf = cpu.buf(&shape).unwrap();
    let mut pages =
        cpu.pages(&KvShape { layers: 1, heads: kv_heads, head_dim, kind: Kind::F16 }, 40).unwrap();
    let (mut stream, mut logits) = (vec![], vec![]);
    for (committed, count) in [(0, 580), (580, 3)] {
        let rows = RowMap {
            pos: (committed as u32..(committed + count) as u32).collect(),
            seq: vec![0; count],
            seqs: vec![SeqRows { first: 0, count, committed, table: 0 }],
            table: (0..40).map(PageId).collect(),
            path: vec![],
            path_at: vec![None; count],
            alike: vec![],
        };
        let tokens: Vec<u32> = (0..count).map(|i| ((committed + i) * 7 % vocab) as u32).collect();
        cpu.embed(&table, &tokens, &rows, &rope, &mut buf);
        cpu.phase_a(&attn, &rows, 0, &mut pages, &mut buf);
        cpu.phase_b(&attn.shape, &rows, 0, &pages, &mut buf);
        cpu.phase_c(&attn, &rows, &mut buf);
        cpu.phase_d(&ffn, &rows, &mut buf);
        cpu.phase_e(&ffn, &rows, &mut buf);
        let read = |buf: &_, what, to: &mut Vec<f32>| {
            let mut out = vec![];
            cpu.wait(cpu.read_back(buf, what), &mut out);
            assert!(!out.is_empty() && out.iter().all(|v| v.is_finite()));
            to.extend(out);
        };
        for r in 0..count {
            read(&buf, Read::Hidden(r), &mut stream);
        }
        let last = [count - 3, count - 2, count - 1];
        for best in cpu.head(&attn.norm, 1e-5, &head, &last, &last[1..], &mut buf) {
            logits.extend([best.token as f32, best.logit]);
        }
        for r in &last[1..] {
            read(&buf, Read::Logits(*r), &mut logits);
        }
    }
    (hash(&stream), hash(&logits))
}

#[test]
fn bits_change_only_with_the_numerics_id() {
    assert_eq!(
        NUMERICS, ID,
        "the numerics id was raised: put it and the new hashes into tests/numerics.rs too"
    );
    for cpu in devices() {
        let mut got: Vec<(&str, u64)> = Kind::ALL.iter().map(|k| (k.name(), product_of(&cpu, *k))).collect();
        let (stream, logits) = layer(&cpu);
        got.extend([("layer", stream), ("head", logits)]);
        println!("{}: {got:#018x?}", name(&cpu));
        for (part, hash) in got {
            let want = GOLDEN.iter().find(|g| g.0 == part).map(|g| g.1);
            assert!(
                want == Some(hash),
                "{part} on {} gives other bits than numerics id {ID:?} stands for ({hash:#018x}, not {want:x?}). If \
                 that is on purpose, raise NUMERICS in src/numerics.rs and the id and hashes in tests/numerics.rs \
                 together; caches and records of the old id then end",
                name(&cpu)
            );
        }
    }
}
