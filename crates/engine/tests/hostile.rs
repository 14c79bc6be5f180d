//! A damaged model file ends in an error, or loads and then runs 8 tokens: within 1 s, within 64 MB beyond the file,
//! never a panic. Every truncation and seeded mutations of small GGUF files; `TAMP_TEST_FULL=1` runs 100 000.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;
use tamp_base::clock::ManualClock;
use tamp_base::settings::Settings;
use tamp_engine::{Engine, Request};
use tamp_formats::Kind;
use tamp_kernels::cpu::Cpu;
use tamp_text::{Special, Tokenizer};
use tamp_weights::Weights;
use tamp_weights::testing::{Arch, Noise, Tiny};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Longest a file may take from bytes to eight tokens.
const LIMIT: Duration = Duration::from_secs(1);

#[derive(Default, Debug)]
struct Tally {
    unreadable: usize,
    no_tokenizer: usize,
    refused: usize,
    failed: usize,
    ran: usize,
    worst_ms: u128,
    worst_bytes: usize,
}

/// Loads and runs; what happened is counted, anything but an error or an answer fails the test.
fn try_file(bytes: Vec<u8>, device: &Arc<Cpu>, tally: &mut Tally) {
    let size = bytes.len();
    let mut again = Tally::default();
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    // A busy machine may stretch one run; a file that really costs a second costs it every time.
    let mut took = Duration::MAX;
    for attempt in 0..3 {
        let start = Instant::now();
        run(bytes.clone(), device, if attempt == 0 { tally } else { &mut again });
        took = took.min(start.elapsed());
        if took < LIMIT {
            break;
        }
    }
    let beyond = ALLOCATOR.peak_usage().saturating_sub(before + 2 * size);
    tally.worst_ms = tally.worst_ms.max(took.as_millis());
    tally.worst_bytes = tally.worst_bytes.max(beyond);
    assert!(beyond <= 64 << 20, "{} MB beyond a file of {size} bytes", beyond >> 20);
    assert!(took < LIMIT, "{took:?} for a file of {size} bytes");
}

fn run(bytes: Vec<u8>, device: &Arc<Cpu>, tally: &mut Tally) {
    let Ok(weights) = Weights::from_gguf_bytes(bytes) else {
        tally.unreadable += 1;
        return;
    };
    let Ok(tokenizer) = Tokenizer::from_meta(&weights.meta) else {
        tally.no_tokenizer += 1;
        return;
    };
    let ids = tokenizer.encode("hello world, what now?", Special::Parse, true);
    let _ = tokenizer.decode(&ids, true);
    let options = common::options(48, 32, 1);
    let clock = Arc::new(ManualClock::default());
    let (tokenizer, settings) = (Arc::new(tokenizer), Settings::default());
    let engine =
        Engine::load(&weights, device.clone(), || Ok(tokenizer), &settings, options, clock, &mut |_, _| ());
    let Ok(mut engine) = engine else {
        tally.refused += 1;
        return;
    };
    let prompt = ids.into_iter().take(24).collect();
    let request = Request { prompt, max_tokens: Some(8), ignore_eos: true, ..Request::default() };
    match engine.generate(request, &mut |_| ()) {
        Ok(answer) if answer.failure.is_none() => tally.ran += 1,
        _ => tally.failed += 1,
    }
    engine.integrity().unwrap();
}

fn files() -> Vec<Vec<u8>> {
    vec![
        Tiny::new(Arch::Llama, 1).kind(Kind::Q4_1).build(),
        Tiny::new(Arch::Qwen2, 2).kind(Kind::Q8_0).build(),
        Tiny::new(Arch::Qwen3, 3).tied(false).build(),
    ]
}

/// Where the tensor data starts, roughly: mutations in the description are the dangerous ones.
fn head_len(file: &[u8]) -> usize {
    (file.len() / 4).min(16 << 10)
}

#[test]
fn mutated_files_end_in_an_error_or_run_within_bounds() {
    let full = std::env::var_os("TAMP_TEST_FULL").is_some();
    let count = if full { 100_000 } else { 1_500 };
    let (device, files) = (common::device(), files());
    let mut tally = Tally::default();
    let mut noise = Noise(99);
    for i in 0..count {
        let mut file = files[i % files.len()].clone();
        let head = head_len(&file);
        for _ in 0..1 + noise.below(4) {
            let at = if noise.below(8) == 0 { noise.below(file.len()) } else { noise.below(head) };
            file[at] = match noise.below(4) {
                0 => 0,
                1 => 255,
                2 => file[at] ^ (1 << noise.below(8)),
                _ => noise.below(256) as u8,
            };
        }
        try_file(file, &device, &mut tally);
    }
    eprintln!("{count} mutations: {tally:?}");
    // The check is only worth something while both ends are reached.
    assert!(tally.ran > count / 50 && tally.unreadable + tally.refused > count / 50, "{tally:?}");
}

#[test]
fn truncated_files_end_in_an_error() {
    let (device, files) = (common::device(), files());
    let mut tally = Tally::default();
    let full = std::env::var_os("TAMP_TEST_FULL").is_some();
    let step = if full { 1 } else { 97 };
    for file in &files {
        for len in (0..file.len()).step_by(step) {
            try_file(file[..len].to_vec(), &device, &mut tally);
        }
    }
    eprintln!("truncations: {tally:?}");
    assert_eq!(tally.ran, 0, "{tally:?}");
}

#[test]
fn numbers_that_poison_the_arithmetic_fail_the_sequence_and_nothing_else() {
    let mut file = Tiny::new(Arch::Llama, 1).build();
    let end = file.len();
    // NaN in the last quarter of the data: weights of the last layer.
    for at in (end - end / 4..end - 4).step_by(64) {
        let at = at & !3;
        file[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    }
    let mut tally = Tally::default();
    try_file(file, &common::device(), &mut tally);
    assert_eq!((tally.failed, tally.ran), (1, 0), "{tally:?}");
}
