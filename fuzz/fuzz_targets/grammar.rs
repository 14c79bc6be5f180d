//! Input: a byte that says what the rest is (JSON schema, regular expression, Lark), then a specification.
#![no_main]

use std::sync::{Arc, LazyLock};

use tamp_text::Tokenizer;
use tamp_text::grammar::{GrammarSpec, Grammars};

#[path = "small.rs"]
mod small;

static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(small::tokenizer);
static GRAMMARS: LazyLock<Grammars> = LazyLock::new(|| Grammars::new(&TOKENIZER));

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let spec = match kind % 3 {
        0 => match serde_json::from_str(text) {
            Ok(schema) => GrammarSpec::JsonSchema(schema),
            Err(_) => return,
        },
        1 => GrammarSpec::Regex(text.into()),
        _ => GrammarSpec::Grammar(text.into()),
    };
    let Ok(grammar) = GRAMMARS.compile(&spec) else { return };
    let mut state = grammar.start();
    for step in 0..16u32 {
        let Ok(mask) = state.mask(&[]) else { return };
        drop(state.forced(&[]));
        let n = TOKENIZER.len() as u32;
        let from = step.wrapping_mul(97).wrapping_add(u32::from(*kind)) % n;
        let Some(next) = (0..n).map(|i| (i + from) % n).find(|&i| mask.allows(i)) else { return };
        assert!(state.advance(next).is_ok(), "a token that the mask allows is taken");
    }
});
