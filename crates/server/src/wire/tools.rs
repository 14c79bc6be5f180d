//! Tools out of a body: what the template shows to the model, and how its calls are read back.

use serde_json::{Value, json};
use tamp_text::grammar::GrammarSpec;
use tamp_text::tools::{Parser, Style, Tool};

use super::form::{Form, object, out_of_range};
use crate::error::ApiError;
use crate::limits::Limits;
use crate::model::Served;

/// The JSON schema of `tools`.
pub fn schema() -> Value {
    json!({"type": "array", "items": {
        "type": "object", "required": ["type", "function"], "properties": {
            "type": {"enum": ["function"]},
            "function": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string"}, "description": {"type": "string"},
                "parameters": {"type": "object"}, "strict": {"type": "boolean"},
            }},
        },
    }})
}

/// The JSON schema of `tool_choice`.
pub fn choice_schema() -> Value {
    json!({"oneOf": [{"enum": ["none", "auto", "required"]}, {"type": "object", "properties": {
        "type": {"enum": ["function"]},
        "function": {"type": "object", "properties": {"name": {"type": "string"}}},
    }}]})
}

/// What must be called.
#[derive(Clone, Debug, PartialEq)]
pub enum Must {
    /// nothing
    Nothing,
    /// one of these; one for a named choice
    One(Vec<Tool>),
}

/// The tools of a request.
#[derive(Clone, Debug)]
pub struct Tools {
    /// as the template sees them; none when none may be called
    pub shown: Option<Value>,
    /// those that may be called
    pub offered: Vec<Tool>,
    /// what must be called
    pub must: Must,
    /// several calls may follow one another
    pub parallel: bool,
}

impl Tools {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn read(form: &Form, limits: &Limits) -> Result<Self, ApiError> {
        let parallel = form.flag("parallel_tool_calls").unwrap_or(true);
        let none = Tools { shown: None, offered: vec![], must: Must::Nothing, parallel };
        let given = form.get("tools").cloned().unwrap_or_else(|| json!([]));
        let list = given.as_array().ok_or_else(|| out_of_range("tools", &given, "an array of functions"))?;
        if list.len() > limits.tools {
            return Err(out_of_range("tools", &given, &format!("at most {} functions", limits.tools)));
        }
        for (i, t) in list.iter().enumerate() {
            let at = format!("tools[{i}]");
            object(&at, t, &["type", "function"])?;
            let f = t.get("function").unwrap_or(&Value::Null);
            let at = format!("{at}.function");
            object(&at, f, &["name", "description", "parameters", "strict"])?;
            for (name, fits) in [
                ("description", Value::is_string as fn(&Value) -> bool),
                ("parameters", Value::is_object),
                ("strict", Value::is_boolean),
            ] {
                if let Some(v) = f.get(name).filter(|v| !v.is_null() && !fits(v)) {
                    let want = if name == "description" {
                        "text"
                    } else if name == "strict" {
                        "true or false"
                    } else {
                        "a JSON schema of an object"
                    };
                    return Err(out_of_range(&format!("{at}.{name}"), v, want));
                }
            }
        }
        let offered = Tool::list(&given).map_err(|e| ApiError::field("tools", e.to_string()))?;
        let find = |name: &str| offered.iter().find(|t| t.name == name).cloned();
        let must = match form.get("tool_choice") {
            None => Must::Nothing,
            Some(Value::String(w)) if w == "auto" => Must::Nothing,
            Some(Value::String(w)) if w == "none" => return Ok(none),
            Some(Value::String(w)) if w == "required" && !offered.is_empty() => Must::One(offered.clone()),
            Some(v) => {
                let want = "none, auto, required, or {\"type\": \"function\", \"function\": {\"name\": one of `tools`}}";
                let named = v.pointer("/function/name").and_then(Value::as_str).and_then(find);
                match named.filter(|_| v["type"] == "function") {
                    Some(tool) => Must::One(vec![tool]),
                    None => return Err(out_of_range("tool_choice", v, want)),
                }
            }
        };
        if offered.is_empty() {
            return Ok(none);
        }
        Ok(Tools { shown: Some(given), offered, must, parallel })
    }

    /// What the answer has to be, by these tools and by `response_format`.
    ///
    /// # Errors
    /// 400: the two contradict each other, or a single call was asked for where nothing makes it so.
    pub fn constrain(
        &self,
        format: Option<GrammarSpec>,
        model: &Served,
    ) -> Result<Option<GrammarSpec>, ApiError> {
        if self.offered.is_empty() {
            return Ok(format);
        }
        if format.is_some() {
            let why = "an answer cannot have a form of its own and call tools; send `tool_choice`: \"none\", or no form";
            return Err(ApiError { code: "unsupported_value", ..ApiError::field("response_format", why) });
        }
        match &self.must {
            Must::One(tools) => {
                let (style, tools) = (self.style(model)?, tools.clone());
                Ok(Some(GrammarSpec::ToolCalls { style, tools, parallel: self.parallel }))
            }
            Must::Nothing if !self.parallel => {
                let why = "`parallel_tool_calls`: false needs `tool_choice` required or a function by name";
                Err(ApiError { code: "unsupported_value", ..ApiError::field("parallel_tool_calls", why) })
            }
            Must::Nothing => Ok(None),
        }
    }

    /// Reads calls of these tools out of an answer of this model.
    ///
    /// # Errors
    /// 400: nobody knows how this model writes calls.
    pub fn parser(&self, model: &Served) -> Result<Option<Parser>, ApiError> {
        if self.offered.is_empty() {
            return Ok(None);
        }
        let names = self.offered.iter().map(|t| t.name.clone()).collect();
        Ok(Some(Parser::new(self.style(model)?, names).of_tokens(model.tokenizer())))
    }

    /// How this model writes calls.
    ///
    /// # Errors
    /// 400: nobody knows.
    pub fn style(&self, model: &Served) -> Result<Style, ApiError> {
        let template = model.template_source.as_deref().unwrap_or("");
        Style::detect(template, model.tokenizer()).ok_or_else(|| {
            let why = format!(
                "the chat template of `{}` does not say how it calls tools (Hermes/Qwen, Llama 3 and Mistral do)",
                model.name
            );
            ApiError { code: "unsupported_value", ..ApiError::field("tools", why) }
        })
    }
}
