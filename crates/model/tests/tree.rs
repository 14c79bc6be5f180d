//! Trees (DESIGN 5.2): a branch of a tree batch has the logits it has alone, bit by bit, and commit keeps exactly the
//! chosen path. Planted faults show that these comparisons see a wrong mask and a wrong commit.
#![allow(clippy::unwrap_used)]

mod common;

use common::compare::*;
use common::*;
use tamp_base::ids::{SeqId, Token};
use tamp_formats::Kind;
use tamp_model::batch::Batch;
use tamp_weights::Weights;
use tamp_weights::testing::Noise;

fn around(w: &Weights, how: How, stems: impl Iterator<Item = usize>) {
    let (mut rig, mut alone) = (Rig::new(w, how), Rig::new(w, how.threads(1)));
    let vocab = rig.vocab();
    let stems: Vec<usize> = stems.collect();
    let tokens = prompt(21, *stems.iter().max().unwrap(), vocab);
    for stem in stems {
        for (i, (name, shape)) in SHAPES.into_iter().enumerate() {
            let nodes = plant(shape, stem as u64 + 7 * i as u64, vocab);
            let seq = rig.kv.open();
            rig.feed(seq, &tokens[..stem], &[stem.max(1)]);
            assert_nodes_alone(&mut rig, &mut alone, &tokens[..stem], seq, &nodes, name);
            rig.kv.close(seq);
        }
    }
}

#[test]
fn each_branch_has_the_logits_it_has_alone_around_page_and_block_ends() {
    around(&of_kind(Kind::Q4_0, 12), How::usual().threads(2), (0..=19).chain(58..=67));
    around(&of_kind(Kind::Q6_K, 12), How::usual().kv(Kind::F32), (13..=16).chain(60..=65));
}

#[test]
fn each_branch_has_the_logits_it_has_alone_around_chunk_ends() {
    // One worker keeps a row's chunks together, two split them when rows are few.
    around(&of_kind(Kind::Q8_0, 12), How::usual().threads(2), 506..=514);
    around(&of_kind(Kind::Q4_1, 13), How::usual(), [507, 511, 512].into_iter());
}

#[test]
fn large_trees_have_the_logits_of_their_paths() {
    // 90 nodes reach over several pages and a key block of their own.
    let w = of_kind(Kind::Q5_0, 14);
    let (mut rig, mut alone) = (Rig::new(&w, How::usual().threads(2)), Rig::new(&w, How::usual()));
    let vocab = rig.vocab();
    for seed in 0..6 {
        let stem = prompt(seed, 5 + 31 * seed as usize, vocab);
        let nodes = random_tree(seed, 90, vocab);
        let seq = rig.kv.open();
        rig.feed(seq, &stem, &[stem.len()]);
        assert_nodes_alone(&mut rig, &mut alone, &stem, seq, &nodes, "random");
        rig.kv.close(seq);
    }
}

#[test]
fn trees_of_several_sequences_and_chains_share_a_batch() {
    let w = of_kind(Kind::Q4_K, 15);
    let (mut rig, mut alone) = (Rig::new(&w, How::usual().threads(2)), Rig::new(&w, How::usual()));
    let vocab = rig.vocab();
    let stems: Vec<Vec<Token>> = [3, 17, 40, 63].iter().map(|&n| prompt(n, n as usize, vocab)).collect();
    let seqs: Vec<SeqId> = stems.iter().map(|_| rig.kv.open()).collect();
    for (s, t) in seqs.iter().zip(&stems) {
        rig.feed(*s, t, &[64]);
    }
    let nodes = [
        plant(THREE, 1, vocab),
        chain(&prompt(9, 20, vocab), tamp_model::batch::Want::Full),
        random_tree(3, 30, vocab),
        plant(ROOTS, 2, vocab),
    ];
    let parts: Vec<_> = seqs.iter().copied().zip(nodes.iter().cloned()).collect();
    let got = rig.logits(&parts);
    for ((nodes, stem), got) in nodes.iter().zip(&stems).zip(&got) {
        for i in 0..nodes.len() {
            let rows = path(nodes, i);
            let whole = [&stem[..], &along(nodes, &rows)].concat();
            let want = alone.fresh(&whole, &[whole.len()]).pop().unwrap();
            assert_same(&got[i..=i], &[want], format!("stem {}, node {i}", stem.len()));
        }
    }
}

#[test]
fn a_committed_path_continues_as_if_it_had_been_fed_plainly() {
    for (kind, kv) in [(Kind::Q4_0, Kind::F16), (Kind::Q4_K, Kind::F32)] {
        let w = of_kind(kind, 16);
        let mut rig = Rig::new(&w, How::usual().kv(kv).threads(2));
        let mut alone = Rig::new(&w, How::usual().kv(kv));
        let vocab = rig.vocab();
        let more = prompt(77, 9, vocab);
        for stem in [1, 12, 14, 15, 16, 30, 59, 61, 63, 64] {
            let stem = prompt(31, stem, vocab);
            for (name, shape) in SHAPES {
                let nodes = plant(shape, stem.len() as u64, vocab);
                // Every path: contiguous ones need no copy, the others move rows down.
                for node in 0..nodes.len() {
                    let kept = path(&nodes, node);
                    let whole = [&stem[..], &along(&nodes, &kept), &more].concat();
                    let want = alone.fresh(&whole, &[whole.len()]).split_off(whole.len() - more.len());
                    let got = commit_and_continue(&mut rig, &stem, &nodes, &kept, &more);
                    assert_same(&got, &want, format!("{kind}, {name}, stem {}, kept {kept:?}", stem.len()));
                }
            }
        }
    }
}

#[test]
fn a_committed_path_across_a_chunk_end_continues_as_if_it_had_been_fed_plainly() {
    let w = of_kind(Kind::Q8_0, 16);
    let mut rig = Rig::new(&w, How::usual().threads(2));
    let vocab = rig.vocab();
    let more = prompt(78, 5, vocab);
    for stem in [508, 510, 512] {
        let stem = prompt(32, stem, vocab);
        let nodes = plant(THREE, 1, vocab);
        let kept = path(&nodes, nodes.len() - 1);
        let whole = [&stem[..], &along(&nodes, &kept), &more].concat();
        let want = rig.fresh(&whole, &[whole.len()]).split_off(whole.len() - more.len());
        assert_same(&commit_and_continue(&mut rig, &stem, &nodes, &kept, &more), &want, stem.len());
    }
}

#[test]
fn many_rounds_of_draft_and_commit_have_the_bits_of_plain_decoding() {
    // Each round drafts a random tree with the true continuation hidden in it, keeps that much, and goes on; a fork
    // taken in between must not notice.
    let w = of_kind(Kind::Q5_K, 17);
    let (mut rig, mut alone) = (Rig::new(&w, How::usual().threads(2)), Rig::new(&w, How::usual()));
    let vocab = rig.vocab();
    let truth = prompt(5, 150, vocab);
    let want = alone.fresh(&truth, &[150]);
    let seq = rig.kv.open();
    rig.feed(seq, &truth[..3], &[3]);
    let mut noise = Noise(99);
    while rig.kv.len(seq) + 6 < truth.len() {
        let at = rig.kv.len(seq);
        let mut nodes = random_tree(noise.word(), 4 + noise.below(20), vocab);
        let good = 1 + noise.below(5);
        let mut kept = vec![];
        for token in &truth[at..at + good] {
            // Rows in between that nobody keeps.
            for _ in 0..noise.below(3) {
                let parent = kept.last().copied();
                nodes.extend(tree(&[(noise.below(vocab) as Token, parent)]));
            }
            nodes.extend(tree(&[(*token, kept.last().copied())]));
            kept.push(nodes.len() as u32 - 1);
        }
        let got = rig.logits(&[(seq, nodes.clone())]).remove(0);
        let mine: Logits = kept.iter().map(|&k| got[k as usize].clone()).collect();
        assert_same(&mine, &want[at..at + good], format!("draft at {at}, rows {kept:?}"));
        rig.kv.commit(seq, &kept).unwrap();
        if noise.below(3) == 0 {
            let twin = rig.kv.fork(seq).unwrap();
            let at = rig.kv.len(seq);
            let got = rig.extend(&[(twin, &truth[at..at + 4])]).remove(0);
            assert_same(&got, &want[at..at + 4], format!("a fork at {at}"));
            rig.kv.close(twin);
        }
        if noise.below(3) == 0 {
            let back = 1 + noise.below(rig.kv.len(seq) - 1);
            let to = rig.kv.len(seq).saturating_sub(back.min(7)).max(3);
            assert_eq!(rig.kv.rewind(seq, to), to);
        }
        rig.kv.integrity().unwrap();
    }
}

/// A planted fault must show: the logits of `node` under a batch changed by `harm` are not those of the sound one.
#[track_caller]
fn assert_fault_shows(node: usize, stem: usize, shape: Shape, harm: impl Fn(&mut Batch)) {
    let w = of_kind(Kind::Q4_0, 18);
    let mut rig = Rig::new(&w, How::usual());
    let vocab = rig.vocab();
    let stem = prompt(41, stem, vocab);
    let nodes = plant(shape, 3, vocab);
    let mut run = |harmed: bool| {
        let seq = rig.kv.open();
        rig.feed(seq, &stem, &[stem.len()]);
        rig.kv.reserve(seq, nodes.len()).unwrap();
        let mut batch = Batch::new(rig.kv.groups());
        batch.push(seq, stem.len(), rig.kv.tables(seq), &nodes);
        if harmed {
            harm(&mut batch);
        }
        let out = rig.forward_batch(&batch);
        rig.kv.close(seq);
        bits(out.logits(node).unwrap())
    };
    let sound = run(false);
    assert_eq!(sound, run(false), "the same batch twice");
    assert_ne!(sound, run(true), "the fault does not show");
}

#[test]
fn a_mask_that_takes_a_sibling_for_an_ancestor_shows() {
    for stem in [5, 15, 63, 64] {
        // Row 3 of `TWO` is a child of row 0; broken, it sees its sibling, row 1, in its ancestor's place.
        assert_fault_shows(3, stem, TWO, |b| {
            let at = b.maps[0].path_at[3].unwrap() as usize;
            b.maps[0].path[at] += 1;
        });
        // No mask at all: the row sees the slots before its own depth, whoever wrote them.
        assert_fault_shows(4, stem, TWO, |b| b.maps[0].path_at[4] = None);
        // A row that loses sight of itself.
        assert_fault_shows(3, stem, TWO, |b| {
            let at = b.maps[0].path_at[3].unwrap() as usize;
            b.maps[0].path[at + 1] -= 1;
        });
    }
}

#[test]
fn a_wrong_commit_shows() {
    let w = of_kind(Kind::Q4_0, 19);
    let mut rig = Rig::new(&w, How::usual());
    let vocab = rig.vocab();
    let more = prompt(50, 3, vocab);
    for stem in [6, 14, 62] {
        let stem = prompt(51, stem, vocab);
        let nodes = plant(TWO, 8, vocab);
        let right = commit_and_continue(&mut rig, &stem, &nodes, &[0, 3, 4], &more);
        assert_same(
            &commit_and_continue(&mut rig, &stem, &nodes, &[0, 3, 4], &more),
            &right,
            "the same commit twice",
        );
        // The other branch, a mixture of both, the rows in slot order, one row short.
        for wrong in [&[0, 1, 2][..], &[0, 1, 4], &[0, 3], &[3, 4]] {
            let other = commit_and_continue(&mut rig, &stem, &nodes, wrong, &more);
            for (a, b) in right.iter().zip(&other) {
                assert_ne!(bits(a), bits(b), "kept {wrong:?}");
            }
        }
        // A commit that forgets to move the rows: the books say [0, 3, 4], the memory still holds [0, 1, 2].
        let seq = rig.kv.open();
        rig.feed(seq, &stem, &[stem.len()]);
        rig.logits(&[(seq, nodes.clone())]);
        rig.kv.commit(seq, &[0, 3, 4]).unwrap();
        assert!(!rig.kv.take_moves(0).is_empty());
        let unmoved = rig.feed(seq, &more, &[3]);
        rig.kv.close(seq);
        assert_ne!(bits(&right[0]), bits(&unmoved[0]));
    }
}

#[test]
fn a_real_model_judges_trees_as_chains() {
    let Some(w) = real_model("a_real_model_judges_trees_as_chains") else { return };
    let how = How { ctx: 256, ..How::usual() };
    let (mut rig, mut alone) = (Rig::new(&w, how.threads(2)), Rig::new(&w, how));
    for stem in [14, 62] {
        let stem = prompt(61, stem, 5000);
        let nodes = plant(TWO_INTERLEAVED, 1, 5000);
        let seq = rig.kv.open();
        rig.feed(seq, &stem, &[stem.len()]);
        assert_nodes_alone(&mut rig, &mut alone, &stem, seq, &nodes, "smollm2");
        rig.kv.close(seq);
        let kept = path(&nodes, nodes.len() - 1);
        let more = prompt(62, 3, 5000);
        let whole = [&stem[..], &along(&nodes, &kept), &more].concat();
        let want = alone.fresh(&whole, &[whole.len()]).split_off(whole.len() - more.len());
        assert_same(&commit_and_continue(&mut rig, &stem, &nodes, &kept, &more), &want, "smollm2, committed");
    }
}
