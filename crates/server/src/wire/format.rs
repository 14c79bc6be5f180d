//! `response_format`: what an answer has to be.

use serde_json::{Value, json};
use tamp_text::grammar::GrammarSpec;

use super::form::{object, out_of_range};
use crate::error::ApiError;

const KINDS: &[&str] = &["text", "json_object", "json_schema", "regex", "grammar"];

/// The JSON schema of the field.
pub fn schema() -> Value {
    json!({"type": "object", "required": ["type"], "properties": {
        "type": {"enum": KINDS},
        "json_schema": {"type": "object", "required": ["schema"], "properties": {
            "name": {"type": "string"}, "description": {"type": "string"}, "strict": {"type": "boolean"},
            "schema": {"type": ["object", "boolean"]},
        }},
        "regex": {"type": "string"},
        "grammar": {"type": "string"},
    }})
}

/// Reads it. Every form is kept strictly, whatever `strict` says.
///
/// # Errors
/// 400 naming the place.
pub fn read(v: Option<&Value>) -> Result<Option<GrammarSpec>, ApiError> {
    let Some(v) = v else { return Ok(None) };
    let kind = v.get("type").and_then(Value::as_str).unwrap_or("");
    let inside: &[&'static str] = match kind {
        "text" | "json_object" => &["type"],
        "json_schema" => &["type", "json_schema"],
        "regex" => &["type", "regex"],
        "grammar" => &["type", "grammar"],
        _ => {
            let got = v.get("type").unwrap_or(&Value::Null);
            return Err(out_of_range("response_format.type", got, &format!("one of {}", KINDS.join(", "))));
        }
    };
    object("response_format", v, inside)?;
    Ok(match kind {
        "json_object" => Some(GrammarSpec::JsonObject),
        "json_schema" => Some(json_schema(&v["json_schema"])?),
        "regex" => Some(GrammarSpec::Regex(text(v, "regex")?)),
        "grammar" => Some(GrammarSpec::Grammar(text(v, "grammar")?)),
        _ => None,
    })
}

fn text(v: &Value, name: &str) -> Result<String, ApiError> {
    let at = format!("response_format.{name}");
    v[name].as_str().map(str::to_string).ok_or_else(|| out_of_range(&at, &v[name], "text"))
}

fn json_schema(v: &Value) -> Result<GrammarSpec, ApiError> {
    let at = "response_format.json_schema";
    let map = object(at, v, &["name", "description", "strict", "schema"])?;
    match map.get("schema") {
        Some(s @ (Value::Object(_) | Value::Bool(_))) => Ok(GrammarSpec::JsonSchema(s.clone())),
        other => {
            let got = other.unwrap_or(&Value::Null);
            Err(out_of_range(&format!("{at}.schema"), got, "a JSON schema"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_or_named() {
        let of = |v: Value| read(Some(&v));
        assert_eq!(of(json!({"type": "text"})).unwrap(), None);
        assert_eq!(of(json!({"type": "json_object"})).unwrap(), Some(GrammarSpec::JsonObject));
        let s = of(json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}));
        assert_eq!(s.unwrap(), Some(GrammarSpec::JsonSchema(json!({"type": "array"}))));
        assert_eq!(
            of(json!({"type": "regex", "regex": "a+"})).unwrap(),
            Some(GrammarSpec::Regex("a+".into()))
        );
        for (bad, place) in [
            (json!({"type": "xml"}), "response_format.type"),
            (json!("json"), "response_format.type"),
            (json!({"type": "text", "regex": "a"}), "response_format.regex"),
            (json!({"type": "regex"}), "response_format.regex"),
            (
                json!({"type": "json_schema", "json_schema": {"name": "x"}}),
                "response_format.json_schema.schema",
            ),
            (json!({"type": "json_schema"}), "response_format.json_schema"),
        ] {
            assert_eq!(of(bad).unwrap_err().param.as_deref(), Some(place));
        }
    }
}
