//! Products: kernels called directly, and through the device.
//!
//! Planted and seen to fail: nibble groups swapped, Q4_0's offset 7, Q5_0's second block with the first one's scale,
//! an FMA in two roundings on one rung, AVX2 sums of 16 bits that saturate, every row given the first one's result, a
//! NaN quantised to 0.

use tamp_formats::Kind;
use tamp_kernels::device::Device;
use tamp_kernels::linear::Linear;
use tamp_kernels::rung::{self, WIDEST};

use crate::tools::*;

/// Columns that leave the last superblock ragged where the format allows it.
fn ragged(kind: Kind) -> usize {
    match kind.block() {
        1 => 40,
        32 => 160,
        _ => 512,
    }
}

/// Weight bytes at their extremes, two superblocks' worth, with unit scales.
fn extreme_weights(kind: Kind, rng: &mut Rng, cols: usize) -> Vec<u8> {
    let fills: [&[u8]; 8] =
        [&[0x00], &[0xff], &[0x0f], &[0xf0], &[0x80], &[0x7f], &[0xff, 0], &[0x55, 0xaa, 0x33]];
    let mut bytes = vec![];
    for fill in fills {
        bytes.extend((0..kind.row_bytes(cols).unwrap()).map(|i| fill[i % fill.len()]));
    }
    for _ in 0..12 {
        bytes.extend(matrix(rng, kind, 1, cols, Scales::One));
    }
    let (d, m) = scale_fields(kind).unwrap();
    for block in bytes.chunks_exact_mut(kind.bytes()) {
        for at in [Some(d), m].into_iter().flatten() {
            block[at..at + 2].copy_from_slice(&half::f16::ONE.to_le_bytes());
        }
    }
    bytes
}

#[test]
fn integer_sums_are_exact_at_the_extremes_on_every_rung_and_width() {
    for kind in Kind::ALL {
        if scale_fields(kind).is_none() {
            continue;
        }
        let mut rng = Rng(2);
        let cols: usize = if kind.block() == 32 { 96 } else { 512 };
        let len = cols.next_multiple_of(256);
        let bytes = extreme_weights(kind, &mut rng, cols);
        let rows = bytes.len() / kind.row_bytes(cols).unwrap();
        let mut codes: Vec<Vec<i8>> = vec![
            vec![127; cols],
            vec![-127; cols],
            (0..cols).map(|i| if i % 2 == 0 { 127 } else { -127 }).collect(),
            (0..cols).map(|i| if i / 16 % 2 == 0 { 127 } else { -127 }).collect(),
            (0..cols).map(|i| i as i8 | 1).collect(),
        ];
        codes.extend((0..4).map(|_| (0..cols).map(|_| (rng.below(255) as i32 - 127) as i8).collect()));
        // One at a time: a code in the wrong place has nowhere to hide.
        codes.extend((0..cols).map(|i| (0..cols).map(|k| if k == i { 1 } else { 0 }).collect()));
        let acts: Vec<Row> =
            codes.into_iter().map(|q| Row::of_codes(q, vec![1.0; len / 16], vec![], len)).collect();
        let lines: Vec<&[u8]> = bytes.chunks(kind.row_bytes(cols).unwrap()).collect();
        let weights: Vec<Vec<f32>> = lines.iter().map(|l| decode(kind, l, cols)).collect();
        let want: Vec<Vec<f32>> = acts
            .iter()
            .map(|a| {
                let one = |(line, w): (&&[u8], &Vec<f32>)| {
                    let spec = product(kind, line, cols, a);
                    let exact: i64 = w.iter().zip(&a.q).map(|(w, &q)| *w as i64 * q as i64).sum();
                    if a.q.iter().filter(|q| **q != 0).count() == 1 {
                        assert_eq!(spec as i64, exact, "{kind}: the specification itself");
                    }
                    spec
                };
                lines.iter().zip(&weights).map(one).collect()
            })
            .collect();
        let pool = &pools()[0];
        for rung in rung::available() {
            let w = Linear::pack(pool, rung, kind, rows, cols, &bytes).unwrap();
            assert_eq!(w.tiles() % 2, 0, "both kinds of kernel take all tiles");
            for (t, pair) in (1..=WIDEST).flat_map(|t| [(t, false), (t, true)]) {
                for (i, group) in acts.chunks(t).enumerate() {
                    let group: Vec<&Row> = group.iter().collect();
                    let Some(out) = direct(&w, pair, 0, w.tiles(), &group) else { continue };
                    let width = group.len();
                    for (r, line) in out.iter().enumerate() {
                        let (tile, a) = (r / width, i * t + r % width);
                        for lane in 0..16.min(rows - tile * 16) {
                            same(line[lane], want[a][tile * 16 + lane], || {
                                format!(
                                    "{kind} {} T={width}: row {}, activation {a}",
                                    rung.name,
                                    tile * 16 + lane
                                )
                            });
                        }
                    }
                }
            }
        }
    }
}

/// Both kinds of random scales; a NaN equals any NaN.
#[test]
fn every_kernel_gives_the_bits_of_the_scalar_specification_at_any_tile_run() {
    let pool = &pools()[0];
    for kind in Kind::ALL {
        for scales in [Scales::Tame, Scales::Any] {
            let mut rng = Rng(3);
            let (rows, cols) = (53, ragged(kind));
            let bytes = matrix(&mut rng, kind, rows, cols, scales);
            let lines: Vec<&[u8]> = bytes.chunks(kind.row_bytes(cols).unwrap()).collect();
            let acts: Vec<Row> = (0..WIDEST)
                .map(|_| {
                    let x: Vec<f32> = (0..cols).map(|_| rng.normal()).collect();
                    Row::quantised(&x, kind)
                })
                .collect();
            let want: Vec<Vec<f32>> =
                acts.iter().map(|a| lines.iter().map(|l| product(kind, l, cols, a)).collect()).collect();
            for rung in rung::available() {
                let w = Linear::pack(pool, rung, kind, rows, cols, &bytes).unwrap();
                let kernels = [(false, &w.kernel.single), (true, &w.kernel.paired)];
                assert!(kernels[0].1[0].is_some(), "{}: width 1 is always there", rung.name);
                let widths = kernels.iter().flat_map(|(pair, table)| {
                    (1..=WIDEST).filter(|t| table[t - 1].is_some()).map(|t| (*pair, t))
                });
                for (pair, t) in widths {
                    for (first, tiles) in [(0, 1), (3, 1), (0, 4), (1, 2), (1, 3)] {
                        if pair && tiles % 2 == 1 {
                            continue;
                        }
                        let group: Vec<&Row> = acts[WIDEST - t..].iter().collect();
                        let out = direct(&w, pair, first, tiles, &group).unwrap();
                        for (r, line) in out.iter().enumerate() {
                            let tile = first + r / t;
                            for lane in 0..16.min(rows - tile * 16) {
                                let row = tile * 16 + lane;
                                same(line[lane], want[WIDEST - t + r % t][row], || {
                                    format!("{kind} {} T={t} row {row} of tiles {first}+{tiles}", rung.name)
                                });
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_among_1_to_64_rows_in_any_chunks_on_any_rung_and_any_workers() {
    let devices = devices();
    for kind in Kind::ALL {
        let mut rng = Rng(4);
        let (rows, cols) = (37, ragged(kind));
        let bytes = matrix(&mut rng, kind, rows, cols, Scales::Tame);
        let xs: Vec<Vec<f32>> = (0..64).map(|_| (0..cols).map(|_| rng.normal()).collect()).collect();
        let xs: Vec<&[f32]> = xs.iter().map(|x| x.as_slice()).collect();
        let lines: Vec<&[u8]> = bytes.chunks(kind.row_bytes(cols).unwrap()).collect();
        let want: Vec<Vec<f32>> = xs
            .iter()
            .map(|x| {
                let a = Row::quantised(x, kind);
                lines.iter().map(|l| product(kind, l, cols, &a)).collect()
            })
            .collect();
        for cpu in &devices {
            let mut w = Multiplier::new(cpu, kind, rows, cols, &bytes, 64);
            assert_eq!(cpu.linear_kernel(w.linear()), format!("{}.{kind}", cpu.rung().name));
            let mut check = |from: usize, n: usize| {
                let got = w.run(cpu, &xs[from..from + n]);
                for (r, line) in got.iter().enumerate() {
                    for (i, v) in line.iter().enumerate() {
                        same(*v, want[from + r][i], || {
                            format!("{kind} on {}: output {i} of row {r} of {n} from {from}", name(cpu))
                        });
                    }
                }
            };
            for n in 1..=64 {
                check(64 - n, n);
            }
            let mut from = 0;
            while from < 64 {
                let n = (1 + rng.below(13)).min(64 - from);
                check(from, n);
                from += n;
            }
        }
    }
}

#[test]
fn products_are_close_to_f64_with_quantised_and_with_unquantised_activations() {
    let cpu = &devices()[0];
    let nmse = |pairs: &[(f64, f64)]| {
        let error: f64 = pairs.iter().map(|(got, want)| (got - want).powi(2)).sum();
        error / pairs.iter().map(|(_, want)| want.powi(2)).sum::<f64>()
    };
    for kind in Kind::ALL {
        let mut rng = Rng(5);
        let (rows, cols) = (48, 1536);
        let source: Vec<f32> = (0..rows * cols).map(|_| rng.normal() * 0.03).collect();
        let mut bytes = vec![0; rows * kind.row_bytes(cols).unwrap()];
        (kind.row().encode)(&source, &mut bytes);
        // A few large activations, as real models have.
        let xs: Vec<Vec<f32>> = (0..9)
            .map(|_| (0..cols).map(|i| rng.normal() * if i % 97 == 0 { 4.0 } else { 1.0 }).collect())
            .collect();
        let mut w = Multiplier::new(cpu, kind, rows, cols, &bytes, 9);
        let got = w.run(cpu, &xs.iter().map(|x| x.as_slice()).collect::<Vec<_>>());
        let (mut plain, mut quantised) = (vec![], vec![]);
        for (x, got) in xs.iter().zip(&got) {
            let a = Row::quantised(x, kind);
            for (line, got) in bytes.chunks(kind.row_bytes(cols).unwrap()).zip(got) {
                let line = decode(kind, line, cols);
                plain.push((*got as f64, product_f64(&line, x.iter().map(|v| *v as f64))));
                if kind.act_block() > 0 {
                    let codes =
                        a.q.iter().enumerate().map(|(i, q)| *q as f64 * a.d[i / kind.act_block()] as f64);
                    quantised.push((*got as f64, product_f64(&line, codes)));
                }
            }
        }
        assert!(
            nmse(&plain) <= if kind.act_block() > 0 { 5e-4 } else { 1e-12 },
            "{kind}: {:e}",
            nmse(&plain)
        );
        if !quantised.is_empty() {
            assert!(nmse(&quantised) <= 1e-9, "{kind}: {:e}", nmse(&quantised));
        }
    }
}

#[test]
fn a_fault_in_an_activation_reaches_every_output_instead_of_vanishing() {
    for cpu in &devices() {
        for kind in Kind::ALL {
            let mut rng = Rng(6);
            let (rows, cols) = (17, ragged(kind));
            let bytes = matrix(&mut rng, kind, rows, cols, Scales::Tame);
            let mut w = Multiplier::new(cpu, kind, rows, cols, &bytes, 3);
            let clean: Vec<f32> = (0..cols).map(|_| rng.normal()).collect();
            for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut bad = clean.clone();
                bad[cols - 1] = fault;
                let got = w.run(cpu, &[&clean, &bad, &clean]);
                assert!(got[1].iter().all(|v| !v.is_finite()), "{kind} on {}: {fault} vanished", name(cpu));
                assert!(
                    got[0].iter().chain(&got[2]).all(|v| v.is_finite()),
                    "{kind}: {fault} spread to other rows"
                );
            }
        }
    }
}
