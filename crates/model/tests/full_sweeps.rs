//! The comparisons of `one_answer` and `tree` over every format, more boundaries and more random cases; with
//! `TAMP_FULL=1` only.
#![allow(clippy::unwrap_used)]

mod common;

use common::compare::*;
use common::*;
use tamp_base::ids::Token;
use tamp_formats::Kind;
use tamp_kernels::rung;

#[test]
fn siblings_of_every_format_around_every_boundary() {
    if !full("siblings_of_every_format_around_every_boundary") {
        return;
    }
    for kind in Kind::ALL {
        for (threads, kv) in [(1, Kind::F32), (2, Kind::F16), (3, Kind::F16)] {
            let how = How::usual().threads(threads).kv(kv);
            siblings_around(&of_kind(kind, 50 + threads as u64), how, &[16, 48, 64, 128, 512], 4);
        }
    }
    let w = of_kind(Kind::Q4_0, 60);
    for rung in rung::available() {
        siblings_around(&w, How::usual().rung(rung).threads(2), &[16, 64, 512, 1024], 9);
    }
}

#[test]
fn random_cuts_on_every_rung_with_one_to_four_threads() {
    if !full("random_cuts_on_every_rung_with_one_to_four_threads") {
        return;
    }
    for kind in Kind::ALL {
        let w = of_kind(kind, 61);
        for kv in [Kind::F16, Kind::F32] {
            let mut want = None;
            for rung in rung::available() {
                for threads in 1..=4 {
                    let mut rig = Rig::new(&w, How::usual().rung(rung).threads(threads).kv(kv));
                    let tokens = prompt(kind as u64, 200, rig.vocab());
                    let want = want.get_or_insert_with(|| rig.fresh(&tokens, &[1]));
                    for seed in 0..3 {
                        let seed = seed + 10 * threads as u64;
                        let got = rig.fresh(&tokens, &chunking(seed, 200, [5, 30, 120][seed as usize % 3]));
                        assert_same(&got, want, format!("{kind}, {}, {threads} threads, {seed}", rung.name));
                    }
                }
            }
        }
    }
}

#[test]
fn random_trees_of_every_format() {
    if !full("random_trees_of_every_format") {
        return;
    }
    for kind in Kind::ALL {
        for threads in 1..=3 {
            let w = of_kind(kind, 70 + threads as u64);
            let kv = [Kind::F16, Kind::F32][threads % 2];
            let (mut rig, mut alone) =
                (Rig::new(&w, How::usual().threads(threads).kv(kv)), Rig::new(&w, How::usual().kv(kv)));
            let vocab = rig.vocab();
            let more = prompt(79, 5, vocab);
            for (i, stem) in
                [1, 15, 16, 50, 63, 64, 65, 130, 500, 511, 512, 513, 1020].into_iter().enumerate()
            {
                let stem = prompt(i as u64, stem, vocab);
                let nodes = random_tree(i as u64 + 100 * threads as u64, [3, 7, 40, 90][i % 4], vocab);
                let seq = rig.kv.open();
                rig.feed(seq, &stem, &[stem.len()]);
                assert_nodes_alone(&mut rig, &mut alone, &stem, seq, &nodes, "random");
                rig.kv.close(seq);
                let kept = path(&nodes, nodes.len() - 1);
                let whole = [&stem[..], &along(&nodes, &kept), &more].concat();
                let want = alone.fresh(&whole, &[whole.len()]).split_off(whole.len() - more.len());
                let got = commit_and_continue(&mut rig, &stem, &nodes, &kept, &more);
                assert_same(&got, &want, format!("{kind}, stem {}, kept {kept:?}", stem.len()));
            }
        }
    }
}

#[test]
fn a_real_model_around_every_boundary_and_among_sixteen() {
    if !full("a_real_model_around_every_boundary_and_among_sixteen") {
        return;
    }
    let Some(w) = real_model("a_real_model_around_every_boundary_and_among_sixteen") else { return };
    let how = How { ctx: 640, ..How::usual() };
    siblings_around(&w, how.threads(2), &[16, 64], 3);
    let (mut rig, mut alone) = (Rig::new(&w, how.threads(2)), Rig::new(&w, how));
    let tokens = prompt(1, 520, 5000);
    let want = alone.fresh(&tokens, &[520]);
    assert_same(&rig.fresh(&tokens, &[491, 17, 3, 1]), &want, "cut near the end of a chunk");
    for rung in rung::available() {
        let mut rig = Rig::new(&w, how.rung(rung).threads(2));
        assert_same(&rig.fresh(&tokens[..80], &[37, 3]), &want[..80], rung.name);
    }
    let nodes = random_tree(4, 20, 5000);
    let seq = rig.kv.open();
    rig.feed(seq, &tokens[..505], &[505]);
    assert_nodes_alone(&mut rig, &mut alone, &tokens[..505], seq, &nodes, "smollm2");
    rig.kv.close(seq);
    for temperature in [0.0, 0.8] {
        let prompts: Vec<Vec<Token>> = (0..16).map(|i| prompt(i, 3 + 2 * i as usize, 5000)).collect();
        let sixteen = answers(&mut rig, &prompts, temperature, 12, 9);
        for count in [1, 2, 7] {
            let got = answers(&mut alone, &prompts[..count], temperature, 12, 4 + count);
            for (i, (a, b)) in got.iter().zip(&sixteen).enumerate() {
                assert_eq!(a.0, b.0, "answer {i} of {count} at {temperature}");
                assert_same(&a.1, &b.1, format!("answer {i} of {count} at {temperature}"));
            }
        }
    }
}
