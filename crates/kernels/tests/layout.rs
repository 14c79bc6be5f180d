//! The bytes of the tiles: the fast way there writes what the slow one does, and they change only with the name that
//! bundles carry.
//!
//! Planted and seen to fail: a dword shifted in `repack.rs`, a scale written one line off in a tile file.
#![allow(clippy::unwrap_used)]

#[path = "ladder/tools.rs"]
#[allow(dead_code)]
mod tools;

use std::sync::Arc;

use tamp_formats::Kind;
use tamp_kernels::linear::{FILE_ORDER, LAYOUT, Linear};
use tamp_kernels::{repack, rung};
use tamp_os::held::{Held, Span};
use tools::*;

/// The name these hashes belong to.
const NAME: &str = "r16k4.1";

/// FNV-1a over the packed bytes of a seeded matrix.
const GOLDEN: [(&str, u64); 14] = [
    ("f32", 0x8655_7711_279d_c03a),
    ("f16", 0x1ebb_0735_4dad_0c72),
    ("q4_0", 0x0b4f_f508_bd59_c92d),
    ("q4_1", 0x41c4_32f2_d7c6_5817),
    ("q5_0", 0xdaaf_f40e_dfa1_8968),
    ("q5_1", 0x8aa9_c59d_f663_5a22),
    ("q8_0", 0x9160_e54c_60cd_be30),
    ("q2_k", 0xeb4f_8f97_f6ae_fc8b),
    ("q3_k", 0x6ba6_f594_85a1_38f6),
    ("q4_k", 0xd6d5_6052_3afe_a076),
    ("q5_k", 0x51e4_6d92_c343_d48f),
    ("q6_k", 0xf6d2_c54c_f54b_d3a1),
    ("iq4_nl", 0x30cc_24ab_2349_c560),
    ("bf16", 0xc081_db33_0048_62a1),
];

fn span(bytes: &[u8]) -> Span {
    Span::new(Arc::new(Held::copy(bytes).unwrap()), 0..bytes.len()).unwrap()
}

fn seeded(kind: Kind) -> (usize, usize, Vec<u8>) {
    let (rows, cols) = (37, if kind.block() == 256 { 768 } else { 160 });
    (rows, cols, matrix(&mut Rng(500 + kind as u64), kind, rows, cols, Scales::Any))
}

#[test]
fn fast_packing_writes_the_bytes_of_slow_packing() {
    let mut fast = 0;
    let rung = rung::find("auto").unwrap();
    let mut rng = Rng(77);
    for kind in Kind::ALL {
        let Some(pack) = repack::of(kind) else { continue };
        fast += 1;
        let kernel = (rung.kernel)(kind);
        let row = kernel.k / kind.block() * kind.bytes();
        for blocks in 1..=kernel.k / kind.block() {
            for lane in [0, 1, 7, 15] {
                let src: Vec<u8> = (0..row).map(|_| rng.next() as u8).collect();
                // The tail of a row may be shorter than a superblock.
                let src = &src[..blocks * kind.bytes()];
                let (mut slow, mut quick) = (vec![0; kernel.bytes], vec![0; kernel.bytes]);
                (kernel.pack)(src, lane, &mut slow);
                pack(src, lane, &mut quick);
                assert!(slow == quick, "{kind}, lane {lane}, {blocks} blocks");
            }
        }
    }
    assert!(fast >= 8, "{fast} formats have a fast way");
}

#[test]
fn a_tiles_bytes_change_only_with_the_name_of_the_layout() {
    assert_eq!(LAYOUT, NAME, "the layout has another name: put it and the new hashes here too");
    let pool = &pools()[0];
    for rung in rung::available() {
        let of = |kind: Kind| {
            let (rows, cols, bytes) = seeded(kind);
            let w = Linear::pack(pool, rung, kind, rows, cols, &bytes).unwrap();
            let fnv = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
            w.packed().iter().fold(0xcbf2_9ce4_8422_2325, fnv)
        };
        let all: Vec<(Kind, u64)> = Kind::ALL.iter().map(|&k| (k, of(k))).collect();
        println!("{}: {all:#018x?}", rung.name);
        for (kind, got) in all {
            let want = GOLDEN.iter().find(|g| g.0 == kind.name()).map(|g| g.1);
            assert!(
                want == Some(got),
                "{kind} on {} packs to other bytes than `{NAME}` stands for ({got:#018x}). If that is on purpose, \
                 give LAYOUT in src/linear.rs a new name, keep the old inverse in Linear::adopt, and put name and \
                 hashes here: bundles of the old name would be misread",
                rung.name
            );
        }
    }
}

#[test]
fn a_packed_matrix_is_taken_back_in_place_and_from_file_order_by_packing() {
    let pool = &pools()[0];
    let rung = rung::find("auto").unwrap();
    for kind in Kind::ALL {
        let (rows, cols, bytes) = seeded(kind);
        let made = Linear::pack(pool, rung, kind, rows, cols, &bytes).unwrap();
        let held = span(made.packed());
        let there = held.as_ptr();
        let adopted = Linear::adopt(pool, rung, kind, rows, cols, LAYOUT, held).unwrap();
        assert_eq!(adopted.tile(0), there, "{kind} was copied");
        let rebuilt = Linear::adopt(pool, rung, kind, rows, cols, FILE_ORDER, span(&bytes)).unwrap();
        for w in [&adopted, &rebuilt] {
            assert!(w.packed() == made.packed(), "{kind}");
            assert!((0..rows).all(|r| w.row(r) == made.row(r)), "{kind}");
        }
    }
}

#[test]
fn a_packed_matrix_of_another_size_or_layout_is_refused_and_an_odd_address_is_copied() {
    let pool = &pools()[0];
    let rung = rung::find("portable").unwrap();
    for kind in Kind::ALL {
        let (rows, cols, bytes) = seeded(kind);
        let made = Linear::pack(pool, rung, kind, rows, cols, &bytes).unwrap();
        let adopt =
            |rows, cols, layout: &str, b: Span| Linear::adopt(pool, rung, kind, rows, cols, layout, b);
        let n = made.packed().len();
        for cut in [0, 1, 64, n - 64] {
            let e = adopt(rows, cols, LAYOUT, span(&made.packed()[..cut])).err().unwrap().to_string();
            assert!(e.contains(&n.to_string()) && e.contains(&cut.to_string()), "{e}");
        }
        assert!(adopt(rows + 16, cols, LAYOUT, span(made.packed())).is_err());
        assert!(adopt(usize::MAX, cols, LAYOUT, span(made.packed())).is_err());
        assert!(adopt(rows, 0, LAYOUT, span(made.packed())).is_err());
        let e = adopt(rows, cols, "r16k4.0", span(made.packed())).err().unwrap().to_string();
        assert!(e.contains("`r16k4.0`") && e.contains("r16k4.1, rows") && e.contains("tamp convert"), "{e}");
        let mut odd = vec![0; 3];
        odd.extend_from_slice(made.packed());
        let held = Arc::new(Held::copy(&odd).unwrap());
        let w = adopt(rows, cols, LAYOUT, Span::new(held, 3..odd.len()).unwrap()).unwrap();
        assert!(w.tile(0).addr() % 64 == 0 && w.packed() == made.packed());
    }
}
