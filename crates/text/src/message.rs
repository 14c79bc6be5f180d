//! One message of a conversation, as chat templates and the OpenAI API spell it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One message. Templates see `role`, `content` and everything in `rest` under its own name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, …
    pub role: String,
    /// what it says; may be absent beside tool calls
    #[serde(default)]
    pub content: Content,
    /// `tool_calls`, `tool_call_id`, `name`, `reasoning_content`, …
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What a message says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// nothing (`null`)
    #[default]
    None,
    /// text
    Text(String),
    /// typed parts, as in `[{"type": "text", "text": "…"}]`
    Parts(Vec<Value>),
}

impl Message {
    /// A message of text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Content::Text(content.into()), rest: Map::new() }
    }

    /// What the template sees. Tool calls whose arguments are JSON text, as the OpenAI API sends them, become objects,
    /// as templates expect them.
    pub(crate) fn to_value(&self) -> Value {
        let mut m = Map::new();
        m.insert("role".into(), Value::String(self.role.clone()));
        m.insert(
            "content".into(),
            match &self.content {
                Content::None => Value::Null,
                Content::Text(t) => Value::String(t.clone()),
                Content::Parts(p) => Value::Array(p.clone()),
            },
        );
        for (k, v) in &self.rest {
            let mut v = v.clone();
            if k == "tool_calls"
                && let Value::Array(calls) = &mut v
            {
                calls.iter_mut().for_each(parse_arguments);
            }
            m.insert(k.clone(), v);
        }
        Value::Object(m)
    }
}

fn parse_arguments(call: &mut Value) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else { return };
    if let Value::String(text) = arguments
        && let Ok(parsed @ Value::Object(_)) = serde_json::from_str(text)
    {
        *arguments = parsed;
    }
}
