//! A conversation out of a body. Only text goes in: nothing is ever fetched on behalf of a client.

use serde_json::{Map, Value};
use tamp_text::{Content, Message};

use super::form::{object, out_of_range};
use crate::error::ApiError;
use crate::limits::Limits;

const FIELDS: &[&str] =
    &["role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "refusal"];
const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool"];

/// Reads `messages`.
///
/// # Errors
/// 400 naming the message and its field.
pub fn read(v: &Value, limits: &Limits) -> Result<Vec<Message>, ApiError> {
    let Value::Array(all) = v else { return Err(out_of_range("messages", v, "an array of messages")) };
    if all.is_empty() || all.len() > limits.messages {
        let want = format!("1 to {} messages", limits.messages);
        return Err(out_of_range("messages", v, &want));
    }
    all.iter().enumerate().map(|(i, m)| message(&format!("messages[{i}]"), m)).collect()
}

fn message(at: &str, v: &Value) -> Result<Message, ApiError> {
    let map = object(at, v, FIELDS)?;
    let role = map.get("role").unwrap_or(&Value::Null);
    let Some(role) = role.as_str().filter(|r| ROLES.contains(r)) else {
        return Err(out_of_range(&format!("{at}.role"), role, &format!("one of {}", ROLES.join(", "))));
    };
    let calls = match map.get("tool_calls").filter(|c| !c.is_null()) {
        Some(c) if role == "assistant" => Some(tool_calls(&format!("{at}.tool_calls"), c)?),
        Some(c) => {
            return Err(out_of_range(&format!("{at}.tool_calls"), c, "none: only `assistant` calls tools"));
        }
        None => None,
    };
    let content = content(&format!("{at}.content"), map.get("content").unwrap_or(&Value::Null))?;
    let mut rest = Map::new();
    let wants_id = role == "tool";
    let id = map.get("tool_call_id").unwrap_or(&Value::Null);
    if wants_id != id.is_string() {
        let want =
            if wants_id { "the id of the call it answers" } else { "none: only `tool` answers a call" };
        return Err(out_of_range(&format!("{at}.tool_call_id"), id, want));
    }
    if content == Content::None && (role != "assistant" || calls.is_none()) {
        let want = "text, or an array of text parts";
        return Err(out_of_range(&format!("{at}.content"), &Value::Null, want));
    }
    for name in ["name", "tool_call_id", "reasoning_content"] {
        match map.get(name).filter(|v| !v.is_null()) {
            Some(v @ Value::String(_)) => drop(rest.insert(name.into(), v.clone())),
            Some(v) => return Err(out_of_range(&format!("{at}.{name}"), v, "text")),
            None => {}
        }
    }
    if let Some(v) = map.get("refusal").filter(|v| !v.is_null()) {
        return Err(out_of_range(&format!("{at}.refusal"), v, "null"));
    }
    if let Some(calls) = calls {
        rest.insert("tool_calls".into(), calls);
    }
    // OpenAI's newer word for the same thing, which templates do not know.
    let role = if role == "developer" { "system" } else { role };
    Ok(Message { role: role.into(), content, rest })
}

fn content(at: &str, v: &Value) -> Result<Content, ApiError> {
    let Value::Array(parts) = v else {
        return match v {
            Value::Null => Ok(Content::None),
            Value::String(t) => Ok(Content::Text(t.clone())),
            other => Err(out_of_range(at, other, "text, or an array of text parts")),
        };
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (i, part) in parts.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let kind = part.get("type").unwrap_or(&Value::Null);
        if kind != "text" {
            let want = "`text`: this server reads text only, and fetches nothing";
            return Err(ApiError {
                code: "unsupported_value",
                ..out_of_range(&format!("{at}.type"), kind, want)
            });
        }
        let map = object(&at, part, &["type", "text"])?;
        let text = map.get("text").unwrap_or(&Value::Null);
        texts.push(text.as_str().ok_or_else(|| out_of_range(&format!("{at}.text"), text, "text"))?);
    }
    if texts.is_empty() {
        return Err(out_of_range(at, v, "at least one part"));
    }
    // Templates of text models take a string; parts are lines of it.
    Ok(Content::Text(texts.join("\n")))
}

fn tool_calls(at: &str, v: &Value) -> Result<Value, ApiError> {
    let Value::Array(calls) = v else { return Err(out_of_range(at, v, "an array of calls")) };
    for (i, call) in calls.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let map = object(&at, call, &["id", "type", "function", "index"])?;
        let kind = map.get("type").unwrap_or(&Value::Null);
        if kind != "function" {
            return Err(out_of_range(&format!("{at}.type"), kind, "`function`"));
        }
        let f = map.get("function").unwrap_or(&Value::Null);
        let f = object(&format!("{at}.function"), f, &["name", "arguments"])?;
        for name in ["name", "arguments"] {
            let v = f.get(name).unwrap_or(&Value::Null);
            if !v.is_string() {
                return Err(out_of_range(&format!("{at}.function.{name}"), v, "text"));
            }
        }
    }
    Ok(v.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_conversation_reads_as_it_was_written() {
        let v = json!([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls":
                [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "4"},
        ]);
        let m = read(&v, &Limits::default()).unwrap();
        assert_eq!(m[0], Message::new("system", "be brief"));
        assert_eq!(m[1].content, Content::Text("a\nb".into()));
        assert_eq!((m[2].content.clone(), m[2].rest.len()), (Content::None, 1));
        assert_eq!(m[3].rest["tool_call_id"], "1");
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_place() {
        let url = json!({"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}});
        for (message, place) in [
            (json!({"role": "user"}), "messages[0].content"),
            (json!({"role": "usr", "content": ""}), "messages[0].role"),
            (json!({"content": "x"}), "messages[0].role"),
            (json!({"role": "user", "content": 3}), "messages[0].content"),
            (json!({"role": "user", "content": []}), "messages[0].content"),
            (json!({"role": "user", "content": [url]}), "messages[0].content[0].type"),
            (json!({"role": "user", "content": "x", "contnt": 1}), "messages[0].contnt"),
            (json!({"role": "user", "content": "x", "tool_calls": []}), "messages[0].tool_calls"),
            (json!({"role": "tool", "content": "x"}), "messages[0].tool_call_id"),
            (json!({"role": "user", "content": "x", "tool_call_id": "1"}), "messages[0].tool_call_id"),
            (json!({"role": "assistant", "tool_calls": [{"type": "x"}]}), "messages[0].tool_calls[0].type"),
            (json!("hi"), "messages[0]"),
        ] {
            let e = read(&json!([message]), &Limits::default()).unwrap_err();
            assert_eq!(e.param.as_deref(), Some(place), "{}", e.message);
        }
        let many = Limits { messages: 1, ..Limits::default() };
        assert!(
            read(&json!([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]), &many)
                .is_err()
        );
        assert!(read(&json!([]), &many).is_err());
    }
}
