//! What `tokenizer_config.json` and `generation_config.json` add to the metadata. The tokenizer itself is not read
//! here: its bytes are handed on.

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tamp_base::meta::{Meta, Value};

use super::config::{Ids, set_stops};
use super::json;
use crate::error::Result;

#[derive(Deserialize)]
struct TokenizerConfig {
    chat_template: Option<Template>,
    add_bos_token: Option<bool>,
}

/// The template: text, or the one named `default` of a list. Written by hand because serde's untagged enums keep the
/// whole value in memory, thirty times the size of the text.
struct Template(Option<String>);

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Template;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a chat template or a list of named ones")
            }
            fn visit_str<E: serde::de::Error>(self, s: &str) -> std::result::Result<Template, E> {
                Ok(Template(Some(s.into())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut s: A) -> std::result::Result<Template, A::Error> {
                let mut found = None;
                while let Some(n) = s.next_element::<Named>()? {
                    if n.name == "default" {
                        found = Some(n.template);
                    }
                }
                Ok(Template(found))
            }
        }
        d.deserialize_any(Visit)
    }
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

#[derive(Deserialize)]
struct Generation {
    bos_token_id: Option<Ids>,
    eos_token_id: Option<Ids>,
}

/// Sets the chat template and whether a text begins with the begin token.
pub(super) fn config(meta: &mut Meta, bytes: &[u8]) -> Result<()> {
    let c: TokenizerConfig = json("tokenizer_config.json", bytes)?;
    if let Some(Template(Some(t))) = c.chat_template {
        meta.set("tokenizer.chat_template", Value::Str(t));
    }
    if let Some(b) = c.add_bos_token {
        meta.set("tokenizer.ggml.add_bos_token", Value::Bool(b));
    }
    Ok(())
}

/// Generation settings know more ends of text than the model's configuration does.
pub(super) fn generation(meta: &mut Meta, bytes: &[u8]) -> Result<()> {
    let g: Generation = json("generation_config.json", bytes)?;
    set_stops(meta, g.bos_token_id.as_ref(), g.eos_token_id.as_ref());
    Ok(())
}
