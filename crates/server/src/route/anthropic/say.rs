//! Answers in Anthropic's words: content blocks, whole or as named events.
//!
//! ```text
//! message_start, ping, { content_block_start, content_block_delta*, content_block_stop }*, message_delta, message_stop
//! ```

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tamp_engine::{Answer, FinishReason};

use crate::answer::{Said, finish_word};
use crate::error::ApiError;
use crate::layer::{dialect, thinkgate};
use crate::model::Served;
use crate::send::sse::{Say, named};
use crate::speech::{Part, Speech, ToolCall, failure, joined};
use crate::wire::usage::Bill;

/// What an answer is written with.
pub struct Answering {
    /// its id
    pub id: String,
    /// who answers
    pub model: Arc<Served>,
    /// texts that end it
    pub stops: Vec<String>,
    /// key of the noise
    pub seed: u64,
    /// why the model was told not to think
    pub gate: Option<&'static str>,
    /// tokens of the prompt
    pub prompt: usize,
}

/// A block's `id`, as clients expect it to begin.
fn tool_id(c: &ToolCall) -> String {
    c.id.replacen("call_", "toolu_", 1)
}

impl Answering {
    /// The message before its content.
    fn head(&self) -> Value {
        let mut v = json!({
            "id": self.id, "type": "message", "role": "assistant", "model": &*self.model.name, "content": [],
            "stop_reason": null, "stop_sequence": null, "seed": self.seed,
            "usage": {"input_tokens": self.prompt, "output_tokens": 0},
        });
        thinkgate::tell(self.gate, &mut v);
        v
    }

    /// Why it ended, and the text that ended it. What a stop text is part of never reaches the answer, so it is looked
    /// for in the tokens.
    fn reason(&self, a: &Answer, called: bool) -> (&'static str, Option<&str>) {
        let bytes = self.model.tokenizer().decode(&a.tokens, false);
        let said = String::from_utf8_lossy(&bytes);
        let stop = self.stops.iter().filter_map(|s| Some((said.find(s.as_str())?, s))).min();
        match (a.finish_reason, stop) {
            (FinishReason::Stop, Some((_, s))) => ("stop_sequence", Some(s)),
            (FinishReason::Stop, None) if called => ("tool_use", None),
            (FinishReason::Stop, None) => ("end_turn", None),
            (FinishReason::Length, _) => ("max_tokens", None),
            // None of theirs, and an answer that was cut must not look like one that ended.
            (other, _) => (finish_word(other), None),
        }
    }

    /// `input_tokens` are those that were computed: the cached ones stand beside them.
    fn usage(&self, a: &Answer) -> Value {
        let mut bill = Bill::default();
        bill.add(a, true);
        let cached = a.usage.cached_tokens;
        let mut v = json!({
            "input_tokens": a.prompt_tokens.len().saturating_sub(cached),
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": a.tokens.len(),
        });
        let ours = bill.json();
        for name in ["draft", "cost", "timings", "cache_miss"] {
            if let Some(x) = ours.get(name) {
                v[name] = x.clone();
            }
        }
        v
    }

    /// A whole answer.
    pub fn message(&self, a: &Answer, speech: &mut Speech) -> Value {
        let part = speech.part();
        let (reason, stop) = self.reason(a, speech.called());
        let mut v = self.head();
        v["content"] = content(&part).into();
        v["stop_reason"] = reason.into();
        v["stop_sequence"] = stop.into();
        v["usage"] = self.usage(a);
        v
    }
}

fn content(part: &Part) -> Vec<Value> {
    let mut out = Vec::new();
    if !part.reasoning.is_empty() {
        out.push(json!({"type": "thinking", "thinking": part.reasoning, "signature": ""}));
    }
    if !part.content.is_empty() {
        out.push(json!({"type": "text", "text": part.content}));
    }
    for c in joined(&part.calls) {
        // A call that the end of the answer cut short has no whole arguments.
        let input = serde_json::from_str(&c.arguments).unwrap_or_else(|_| Value::Object(Map::new()));
        out.push(json!({"type": "tool_use", "id": tool_id(&c), "name": c.name, "input": input}));
    }
    out
}

#[derive(Clone, Copy, PartialEq)]
enum Block {
    Thinking,
    Text,
    Tool,
}

/// Writes events.
pub struct Stream {
    answering: Answering,
    speech: Speech,
    begun: bool,
    /// the block that is open
    block: Option<Block>,
    /// blocks so far
    blocks: usize,
    done: Option<Box<Answer>>,
}

impl Stream {
    /// Of one answer.
    pub fn new(answering: Answering, speech: Speech) -> Self {
        Self { answering, speech, begun: false, block: None, blocks: 0, done: None }
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.block.take().is_some() {
            let index = self.blocks - 1;
            named("content_block_stop", &json!({"type": "content_block_stop", "index": index}), out);
        }
    }

    /// Opens a block unless one of its kind is open; a call is always a new one.
    fn open(&mut self, kind: Block, block: Value, out: &mut Vec<u8>) {
        if self.block == Some(kind) && kind != Block::Tool {
            return;
        }
        self.close(out);
        let v = json!({"type": "content_block_start", "index": self.blocks, "content_block": block});
        named("content_block_start", &v, out);
        self.block = Some(kind);
        self.blocks += 1;
    }

    fn delta(&self, delta: Value, out: &mut Vec<u8>) {
        let v =
            json!({"type": "content_block_delta", "index": self.blocks.saturating_sub(1), "delta": delta});
        named("content_block_delta", &v, out);
    }

    fn part(&mut self, part: Part, out: &mut Vec<u8>) {
        if !part.reasoning.is_empty() {
            let block = json!({"type": "thinking", "thinking": "", "signature": ""});
            self.open(Block::Thinking, block, out);
            self.delta(json!({"type": "thinking_delta", "thinking": part.reasoning}), out);
        }
        if !part.content.is_empty() {
            self.open(Block::Text, json!({"type": "text", "text": ""}), out);
            self.delta(json!({"type": "text_delta", "text": part.content}), out);
        }
        for (_, c) in part.calls {
            if c.fresh {
                let block = json!({"type": "tool_use", "id": tool_id(&c), "name": c.name, "input": {}});
                self.open(Block::Tool, block, out);
            }
            if !c.arguments.is_empty() {
                self.delta(json!({"type": "input_json_delta", "partial_json": c.arguments}), out);
            }
        }
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
            let v = json!({"type": "message_start", "message": self.answering.head()});
            named("message_start", &v, out);
            self.alive(out);
        }
        let part = self.speech.part();
        self.part(part, out);
        let Some(a) = self.done.take() else { return };
        self.close(out);
        if let Some(e) = failure(&a) {
            return self.fail(&e, out);
        }
        let (reason, stop) = self.answering.reason(&a, self.speech.called());
        let v = json!({
            "type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": stop},
            "usage": self.answering.usage(&a),
        });
        named("message_delta", &v, out);
        named("message_stop", &json!({"type": "message_stop"}), out);
    }

    fn end(&mut self, _: &mut Vec<u8>) {}

    fn alive(&mut self, out: &mut Vec<u8>) {
        named("ping", &json!({"type": "ping"}), out);
    }

    fn fail(&mut self, e: &ApiError, out: &mut Vec<u8>) {
        named("error", &dialect::anthropic(e), out);
    }
}
