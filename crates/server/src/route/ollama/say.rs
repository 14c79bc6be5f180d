//! Answers in Ollama's words: one object, or lines of JSON of which the last says what it took, in nanoseconds.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tamp_engine::Answer;

use super::now;
use crate::answer::{Said, finish_word};
use crate::error::ApiError;
use crate::layer::{dialect, thinkgate};
use crate::model::Served;
use crate::send::sse::Say;
use crate::speech::{Part, Speech, ToolCall, failure, joined};

/// Which route answers.
#[derive(Clone, Copy, PartialEq)]
pub enum Shape {
    /// `message`
    Chat,
    /// `response`
    Generate,
    /// `response`, with whatever was said
    Raw,
}

/// What an answer is written with.
pub struct Answering {
    shape: Shape,
    model: Arc<Served>,
    gate: Option<&'static str>,
}

impl Answering {
    /// Of this model.
    pub fn new(shape: Shape, model: Arc<Served>, gate: Option<&'static str>) -> Self {
        Self { shape, model, gate }
    }

    /// Why the model was told not to think.
    pub fn gate(&self) -> Option<&'static str> {
        self.gate
    }

    /// The answer to a request that asked nothing: the model is there.
    pub fn loaded(&self) -> Response {
        let mut v = self.line(&Part::default(), vec![]);
        v["done"] = true.into();
        v["done_reason"] = "load".into();
        Json(v).into_response()
    }

    fn line(&self, part: &Part, calls: Vec<ToolCall>) -> Value {
        let mut v = json!({"model": &*self.model.name, "created_at": now()});
        let at = match self.shape {
            Shape::Chat => {
                v["message"] = json!({"role": "assistant", "content": part.content});
                if !calls.is_empty() {
                    v["message"]["tool_calls"] = calls.iter().enumerate().map(|(i, c)| call(i, c)).collect();
                }
                &mut v["message"]
            }
            Shape::Generate | Shape::Raw => {
                v["response"] = part.content.clone().into();
                &mut v
            }
        };
        if !part.reasoning.is_empty() {
            at["thinking"] = part.reasoning.clone().into();
        }
        v["done"] = false.into();
        v
    }

    /// The last object: what is left to say, and what it took.
    pub fn last(&self, part: &Part, a: &Answer) -> Value {
        let mut v = self.line(part, joined(&part.calls));
        let t = &a.timings;
        v["done"] = true.into();
        v["done_reason"] = finish_word(a.finish_reason).into();
        v["total_duration"] = t.total_ns.into();
        // Models are loaded before they are asked.
        v["load_duration"] = 0.into();
        v["prompt_eval_count"] = a.prompt_tokens.len().into();
        v["prompt_eval_duration"] = t.prefill_ns.into();
        v["eval_count"] = a.tokens.len().into();
        v["eval_duration"] = t.total_ns.saturating_sub(t.first_token_ns).into();
        v["cached_tokens"] = a.usage.cached_tokens.into();
        v["seed"] = a.seed.into();
        thinkgate::tell(self.gate, &mut v);
        v
    }
}

fn call(i: usize, c: &ToolCall) -> Value {
    // A call that the end of the answer cut short has no whole arguments.
    let arguments = serde_json::from_str(&c.arguments).unwrap_or_else(|_| Value::Object(Map::new()));
    json!({"id": c.id, "function": {"index": i, "name": c.name, "arguments": arguments}})
}

/// Writes lines. Calls are written whole, at the end.
pub struct Stream {
    answering: Answering,
    speech: Speech,
    calls: Vec<(usize, ToolCall)>,
    done: Option<Box<Answer>>,
}

impl Stream {
    /// Of one answer.
    pub fn new(answering: Answering, speech: Speech) -> Self {
        Self { answering, speech, calls: Vec::new(), done: None }
    }
}

fn line(v: &Value, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(&mut *out, v);
    out.push(b'\n');
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
        let mut part = self.speech.part();
        self.calls.append(&mut part.calls);
        if !part.content.is_empty() || !part.reasoning.is_empty() {
            line(&self.answering.line(&part, vec![]), out);
        }
        let Some(a) = self.done.take() else { return };
        if let Some(e) = failure(&a) {
            return self.fail(&e, out);
        }
        if !self.calls.is_empty() {
            line(&self.answering.line(&Part::default(), joined(&self.calls)), out);
        }
        line(&self.answering.last(&Part::default(), &a), out);
    }

    fn end(&mut self, _: &mut Vec<u8>) {}

    /// A line is an object: nothing else may stand in this stream.
    fn alive(&mut self, _: &mut Vec<u8>) {}

    fn kind(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn fail(&mut self, e: &ApiError, out: &mut Vec<u8>) {
        line(&dialect::ollama(e), out);
    }
}
