//! Every implementation through one runner, against naive oracles written from the formats' own decoders: all rungs
//! of this machine, all formats, all widths (KERNELS §9, items 1–4).
//!
//! Each module names the faults that were planted once to see its checks fail.
#![allow(clippy::unwrap_used)]

mod attend;
mod matmul;
mod phases;
mod repack;
mod rows;
mod together;
mod tools;
