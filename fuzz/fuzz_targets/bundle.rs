//! Input: a bundle up to its manifest, a manifest. The header's hash is made right, because a fuzzer finds no hash.
#![no_main]

mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (front, manifest) = common::two(data);
    let mut file = front.to_vec();
    file.resize(file.len().max(64).next_multiple_of(64), 0);
    let start = file.len() as u64;
    file[..8].copy_from_slice(tamp_weights::bundle::MAGIC);
    file[8..16].copy_from_slice(&1u64.to_le_bytes());
    file[16..24].copy_from_slice(&start.to_le_bytes());
    file[24..32].copy_from_slice(&(manifest.len() as u64).to_le_bytes());
    file[32..64].copy_from_slice(blake3::hash(manifest).as_bytes());
    file.extend_from_slice(manifest);
    let opened = tamp_weights::Weights::from_bundle_bytes(&file);
    if let Some(b) = opened.as_ref().ok().and_then(|w| w.bundle()) {
        let _ = b.verify(&mut |_, _| ());
        let _ = b.watch().settle();
    }
    if let Ok(w) = &opened {
        let _ = (w.full_meta(), w.tokenizer_json());
        for t in w.tensors() {
            if let Some(p) = w.packed(t.name) {
                assert!(p.bytes.len() >= t.bytes);
            }
        }
    }
    common::read(opened);
});
