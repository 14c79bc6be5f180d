//! A body of `/v1/responses` → one in the words of `/v1/chat/completions`.

use serde_json::{Map, Value, json};

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

fn is_text<'v>(at: &str, map: &'v Map<String, Value>, name: &str) -> Result<&'v str, ApiError> {
    let v = map.get(name).unwrap_or(&Value::Null);
    v.as_str().ok_or_else(|| out_of_range(&format!("{at}.{name}"), v, "text"))
}

/// The body of a chat.
pub fn chat(form: &Form, limits: &Limits, model: &Served) -> Result<Value, ApiError> {
    let mut out = Map::new();
    let mut messages = Vec::new();
    if let Some(t) = form.text("instructions") {
        messages.push(json!({"role": "system", "content": t}));
    }
    match form.get("input").unwrap_or(&Value::Null) {
        Value::String(t) => messages.push(json!({"role": "user", "content": t})),
        Value::Array(items) if (1..=limits.messages).contains(&items.len()) => {
            let mut reader = Items { out: &mut messages, thoughts: String::new() };
            for (i, item) in items.iter().enumerate() {
                reader.item(&format!("input[{i}]"), item)?;
            }
        }
        v => return Err(out_of_range("input", v, &format!("text, or 1 to {} items", limits.messages))),
    }
    out.insert("messages".into(), messages.into());
    if let Some(v) = form.get("tools") {
        out.insert("tools".into(), tools(v, limits)?);
    }
    match form.get("tool_choice") {
        Some(Value::Object(o)) => {
            let map = object("tool_choice", &Value::Object(o.clone()), &["type", "name"])?.clone();
            if o.get("type").is_none_or(|t| t != "function") {
                let got = o.get("type").unwrap_or(&Value::Null);
                return Err(out_of_range("tool_choice.type", got, "function"));
            }
            let name = is_text("tool_choice", &map, "name")?;
            out.insert("tool_choice".into(), json!({"type": "function", "function": {"name": name}}));
        }
        Some(v) => drop(out.insert("tool_choice".into(), v.clone())),
        None => {}
    }
    if let Some(f) = text(form)? {
        out.insert("response_format".into(), f);
    }
    if let Some(on) = reasoning(form)? {
        turn::thinks(model, "reasoning.effort", on)?;
        out.insert("chat_template_kwargs".into(), json!({"enable_thinking": on}));
    }
    if let Some(v) = form.get("stream_options") {
        let map = object("stream_options", v, &["include_obfuscation"])?;
        if let Some(v) = map.get("include_obfuscation").filter(|v| !v.is_null() && **v != false) {
            return Err(out_of_range("stream_options.include_obfuscation", v, "false"));
        }
    }
    if let Some(v) = form.get("max_output_tokens") {
        out.insert("max_tokens".into(), v.clone());
    }
    let same = [
        "parallel_tool_calls",
        "temperature",
        "top_p",
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

/// Items of the input as messages; calls and reasoning join the message of the assistant that they belong to.
struct Items<'a> {
    out: &'a mut Vec<Value>,
    /// reasoning whose message has not come yet
    thoughts: String,
}

impl Items<'_> {
    fn item(&mut self, at: &str, v: &Value) -> Result<(), ApiError> {
        let kind = v.get("type").and_then(Value::as_str);
        match kind.or(v.get("role").map(|_| "message")) {
            Some("message") => {
                let map = object(at, v, &["type", "role", "content", "id", "status", "phase"])?;
                let role = map.get("role").unwrap_or(&Value::Null);
                let Some(role @ ("user" | "assistant" | "system" | "developer")) = role.as_str() else {
                    return Err(out_of_range(
                        &format!("{at}.role"),
                        role,
                        "user, assistant, system or developer",
                    ));
                };
                let text = content(&format!("{at}.content"), map.get("content").unwrap_or(&Value::Null))?;
                let m = json!({"role": role, "content": text});
                if role == "assistant" { self.assistant(m) } else { self.out.push(m) }
            }
            Some("function_call") => {
                let map = object(at, v, &["type", "id", "call_id", "name", "arguments", "status"])?;
                let (name, arguments) = (is_text(at, map, "name")?, is_text(at, map, "arguments")?);
                let function = json!({"name": name, "arguments": arguments});
                let call =
                    json!({"id": is_text(at, map, "call_id")?, "type": "function", "function": function});
                // Calls follow the text of the same answer.
                let follows = self.out.last().is_some_and(|m| m["role"] == "assistant");
                if !follows || !self.thoughts.is_empty() {
                    self.assistant(json!({"role": "assistant", "content": ""}));
                }
                if let Some(m) = self.out.last_mut() {
                    match m["tool_calls"].as_array_mut() {
                        Some(calls) => calls.push(call),
                        None => m["tool_calls"] = json!([call]),
                    }
                }
            }
            Some("function_call_output") => {
                let map = object(at, v, &["type", "id", "call_id", "output", "status"])?;
                let output = content(&format!("{at}.output"), map.get("output").unwrap_or(&Value::Null))?;
                let id = is_text(at, map, "call_id")?;
                self.out.push(json!({"role": "tool", "tool_call_id": id, "content": output}));
            }
            Some("reasoning") => {
                let map =
                    object(at, v, &["type", "id", "summary", "content", "encrypted_content", "status"])?;
                if let Some(e) = map.get("encrypted_content").filter(|e| !e.is_null()) {
                    return Err(out_of_range(&format!("{at}.encrypted_content"), e, "none"));
                }
                let parts = map.get("content").filter(|c| !c.is_null());
                self.thoughts +=
                    &parts.map_or(Ok(String::new()), |c| content(&format!("{at}.content"), c))?;
            }
            _ => {
                let got = v.get("type").unwrap_or(v);
                let known = "message, function_call, function_call_output and reasoning";
                let why = format!("{} is no item that this server reads; it reads {known}", show(got));
                return Err(unsupported(&format!("{at}.type"), &why));
            }
        }
        Ok(())
    }

    fn assistant(&mut self, mut m: Value) {
        if !self.thoughts.is_empty() {
            m["reasoning_content"] = std::mem::take(&mut self.thoughts).into();
        }
        self.out.push(m);
    }
}

/// Text, or text parts as lines of it.
fn content(at: &str, v: &Value) -> Result<String, ApiError> {
    let parts = match v {
        Value::String(t) => return Ok(t.clone()),
        Value::Array(parts) => parts,
        other => return Err(out_of_range(at, other, "text, or an array of text parts")),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (i, p) in parts.iter().enumerate() {
        let at = format!("{at}[{i}]");
        match p.get("type").and_then(Value::as_str) {
            Some("input_text" | "output_text" | "reasoning_text" | "text") => {
                let map = object(&at, p, &["type", "text", "annotations", "logprobs"])?;
                texts.push(is_text(&at, map, "text")?);
            }
            _ => {
                let got = p.get("type").unwrap_or(p);
                let why = format!("{}: this server reads text only, and fetches nothing", show(got));
                return Err(unsupported(&format!("{at}.type"), &why));
            }
        }
    }
    Ok(texts.join("\n"))
}

fn tools(v: &Value, limits: &Limits) -> Result<Value, ApiError> {
    let list = v.as_array().filter(|a| a.len() <= limits.tools);
    let list =
        list.ok_or_else(|| out_of_range("tools", v, &format!("an array of at most {}", limits.tools)))?;
    let mut out = Vec::with_capacity(list.len());
    for (i, t) in list.iter().enumerate() {
        let at = format!("tools[{i}]");
        let kind = t.get("type").unwrap_or(&Value::Null);
        if kind != "function" {
            let why = format!("{} is no `function`, and this server runs no tools of its own", show(kind));
            return Err(unsupported(&format!("{at}.type"), &why));
        }
        let map = object(&at, t, &["type", "name", "description", "parameters", "strict"])?;
        let mut f = json!({"name": is_text(&at, map, "name")?});
        for (name, fits) in
            [("description", Value::is_string as fn(&Value) -> bool), ("parameters", Value::is_object)]
        {
            match map.get(name).filter(|v| !v.is_null()) {
                Some(v) if fits(v) => f[name] = v.clone(),
                Some(v) => return Err(out_of_range(&format!("{at}.{name}"), v, "text, or a JSON schema")),
                None => {}
            }
        }
        out.push(json!({"type": "function", "function": f}));
    }
    Ok(out.into())
}

fn text(form: &Form) -> Result<Option<Value>, ApiError> {
    let Some(v) = form.get("text") else { return Ok(None) };
    let map = object("text", v, &["format", "verbosity"])?;
    if let Some(v) = map.get("verbosity").filter(|v| !v.is_null() && **v != "medium") {
        return Err(unsupported("text.verbosity", &format!("{}: no model here knows it", show(v))));
    }
    let Some(f) = map.get("format").filter(|f| !f.is_null()) else { return Ok(None) };
    let kind = f.get("type").unwrap_or(&Value::Null);
    match kind.as_str() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(json!({"type": "json_object"}))),
        Some("json_schema") => {
            let map = object("text.format", f, &["type", "name", "description", "schema", "strict"])?;
            let schema = map.get("schema").unwrap_or(&Value::Null);
            if !schema.is_object() {
                return Err(out_of_range("text.format.schema", schema, "a JSON schema"));
            }
            Ok(Some(json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}})))
        }
        _ => Err(out_of_range("text.format.type", kind, "text, json_object or json_schema")),
    }
}

fn reasoning(form: &Form) -> Result<Option<bool>, ApiError> {
    let Some(v) = form.get("reasoning") else { return Ok(None) };
    let map = object("reasoning", v, &["effort", "summary", "generate_summary"])?;
    for name in ["summary", "generate_summary"] {
        if let Some(v) = map.get(name).filter(|v| !v.is_null() && **v != "auto") {
            return Err(unsupported(
                &format!("reasoning.{name}"),
                &format!("{}: reasoning is given whole", show(v)),
            ));
        }
    }
    match map.get("effort").unwrap_or(&Value::Null) {
        Value::Null => Ok(None),
        Value::String(s) if s == "none" => Ok(Some(false)),
        v => Err(unsupported(
            "reasoning.effort",
            &format!("{}: no model here knows efforts but none", show(v)),
        )),
    }
}
