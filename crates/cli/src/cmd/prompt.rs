//! A conversation to the tokens of a prompt.

use serde_json::Map;
use tamp_text::{Message, Special, Template, Tokenizer};

use crate::fail::{Done, Fail};

/// The ChatML wording, for models that bring no template.
const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// What models hear first when nobody says otherwise. Templates' own defaults name a persona: with SmolLM2's the
/// 4-bit default model rambles, with this one it answers.
const SYSTEM: &str = "You are a helpful assistant.";

/// The system message of a conversation: the wish, or the default; an empty wish leaves it to the template.
pub fn system(wish: Option<&str>) -> Option<Message> {
    Some(wish.unwrap_or(SYSTEM)).filter(|s| !s.is_empty()).map(|s| Message::new("system", s))
}

/// Renders and tokenises.
pub struct Prompter {
    template: Template,
    /// the model brought none, and ChatML stands in
    pub fallback: bool,
}

impl Prompter {
    /// With the model's own template, else ChatML.
    pub fn new(own: Option<&str>, t: &Tokenizer) -> Done<Self> {
        let piece = |id: Option<u32>| id.map_or("", |id| t.piece(id));
        let template = Template::new(own.unwrap_or(CHATML), piece(t.bos()), piece(t.eos()))
            .map_err(|e| Fail::from(e).hint("--raw continues the prompt without the template"))?;
        Ok(Self { template, fallback: own.is_none() })
    }

    /// The tokens of a conversation, ending where the answer begins.
    pub fn tokens(&self, messages: &[Message], t: &Tokenizer) -> Done<Vec<u32>> {
        let text = self
            .template
            .render(messages, None, true, &Map::new())
            .map_err(|e| Fail::from(e).hint("--raw continues the prompt without the template"))?;
        // Templates usually write the start token themselves.
        let bos = t.bos().map_or("", |id| t.piece(id));
        let written = !bos.is_empty() && text.starts_with(bos);
        Ok(t.encode(&text, Special::Parse, !written))
    }
}

/// The tokens of a text taken as it is.
pub fn raw(text: &str, t: &Tokenizer) -> Vec<u32> {
    t.encode(text, Special::Parse, true)
}
