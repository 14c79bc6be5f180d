//! What mixes positions: phases A, B, C of a layer.

pub mod attention;
