//! Input: a chat template.
#![no_main]

use tamp_text::{Message, Template};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let Ok(t) = Template::new(source, "<s>", "</s>") else { return };
    let tools = serde_json::json!([{"type": "function", "function": {"name": "f", "parameters": {"a": [1, 2.5, null]}}}]);
    let m = [Message::new("system", "s"), Message::new("user", " hé a\n"), Message::new("assistant", "b")];
    drop(t.at(0).render(&m, Some(&tools), true, &serde_json::Map::new()));
});
