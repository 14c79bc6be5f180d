//! Input: a byte for the style and where to cut, then what a model wrote. Calls and reasoning do not depend on the cut.
#![no_main]

use tamp_text::think::{Splitter, Thought};
use tamp_text::tools::{Event, Parser, Style};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&kind, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let style = [Style::Hermes, Style::Llama3, Style::Mistral][usize::from(kind % 3)];
    let mut at = usize::from(kind / 3) * text.len() / 86;
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let (a, b) = text.split_at(at);
    assert_eq!(calls(style, &[text]), calls(style, &[a, b]));
    assert_eq!(thoughts(&[text]), thoughts(&[a, b]));
});

fn calls(style: Style, pieces: &[&str]) -> Vec<(String, String)> {
    let mut parser = Parser::new(style, vec![]);
    let mut events: Vec<Event> = pieces.iter().flat_map(|p| parser.push(p)).collect();
    events.extend(parser.finish());
    let mut out: Vec<(String, String)> = Vec::new();
    for e in events {
        let (kind, text) = match e {
            Event::Text(t) => ("text".into(), t),
            Event::CallStart { index, name } => (format!("start {index}"), name),
            Event::CallArgs { index, delta } => (format!("args {index}"), delta),
            Event::CallEnd { index, whole } => (format!("end {index} {whole}"), String::new()),
        };
        match out.last_mut() {
            Some(last) if last.0 == kind => last.1 += &text,
            _ => out.push((kind, text)),
        }
    }
    out
}

fn thoughts(pieces: &[&str]) -> (String, String) {
    let mut splitter = Splitter::new(false);
    let mut all: Vec<Thought> = pieces.iter().flat_map(|p| splitter.push(p)).collect();
    all.extend(splitter.finish());
    let (mut reasoning, mut answer) = (String::new(), String::new());
    for t in all {
        match t {
            Thought::Reasoning(t) => reasoning += &t,
            Thought::Answer(t) => answer += &t,
        }
    }
    (reasoning, answer)
}
