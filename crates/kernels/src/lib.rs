//! Arithmetic and the CPU device.
