//! A model in a bundle answers like the file it was made from, and stops answering when it is no longer that bundle.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::*;
use tamp_base::clock::ManualClock;
use tamp_base::settings::Settings;
use tamp_engine::{Engine, EngineError, plan};
use tamp_formats::Kind;
use tamp_kernels::cpu::Cpu;
use tamp_kernels::device::Device;
use tamp_kernels::linear::Linear;
use tamp_kernels::pool::Pool;
use tamp_kernels::rung;
use tamp_model::pack::{Form, bundle};
use tamp_text::Tokenizer;
use tamp_weights::testing::{Arch, Tiny};
use tamp_weights::{Residency, Weights};

fn source(arch: Arch, kind: Kind) -> Weights {
    Weights::from_gguf_bytes(Tiny::new(arch, 7).kind(kind).tied(false).build()).unwrap()
}

fn packed(dir: &Path, src: &Weights, form: Form) -> PathBuf {
    let path = dir.join(format!("{form:?}.tamp"));
    bundle(src, &*device(), form, None, &path, &mut |_, _| ()).unwrap();
    path
}

fn load(w: &Weights, settings: &Settings) -> Engine<Cpu> {
    let tokenizer = Arc::new(Tokenizer::from_meta(&w.full_meta().unwrap()).unwrap());
    let clock = Arc::new(ManualClock::default());
    Engine::load(w, device(), || Ok(tokenizer), settings, options(96, 64, 1), clock, &mut |_, _| ()).unwrap()
}

#[test]
fn a_bundle_gives_the_answers_of_its_source_in_every_layout_and_residency() {
    let dir = tempfile::tempdir().unwrap();
    for (arch, kind) in [(Arch::Qwen2, Kind::Q4_K), (Arch::Llama, Kind::Q5_0), (Arch::Qwen3, Kind::F16)] {
        let src = source(arch, kind);
        let ask = |e: &mut Engine<Cpu>| {
            let a = e.generate(request(prompt(1, 40), 30, warm(5)), &mut |_| ()).unwrap();
            assert!(a.failure.is_none());
            a.tokens
        };
        let mut engine = load(&src, &Settings::default());
        let (want, hash) = (ask(&mut engine), engine.plan().hash.clone());
        for form in [Form::Packed, Form::Rows] {
            let path = packed(dir.path(), &src, form);
            for residency in [Residency::Map, Residency::Read] {
                let mut engine = load(&Weights::open_as(&path, residency).unwrap(), &Settings::default());
                assert_eq!(ask(&mut engine), want, "{arch:?} {kind} {form:?} {residency:?}");
                assert_eq!(engine.plan().hash, hash, "the plan knows kernels, not files");
                let made = engine.model().made();
                let in_place = form == Form::Packed;
                assert_eq!(
                    (made.adopted > 0, made.repacked > 0, made.retried > 0),
                    (in_place, !in_place, !in_place)
                );
                assert_eq!(engine.plan().memory.mapped > 0, in_place);
                assert_eq!(engine.plan().memory.weights == 0, in_place);
            }
        }
    }
}

#[test]
fn the_reference_forward_reads_a_bundle_through_the_inverse_of_its_layout() {
    let dir = tempfile::tempdir().unwrap();
    let src = source(Arch::Qwen2, Kind::Q6_K);
    let path = packed(dir.path(), &src, Form::Packed);
    let mut w = Weights::open(&path).unwrap();
    let (pool, rung) = (Pool::new(1, false), rung::available().next().unwrap());
    w.unpack_with(Arc::new(move |p| {
        let m = Linear::adopt(&pool, rung, p.kind, p.rows, p.cols, p.layout, p.bytes.clone());
        let m = m.map_err(|e| e.to_string())?;
        Ok((0..p.rows).flat_map(|r| m.row(r)).collect())
    }));
    let mut decoded = Settings::default();
    decoded.add_use("weights.decode=f32", "test").unwrap();
    let ask = |w: &Weights| {
        let mut e = load(w, &decoded);
        assert_eq!(e.model().made().adopted, 0);
        e.generate(request(prompt(2, 20), 20, greedy()), &mut |_| ()).unwrap().tokens
    };
    assert_eq!(ask(&w), ask(&src));
}

#[test]
fn a_bundle_found_bad_behind_the_work_stops_the_engine_and_names_the_section() {
    let dir = tempfile::tempdir().unwrap();
    let path = packed(dir.path(), &source(Arch::Qwen2, Kind::Q8_0), Form::Packed);
    let m = Weights::open(&path).unwrap().bundle().unwrap().manifest().clone();
    let mut bytes = std::fs::read(&path).unwrap();
    // The last byte of the last matrix: the answer is hardly another one.
    let s = m.section("weights").unwrap();
    bytes[(s.offset + s.length - 1) as usize] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let w = Weights::open(&path).unwrap();
    let mut e = load(&w, &Settings::default());
    e.generate(request(prompt(3, 8), 4, greedy()), &mut |_| ()).unwrap();
    let watch = w.bundle().unwrap().watch();
    watch.check_behind();
    assert!(watch.settle().is_err());
    let stopped = e.generate(request(prompt(3, 8), 4, greedy()), &mut |_| ()).unwrap_err();
    assert!(
        matches!(stopped, EngineError::Weights(_)) && stopped.to_string().contains("`weights`"),
        "{stopped}"
    );
}

#[test]
fn a_bundle_that_changes_under_a_running_engine_ends_the_run_in_the_same_turn() {
    let dir = tempfile::tempdir().unwrap();
    let path = packed(dir.path(), &source(Arch::Llama, Kind::Q8_0), Form::Packed);
    let mut e = load(&Weights::open(&path).unwrap(), &Settings::default());
    let mut read = load(&Weights::open_as(&path, Residency::Read).unwrap(), &Settings::default());
    let file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    let mut tokens = 0;
    let stopped = e.generate(request(prompt(4, 8), 40, greedy()), &mut |_| {
        tokens += 1;
        if tokens == 3 {
            file.set_len(file.metadata().unwrap().len() + 1).unwrap();
        }
    });
    let text = stopped.unwrap_err().to_string();
    assert!(text.contains("was changed") && (3..=4).contains(&tokens), "{text}, {tokens} tokens");
    read.generate(request(prompt(4, 8), 40, greedy()), &mut |_| ()).unwrap();
}

#[test]
fn plans_and_matrices_are_counted_when_they_are_made() {
    let before = plan::made();
    let e = engine(options(64, 64, 1));
    assert!(plan::made() > before);
    let made = e.model().device().made();
    assert!(made >= 15, "{made}");
    e.model().device().linear(Kind::F32, 1, 16, &[0; 64]).unwrap();
    assert_eq!(e.model().device().made(), made + 1);
    assert!(e.model().device().linear(Kind::F32, 1, 16, &[0; 63]).is_err());
    assert_eq!(e.model().device().made(), made + 1);
}
