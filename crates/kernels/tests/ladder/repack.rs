//! Packing and its inverse.
//!
//! Planted and seen to fail: fifth bits read back from a neighbour, Q4_K's minimum read from its scale's place.

use tamp_formats::Kind;
use tamp_kernels::linear::Linear;
use tamp_kernels::rung;

use crate::tools::*;

fn round_trip(kind: Kind, rows: usize, cols: usize, bytes: &[u8]) {
    let row_bytes = kind.row_bytes(cols).unwrap();
    for pool in pools() {
        for rung in rung::available() {
            let w = Linear::pack(&pool, rung, kind, rows, cols, bytes).unwrap();
            for i in 0..rows {
                let want = &bytes[i * row_bytes..][..row_bytes];
                assert!(w.row(i) == want, "{kind} {rows}×{cols} on {}: row {i} changed", rung.name);
            }
        }
    }
}

#[test]
fn packing_is_undone_bit_for_bit_at_any_shape() {
    let mut rng = Rng(1);
    for kind in Kind::ALL {
        for rows in [1, 15, 16, 17, 33, 48] {
            let blocks: &[usize] = if kind.block() == 1 { &[1, 7, 16, 40, 48, 67] } else { &[1, 2, 3, 5] };
            for &n in blocks {
                let cols = n * kind.block();
                let bytes = matrix(&mut rng, kind, rows, cols, Scales::Any);
                round_trip(kind, rows, cols, &bytes);
            }
        }
    }
}

#[test]
fn every_bit_pattern_of_a_scale_survives_packing() {
    let pool = &pools()[1];
    let rung = rung::find("auto").unwrap();
    for kind in [Kind::ALL.as_slice(), &[Kind::F16]].concat() {
        let fields: Vec<usize> = match scale_fields(kind) {
            Some((d, m)) => [Some(d), m].into_iter().flatten().collect(),
            None => vec![0],
        };
        // 256 blocks per row, one pattern each.
        let (rows, cols) = (256, 256 * kind.block());
        let mut bytes = vec![0x5a; rows * kind.row_bytes(cols).unwrap()];
        for (i, block) in bytes.chunks_exact_mut(kind.bytes()).enumerate() {
            for (n, &at) in fields.iter().enumerate() {
                let pattern = (i as u16).wrapping_mul(1 + 6 * n as u16);
                block[at..at + 2].copy_from_slice(&pattern.to_le_bytes());
            }
        }
        let w = Linear::pack(pool, rung, kind, rows, cols, &bytes).unwrap();
        let mut values = vec![0.0; cols];
        for (i, want) in bytes.chunks_exact(kind.row_bytes(cols).unwrap()).enumerate() {
            assert!(w.row(i) == want, "{kind}: row {i} changed");
            w.decode_row(i, &mut values);
            for (got, want) in values.iter().zip(decode(kind, want, cols)) {
                same(*got, want, || format!("{kind} row {i} decoded"));
            }
        }
    }
}

#[test]
fn a_matrix_of_the_wrong_size_is_refused_with_both_sizes() {
    let pool = &pools()[0];
    let rung = rung::find("portable").unwrap();
    for kind in Kind::ALL {
        let (rows, cols) = (3, 2 * kind.block());
        let want = rows * kind.row_bytes(cols).unwrap();
        for got in [0, want - 1, want + 1] {
            let e = Linear::pack(pool, rung, kind, rows, cols, &vec![0; got]).err().unwrap().to_string();
            assert!(e.contains(&want.to_string()) && e.contains(&got.to_string()), "{e}");
        }
        assert!(Linear::pack(pool, rung, kind, 0, cols, &[]).is_err());
        assert!(Linear::pack(pool, rung, kind, usize::MAX, cols, &[]).is_err());
        if kind.block() > 1 {
            assert!(Linear::pack(pool, rung, kind, 1, cols + 1, &vec![0; want]).is_err());
        }
    }
}
