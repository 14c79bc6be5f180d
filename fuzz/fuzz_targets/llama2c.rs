//! Input: a 32-bit length, so many bytes of `tokenizer.bin`, a checkpoint.
#![no_main]

mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (tokenizer, file) = common::two(data);
    common::read(tamp_weights::Weights::from_llama2c_bytes(file.to_vec(), tokenizer));
});
