//! One answer to a conversation, apart: reasoning, text, calls of tools. Whole answers and streams go through the same
//! reader, so they say the same.

use serde_json::{Value, json};
use tamp_base::ids::Token;
use tamp_text::think::{Splitter, Thought};
use tamp_text::tools::{Event, Parser};

use crate::answer::{Likely, Said};
use crate::error::ApiError;

/// A call of a tool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToolCall {
    /// unique within the server's life
    pub id: String,
    /// the tool
    pub name: String,
    /// JSON text
    pub arguments: String,
    /// the call begins here; else this is more of its arguments
    pub fresh: bool,
}

/// What was said since the last time it was taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// between the tags of a model that thinks
    pub reasoning: String,
    /// text for the reader
    pub content: String,
    /// pieces of calls by their index
    pub calls: Vec<(usize, ToolCall)>,
    /// of the tokens, where the request asked
    pub likely: Vec<Likely>,
}

impl Part {
    /// Nothing was said.
    pub fn is_empty(&self) -> bool {
        self.reasoning.is_empty()
            && self.content.is_empty()
            && self.calls.is_empty()
            && self.likely.is_empty()
    }
}

/// Reads one answer.
pub struct Speech {
    splitter: Splitter,
    parser: Option<Parser>,
    /// begins the ids of calls
    id: String,
    part: Part,
    called: bool,
    thought: usize,
}

impl Speech {
    /// `opened`: the prompt ends inside a block of reasoning. `parser`: where tools were offered.
    pub fn new(opened: bool, parser: Option<Parser>, id: String) -> Self {
        Self { splitter: Splitter::new(opened), parser, id, part: Part::default(), called: false, thought: 0 }
    }

    /// Takes what a sequence said; `Done` belongs to the caller.
    pub fn take(&mut self, said: Said) {
        match said {
            Said::Token { token, text, likely } => {
                self.part.likely.extend(likely);
                self.read(Some(token), &text);
            }
            Said::Text(text) => self.read(None, &text),
            Said::Done(_) => {}
        }
    }

    fn read(&mut self, token: Option<Token>, text: &str) {
        let thoughts = self.splitter.push(text);
        let reasons = thoughts.iter().any(|t| matches!(t, Thought::Reasoning(_)));
        let answer = self.thoughts(thoughts);
        self.thought += usize::from(token.is_some() && reasons && answer.is_empty());
        let events = match (&mut self.parser, token) {
            (Some(p), Some(t)) => p.token(t, &answer),
            (Some(p), None) => p.push(&answer),
            (None, _) => return self.part.content.push_str(&answer),
        };
        self.events(events);
    }

    /// Notes the reasoning and returns the rest.
    fn thoughts(&mut self, thoughts: Vec<Thought>) -> String {
        let mut answer = String::new();
        for t in thoughts {
            match t {
                Thought::Reasoning(t) => self.part.reasoning += &t,
                Thought::Answer(t) => answer += &t,
            }
        }
        answer
    }

    fn events(&mut self, events: Vec<Event>) {
        for e in events {
            match e {
                Event::Text(t) => self.part.content += &t,
                Event::CallStart { index, name } => {
                    self.called = true;
                    let id = format!("{}_{index}", self.id);
                    self.part.calls.push((index, ToolCall { id, name, fresh: true, ..ToolCall::default() }));
                }
                Event::CallArgs { index, delta } => match self.part.calls.last_mut() {
                    Some((i, call)) if *i == index => call.arguments += &delta,
                    _ => {
                        let call = ToolCall { arguments: delta, ..ToolCall::default() };
                        self.part.calls.push((index, call));
                    }
                },
                Event::CallEnd { .. } => {}
            }
        }
    }

    /// Lets out what was held back; the answer is over.
    pub fn finish(&mut self) {
        let thoughts = self.splitter.finish();
        let answer = self.thoughts(thoughts);
        match &mut self.parser {
            Some(p) => {
                let mut events = p.push(&answer);
                events.extend(p.finish());
                self.events(events);
            }
            None => self.part.content += &answer,
        }
    }

    /// What was said since the last time.
    pub fn part(&mut self) -> Part {
        std::mem::take(&mut self.part)
    }

    /// Something was said and not taken.
    pub fn waits(&self) -> bool {
        !self.part.is_empty()
    }

    /// Tokens that completed text of the reasoning; those of its tags are not among them.
    pub fn thought(&self) -> usize {
        self.thought
    }

    /// A tool was called.
    pub fn called(&self) -> bool {
        self.called
    }
}

/// A piece of an answer as OpenAI's `delta`.
pub fn delta(part: &Part) -> Value {
    let mut v = json!({});
    if !part.reasoning.is_empty() {
        v["reasoning_content"] = part.reasoning.clone().into();
    }
    if !part.content.is_empty() {
        v["content"] = part.content.clone().into();
    }
    if !part.calls.is_empty() {
        let one = |(index, c): &(usize, ToolCall)| match c.fresh {
            true => json!({"index": index, "id": c.id, "type": "function",
                "function": {"name": c.name, "arguments": c.arguments}}),
            false => json!({"index": index, "function": {"arguments": c.arguments}}),
        };
        v["tool_calls"] = part.calls.iter().map(one).collect();
    }
    v
}

/// The pieces of calls as whole calls.
pub fn joined(pieces: &[(usize, ToolCall)]) -> Vec<ToolCall> {
    let mut calls: Vec<ToolCall> = Vec::new();
    for (_, c) in pieces {
        match calls.last_mut() {
            Some(last) if !c.fresh => last.arguments += &c.arguments,
            _ => calls.push(c.clone()),
        }
    }
    calls
}

/// A whole answer as OpenAI's `message`.
pub fn message(part: &Part) -> Value {
    let text = |t: &str| if t.is_empty() { Value::Null } else { t.into() };
    let mut v = json!({"role": "assistant", "content": part.content, "refusal": null});
    if !part.reasoning.is_empty() {
        v["reasoning_content"] = part.reasoning.clone().into();
    }
    if !part.calls.is_empty() {
        let calls = joined(&part.calls);
        v["content"] = text(&part.content);
        let one = |c: &ToolCall| json!({"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}});
        v["tool_calls"] = calls.iter().map(one).collect();
    }
    v
}

/// The refusal that a failed answer carries, for streams that have begun.
pub fn failure(a: &tamp_engine::Answer) -> Option<ApiError> {
    a.failure.as_ref().map(ApiError::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tamp_text::tools::Style;

    fn read(opened: bool, tools: bool, pieces: &[&str]) -> (Part, Part, bool) {
        let parser = || tools.then(|| Parser::new(Style::Hermes, vec!["f".into()]));
        let (mut whole, mut cut) =
            (Speech::new(opened, parser(), "call".into()), Speech::new(opened, parser(), "call".into()));
        whole.take(Said::Text(pieces.concat()));
        whole.finish();
        let mut sum = Part::default();
        for p in pieces {
            cut.take(Said::Text((*p).into()));
            add(&mut sum, cut.part());
        }
        cut.finish();
        add(&mut sum, cut.part());
        (whole.part(), sum, cut.called())
    }

    fn add(sum: &mut Part, part: Part) {
        sum.reasoning += &part.reasoning;
        sum.content += &part.content;
        sum.calls.extend(part.calls);
    }

    #[test]
    fn a_stream_and_a_whole_answer_say_the_same() {
        let pieces = [
            "<thi",
            "nk>\nhm",
            "m</think>",
            "\n\nok <tool",
            "_call>{\"name\": \"f\", \"argu",
            "ments\": {\"a\": ",
            "1}}</tool_call>",
        ];
        let (whole, cut, called) = read(false, true, &pieces);
        assert!(called);
        assert_eq!((&*whole.reasoning, whole.content.trim()), ("hmm", "ok"));
        assert_eq!(message(&whole), message(&cut));
        let call = &message(&whole)["tool_calls"][0];
        assert_eq!(
            (&call["function"]["name"], &call["function"]["arguments"]),
            (&json!("f"), &json!("{\"a\": 1}"))
        );
        assert_eq!(call["id"], "call_0");
    }

    #[test]
    fn without_tools_a_call_is_text_and_without_a_block_there_is_no_reasoning() {
        let (whole, cut, called) = read(false, false, &["a <tool_call>", "{}</tool_call>"]);
        assert_eq!(
            (&*whole.content, &*cut.content, called),
            ("a <tool_call>{}</tool_call>", "a <tool_call>{}</tool_call>", false)
        );
        let (whole, ..) = read(true, false, &["deep</think>out"]);
        assert_eq!((&*whole.reasoning, &*whole.content), ("deep", "out"));
    }
}
