//! Phase B of sequences that have their first keys in the same pages: together and each for itself.

use tamp_base::ids::{PAGE, PageId};
use tamp_formats::Kind;
use tamp_kernels::attend::KEY_CHUNK;
use tamp_kernels::cpu::Cpu;
use tamp_kernels::device::{Alike, AttnShape, BufShape, Device, KvShape, Pairing, Rope, RowMap, SeqRows};

use crate::tools::*;

/// A batch of sequences, some of which have their first chunks of keys in the same pages.
struct Case {
    map: RowMap,
    alike: Vec<Alike>,
    pages: usize,
    /// positions that can be spared at most
    most: usize,
}

/// `groups`: sequences and common chunks of each; every sequence has a past of its own behind, and a few rows of which
/// some branch.
fn case(rng: &mut Rng, groups: &[(usize, usize)], rows: usize) -> Case {
    let (mut map, mut alike, mut pages, mut most) = (RowMap::default(), vec![], 0u32, 0);
    for &(seqs, chunks) in groups {
        let common: Vec<PageId> =
            (0..(chunks * KEY_CHUNK / PAGE) as u32).map(|p| PageId(pages + p)).collect();
        pages += common.len() as u32;
        let first = map.seqs.len() as u32;
        for _ in 0..seqs {
            let (s, committed) = (map.seqs.len() as u32, chunks * KEY_CHUNK + rng.below(700));
            let (count, branches) = (1 + rng.below(rows), rng.below(3) == 0);
            map.seqs.push(SeqRows { first: map.pos.len(), count, committed, table: map.table.len() });
            map.table.extend(&common);
            while map.table.len() - map.seqs[s as usize].table < (committed + count).div_ceil(PAGE) {
                map.table.push(PageId(pages));
                pages += 1;
            }
            for r in 0..count {
                map.seq.push(s);
                // Where rows branch, all behind the first are its children.
                let child = branches && r > 1;
                map.pos.push((committed + if child { 1 } else { r }) as u32);
                map.path_at.push(child.then_some(map.path.len() as u32));
                if child {
                    map.path.extend([committed as u32, (committed + r) as u32]);
                }
            }
            // Every row but the group's first could be spared the common keys.
            most += count * chunks * KEY_CHUNK;
        }
        if chunks > 0 {
            let seqs = (first..map.seqs.len() as u32).collect();
            alike.push(Alike { seqs, keys: chunks * KEY_CHUNK + PAGE });
        }
    }
    Case { map, alike, pages: pages as usize, most }
}

/// Bits of all rows' attention, and what was spared.
fn attend(cpu: &Cpu, s: &BufShape, kind: Kind, case: &Case, alike: &[Alike]) -> (Vec<u32>, usize) {
    let kv = KvShape { layers: 1, heads: s.kv_heads, head_dim: s.head_dim, kind };
    let (mut pages, mut rng) = (cpu.pages(&kv, case.pages).unwrap(), Rng(9));
    for p in 0..case.pages as u32 {
        let values = (0..2 * s.kv_heads * s.head_dim * PAGE).map(|_| rng.normal());
        let bytes: Vec<u8> = match kind {
            Kind::F32 => values.flat_map(|v| v.to_le_bytes()).collect(),
            // Any finite halves will do: a sign, the exponent of ½ to 2, any fraction.
            _ => values.flat_map(|v| ((v.to_bits() >> 16 & 0x83ff) as u16 | 0x3800).to_le_bytes()).collect(),
        };
        cpu.write_page(&mut pages, PageId(p), &bytes).unwrap();
    }
    let map = RowMap { alike: alike.to_vec(), ..case.map.clone() };
    let (n, mut buf) = (map.rows(), cpu.buf(s).unwrap());
    let rope = Rope { freq: vec![], scale: 1.0, pairing: Pairing::Half };
    let table = cpu.linear(Kind::F32, 1, s.d, &vec![0; 4 * s.d]).unwrap();
    cpu.embed(&table, &vec![0; n], &map, &rope, &mut buf);
    let stride = buf.q.stride;
    for r in 0..n {
        buf.q.data[r * stride..][..s.q].iter_mut().for_each(|q| *q = rng.normal());
    }
    let (heads, kv_heads, head_dim) = (s.heads, s.kv_heads, s.head_dim);
    let shape = AttnShape { heads, kv_heads, head_dim, scale: 0.125, eps: 1e-5, rope: rope.into() };
    cpu.phase_b(&shape, &map, 0, &pages, &mut buf);
    let row = |r: usize| buf.att.data[r * buf.att.stride..][..s.q].iter().map(|v| v.to_bits());
    ((0..n).flat_map(row).collect(), cpu.spared(&buf))
}

#[test]
fn rows_that_are_attended_together_have_the_bits_of_rows_that_are_attended_alone() {
    let mut rng = Rng(4711);
    let cases = [
        (&[(4, 1), (2, 0)][..], 1, (3, 1), 32),
        (&[(16, 2), (3, 1), (1, 0)], 1, (6, 2), 64),
        (&[(5, 1), (1, 2)], 6, (14, 2), 16),
        (&[(2, 3)], 3, (3, 3), 48),
        (&[(3, 0)], 4, (4, 2), 16),
        (&[(40, 1)], 2, (2, 1), 16),
    ];
    for (groups, rows, (heads, kv_heads), head_dim) in cases {
        let case = case(&mut rng, groups, rows);
        let (n, ctx) = (case.map.rows(), 4 * KEY_CHUNK);
        let s = BufShape {
            rows: n,
            d: 16,
            q: heads * head_dim,
            kv: kv_heads * head_dim,
            heads,
            kv_heads,
            head_dim,
            ff: 16,
            vocab: 1,
            logits: 1,
            ctx,
        };
        for kind in [Kind::F16, Kind::F32] {
            for cpu in devices() {
                let what = format!("{} {kind} {groups:?}, {n} rows", name(&cpu));
                let (alone, none) = attend(&cpu, &s, kind, &case, &[]);
                let (together, spared) = attend(&cpu, &s, kind, &case, &case.alike);
                assert_eq!(none, 0, "{what}");
                assert!(alone.iter().all(|&v| f32::from_bits(v).is_finite()), "{what}");
                let differ = alone.iter().zip(&together).position(|(a, b)| a != b);
                assert_eq!(differ.map(|i| i / s.q), None, "{what}: row differs");
                // Few rows are not put together where that would leave workers idle.
                let enough =
                    |g: &(usize, usize)| g.1 > 0 && g.0 > 1 && g.0 * kv_heads >= 4 * cpu.pool().threads();
                let shares = groups.iter().any(enough);
                assert!(spared <= case.most, "{what}: {spared} spared of {}", case.most);
                assert!(!shares || spared > 0, "{what}: nothing spared");
            }
        }
    }
}
