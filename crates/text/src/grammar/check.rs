//! Bounds of what a request may ask to be compiled, before anything is built from it.

use serde_json::Value;

use crate::error::{Error, brief};
use crate::tools::Tool;

/// Largest JSON schema, bytes as compact JSON.
pub const MAX_SCHEMA_BYTES: usize = 128 << 10;
/// Longest regular expression, bytes.
pub const MAX_REGEX_BYTES: usize = 4 << 10;
/// Longest grammar, bytes.
pub const MAX_GRAMMAR_BYTES: usize = 64 << 10;
/// Deepest nesting of a schema, of brackets in a regular expression or a grammar.
pub const MAX_DEPTH: usize = 64;
/// Most tools of one request.
const MAX_TOOLS: usize = 128;

fn refuse(field: impl Into<String>, why: impl Into<String>) -> Error {
    Error::Grammar { field: field.into(), why: why.into() }
}

/// A JSON schema: an object or a boolean, within its bounds, with references that stay inside.
pub fn schema(field: &str, schema: &Value) -> Result<(), Error> {
    if !schema.is_object() && !schema.is_boolean() {
        return Err(refuse(field, "a schema is an object or a boolean"));
    }
    if schema == &Value::Bool(false) {
        return Err(refuse(field, "the schema `false` allows no answer"));
    }
    let mut left = MAX_SCHEMA_BYTES;
    walk(field, schema, 0, &mut left)
}

fn walk(field: &str, v: &Value, depth: usize, left: &mut usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(refuse(field, format!("it is nested deeper than {MAX_DEPTH} levels")));
    }
    let own = match v {
        Value::String(s) => s.len() + 2,
        Value::Object(o) => o.keys().map(|k| k.len() + 4).sum::<usize>() + 2,
        Value::Array(a) => a.len() + 2,
        _ => 4,
    };
    *left = left
        .checked_sub(own)
        .ok_or_else(|| refuse(field, format!("it is larger than {MAX_SCHEMA_BYTES} bytes")))?;
    match v {
        Value::Array(a) => a.iter().try_for_each(|v| walk(field, v, depth + 1, left)),
        Value::Object(o) => o.iter().try_for_each(|(k, v)| {
            match (k.as_str(), v) {
                ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(to)) if !to.starts_with('#') => {
                    let to = brief(to, 80);
                    return Err(refuse(
                        format!("{field}.{k}"),
                        format!(
                            "`{to}` points outside the schema; nothing is fetched, so put it under `$defs`"
                        ),
                    ));
                }
                ("x-guidance", _) => {
                    return Err(refuse(format!("{field}.x-guidance"), "it is not a keyword of JSON Schema"));
                }
                ("pattern", Value::String(p)) => regex(&format!("{field}.pattern"), p)?,
                _ => {}
            }
            walk(field, v, depth + 1, left)
        }),
        _ => Ok(()),
    }
}

/// A regular expression within its bounds.
pub fn regex(field: &str, regex: &str) -> Result<(), Error> {
    if regex.is_empty() {
        return Err(refuse(field, "it is empty"));
    }
    text(field, regex, MAX_REGEX_BYTES)
}

/// A grammar within its bounds.
pub fn lark(field: &str, grammar: &str) -> Result<(), Error> {
    if grammar.trim().is_empty() {
        return Err(refuse(field, "it is empty"));
    }
    text(field, grammar, MAX_GRAMMAR_BYTES)
}

/// Length, no control characters, and bracket depth. Brackets are counted wherever they stand but behind a backslash, so
/// the depth may be over-estimated and never under-estimated: a closing one counts only while it can close.
fn text(field: &str, s: &str, most: usize) -> Result<(), Error> {
    if s.len() > most {
        return Err(refuse(field, format!("it has {} bytes; at most {most} are taken", s.len())));
    }
    if let Some(c) = s.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err(refuse(field, format!("it holds the control character U+{:04X}", c as u32)));
    }
    let (mut open, mut escaped) = (0usize, false);
    for b in s.bytes() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_DEPTH {
            return Err(refuse(field, format!("its brackets nest deeper than {MAX_DEPTH} levels")));
        }
    }
    Ok(())
}

/// Tools to be called: some, not too many, each with a schema within bounds.
pub fn tools(tools: &[Tool]) -> Result<(), Error> {
    if tools.is_empty() || tools.len() > MAX_TOOLS {
        return Err(refuse(
            "tools",
            format!("there are {}; a call that must be made needs 1 to {MAX_TOOLS}", tools.len()),
        ));
    }
    let mut total = 0;
    for (i, t) in tools.iter().enumerate() {
        t.check(i)?;
        if let Some(p) = &t.parameters {
            let field = format!("tools[{i}].parameters");
            schema(&field, p)?;
            if p.get("type").is_some_and(|t| t != "object") || !p.is_object() {
                return Err(refuse(field, "the arguments of a tool are an object"));
            }
            total += p.to_string().len();
        }
    }
    if total > MAX_SCHEMA_BYTES {
        return Err(refuse(
            "tools",
            format!("their parameters have {total} bytes together; at most {MAX_SCHEMA_BYTES} are taken"),
        ));
    }
    Ok(())
}
