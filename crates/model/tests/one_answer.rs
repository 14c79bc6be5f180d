//! One answer (DESIGN 5.1): the same logits, bit by bit, and so the same tokens, whatever the chunks of the prompt, the
//! batch around it, the number of threads, shared pages or the rung.
#![allow(clippy::unwrap_used)]

mod common;

use common::compare::*;
use common::*;
use tamp_base::ids::{SeqId, Token};
use tamp_formats::Kind;
use tamp_kernels::rung;
use tamp_model::batch::{Batch, Want};
use tamp_weights::testing::{Arch, Tiny};
use tamp_weights::{Weights, gguf};

/// Ways to cut a prompt.
fn cuts(n: usize) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = [3, 16, 17, 64, n].map(|c| vec![c]).into();
    all.push(chunking(n as u64, n, 40));
    all
}

#[test]
fn every_format_gives_the_same_bits_on_every_rung_in_every_cut_with_one_or_two_threads() {
    for kind in Kind::ALL {
        let w = of_kind(kind, 3 + kind as u64);
        let mut want = None;
        for (i, rung) in rung::available().enumerate() {
            // The portable rung is slow; it takes part with two threads only.
            let slow = rung.name == "portable";
            for threads in if slow { 2..=2 } else { 1..=2 } {
                let pages = [Kind::F16, Kind::F32][kind as usize % 2];
                let mut rig = Rig::new(&w, How::usual().rung(rung).threads(threads).kv(pages));
                let tokens = prompt(kind as u64, 70, rig.vocab());
                let want = want.get_or_insert_with(|| rig.fresh(&tokens, &[1]));
                // Each rung meets half of the cuts with one thread, the others with two.
                let all = cuts(70);
                for cut in all.iter().skip((i + threads) % 2).step_by(2).take(if slow { 2 } else { 3 }) {
                    let got = rig.fresh(&tokens, cut);
                    let cut = &cut[..cut.len().min(8)];
                    assert_same(
                        &got,
                        want,
                        format!("{kind}, {}, {threads} threads, chunks {cut:?}", rung.name),
                    );
                }
            }
        }
    }
}

#[test]
fn company_in_the_batch_changes_no_bit() {
    for kind in [Kind::Q4_1, Kind::Q4_K, Kind::F16] {
        let w = of_kind(kind, 5);
        for threads in [1, 2] {
            let mut rig = Rig::new(&w, How::usual().threads(threads));
            let vocab = rig.vocab();
            let tokens = prompt(1, 90, vocab);
            let want = rig.fresh(&tokens, &[1]);
            for others in [0, 1, 6, 15] {
                // Ours sits first, last or amid the others; the others come and go with chunks of their own.
                let at = [0, others, others / 2][others % 3];
                let seqs: Vec<SeqId> = (0..=others).map(|_| rig.kv.open()).collect();
                let theirs: Vec<Vec<Token>> =
                    (0..=others).map(|i| prompt(100 + i as u64, 400, vocab)).collect();
                let mut done = vec![0; others + 1];
                let mut got = Logits::new();
                let steps = chunking(others as u64, 90, 11);
                let mut step = 0;
                while done[at] < tokens.len() {
                    let mut parts: Vec<(SeqId, &[Token])> = vec![];
                    for i in 0..=others {
                        let n = if (step + i) % 3 == 0 { 1 + (i * 5 + step) % 13 } else { 1 };
                        let (n, from) = match i == at {
                            true => (steps[step].min(tokens.len() - done[at]), &tokens),
                            false => (n, &theirs[i]),
                        };
                        parts.push((seqs[i], &from[done[i]..done[i] + n]));
                        done[i] += n;
                    }
                    got.append(&mut rig.extend(&parts)[at]);
                    step += 1;
                }
                seqs.into_iter().for_each(|s| rig.kv.close(s));
                assert_same(&got, &want, format!("{kind}, {threads} threads, {others} others"));
            }
        }
    }
}

#[test]
fn siblings_around_page_and_block_ends_have_the_bits_of_fresh_sequences() {
    let w = of_kind(Kind::Q4_0, 8);
    siblings_around(&w, How::usual().threads(2), &[16, 64], 4);
    siblings_around(&of_kind(Kind::Q6_K, 8), How::usual().kv(Kind::F32), &[32, 64], 2);
}

#[test]
fn siblings_around_chunk_ends_have_the_bits_of_fresh_sequences() {
    let w = of_kind(Kind::Q8_0, 9);
    siblings_around(&w, How::usual().threads(2), &[512], 4);
}

#[test]
fn few_rows_over_many_chunks_have_the_bits_of_one_worker() {
    // Two workers split the keys of up to eight rows by chunk; one worker never does.
    let w = of_kind(Kind::Q4_0, 2);
    let tokens = prompt(4, 1100, 280);
    let mut want = Rig::new(&w, How::usual()).fresh(&tokens, &[1100]);
    for how in [How::usual().threads(2), How::usual().threads(2).kv(Kind::F32)] {
        if how.kv == Kind::F32 {
            want = Rig::new(&w, How::usual().kv(Kind::F32)).fresh(&tokens, &[1100]);
        }
        let mut rig = Rig::new(&w, how);
        assert_same(&rig.fresh(&tokens, &[1009, 1, 2, 3, 5, 7, 8, 9]), &want, "few rows after a long prompt");
        assert_same(&rig.fresh(&tokens, &[505, 8, 5, 499, 8, 7]), &want, "few rows around the chunk ends");
    }
}

#[test]
fn answers_are_the_same_tokens_alone_and_among_sixteen_cold_and_warm() {
    for (kind, temperature) in [(Kind::Q4_0, 0.0), (Kind::Q4_0, 0.8), (Kind::Q5_K, 0.0), (Kind::Q5_K, 0.8)] {
        let w = of_kind(kind, 4);
        // Another rung than the best, where there is one.
        let mut alone =
            Rig::new(&w, How::usual().rung(rung::available().nth(1).unwrap_or(rung::find("auto").unwrap())));
        let vocab = alone.vocab();
        let prompts: Vec<Vec<Token>> = (0..16).map(|i| prompt(i, 3 + 7 * i as usize, vocab)).collect();
        for count in [1, 2, 7, 16] {
            let mut rig = Rig::new(&w, How::usual().threads(1 + count % 2));
            let got = answers(&mut rig, &prompts[..count], temperature, 24, 5 + 8 * count);
            for (i, (got, p)) in got.iter().zip(&prompts).enumerate().skip(count / 2) {
                // The noise belongs to the sequence's own seed, so the lone run needs the same chain.
                let mut chain = chooser(temperature, i as u64, vocab);
                let mut tokens = p.clone();
                let seq = alone.kv.open();
                let mut last = alone.feed(seq, p, &[p.len()]).pop().unwrap();
                for (j, (token, logits)) in got.0.iter().zip(&got.1).enumerate() {
                    assert_same(
                        std::slice::from_ref(logits),
                        &[last],
                        format!("{kind} answer {i} token {j}"),
                    );
                    let own = choose(&mut chain, logits, tokens.len());
                    assert_eq!(own, *token);
                    tokens.push(own);
                    last = alone.feed(seq, &[own], &[1]).pop().unwrap();
                }
                alone.kv.close(seq);
            }
            assert!(distinct(&got[count - 1].0) >= 10, "{:?}", got[count - 1].0);
        }
    }
}

#[test]
fn what_is_wanted_of_a_row_changes_no_bit() {
    let w = of_kind(Kind::Q5_0, 6);
    let mut rig = Rig::new(&w, How::usual().threads(2));
    let tokens = prompt(3, 40, rig.vocab());
    let want = rig.fresh(&tokens, &[40]);
    let seq = rig.kv.open();
    let mut nodes = chain(&tokens, Want::Nothing);
    for (i, n) in nodes.iter_mut().enumerate() {
        n.want = [Want::Nothing, Want::Choose, Want::Full, Want::Choose][i % 4];
    }
    let out = rig.forward(&[(seq, nodes)]);
    for i in 0..40 {
        match i % 4 {
            0 => assert!(out.best(i).is_none()),
            2 => assert_same(&[out.logits(i).unwrap().to_vec()], &want[i..=i], i),
            _ => {
                let best = out.best(i).unwrap();
                assert_eq!(best.token, argmax(&want[i]));
                assert_eq!(best.logit.to_bits(), want[i][best.token as usize].to_bits());
            }
        }
    }
}

/// The same file, where the embedding of one token is not a number, as in files that never trained it.
fn with_broken_token(w: &Weights, token: usize) -> Weights {
    let mut out = vec![];
    let infos: Vec<_> = w.tensors().collect();
    gguf::write_to(&mut out, &w.meta, &infos, &mut |i, to| {
        let t = w.tensor(infos[i].name)?.unwrap();
        let mut bytes = t.bytes.to_vec();
        if t.name == "token_embd.weight" {
            let row = t.kind.row_bytes(t.shape[0]).unwrap();
            bytes[token * row..][..row].fill(0xff);
        }
        Ok(to.write_all(&bytes)?)
    })
    .unwrap();
    Weights::from_gguf_bytes(out).unwrap()
}

#[test]
fn a_broken_token_touches_no_row_before_it_and_no_other_sequence() {
    // Untied, or the broken embedding would break one logit of every row.
    let w = with_broken_token(&weights(&Tiny::new(Arch::Llama, 3).tied(false)), 7);
    for kv in [Kind::F16, Kind::F32] {
        let mut rig = Rig::new(&w, How::usual().kv(kv));
        let mut tokens = prompt(3, 60, rig.vocab());
        tokens.iter_mut().for_each(|t| *t = if *t == 7 { 8 } else { *t });
        let want = rig.fresh(&tokens, &[60]);
        for broken in [1, 20, 33] {
            let mut mine = tokens.clone();
            mine[broken] = 7;
            let mut batch = Batch::new(1);
            let seqs = [rig.kv.open(), rig.kv.open()];
            for (seq, tokens) in seqs.iter().zip([&mine, &tokens]) {
                rig.kv.reserve(*seq, 60).unwrap();
                batch.push(*seq, 0, rig.kv.tables(*seq), &chain(tokens, Want::Full));
            }
            let out = rig.model.forward(&batch, &mut rig.kv, &mut rig.run).unwrap();
            let got: Logits = (0..120).map(|r| out.logits(r).unwrap().to_vec()).collect();
            assert_same(&got[..broken], &want[..broken], format!("{kv} pages, before row {broken}"));
            assert_same(&got[60..], &want, format!("{kv} pages, the sequence beside it"));
            assert!((broken..60).all(|r| out.best(r).unwrap().nan), "a row after the fault does not say so");
            seqs.iter().for_each(|s| rig.kv.close(*s));
        }
    }
}

#[test]
fn the_models_here_are_lively() {
    for arch in Arch::ALL {
        let w = weights(&Tiny::new(arch, 3));
        let mut rig = Rig::new(&w, How::usual());
        let p = prompt(2, 12, rig.vocab());
        let got = answers(&mut rig, std::slice::from_ref(&p), 0.0, 64, 12).remove(0);
        assert!(distinct(&got.0) >= 20, "{arch:?}: {:?}", got.0);
        let mut changed = p;
        changed[1] = (changed[1] + 1) % 250;
        let tokens = [&changed, &got.0[..]].concat();
        let other = rig.fresh(&tokens, &[tokens.len()]);
        for (i, l) in got.1.iter().enumerate() {
            assert_ne!(bits(l), bits(&other[11 + i]), "position {i} does not see the start");
        }
    }
}

#[test]
fn a_real_model_gives_one_answer() {
    let Some(w) = real_model("a_real_model_gives_one_answer") else { return };
    let how = How { ctx: 256, ..How::usual() };
    let mut base = Rig::new(&w, how);
    // Plain ids are English enough for a model; what it says is another test's business.
    let tokens = prompt(1, 70, 5000);
    let want = base.fresh(&tokens, &[70]);
    for rung in rung::available() {
        let mut rig = Rig::new(&w, how.rung(rung).threads(2));
        if rung.name == "portable" {
            // A dozen tokens take it as long as all the rest takes the others.
            assert_same(&rig.fresh(&tokens[..12], &[5]), &want[..12], "portable, two threads, chunks of 5");
            continue;
        }
        assert_same(&rig.fresh(&tokens, &[17]), &want, format!("{}, two threads, chunks of 17", rung.name));
        let stem = rig.kv.open();
        rig.feed(stem, &tokens[..61], &[61]);
        let twin = rig.kv.fork(stem).unwrap();
        let parts = [(twin, &tokens[61..66]), (stem, &tokens[61..63])];
        let got = rig.extend(&parts);
        assert_same(&got[0], &want[61..66], format!("{}, forked", rung.name));
        assert_same(&got[1], &want[61..63], format!("{}, the stem beside its fork", rung.name));
    }
    for temperature in [0.0, 0.8] {
        let prompts: Vec<_> = (0..7).map(|i| prompt(i, 5 + i as usize, 5000)).collect();
        let together = answers(&mut base, &prompts, temperature, 8, 9);
        let mut rig = Rig::new(&w, how.threads(2));
        for (i, want) in together.iter().enumerate().take(1) {
            let alone = answers(&mut rig, &prompts[i..=i], temperature, 8, 3).remove(0);
            assert_eq!(alone.0, want.0);
            assert_same(&alone.1, &want.1, format!("temperature {temperature}, alone"));
        }
    }
}
