//! The prefix cache and the coalescer: what is shared is computed once, and nobody's answer changes.
#![allow(clippy::unwrap_used)]

mod common;
use common::*;
use proptest::prelude::*;
use tamp_base::ids::{Namespace, PAGE};
use tamp_base::settings::Settings;
use tamp_engine::{Engine, EngineOptions, Request, Who};
use tamp_kernels::cpu::Cpu;

fn sharing(options: EngineOptions, uses: &[&str]) -> Engine<Cpu> {
    let mut s = Settings::default();
    uses.iter().for_each(|u| s.add_use(u, "test").unwrap());
    engine_with(&weights(), options, &s)
}

const BOTH: &[&str] = &["kv.prefix=tree", "engine.coalesce=prefix"];

/// `common` tokens that all have, then `own` of their own.
fn asks(n: u64, common: usize, own: usize, max: usize) -> Vec<Request> {
    let ask = |i: u64| {
        let tokens = [prompt(1, common), prompt(100 + i, own)].concat();
        request(tokens, max, if i.is_multiple_of(2) { greedy() } else { warm(i) })
    };
    (0..n).map(ask).collect()
}

#[test]
fn a_common_beginning_is_computed_once_also_when_all_arrive_together() {
    let (n, common, own) = (6, 10 * PAGE, 7);
    let requests = asks(n, common, own, 5);
    let want: Vec<_> = requests.iter().map(|r| alone(r.clone()).tokens).collect();
    let rows = |uses: &[&str]| {
        let mut e = sharing(options(256, 64, 8), uses);
        let got = run_all(&mut e, requests.clone());
        assert_eq!(got.iter().map(|a| a.tokens.clone()).collect::<Vec<_>>(), want);
        (got.iter().map(|a| a.timings.prompt_rows).sum::<u64>(), got, e.stats())
    };
    let (all, _, plain) = rows(&[]);
    assert_eq!(all, n * (common + own) as u64);
    assert_eq!((plain.reuse.acted, plain.coalesce.acted), (0, 0));
    let (once, got, stats) = rows(BOTH);
    assert_eq!(once, (common + own) as u64 + (n - 1) * own as u64);
    assert_eq!(got.iter().filter(|a| a.usage.cached_tokens == common).count() as u64, n - 1);
    assert_eq!((stats.reuse.acted, stats.coalesce.acted), (n - 1, n - 1));
    // Without waiting for each other, those that start in one step compute the same pages side by side.
    assert!(rows(&["kv.prefix=tree"]).0 > once);
}

#[test]
fn a_whole_prompt_that_is_cached_costs_one_row() {
    let mut e = sharing(options(128, 64, 2), BOTH);
    let ask = request(prompt(3, 4 * PAGE), 6, warm(5));
    let first = e.generate(ask.clone(), &mut |_| ()).unwrap();
    let again = e.generate(Request { explain_cache: true, ..ask.clone() }, &mut |_| ()).unwrap();
    assert_eq!(first.tokens, again.tokens);
    assert_eq!((again.timings.prompt_rows, again.usage.cached_tokens), (1, 4 * PAGE - 1));
    assert!(again.usage.cache_miss.unwrap().contains("whole"));
    let other = Request { prompt: prompt(4, 4 * PAGE), explain_cache: true, ..ask };
    let miss = e.generate(other, &mut |_| ()).unwrap().usage;
    assert_eq!(miss.cached_tokens, 0);
    assert!(miss.cache_miss.unwrap().contains("position 0"), "it says where they part");
}

#[test]
fn nobody_sees_another_namespace() {
    let mut e = sharing(options(128, 64, 2), BOTH);
    let of = |n: u8| Request {
        who: Who { namespace: Namespace([n; 32]), ..Who::default() },
        explain_cache: true,
        ..request(prompt(3, 4 * PAGE), 2, greedy())
    };
    e.generate(of(1), &mut |_| ()).unwrap();
    let other = e.generate(of(2), &mut |_| ()).unwrap();
    assert_eq!((other.usage.cached_tokens, other.timings.prompt_rows), (0, 4 * PAGE as u64));
    assert!(other.usage.cache_miss.unwrap().contains("nothing is cached"));
    assert!(e.generate(of(1), &mut |_| ()).unwrap().usage.cached_tokens > 0);
    // Together, too: neither waits for the other.
    let mut e = sharing(options(128, 64, 2), BOTH);
    run_all(&mut e, vec![of(1), of(2)]);
    assert_eq!(e.stats().coalesce.acted, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn answers_do_not_depend_on_what_is_cached(
        plan in proptest::collection::vec((0u64..3, 1usize..70, 0u64..4, 0usize..20, 1usize..12), 2..9),
        pages in 8usize..20,
        chunk in 3usize..40,
        batch in 1usize..5,
        rounds in 1usize..3,
    ) {
        let requests: Vec<Request> = plan
            .iter()
            .map(|&(a, n, b, m, max)| {
                request([prompt(a, n), prompt(10 + b, m)].concat(), max, if b == 0 { greedy() } else { penalised(b) })
            })
            .collect();
        let want: Vec<_> = requests.iter().map(|r| alone(r.clone()).tokens).collect();
        let mut e = sharing(EngineOptions { pages, ..options(112, chunk.max(batch), batch) }, BOTH);
        for _ in 0..rounds {
            let got: Vec<_> = run_all(&mut e, requests.clone()).into_iter().map(|a| a.tokens).collect();
            prop_assert_eq!(&got, &want);
        }
    }
}

#[test]
fn keys_read_together_change_no_answer_and_are_counted() {
    let (n, common) = (5, 2 * 512 + 40);
    let requests: Vec<_> = (0..n)
        .map(|i| {
            let own = prompt(100 + i, 1 + 37 * i as usize);
            request([prompt(1, common), own].concat(), 6, if i % 2 == 0 { greedy() } else { warm(i) })
        })
        .collect();
    let run = |pick: &'static str| {
        let mut e = sharing(options(1536, 256, 8), &[BOTH[0], BOTH[1], pick]);
        let got = run_all(&mut e, requests.clone());
        let kv = &e.plan().kv;
        let position = kv.bytes / (kv.pages * PAGE) as u64;
        (got.into_iter().map(|a| a.tokens).collect::<Vec<_>>(), e.stats(), position)
    };
    let (own, plain, _) = run("kv.pick=own");
    let (together, stats, position) = run("kv.pick=dedupe");
    assert_eq!(own, requests.iter().map(|r| alone(r.clone()).tokens).collect::<Vec<_>>());
    assert_eq!(together, own);
    assert_eq!((plain.work.kv_bytes_spared, plain.pick.asked), (0, 0));
    assert!(stats.pick.acted > 0 && stats.work.kv_bytes_spared > 0, "{:?}", stats.pick);
    assert_eq!(stats.work.kv_bytes_spared % (512 * position), 0, "whole chunks of 512 positions");
}
