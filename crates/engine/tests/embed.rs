//! Embeddings: the mean of the residual stream, whatever else runs.
#![allow(clippy::unwrap_used)]

mod common;
use common::*;
use tamp_engine::{Request, Task};
use tamp_sample::FinishReason;

fn ask(number: u64, n: usize) -> Request {
    Request { prompt: prompt(number, n), task: Task::Embed, ..Request::default() }
}

#[test]
fn an_embedding_depends_on_its_text_alone() {
    let texts = [(1, 5), (2, 40), (3, 33), (4, 17)];
    let alone: Vec<Vec<f32>> = texts
        .map(|(n, len)| {
            let answer = engine(options(64, 64, 1)).generate(ask(n, len), &mut |_| ()).unwrap();
            assert_eq!((answer.finish_reason, answer.tokens.len()), (FinishReason::Stop, 0));
            answer.embedding.unwrap()
        })
        .into();
    for (i, a) in alone.iter().enumerate() {
        assert!(a.iter().all(|x| x.is_finite()) && a.iter().any(|x| *x != 0.0));
        assert!(alone[..i].iter().all(|b| a != b), "lively");
    }
    // In small chunks, beside answers, and with so few pages that sequences lose theirs half-way.
    for (pages, chunk, batch) in [(0, 7, 4), (5, 2, 2)] {
        let mut e = engine(tamp_engine::EngineOptions { pages, ..options(64, chunk, batch) });
        let mut asks: Vec<Request> = texts.map(|(n, len)| ask(n, len)).into();
        asks.insert(0, request(prompt(9, 16), 48, warm(1)));
        asks.push(request(prompt(8, 30), 20, greedy()));
        let got = run_all(&mut e, asks);
        for (want, got) in alone.iter().zip(&got[1..]) {
            assert_eq!(Some(want), got.embedding.as_ref());
        }
        assert!(pages == 0 || e.stats().preemptions > 0, "the small pool makes somebody give way");
    }
}

#[test]
fn an_embedding_is_the_mean_over_positions() {
    // Rows are causal, so the sum over n positions is the sum over n - 1 plus the last row.
    let mean = |n| {
        let a = engine(options(64, 64, 1)).generate(ask(1, n), &mut |_| ()).unwrap();
        a.embedding.unwrap()
    };
    let all: Vec<Vec<f32>> = (1..=6).map(mean).collect();
    let rows: Vec<Vec<f32>> = (0..6)
        .map(|i| {
            let sum = |k: usize, d: usize| if k == 0 { 0.0 } else { all[k - 1][d] * k as f32 };
            (0..all[0].len()).map(|d| sum(i + 1, d) - sum(i, d)).collect()
        })
        .collect();
    assert_eq!(rows[0], all[0]);
    for d in 0..all[0].len() {
        let naive = rows.iter().map(|r| r[d]).sum::<f32>() / 6.0;
        assert!((naive - all[5][d]).abs() <= 1e-3 * (1.0 + naive.abs()), "{naive} {}", all[5][d]);
    }
    assert!(rows.windows(2).all(|w| w[0] != w[1]));
}
