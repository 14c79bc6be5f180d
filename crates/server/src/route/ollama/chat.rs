//! `/api/chat` and `/api/generate`.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Map, Value, json};
use tamp_text::Special;

use super::say::{Answering, Shape as Said, Stream};
use super::{MODEL, format, format_schema, is_none, model, options, refused, think};
use crate::answer::Flows;
use crate::ask::{Ask, grammar, plain, sampling};
use crate::call::Call;
use crate::error::ApiError;
use crate::layer::thinkgate;
use crate::model::Served;
use crate::route::openai::pace;
use crate::route::turn::{self, Turn};
use crate::route::{Method, Route};
use crate::send::sse;
use crate::speech::Speech;
use crate::wire;
use crate::wire::form::{Field, Form, Shape, What, field, object, out_of_range};

fn think_schema() -> Value {
    json!({"type": "boolean"})
}

fn list() -> Value {
    json!({"type": "array", "items": {"type": "object"}})
}

static BOTH: &[Field] = &[
    field("format", What::Own(format_schema), "\"json\", or a JSON schema that the answer keeps"),
    field("options", What::Own(options::schema), "how tokens are chosen; an unknown option is refused"),
    field("stream", What::Bool, "lines of JSON as they come [true]"),
    field("think", What::Own(think_schema), "the template's enable_thinking"),
];

static TALK: &[Field] = &[
    field("messages", What::Own(list), "the conversation; none loads the model"),
    field("tools", What::Own(wire::tools::schema), "functions that the answer may call"),
];

static CHAT_SHAPE: Shape =
    Shape { name: "OllamaChat", groups: &[MODEL, TALK, BOTH, thinkgate::FIELDS], required: &["model"] };

static PLAIN: &[Field] = &[
    field("prompt", What::Text(usize::MAX), "the prompt; none loads the model"),
    field("system", What::Text(usize::MAX), "the system message"),
    field("raw", What::Bool, "the prompt is taken as it is, without the template [false]"),
    field("suffix", What::Only(&["\"\""], "no model here was made to fill a gap"), "not possible"),
    field("images", What::Only(&["[]"], "this server reads text only"), "not possible"),
    field("template", What::Only(&["\"\""], "the template is the model file's"), "not possible"),
    field("context", What::Only(&["[]"], "send the conversation to /api/chat"), "not possible"),
];

static GENERATE_SHAPE: Shape =
    Shape { name: "OllamaGenerate", groups: &[MODEL, PLAIN, BOTH, thinkgate::FIELDS], required: &["model"] };

/// A conversation.
pub static CHAT: Route = Route {
    path: "/api/chat",
    method: Method::Post,
    about: "a conversation is answered, in Ollama's dialect",
    keyless: false,
    body: Some(&CHAT_SHAPE),
    serve: || post(chat),
};

/// A prompt.
pub static GENERATE: Route = Route {
    path: "/api/generate",
    method: Method::Post,
    about: "a prompt is answered, in Ollama's dialect",
    keyless: false,
    body: Some(&GENERATE_SHAPE),
    serve: || post(generate),
};

/// The fields that both routes share, in the words of `/v1/chat/completions`.
fn common(form: &Form, model: &Served) -> Result<Map<String, Value>, ApiError> {
    let mut out = Map::new();
    options::read(form.get("options"), model.handle.ctx(), &mut out)?;
    if let Some(f) = form.get("format").map(format).transpose()?.flatten() {
        out.insert("response_format".into(), f);
    }
    if let Some(on) = form.get("think").map(think).transpose()? {
        turn::thinks(model, "think", on)?;
        out.insert("chat_template_kwargs".into(), json!({"enable_thinking": on}));
    }
    if let Some(v) = form.get("think_gate") {
        out.insert("think_gate".into(), v.clone());
    }
    out.insert("stream".into(), form.flag("stream").unwrap_or(true).into());
    Ok(out)
}

async fn chat(call: Call) -> Result<Response, ApiError> {
    let form = Form::read(&CHAT_SHAPE, call.body.clone())?;
    let model = model(&call.app, form.text("model")).await?;
    let mut body = common(&form, &model)?;
    if is_none(form.get("messages")) {
        return Ok(Answering::new(Said::Chat, model, None).loaded());
    }
    let v = form.get("messages").unwrap_or(&Value::Null);
    body.insert("messages".into(), messages(v)?);
    if let Some(tools) = form.get("tools") {
        body.insert("tools".into(), tools.clone());
    }
    converse(&call, Value::Object(body), model, Said::Chat).await
}

async fn converse(call: &Call, body: Value, model: Arc<Served>, shape: Said) -> Result<Response, ApiError> {
    let form = turn::form(body)?;
    let wish = sampling(&form, &model, &call.app)?;
    let streams = wish.streams;
    let Turn { flows, mut speeches, gate, .. } = turn::begin(call, &form, model.clone(), wish).await?;
    let speech = speeches.pop().ok_or_else(|| ApiError::internal("a turn without a reader"))?;
    send(call, flows, speech, Answering::new(shape, model, gate), streams).await
}

async fn send(
    call: &Call,
    flows: Flows,
    mut speech: Speech,
    answering: Answering,
    streams: bool,
) -> Result<Response, ApiError> {
    let gate = answering.gate();
    if streams {
        let say = Stream::new(answering, speech);
        let response = sse::response(flows, say, pace(&call.app)?, call.app.limits.keep_alive);
        return Ok(thinkgate::mark(gate, response));
    }
    let mut whole = flows.whole().await?;
    let w = whole.pop().ok_or_else(|| ApiError::internal("a turn without an answer"))?;
    w.said.iter().for_each(|said| speech.take(said.clone()));
    speech.finish();
    let body = answering.last(&speech.part(), &w.answer);
    Ok(thinkgate::mark(gate, Json(body).into_response()))
}

/// Their messages in OpenAI's words. Results of tools answer the calls before them in order, or by the tool's name:
/// there are no ids in this dialect.
fn messages(v: &Value) -> Result<Value, ApiError> {
    let all = v.as_array().ok_or_else(|| out_of_range("messages", v, "an array of messages"))?;
    let mut out = Vec::with_capacity(all.len());
    let mut open: Vec<(String, String)> = Vec::new();
    for (i, m) in all.iter().enumerate() {
        let at = format!("messages[{i}]");
        let known = ["role", "content", "images", "tool_calls", "tool_name", "name", "thinking"];
        let map = object(&at, m, &known)?;
        if !is_none(map.get("images").filter(|v| !v.is_null())) {
            return Err(refused(&format!("{at}.images"), "this server reads text only"));
        }
        let content = map.get("content").cloned().unwrap_or_else(|| "".into());
        let mut one = json!({"role": map.get("role"), "content": content});
        if let Some(t) = map.get("thinking").filter(|v| !v.is_null()) {
            one["reasoning_content"] = t.clone();
        }
        let name = map.get("tool_name").or_else(|| map.get("name")).and_then(Value::as_str);
        if one["role"] == "tool" {
            let found = match name {
                Some(n) => open.iter().position(|(_, tool)| tool == n),
                None => (!open.is_empty()).then_some(0),
            };
            let id = found.map_or_else(|| format!("call_{i}"), |k| open.remove(k).0);
            one["tool_call_id"] = id.into();
        }
        if let Some(n) = name {
            one["name"] = n.into();
        }
        if let Some(calls) = map.get("tool_calls").filter(|v| !v.is_null()) {
            let calls = calls
                .as_array()
                .ok_or_else(|| out_of_range(&format!("{at}.tool_calls"), calls, "an array of calls"))?;
            open.clear();
            let mut theirs = Vec::with_capacity(calls.len());
            for (k, c) in calls.iter().enumerate() {
                theirs.push(tool_call(
                    &format!("{at}.tool_calls[{k}]"),
                    c,
                    format!("call_{i}_{k}"),
                    &mut open,
                )?);
            }
            one["tool_calls"] = theirs.into();
        }
        out.push(one);
    }
    Ok(out.into())
}

fn tool_call(at: &str, c: &Value, id: String, open: &mut Vec<(String, String)>) -> Result<Value, ApiError> {
    let map = object(at, c, &["id", "type", "function"])?;
    let id = map.get("id").and_then(Value::as_str).map_or(id, str::to_string);
    let at = format!("{at}.function");
    let f = object(
        &at,
        map.get("function").unwrap_or(&Value::Null),
        &["index", "name", "arguments", "description"],
    )?;
    let name = f.get("name").unwrap_or(&Value::Null);
    let name = name.as_str().ok_or_else(|| out_of_range(&format!("{at}.name"), name, "text"))?;
    let arguments = match f.get("arguments") {
        Some(a @ Value::Object(_)) => a.to_string(),
        Some(Value::String(a)) => a.clone(),
        None => "{}".into(),
        Some(other) => return Err(out_of_range(&format!("{at}.arguments"), other, "an object")),
    };
    open.push((id.clone(), name.into()));
    Ok(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
}

async fn generate(call: Call) -> Result<Response, ApiError> {
    let form = Form::read(&GENERATE_SHAPE, call.body.clone())?;
    let model = model(&call.app, form.text("model")).await?;
    let mut body = common(&form, &model)?;
    let raw = form.flag("raw").unwrap_or(false);
    let system = form.text("system").filter(|s| !s.is_empty());
    if is_none(form.get("prompt")) {
        return Ok(Answering::new(Said::Generate, model, None).loaded());
    }
    let prompt = form.text("prompt").unwrap_or_default();
    if !raw && (model.template.is_some() || system.is_some()) {
        let mut messages: Vec<Value> = Vec::new();
        messages.extend(system.map(|s| json!({"role": "system", "content": s})));
        messages.push(json!({"role": "user", "content": prompt}));
        body.insert("messages".into(), messages.into());
        return converse(&call, Value::Object(body), model, Said::Generate).await;
    }
    if let Some(name) = ["system", "think"].into_iter().find(|n| raw && !is_none(form.get(n))) {
        return Err(refused(name, "a raw prompt has no template where it could stand"));
    }
    // Where the model has no template, a prompt is what it is.
    body.insert("messages".into(), json!([{"role": "user", "content": ""}]));
    let chat = turn::form(Value::Object(body))?;
    let mut wish = sampling(&chat, &model, &call.app)?;
    if let Some(spec) = wire::format::read(chat.get("response_format"))? {
        wish.constraint = Some(grammar(&model, spec).await?);
    }
    let tokens = plain(&model, prompt.into(), Special::Parse, true).await?;
    let flows = Ask::new(&call, model.clone()).submit(vec![tokens], &wish).await?;
    // A raw answer is given as it is: nobody said that it thinks or calls.
    let answering = Answering::new(Said::Raw, model, None);
    send(&call, flows, Speech::new(false, None, String::new()), answering, wish.streams).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_tools_find_the_calls_they_answer() {
        let v = json!([
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "", "tool_calls": [
                {"function": {"name": "a", "arguments": {"k": 1}}}, {"function": {"name": "b", "arguments": {}}}]},
            {"role": "tool", "tool_name": "b", "content": "2"},
            {"role": "tool", "content": "1"},
        ]);
        let got = messages(&v).unwrap();
        assert_eq!(got[1]["tool_calls"][0]["function"]["arguments"], "{\"k\":1}");
        assert_eq!(got[2]["tool_call_id"], got[1]["tool_calls"][1]["id"]);
        assert_eq!(got[3]["tool_call_id"], got[1]["tool_calls"][0]["id"]);
        for (bad, place) in [
            (json!([{"role": "user", "content": "x", "images": ["AAAA"]}]), "messages[0].images"),
            (json!([{"role": "user", "contents": "x"}]), "messages[0].contents"),
            (
                json!([{"role": "assistant", "tool_calls": [{"function": {"name": 1}}]}]),
                "messages[0].tool_calls[0].function.name",
            ),
        ] {
            assert_eq!(messages(&bad).unwrap_err().param.as_deref(), Some(place));
        }
    }
}
