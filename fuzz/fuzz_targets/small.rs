//! A tokenizer of every byte and one end token.

use std::sync::Arc;

use tamp_text::Tokenizer;

/// Bytes as GPT-2 spells them, then `<|end|>`.
pub fn tokenizer() -> Arc<Tokenizer> {
    let spell = |b: u8| match b {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => u32::from(b),
        0..=0x20 => 0x100 + u32::from(b),
        0x7f..=0xa0 => 0x121 + u32::from(b) - 0x7f,
        0xad => 0x143,
    };
    let mut vocab = serde_json::Map::new();
    for b in 0..=255u8 {
        vocab.insert(char::from_u32(spell(b)).unwrap_or_default().to_string(), b.into());
    }
    let file = serde_json::json!({
        "added_tokens": [{"id": 256, "content": "<|im_end|>", "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    match Tokenizer::from_json(file.to_string().as_bytes(), None) {
        Ok(t) => Arc::new(t),
        Err(e) => panic!("{e}"),
    }
}
