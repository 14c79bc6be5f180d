//! Arithmetic and the CPU device. Knows nothing of models, sequences or files.

pub mod device;
