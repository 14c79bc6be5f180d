//! Input: a 32-bit length, so many bytes of `config.json`, an ONNX file.
#![no_main]

mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (config, file) = common::two(data);
    common::read(tamp_weights::Weights::from_onnx_bytes(config, file.to_vec()));
});
