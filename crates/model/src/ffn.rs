//! What transforms each position by itself: phases D, E of a layer.

pub mod gated;
