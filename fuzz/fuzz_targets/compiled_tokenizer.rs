//! Input: a compiled tokenizer.
#![no_main]

use tamp_text::{Detokenizer, Special, Tokenizer};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(t) = Tokenizer::from_compiled(data.to_vec().into()) else { return };
    let ids = t.encode("hello  <|x|> 12345 it's \u{301}\u{fffd}\r\n\n é漢🚀 ▁\0", Special::Parse, true);
    assert!(ids.iter().all(|&id| (id as usize) < t.len()));
    let mut d = Detokenizer::new(&t);
    ids.iter().for_each(|&id| drop(d.push(id)));
    drop(d.finish());
    drop(t.decode(&ids, true));
});
