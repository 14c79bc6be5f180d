//! Input: a GGUF file.
#![no_main]

mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    common::read(tamp_weights::Weights::from_gguf_bytes(data.to_vec()));
});
