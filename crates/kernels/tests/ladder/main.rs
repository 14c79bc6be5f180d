//! Every implementation through one runner, against naive oracles written from the formats' own decoders: all rungs
//! of this machine, all formats, all widths (KERNELS §9, items 1–4).
//!
//! Faults planted once to see each kind of check fail are named in the doc comment of the module that holds it.
#![allow(clippy::unwrap_used)]

mod attend;
mod matmul;
mod repack;
mod rows;
mod tools;
