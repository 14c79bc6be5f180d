//! Answers in the words of `/v1/responses`: output items, whole or as named events in order.

use std::sync::Arc;

use serde_json::{Value, json};
use tamp_engine::{Answer, FinishReason};

use crate::answer::{Said, finish_word};
use crate::error::ApiError;
use crate::layer::thinkgate;
use crate::send::sse::{Say, named};
use crate::speech::{Part, Speech, ToolCall, failure, joined};
use crate::wire::form::Form;
use crate::wire::usage::Bill;

/// What an answer is written with.
pub struct Answering {
    id: String,
    /// the response before anything was said
    head: Value,
}

impl Answering {
    /// Of this request.
    pub fn new(id: &str, created: u64, model: &Arc<str>, form: &Form, gate: Option<&'static str>) -> Self {
        let of = |name: &str, default: Value| form.get(name).cloned().unwrap_or(default);
        let format = form.get("text").and_then(|t| t.get("format")).cloned();
        let mut head = json!({
            "id": format!("resp_{id}"), "object": "response", "created_at": created, "status": "in_progress",
            "error": null, "incomplete_details": null, "model": &**model, "output": [],
            "instructions": of("instructions", Value::Null), "max_output_tokens": of("max_output_tokens", Value::Null),
            "parallel_tool_calls": of("parallel_tool_calls", true.into()), "previous_response_id": null,
            "reasoning": of("reasoning", json!({"effort": null, "summary": null})), "store": false,
            "temperature": of("temperature", json!(1.0)), "top_p": of("top_p", json!(1.0)),
            "text": {"format": format.unwrap_or_else(|| json!({"type": "text"}))},
            "tool_choice": of("tool_choice", "auto".into()), "tools": of("tools", json!([])),
            "truncation": "disabled", "usage": null, "user": of("user", Value::Null), "metadata": of("metadata", json!({})),
        });
        thinkgate::tell(gate, &mut head);
        Self { id: id.into(), head }
    }

    fn item(&self, kind: Item, index: usize, text: &str, call: Option<&ToolCall>, done: bool) -> Value {
        let status = if done { "completed" } else { "in_progress" };
        let id = format!("{}_{}_{index}", kind.prefix(), self.id);
        match kind {
            Item::Reasoning => {
                let content =
                    if done { json!([{"type": "reasoning_text", "text": text}]) } else { json!([]) };
                json!({"type": "reasoning", "id": id, "summary": [], "content": content, "status": status})
            }
            Item::Message => {
                let content = if done { json!([output_text(text)]) } else { json!([]) };
                json!({"type": "message", "id": id, "role": "assistant", "content": content, "status": status})
            }
            Item::Call => {
                let (call_id, name) = call.map_or(("", ""), |c| (&c.id, &c.name));
                json!({
                    "type": "function_call", "id": id, "call_id": call_id, "name": name, "arguments": text, "status": status,
                })
            }
        }
    }

    /// The whole response.
    pub fn whole(&self, part: &Part, a: &Answer, thought: usize) -> Value {
        let mut output = Vec::new();
        if !part.reasoning.is_empty() {
            output.push(self.item(Item::Reasoning, 0, &part.reasoning, None, true));
        }
        let calls = joined(&part.calls);
        if !part.content.is_empty() || calls.is_empty() {
            output.push(self.item(Item::Message, output.len(), &part.content, None, true));
        }
        for c in &calls {
            output.push(self.item(Item::Call, output.len(), &c.arguments, Some(c), true));
        }
        self.ended(output, a, thought)
    }

    fn ended(&self, mut output: Vec<Value>, a: &Answer, thought: usize) -> Value {
        let mut v = self.head.clone();
        let (status, why) = match a.finish_reason {
            FinishReason::Stop => ("completed", None),
            FinishReason::Length => ("incomplete", Some("max_output_tokens")),
            FinishReason::Error => ("failed", None),
            other => ("incomplete", Some(finish_word(other))),
        };
        v["status"] = status.into();
        v["incomplete_details"] = why.map_or(Value::Null, |reason| json!({"reason": reason}));
        if let Some(e) = failure(a) {
            v["error"] = json!({"code": "server_error", "message": e.message});
        }
        if let Some(last) = output.last_mut().filter(|_| status != "completed") {
            last["status"] = "incomplete".into();
        }
        v["output"] = output.into();
        v["seed"] = a.seed.into();
        v["usage"] = usage(a, thought);
        v
    }
}

fn output_text(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn usage(a: &Answer, thought: usize) -> Value {
    let mut bill = Bill::default();
    bill.add(a, true);
    let (input, output) = (a.prompt_tokens.len(), a.tokens.len());
    let mut v = json!({
        "input_tokens": input, "input_tokens_details": {"cached_tokens": a.usage.cached_tokens},
        "output_tokens": output, "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": input + output,
    });
    let ours = bill.json();
    for name in ["draft", "cost", "timings", "cache_miss"] {
        if let Some(x) = ours.get(name) {
            v[name] = x.clone();
        }
    }
    v
}

#[derive(Clone, Copy, PartialEq)]
enum Item {
    Reasoning,
    Message,
    Call,
}

impl Item {
    fn prefix(self) -> &'static str {
        match self {
            Item::Reasoning => "rs",
            Item::Message => "msg",
            Item::Call => "fc",
        }
    }
}

/// Writes events.
pub struct Stream {
    answering: Answering,
    speech: Speech,
    /// events so far
    number: u64,
    begun: bool,
    /// the item that is open, its text so far, its call
    open: Option<(Item, String, Option<ToolCall>)>,
    /// items that are closed
    output: Vec<Value>,
    done: Option<Box<Answer>>,
}

impl Stream {
    /// Of one answer.
    pub fn new(answering: Answering, speech: Speech) -> Self {
        Self { answering, speech, number: 0, begun: false, open: None, output: Vec::new(), done: None }
    }

    fn event(&mut self, name: &str, mut v: Value, out: &mut Vec<u8>) {
        v["type"] = name.into();
        v["sequence_number"] = self.number.into();
        self.number += 1;
        named(name, &v, out);
    }

    /// An event of the open item.
    fn inside(&mut self, name: &str, mut v: Value, out: &mut Vec<u8>) {
        let Some((kind, ..)) = &self.open else { return };
        let index = self.output.len();
        v["item_id"] = format!("{}_{}_{index}", kind.prefix(), self.answering.id).into();
        v["output_index"] = index.into();
        if *kind != Item::Call {
            v["content_index"] = 0.into();
        }
        self.event(name, v, out);
    }

    fn start(&mut self, kind: Item, call: Option<ToolCall>, out: &mut Vec<u8>) {
        if self.open.as_ref().is_some_and(|(k, ..)| *k == kind && kind != Item::Call) {
            return;
        }
        self.close(out);
        let index = self.output.len();
        let item = self.answering.item(kind, index, "", call.as_ref(), false);
        self.event("response.output_item.added", json!({"output_index": index, "item": item}), out);
        self.open = Some((kind, String::new(), call));
        if kind == Item::Message {
            self.inside("response.content_part.added", json!({"part": output_text("")}), out);
        }
    }

    fn say(&mut self, text: &str, out: &mut Vec<u8>) {
        let Some((kind, so_far, _)) = &mut self.open else { return };
        so_far.push_str(text);
        let (name, v) = match kind {
            Item::Reasoning => ("response.reasoning_text.delta", json!({"delta": text})),
            Item::Message => ("response.output_text.delta", json!({"delta": text, "logprobs": []})),
            Item::Call => ("response.function_call_arguments.delta", json!({"delta": text})),
        };
        self.inside(name, v, out);
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        let Some((kind, text, call)) = self.open.clone() else { return };
        match kind {
            Item::Reasoning => self.inside("response.reasoning_text.done", json!({"text": text}), out),
            Item::Message => {
                self.inside("response.output_text.done", json!({"text": text, "logprobs": []}), out);
                self.inside("response.content_part.done", json!({"part": output_text(&text)}), out);
            }
            Item::Call => {
                let name = call.as_ref().map_or("", |c| &c.name);
                let v = json!({"arguments": text, "name": name});
                self.inside("response.function_call_arguments.done", v, out);
            }
        }
        let index = self.output.len();
        let item = self.answering.item(kind, index, &text, call.as_ref(), true);
        self.event("response.output_item.done", json!({"output_index": index, "item": item}), out);
        self.output.push(item);
        self.open = None;
    }
}

impl Say for Stream {
    fn note(&mut self, _: usize, said: Said) {
        match said {
            Said::Done(a) => {
                self.speech.finish();
                self.done = Some(a);
            }
            other => self.speech.take(other),
        }
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            let head = self.answering.head.clone();
            self.event("response.created", json!({"response": head}), out);
            self.event("response.in_progress", json!({"response": head}), out);
        }
        let part = self.speech.part();
        if !part.reasoning.is_empty() {
            self.start(Item::Reasoning, None, out);
            self.say(&part.reasoning, out);
        }
        if !part.content.is_empty() {
            self.start(Item::Message, None, out);
            self.say(&part.content, out);
        }
        for (_, c) in part.calls {
            let arguments = c.arguments.clone();
            if c.fresh {
                self.start(Item::Call, Some(c), out);
            }
            if !arguments.is_empty() {
                self.say(&arguments, out);
            }
        }
        let Some(a) = self.done.take() else { return };
        self.close(out);
        if !self.output.iter().any(|i| i["type"] != "reasoning") {
            // An answer that says nothing is a message all the same.
            self.start(Item::Message, None, out);
            self.close(out);
        }
        let whole = self.answering.ended(std::mem::take(&mut self.output), &a, self.speech.thought());
        let name = match whole["status"].as_str() {
            Some("completed") => "response.completed",
            Some("failed") => "response.failed",
            _ => "response.incomplete",
        };
        self.event(name, json!({"response": whole}), out);
    }

    fn end(&mut self, _: &mut Vec<u8>) {}

    fn fail(&mut self, e: &ApiError, out: &mut Vec<u8>) {
        self.event("error", json!({"code": e.code, "message": e.message, "param": e.param}), out);
    }
}
