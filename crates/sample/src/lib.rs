//! Noise, logits chain, stop rules.
#![forbid(unsafe_code)]
