//! How a model writes calls.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Tool;
use crate::grammar::schema_options;
use crate::tokenizer::Tokenizer;

/// How a model writes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Hermes, Qwen 2.5 and 3
    Hermes,
    /// Llama 3.1 to 3.3
    Llama3,
    /// Mistral's list form
    Mistral,
}

impl Style {
    /// The style that a model's chat template asks for or, where the template says nothing, that its vocabulary has
    /// markers for. None when neither does, and for a template with a style that is not one of these.
    pub fn detect(template: &str, tokenizer: &Tokenizer) -> Option<Style> {
        // Qwen's coder models write `<function=name>` inside the tags of the Hermes style.
        if template.contains("<function=") {
            return None;
        }
        let styles = [Style::Hermes, Style::Mistral, Style::Llama3];
        let named = |s: &Style| match s {
            Style::Llama3 => {
                template.contains("<|python_tag|>")
                    || (template.contains("ipython") && template.contains("\"parameters\""))
            }
            _ => template.contains(s.open()),
        };
        let find = |by: &dyn Fn(&Style) -> bool| styles.iter().copied().find(|s| by(s));
        find(&named).or_else(|| find(&|s| tokenizer.id_of(s.open()).is_some()))
    }

    /// What stands before a call; in the Llama 3 style it may be missing.
    pub fn open(self) -> &'static str {
        match self {
            Style::Hermes => "<tool_call>",
            Style::Llama3 => "<|python_tag|>",
            Style::Mistral => "[TOOL_CALLS]",
        }
    }

    /// Every marker of the style.
    pub(crate) fn markers(self) -> &'static [&'static str] {
        match self {
            Style::Hermes => &["<tool_call>", "</tool_call>"],
            Style::Llama3 => &["<|python_tag|>"],
            Style::Mistral => &["[TOOL_CALLS]"],
        }
    }

    /// The key of the arguments as the model was taught it.
    fn arguments(self) -> &'static str {
        if self == Style::Llama3 { "parameters" } else { "arguments" }
    }

    /// A grammar in Lark of an answer that is one call (or, `parallel`, several) of one of these checked tools.
    pub(crate) fn grammar(self, tokenizer: &Tokenizer, tools: &[Tool], parallel: bool) -> String {
        let marker = |text: &str| match tokenizer.id_of(text) {
            Some(id) if tokenizer.is_control(id) => format!("<[{id}]>"),
            _ => Value::from(text).to_string(),
        };
        let more = |between: &str| if parallel { format!("({between} call)*") } else { String::new() };
        let mut g = match self {
            Style::Hermes => format!(
                "start: wrapped{}\nwrapped: {} \"\\n\" call \"\\n\" {}\n",
                if parallel { "(\"\\n\" wrapped)*" } else { "" },
                marker("<tool_call>"),
                marker("</tool_call>")
            ),
            Style::Llama3 => format!("start: call {}\n", more("\"; \"")),
            Style::Mistral => {
                format!("start: {} \"[\" call {} \"]\"\n", marker("[TOOL_CALLS]"), more("\", \""))
            }
        };
        let calls: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
        g += &format!("call: {}\n", calls.join(" | "));
        for (i, tool) in tools.iter().enumerate() {
            let head = format!("{{\"name\": {}, \"{}\": ", Value::from(tool.name.as_str()), self.arguments());
            let head = Value::from(head);
            // Writing to a string cannot fail.
            let _ = writeln!(g, "call_{i}: {head} args_{i} \"}}\"\nargs_{i}: %json {}", arguments(tool));
        }
        g
    }
}

/// The schema of a tool's arguments: an object, whatever else it says.
fn arguments(tool: &Tool) -> Value {
    let mut schema = match &tool.parameters {
        Some(Value::Object(o)) => Value::Object(o.clone()),
        _ => json!({}),
    };
    if let Value::Object(o) = &mut schema {
        o.entry("type").or_insert_with(|| "object".into());
        o.insert("x-guidance".into(), schema_options());
    }
    schema
}
