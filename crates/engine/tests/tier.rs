//! Cached pages outlast the engine: the next one on the same folder starts from them and says the same.
#![allow(clippy::unwrap_used)]

mod common;
use common::*;
use std::time::Duration;
use tamp_base::ids::PAGE;
use tamp_base::settings::Settings;
use tamp_engine::{Engine, EngineOptions};
use tamp_kernels::cpu::Cpu;

fn on_disk(dir: &std::path::Path, more: &[&str], options: EngineOptions) -> Engine<Cpu> {
    let mut s = Settings::default();
    for u in ["kv.prefix=tree", "engine.coalesce=prefix", "kv.tier=disk"].iter().chain(more) {
        s.add_use(u, "test").unwrap();
    }
    s.add_set(&format!("kv.tier.disk.dir={}", dir.display()), "test").unwrap();
    engine_with(&weights(), options, &s)
}

#[test]
fn a_second_engine_starts_from_the_pages_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let ask = request([prompt(1, 8 * PAGE), prompt(2, 9)].concat(), 6, warm(3));
    let want = alone(ask.clone()).tokens;
    let mut first = on_disk(dir.path(), &[], options(256, 64, 2));
    assert_eq!(first.generate(ask.clone(), &mut |_| ()).unwrap().tokens, want);
    assert!(first.flush(Duration::from_secs(10)));
    drop(first);
    let mut second = on_disk(dir.path(), &[], options(256, 64, 2));
    let got = second.generate(ask.clone(), &mut |_| ()).unwrap();
    assert_eq!((got.tokens, got.usage.cached_tokens), (want.clone(), 8 * PAGE));
    assert_eq!(got.timings.prompt_rows, 9);
    drop(second);
    // While others run, pages come back a few per step, and the newcomer waits for them.
    let mut third = on_disk(dir.path(), &[], options(256, 64, 2));
    let busy = request(prompt(9, 20), 60, greedy());
    let alone_busy = alone(busy.clone()).tokens;
    let got = run_all(&mut third, vec![busy, ask]);
    assert_eq!((&got[0].tokens, &got[1].tokens), (&alone_busy, &want));
    assert_eq!(got[1].usage.cached_tokens, 8 * PAGE);
}

#[test]
fn an_idle_engine_fetches_what_is_asked_for_most_and_gives_way_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let common = prompt(1, 8 * PAGE);
    let ask = |own: u64| request([common.clone(), prompt(own, 5)].concat(), 3, greedy());
    let mut first = on_disk(dir.path(), &["engine.idle=warmup"], options(256, 64, 2));
    (2..6).for_each(|i| drop(first.generate(ask(i), &mut |_| ()).unwrap()));
    assert!(first.flush(Duration::from_secs(10)));
    drop(first);
    let mut second = on_disk(dir.path(), &["engine.idle=warmup"], options(256, 64, 2));
    second.idle();
    assert_eq!(second.stats().idle.acted, 1, "it begins unasked");
    while !second.step().unwrap().parts.is_empty() {
        second.integrity().unwrap();
    }
    assert!(second.stats().pages_cached >= 8);
    assert!(second.is_idle());
    drop(second);
    // Somebody comes while it computes: the sequence for nobody is gone in that very step.
    std::fs::read_dir(dir.path()).unwrap().flatten().for_each(|f| {
        let name = f.file_name();
        if !name.to_string_lossy().contains("hot") {
            let _ = std::fs::remove_file(f.path()).or_else(|_| std::fs::remove_dir_all(f.path()));
        }
    });
    let mut third = on_disk(dir.path(), &["engine.idle=warmup"], options(256, 8, 2));
    third.idle();
    assert_eq!(third.step().unwrap().parts.len(), 1, "nothing on disk, so it computes");
    let want = alone(ask(7)).tokens;
    let (sender, receiver) = tamp_engine::outlet::channel(99);
    third.submit(ask(7), Box::new(sender)).unwrap();
    assert_eq!(third.step().unwrap().parts.len(), 1);
    while !third.is_idle() {
        third.step().unwrap();
        third.integrity().unwrap();
    }
    assert_eq!(drain(&receiver).1.unwrap().tokens, want);
}
