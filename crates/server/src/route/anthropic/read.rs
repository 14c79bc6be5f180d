//! A body in Anthropic's words → one in those of `/v1/chat/completions`. What is not understood is named in Anthropic's.

use serde_json::{Map, Value, json};

use crate::ask;
use crate::error::ApiError;
use crate::limits::Limits;
use crate::model::Served;
use crate::route::turn;
use crate::wire::form::{Form, object, out_of_range, show};

fn unsupported(at: &str, why: &str) -> ApiError {
    ApiError {
        code: "unsupported_value",
        ..ApiError::field(at, format!("`{at}` is not possible here: {why}"))
    }
}

/// `stop_sequences`.
pub fn stops(v: &Value) -> Result<Vec<String>, ApiError> {
    if !v.is_array() {
        return Err(out_of_range("stop_sequences", v, "an array of texts"));
    }
    ask::stops(v).map_err(|e| ApiError {
        param: Some("stop_sequences".into()),
        message: e.message.replacen("`stop`", "`stop_sequences`", 1),
        ..e
    })
}

/// The body of a chat.
pub fn chat(form: &Form, limits: &Limits, model: &Served) -> Result<Value, ApiError> {
    let mut out = Map::new();
    let mut messages = Vec::new();
    if let Some(v) = form.get("system") {
        messages.push(json!({"role": "system", "content": text("system", v)?}));
    }
    let v = form.get("messages").unwrap_or(&Value::Null);
    let all = v.as_array().filter(|a| (1..=limits.messages).contains(&a.len()));
    let all =
        all.ok_or_else(|| out_of_range("messages", v, &format!("1 to {} messages", limits.messages)))?;
    for (i, m) in all.iter().enumerate() {
        message(&format!("messages[{i}]"), m, i + 1 == all.len(), &mut messages)?;
    }
    out.insert("messages".into(), messages.into());
    if let Some(v) = form.get("tools") {
        out.insert("tools".into(), tools(v, limits)?);
    }
    if let Some(v) = form.get("tool_choice") {
        choice(v, &mut out)?;
    }
    if let Some(on) = form.get("thinking").map(thinking).transpose()? {
        turn::thinks(model, "thinking", on)?;
        out.insert("chat_template_kwargs".into(), json!({"enable_thinking": on}));
    }
    if let Some(format) = output(form)? {
        out.insert("response_format".into(), format);
    }
    let same = [
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "stream",
        "seed",
        "deadline_ms",
        "cache_salt",
        "explain_cache",
        "think_gate",
    ];
    for name in same {
        if let Some(v) = form.get(name) {
            out.insert(name.into(), v.clone());
        }
    }
    Ok(Value::Object(out))
}

fn is_text<'v>(at: &str, map: &'v Map<String, Value>, name: &str) -> Result<&'v str, ApiError> {
    let v = map.get(name).unwrap_or(&Value::Null);
    v.as_str().ok_or_else(|| out_of_range(&format!("{at}.{name}"), v, "text"))
}

/// Text, or text blocks as lines of it.
fn text(at: &str, v: &Value) -> Result<String, ApiError> {
    let blocks = match v {
        Value::String(t) => return Ok(t.clone()),
        Value::Array(blocks) => blocks,
        other => return Err(out_of_range(at, other, "text, or an array of text blocks")),
    };
    let mut texts = Vec::with_capacity(blocks.len());
    for (i, b) in blocks.iter().enumerate() {
        let at = format!("{at}[{i}]");
        match b.get("type").and_then(Value::as_str) {
            Some("text") => texts.push(text_block(&at, b)?),
            _ => return Err(kind(&at, b, "text")),
        }
    }
    Ok(texts.join("\n"))
}

fn text_block<'v>(at: &str, b: &'v Value) -> Result<&'v str, ApiError> {
    let map = object(at, b, &["type", "text", "cache_control", "citations"])?;
    if let Some(c) = map.get("citations").filter(|c| !c.is_null() && **c != json!([])) {
        return Err(out_of_range(&format!("{at}.citations"), c, "none"));
    }
    is_text(at, map, "text")
}

fn kind(at: &str, b: &Value, known: &str) -> ApiError {
    let got = b.get("type").unwrap_or(b);
    let why =
        format!("{} is no block that this server reads; it reads {known}, and fetches nothing", show(got));
    unsupported(&format!("{at}.type"), &why)
}

fn message(at: &str, v: &Value, last: bool, out: &mut Vec<Value>) -> Result<(), ApiError> {
    let map = object(at, v, &["role", "content"])?;
    let content = map.get("content").unwrap_or(&Value::Null);
    let role = map.get("role").unwrap_or(&Value::Null);
    match role.as_str() {
        Some("user") => user(&format!("{at}.content"), content, out),
        Some("assistant") if last => {
            let why = "an answer cannot go on from a beginning; end with a message of the user";
            Err(unsupported(&format!("{at}.role"), why))
        }
        Some("assistant") => assistant(&format!("{at}.content"), content, out),
        _ => Err(out_of_range(&format!("{at}.role"), role, "user or assistant")),
    }
}

fn blocks<'v>(at: &str, content: &'v Value) -> Result<&'v [Value], ApiError> {
    match content {
        Value::Array(blocks) if !blocks.is_empty() => Ok(blocks),
        other => Err(out_of_range(at, other, "text, or an array of blocks")),
    }
}

/// Results of tools become messages of their own, in the order of the blocks.
fn user(at: &str, content: &Value, out: &mut Vec<Value>) -> Result<(), ApiError> {
    if let Value::String(t) = content {
        out.push(json!({"role": "user", "content": t}));
        return Ok(());
    }
    let mut texts: Vec<&str> = Vec::new();
    for (i, b) in blocks(at, content)?.iter().enumerate() {
        let at = format!("{at}[{i}]");
        match b.get("type").and_then(Value::as_str) {
            Some("text") => texts.push(text_block(&at, b)?),
            Some("tool_result") => {
                if !texts.is_empty() {
                    out.push(json!({"role": "user", "content": texts.join("\n")}));
                    texts.clear();
                }
                out.push(result(&at, b)?);
            }
            _ => return Err(kind(&at, b, "text and tool_result")),
        }
    }
    if !texts.is_empty() {
        out.push(json!({"role": "user", "content": texts.join("\n")}));
    }
    Ok(())
}

fn result(at: &str, b: &Value) -> Result<Value, ApiError> {
    let map = object(at, b, &["type", "tool_use_id", "content", "is_error", "cache_control"])?;
    let content = match map.get("content").unwrap_or(&Value::Null) {
        Value::Null => String::new(),
        v => text(&format!("{at}.content"), v)?,
    };
    // Templates have no place for a failure beside the text, and a model must not take one for a result.
    let content = match map.get("is_error").unwrap_or(&Value::Null) {
        Value::Bool(true) => format!("Error: {content}"),
        Value::Bool(false) | Value::Null => content,
        v => return Err(out_of_range(&format!("{at}.is_error"), v, "true or false")),
    };
    Ok(json!({"role": "tool", "tool_call_id": is_text(at, map, "tool_use_id")?, "content": content}))
}

fn assistant(at: &str, content: &Value, out: &mut Vec<Value>) -> Result<(), ApiError> {
    if let Value::String(t) = content {
        out.push(json!({"role": "assistant", "content": t}));
        return Ok(());
    }
    let (mut texts, mut thoughts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for (i, b) in blocks(at, content)?.iter().enumerate() {
        let at = format!("{at}[{i}]");
        match b.get("type").and_then(Value::as_str) {
            Some("text") => texts.push(text_block(&at, b)?),
            Some("thinking") => {
                let map = object(&at, b, &["type", "thinking", "signature"])?;
                thoughts.push(is_text(&at, map, "thinking")?);
            }
            Some("tool_use") => {
                let map = object(&at, b, &["type", "id", "name", "input", "cache_control", "caller"])?;
                let input = map.get("input").unwrap_or(&Value::Null);
                if !input.is_object() {
                    return Err(out_of_range(&format!("{at}.input"), input, "an object"));
                }
                let (id, name) = (is_text(&at, map, "id")?, is_text(&at, map, "name")?);
                let function = json!({"name": name, "arguments": input.to_string()});
                calls.push(json!({"id": id, "type": "function", "function": function}));
            }
            _ => return Err(kind(&at, b, "text, tool_use and thinking")),
        }
    }
    let mut m = json!({"role": "assistant", "content": texts.join("\n")});
    if !thoughts.is_empty() {
        m["reasoning_content"] = thoughts.join("\n").into();
    }
    if !calls.is_empty() {
        m["tool_calls"] = calls.into();
    }
    out.push(m);
    Ok(())
}

fn tools(v: &Value, limits: &Limits) -> Result<Value, ApiError> {
    let list = v.as_array().filter(|a| a.len() <= limits.tools);
    let list =
        list.ok_or_else(|| out_of_range("tools", v, &format!("an array of at most {}", limits.tools)))?;
    let mut out = Vec::with_capacity(list.len());
    for (i, t) in list.iter().enumerate() {
        let at = format!("tools[{i}]");
        if let Some(kind) = t.get("type").filter(|k| !k.is_null() && **k != "custom") {
            let why = format!("{} is a tool of somebody else's server; this one runs none", show(kind));
            return Err(unsupported(&format!("{at}.type"), &why));
        }
        let known = ["type", "name", "description", "input_schema", "cache_control", "strict"];
        let map = object(&at, t, &known)?;
        let name = is_text(&at, map, "name")?;
        let mut f = json!({"name": name});
        if let Some(d) = map.get("description").filter(|d| !d.is_null()) {
            f["description"] = is_text(&at, map, "description").map(|_| d.clone())?;
        }
        let schema = map.get("input_schema").unwrap_or(&Value::Null);
        if !schema.is_object() {
            return Err(out_of_range(&format!("{at}.input_schema"), schema, "a JSON schema of an object"));
        }
        f["parameters"] = schema.clone();
        out.push(json!({"type": "function", "function": f}));
    }
    Ok(out.into())
}

fn choice(v: &Value, out: &mut Map<String, Value>) -> Result<(), ApiError> {
    let map = object("tool_choice", v, &["type", "name", "disable_parallel_tool_use"])?;
    let kind = map.get("type").unwrap_or(&Value::Null);
    let choice = match kind.as_str() {
        Some("auto") => json!("auto"),
        Some("none") => json!("none"),
        Some("any") => json!("required"),
        Some("tool") => {
            json!({"type": "function", "function": {"name": is_text("tool_choice", map, "name")?}})
        }
        _ => return Err(out_of_range("tool_choice.type", kind, "auto, any, tool or none")),
    };
    if kind != "tool"
        && let Some(name) = map.get("name").filter(|n| !n.is_null())
    {
        return Err(out_of_range("tool_choice.name", name, "a name only beside type `tool`"));
    }
    if !out.contains_key("tools") && kind != "none" && kind != "auto" {
        return Err(out_of_range("tool_choice", kind, "none or auto where there are no `tools`"));
    }
    match map.get("disable_parallel_tool_use").unwrap_or(&Value::Null) {
        Value::Null | Value::Bool(false) => {}
        Value::Bool(true) if kind == "any" || kind == "tool" => {
            out.insert("parallel_tool_calls".into(), false.into());
        }
        Value::Bool(true) => {
            let why = "only a call that must be made can be kept to one: send type any or tool";
            return Err(unsupported("tool_choice.disable_parallel_tool_use", why));
        }
        other => return Err(out_of_range("tool_choice.disable_parallel_tool_use", other, "true or false")),
    }
    out.insert("tool_choice".into(), choice);
    Ok(())
}

fn thinking(v: &Value) -> Result<bool, ApiError> {
    let map = object("thinking", v, &["type", "budget_tokens", "display"])?;
    if map.get("budget_tokens").is_some_and(|b| !b.is_null()) {
        let why = "no budget of thinking is kept here; send {\"type\": \"adaptive\"}, and bound the answer by max_tokens";
        return Err(unsupported("thinking.budget_tokens", why));
    }
    if let Some(d) = map.get("display").filter(|d| !d.is_null() && **d != "full") {
        return Err(out_of_range("thinking.display", d, "full"));
    }
    let kind = map.get("type").unwrap_or(&Value::Null);
    match kind.as_str() {
        Some("enabled" | "adaptive") => Ok(true),
        Some("disabled") => Ok(false),
        _ => Err(out_of_range("thinking.type", kind, "enabled, adaptive or disabled")),
    }
}

/// `output_config.format`, or `output_format`.
fn output(form: &Form) -> Result<Option<Value>, ApiError> {
    let config =
        form.get("output_config").map(|v| object("output_config", v, &["format", "effort"])).transpose()?;
    if let Some(e) = config.and_then(|c| c.get("effort")).filter(|e| !e.is_null()) {
        return Err(unsupported(
            "output_config.effort",
            &format!("{}: no model here knows efforts", show(e)),
        ));
    }
    let inner = config.and_then(|c| c.get("format")).filter(|f| !f.is_null());
    let (at, v) = match (inner, form.get("output_format")) {
        (None, None) => return Ok(None),
        (Some(v), None) => ("output_config.format", v),
        (None, Some(v)) => ("output_format", v),
        (Some(_), Some(v)) => {
            return Err(out_of_range("output_format", v, "one of it and output_config.format"));
        }
    };
    let map = object(at, v, &["type", "schema"])?;
    let kind = map.get("type").unwrap_or(&Value::Null);
    if kind != "json_schema" {
        return Err(out_of_range(&format!("{at}.type"), kind, "json_schema"));
    }
    let schema = map.get("schema").unwrap_or(&Value::Null);
    if !schema.is_object() {
        return Err(out_of_range(&format!("{at}.schema"), schema, "a JSON schema"));
    }
    Ok(Some(json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}})))
}
