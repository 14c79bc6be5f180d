//! Tool calls: how a model writes them, reading them while they are written, and grammars that make a call certain.
//!
//! | style | a call as the model writes it | several |
//! |---|---|---|
//! | Hermes, Qwen | `<tool_call>{"name": …, "arguments": {…}}</tool_call>` | one after the other |
//! | Llama 3 | `{"name": …, "parameters": {…}}` as the whole answer, or after `<\|python_tag\|>` | `;` between |
//! | Mistral | `[TOOL_CALLS][{"name": …, "arguments": {…}}]` | in the list |
//!
//! Markers that are control tokens of the vocabulary say nothing in text; [`Parser::token`] takes the token beside
//! its text and reads those markers from it.

mod call;
mod json;
mod parser;
mod style;

use serde_json::Value;

use crate::error::{Error, brief};

pub use parser::{Event, Parser};
pub use style::Style;

/// Longest name of a tool, bytes.
pub const MAX_NAME: usize = 64;

/// A tool that a model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// letters, digits, `_`, `-` and `.`
    pub name: String,
    /// JSON schema of the arguments; none = any object
    pub parameters: Option<Value>,
}

impl Tool {
    /// The tools of an OpenAI request: `[{"type": "function", "function": {"name": …, "parameters": {…}}}]`.
    ///
    /// # Errors
    /// One sentence that names the entry which is not of this shape.
    pub fn list(tools: &Value) -> Result<Vec<Tool>, Error> {
        let refuse = |field: String, why: &str| Err(Error::Grammar { field, why: why.into() });
        let Value::Array(list) = tools else {
            return refuse("tools".into(), "it is a list of functions");
        };
        let mut out: Vec<Tool> = Vec::new();
        for (i, v) in list.iter().enumerate() {
            if v.get("type").and_then(Value::as_str) != Some("function") {
                return refuse(format!("tools[{i}].type"), "the one type of tool is `function`");
            }
            let Some(name) = v.pointer("/function/name").and_then(Value::as_str) else {
                return refuse(format!("tools[{i}].function.name"), "it is missing, or no text");
            };
            let parameters = v.pointer("/function/parameters").filter(|p| !p.is_null()).cloned();
            let tool = Tool { name: name.into(), parameters };
            tool.check(i)?;
            if out.iter().any(|t| t.name == tool.name) {
                return refuse(format!("tools[{i}].function.name"), "another tool has the same name");
            }
            out.push(tool);
        }
        Ok(out)
    }

    pub(crate) fn check(&self, i: usize) -> Result<(), Error> {
        if is_name(&self.name) {
            return Ok(());
        }
        let field = format!("tools[{i}].function.name");
        let why = format!(
            "`{}` is not 1 to {MAX_NAME} letters, digits, `_`, `-` and `.`",
            brief(&self.name, MAX_NAME)
        );
        Err(Error::Grammar { field, why })
    }
}

/// Whether a tool can have this name.
fn is_name(s: &str) -> bool {
    (1..=MAX_NAME).contains(&s.len())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}
