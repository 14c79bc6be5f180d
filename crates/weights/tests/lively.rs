//! The small models answer with many different tokens, and depend on their context; read by a forward pass written
//! as plainly as possible.
#![allow(clippy::unwrap_used)]

mod common;

use common::Naive;
use tamp_formats::Kind;
use tamp_weights::Weights;
use tamp_weights::testing::{Arch, Tiny};

#[test]
fn small_models_answer_with_many_different_tokens() {
    for arch in Arch::ALL {
        for (seed, kind, tied) in [(1, Kind::F32, true), (2, Kind::F32, false), (3, Kind::Q4_0, true)] {
            let w = Weights::from_gguf_bytes(Tiny::new(arch, seed).kind(kind).tied(tied).build()).unwrap();
            let m = Naive::new(&w);
            let a = m.greedy(&[260, 270, 280], 24);
            let b = m.greedy(&[261, 270, 280], 24);
            let mut distinct = a.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert!(distinct.len() >= 8, "{arch:?} {seed}: {a:?}");
            assert_ne!(a, b, "{arch:?} {seed}: the first token of the prompt does not matter");
        }
    }
}
