//! Arithmetic and the CPU device. Knows nothing of models, sequences or files.
//!
//! | module | what it holds |
//! |---|---|
//! | [`device`] | the seam: five phases per layer over opaque activations |
//! | [`lanes`] | 16 virtual lanes per instruction set |
//! | [`tile`] | the R16k4 layout and its arithmetic, one file per family of formats |
//! | [`rows`], [`attend`] | norm, quantisation, gating; attention over pages |
//! | [`rung`] | the table of function pointers chosen once |
//! | [`linear`], [`repack`] | weights in tiles, and the fast way there |
//! | [`pool`], [`cpu`] | the workers, the phases |

pub mod attend;
pub mod cpu;
pub mod device;
pub mod lanes;
pub mod linear;
pub mod numerics;
pub mod pool;
pub mod probe;
pub mod repack;
pub mod rows;
pub mod rung;
pub mod shared;
pub mod tile;
