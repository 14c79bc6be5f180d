//! Files to named tensors.
#![forbid(unsafe_code)]
