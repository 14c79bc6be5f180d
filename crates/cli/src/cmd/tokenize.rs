//! `tamp tokenize MODEL --text S | --file F`.

use std::io::Read;
use std::sync::Arc;

use serde_json::json;
use tamp_engine::EngineError;
use tamp_text::{Bytes, Special, Tokenizer};
use tamp_weights::Weights;

use crate::args::TokenizeArgs;
use crate::cmd::Ctx;
use crate::fail::{At, Done, Fail};
use crate::say;

/// Form of a tokenizer section whose tables are used where they lie.
const COMPILED: &str = "compiled";

/// Prints ids: one per line with its piece, or the JSON contract.
pub fn run(ctx: &Ctx, a: &TokenizeArgs) -> Done {
    let text = text(a)?;
    let weights = Weights::open(&ctx.finder().find(a.model.as_deref())?)?;
    let tokenizer = tokenizer(&weights)?;
    let special = if a.no_special { Special::Plain } else { Special::Parse };
    let tokens = tokenizer.encode(&text, special, !a.plain);
    if ctx.json {
        return ctx.json(&json!({ "tokens": tokens }));
    }
    let mut lines = String::new();
    for id in &tokens {
        lines += &format!("{id:>7}  {:?}\n", String::from_utf8_lossy(tokenizer.bytes(*id)));
    }
    crate::out::raw(&lines);
    say!("{} tokens", tokens.len());
    Ok(())
}

fn text(a: &TokenizeArgs) -> Done<String> {
    let bytes = match (&a.text, &a.file) {
        (Some(t), _) => return Ok(t.clone()),
        (None, Some(f)) if f.as_os_str() != "-" => std::fs::read(f).at("read", f)?,
        (None, Some(_)) => {
            let mut all = Vec::new();
            std::io::stdin().read_to_end(&mut all).at("read", "stdin".as_ref())?;
            all
        }
        (None, None) => {
            return Err(Fail::usage("there is no text; give --text TEXT or --file FILE (`-` is stdin)"));
        }
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The tokenizer that came with the weights: the metadata's, else the `tokenizer.json` beside or inside them.
pub fn tokenizer(weights: &Weights) -> Result<Tokenizer, EngineError> {
    if let Some(b) = weights.bundle()
        && b.tokenizer_form() == COMPILED
        && let Some(span) = b.section("tokenizer")
    {
        let all = 0..span.len();
        // Tables of another version are made again from the source's words, which the bundle keeps beside them.
        if let Some(Ok(t)) = Bytes::new(Arc::new(span), all).map(Tokenizer::from_compiled) {
            return Ok(t);
        }
    }
    let meta = weights.full_meta()?;
    let from_meta = meta.get("tokenizer.ggml.tokens").is_some();
    match weights.tokenizer_json() {
        Some(json) if !from_meta => Ok(Tokenizer::from_json(json, Some(&meta))?),
        _ => Ok(Tokenizer::from_meta(&meta)?),
    }
}

/// The form and bytes that a bundle keeps a tokenizer in when they load faster than the source's own.
pub fn compiled(t: &Tokenizer) -> (String, Vec<u8>) {
    (COMPILED.into(), t.compile())
}
