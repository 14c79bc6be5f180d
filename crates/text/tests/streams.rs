//! Tool calls and reasoning out of a stream: what comes out does not depend on how the text was cut.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Rng, small_tokenizer, small_tokenizer_with};
use tamp_text::think::{Splitter, Thought, opened_by};
use tamp_text::tools::{Event, Parser, Style, Tool};

const STYLES: [Style; 3] = [Style::Hermes, Style::Llama3, Style::Mistral];

/// Pieces joined, so that cuts leave no trace.
fn join(events: Vec<Event>) -> Vec<Event> {
    let mut out: Vec<Event> = Vec::new();
    for e in events {
        match (out.last_mut(), &e) {
            (Some(Event::Text(a)), Event::Text(b)) => a.push_str(b),
            (Some(Event::CallArgs { index: i, delta: a }), Event::CallArgs { index: j, delta: b })
                if i == j =>
            {
                a.push_str(b);
            }
            _ => out.push(e),
        }
    }
    out
}

fn parse(style: Style, names: &[&str], pieces: &[&str]) -> Vec<Event> {
    let mut p = Parser::new(style, names.iter().map(|n| n.to_string()).collect());
    let mut events: Vec<Event> = pieces.iter().flat_map(|s| p.push(s)).collect();
    events.extend(p.finish());
    join(events)
}

/// Cuts at random character boundaries.
fn cut<'a>(rng: &mut Rng, text: &'a str) -> Vec<&'a str> {
    let mut out = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let n = rng.below(9);
        let at = rest.char_indices().nth(n).map_or(rest.len(), |c| c.0);
        out.push(&rest[..at]);
        rest = &rest[at..];
    }
    out
}

/// Text that a parser could take for the beginning of something.
const SCRAPS: [&str; 24] = [
    "<tool_call>",
    "</tool_call>",
    "<tool_call",
    "[TOOL_CALLS]",
    "[",
    "]",
    "<|python_tag|>",
    "{",
    "}",
    "{\"name\": \"f\"",
    ", \"arguments\": {\"a\": \"\\u00e9\\\"}\"}",
    "\"parameters\": {}",
    "\"name\"",
    ":",
    ",",
    ";",
    " ",
    "\n",
    "é",
    "<think>",
    "</think>",
    "</thi",
    "1.5e3",
    "{\"name\": \"g\", \"parameters\": {\"x\": [1, null]}}",
];

#[test]
fn any_cut_gives_the_same_calls_and_the_same_reasoning() {
    let mut rng = Rng(1);
    for i in 0..6000 {
        let text: String = (0..rng.below(14)).map(|_| *rng.pick(&SCRAPS)).collect();
        let style = STYLES[i % 3];
        let names: &[&str] = if i % 2 == 0 { &[] } else { &["f"] };
        let whole = parse(style, names, &[&text]);
        assert_eq!(parse(style, names, &cut(&mut rng, &text)), whole, "{text:?} in {style:?}");
        consistent(&text, &whole);
        let opened = i % 5 == 0;
        let whole = think(opened, &[&text]);
        assert_eq!(think(opened, &cut(&mut rng, &text)), whole, "{text:?}");
    }
}

/// Calls are numbered, begin, and end; whole arguments are JSON; nothing appears that was not written.
fn consistent(text: &str, events: &[Event]) {
    let mut open: Option<(usize, String)> = None;
    let mut next = 0;
    for e in events {
        match e {
            Event::Text(t) => {
                assert!(open.is_none() && !t.is_empty(), "{events:?}");
                assert!(t.chars().all(|c| text.contains(c)));
            }
            Event::CallStart { index, name } => {
                assert!(open.is_none() && *index == next && text.contains(name.as_str()));
                open = Some((*index, String::new()));
                next += 1;
            }
            Event::CallArgs { index, delta } => {
                let open = open.as_mut().unwrap();
                assert_eq!(*index, open.0);
                open.1 += delta;
            }
            Event::CallEnd { index, whole } => {
                let (i, args) = open.take().unwrap();
                assert_eq!(i, *index);
                let parsed = serde_json::from_str::<Value>(&args);
                assert_eq!(parsed.is_ok_and(|v| v.is_object()), *whole, "{args:?} in {text:?}");
            }
        }
    }
    assert!(open.is_none(), "{text:?}");
}

fn think(opened: bool, pieces: &[&str]) -> (String, String) {
    let mut s = Splitter::new(opened);
    let mut all: Vec<Thought> = pieces.iter().flat_map(|p| s.push(p)).collect();
    all.extend(s.finish());
    let (mut reasoning, mut answer) = (String::new(), String::new());
    for t in all {
        match t {
            Thought::Reasoning(t) => {
                assert!(answer.is_empty(), "reasoning comes first");
                reasoning += &t;
            }
            Thought::Answer(t) => answer += &t,
        }
    }
    (reasoning, answer)
}

#[test]
fn reasoning_is_what_stands_between_the_first_tags() {
    let both = |a: &str, b: &str| (a.to_string(), b.to_string());
    for (opened, text, want) in [
        (false, "<think>\nso\n it goes\n</think>\n\nyes</think>", both("so\n it goes", "yes</think>")),
        (true, "so</think>yes", both("so", "yes")),
        (true, "\n <think>", both("<think>", "")),
        (false, " \n<think></think>yes", both("", "yes")),
        (false, "  no tags <think>a</think>", both("", "  no tags <think>a</think>")),
        (false, "<thinking>", both("", "<thinking>")),
        (false, "<think>cut </thi", both("cut </thi", "")),
        (false, "<think>cut \n", both("cut", "")),
        (false, " \n", both("", " \n")),
        (false, "<thi", both("", "<thi")),
        (true, "a < b </ c </think x </think>\nd", both("a < b </ c </think x", "d")),
    ] {
        assert_eq!(think(opened, &[text]), want, "{text:?}");
    }
    assert!(opened_by("<|im_start|>assistant\n<think>\n") && !opened_by("<think>a</think>"));
    let mut other = Splitter::with_tags("[THINK]", "[/THINK]", false);
    let got = other.push("[THINK]a[/THINK]b");
    assert_eq!(got, [Thought::Reasoning("a".into()), Thought::Answer("b".into())]);
}

/// A call as the style writes it.
fn written(style: Style, calls: &[(&str, &str)]) -> String {
    let object = |(name, args): &(&str, &str)| {
        let key = if style == Style::Llama3 { "parameters" } else { "arguments" };
        format!("{{\"name\": \"{name}\", \"{key}\": {args}}}")
    };
    let all: Vec<String> = calls.iter().map(object).collect();
    match style {
        Style::Hermes => {
            all.iter().map(|c| format!("<tool_call>\n{c}\n</tool_call>")).collect::<Vec<_>>().join("\n")
        }
        Style::Llama3 => all.join("; "),
        Style::Mistral => format!("[TOOL_CALLS][{}]", all.join(", ")),
    }
}

fn events_of(calls: &[(&str, &str)]) -> Vec<Event> {
    let one = |(index, (name, args)): (usize, &(&str, &str))| {
        [
            Event::CallStart { index, name: name.to_string() },
            Event::CallArgs { index, delta: args.to_string() },
            Event::CallEnd { index, whole: true },
        ]
    };
    calls.iter().enumerate().flat_map(one).collect()
}

#[test]
fn calls_come_out_as_they_were_written() {
    let calls = [("f", "{\"a\": \"</tool_call>]}\\\"\", \"b\": [1, -0.5e+3, {\"c\": null}]}"), ("g", "{}")];
    for style in STYLES {
        for calls in [&calls[..], &calls[..1]] {
            let text = written(style, calls);
            assert_eq!(parse(style, &["f", "g"], &[&text]), events_of(calls), "{text}");
            assert_eq!(parse(style, &[], &[&format!("\n {text} \n")]), events_of(calls), "{text}");
            let before = if style == Style::Llama3 { "Let me see. <|python_tag|>" } else { "Let me see. " };
            let want = [vec![Event::Text("Let me see. ".into())], events_of(calls)].concat();
            assert_eq!(parse(style, &[], &[before, &text]), want, "{text}");
            let mut want = events_of(calls);
            want.push(Event::Text("\n\nDone.".into()));
            assert_eq!(parse(style, &[], &[&text, "\n\nDone."]), want, "{text}");
        }
    }
}

#[test]
fn a_call_is_read_in_any_order_of_its_keys() {
    let want = events_of(&[("f", "{\"a\":1}")]);
    for object in [
        "{\"arguments\":{\"a\":1},\"name\":\"f\"}",
        "{\"type\": \"function\", \"id\": 7, \"name\": \"f\" , \"arguments\" : {\"a\":1} }",
        "{\"name\": \"f\", \"arguments\": \"{\\\"a\\\":1}\"}",
        "{\"name\": \"f\", \"parameters\": {\"a\":1}, \"n\": [1]}",
    ] {
        assert_eq!(parse(Style::Hermes, &[], &["<tool_call>", object, "</tool_call>"]), want, "{object}");
    }
    let none = events_of(&[("f", "{}")]);
    for object in ["{\"name\":\"f\"}", "{\"name\":\"f\",\"arguments\":null}"] {
        assert_eq!(parse(Style::Hermes, &[], &["<tool_call>", object, "</tool_call>"]), none, "{object}");
    }
}

#[test]
fn what_only_looks_like_a_call_is_text_unchanged() {
    for (style, text) in [
        (Style::Hermes, "<tool_call>no</tool_call>"),
        (Style::Hermes, "<tool_call>{\"name\": 3, \"arguments\": {}}</tool_call>"),
        (Style::Hermes, "<tool_call>{\"name\": \"h\", \"arguments\": {}}</tool_call>"),
        (Style::Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>"),
        (Style::Hermes, "<tool_call>{\"name\": \"f\", \"name\": \"f\", \"arguments\": {}}</tool_call>"),
        (Style::Hermes, "<tool_call>{\"name\": \"f\""),
        (Style::Hermes, "{\"name\": \"f\", \"arguments\": {}}"),
        (Style::Hermes, "a < b <tool <tool_call"),
        (Style::Llama3, "{\"name\": \"f\"}"),
        (Style::Llama3, "{\"name\": \"Bob\", \"parameters\": {}}"),
        (Style::Llama3, "It is {\"name\": \"f\", \"parameters\": {}}"),
        (Style::Llama3, "{\"a\": [1, 2, {}]}"),
        (Style::Llama3, "<|python_tag|>print(1)"),
        (Style::Mistral, "[TOOL_CALLS] none"),
        (Style::Mistral, "[TOOL_CALLS][1]"),
        (Style::Mistral, "[TOOL [TOOL_CALLS"),
    ] {
        assert_eq!(parse(style, &["f"], &[text]), [Event::Text(text.into())], "{style:?}");
    }
    // text after a call keeps its white space
    let broken = "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}x \n";
    let want = [events_of(&[("f", "{}")]), vec![Event::Text("x \n".into())]].concat();
    assert_eq!(parse(Style::Mistral, &[], &[broken]), want);
    // and a call after it is still one
    let text = format!("<tool_call>{{<tool_call>{}", written(Style::Hermes, &[("f", "{}")]));
    let mut want = vec![Event::Text("<tool_call>{<tool_call>".into())];
    want.extend(events_of(&[("f", "{}")]));
    assert_eq!(parse(Style::Hermes, &[], &[&text]), want);
}

#[test]
fn arguments_that_break_off_end_the_call_and_say_so() {
    let text = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": tru";
    let want = [
        Event::CallStart { index: 0, name: "f".into() },
        Event::CallArgs { index: 0, delta: "{\"a\": tru".into() },
        Event::CallEnd { index: 0, whole: false },
    ];
    assert_eq!(parse(Style::Hermes, &[], &[text]), want);
    let got = parse(Style::Hermes, &[], &[text, "th</tool_call>"]);
    assert_eq!(got[..3], want);
    assert_eq!(got[3..], [Event::Text("th</tool_call>".into())]);
}

#[test]
fn markers_that_are_control_tokens_are_read_from_the_tokens() {
    let t = small_tokenizer();
    let marker = t.id_of("[TOOL_CALLS]").unwrap();
    let mut p = Parser::new(Style::Mistral, vec![]).of_tokens(&t);
    let mut events = p.token(marker, "");
    for id in t.encode("[{\"name\": \"f\", \"arguments\": {}}]", tamp_text::Special::Plain, false) {
        events.extend(p.token(id, std::str::from_utf8(t.bytes(id)).unwrap()));
    }
    events.extend(p.token(t.eos().unwrap(), ""));
    events.extend(p.finish());
    assert_eq!(join(events), events_of(&[("f", "{}")]));
    // one that is text in the vocabulary comes with the text
    let t = small_tokenizer_with(&["<|end|>"]);
    let mut p = Parser::new(Style::Mistral, vec![]).of_tokens(&t);
    assert_eq!(p.token(5, "a"), [Event::Text("a".into())]);
}

#[test]
fn the_style_is_what_the_template_asks_for_else_what_the_vocabulary_has() {
    let t = small_tokenizer_with(&["<|end|>"]);
    for (template, want) in [
        ("{{ '<tool_call>' }}", Some(Style::Hermes)),
        ("{{ '[TOOL_CALLS][' }}", Some(Style::Mistral)),
        ("{{ '<|python_tag|>' }}", Some(Style::Llama3)),
        ("ipython {\"name\": x, \"parameters\": y}", Some(Style::Llama3)),
        ("<tool_call>\n<function=name>", None),
        ("{{ messages }}", None),
    ] {
        assert_eq!(Style::detect(template, &t), want, "{template}");
    }
    assert_eq!(Style::detect("", &small_tokenizer()), Some(Style::Mistral));
}

#[test]
fn tools_that_are_none_are_refused_by_name() {
    for (tools, want) in [
        (json!({}), "`tools` cannot be used"),
        (json!([{"type": "retrieval"}]), "`tools[0].type` cannot be used"),
        (json!([{"type": "function", "function": {}}]), "`tools[0].function.name` cannot be used"),
        (
            json!([{"type": "function", "function": {"name": "a b"}}]),
            "`tools[0].function.name` cannot be used",
        ),
        (
            json!([{"type": "function", "function": {"name": "a"}}, {"type": "function", "function": {"name": "a"}}]),
            "`tools[1].function.name` cannot be used: another tool has the same name",
        ),
    ] {
        let got = Tool::list(&tools).unwrap_err().to_string();
        assert!(got.starts_with(want), "{got}");
    }
}

#[test]
fn a_hostile_stream_costs_time_in_proportion_to_its_length() {
    let n = 400_000;
    let long = |s: &str| s.repeat(n / s.len());
    let streams = [
        long("<tool_call>"),
        long("<tool_call>{"),
        long("<tool_call> \n"),
        "<tool_call>".to_string() + &long(" "),
        "<tool_call>{\"x\": \"".to_string() + &long("<tool_call>"),
        "<tool_call>{\"arguments\": {\"a\": ".to_string() + &long("["),
        written(Style::Hermes, &[("f", "{}")]) + &long(" "),
        long("[TOOL_CALLS][{\"name\":"),
        "{\"a\": ".to_string() + &long("[1,"),
        long(" "),
        "<think>".to_string() + &long("\n"),
        "<think>".to_string() + &long("</thin"),
    ];
    for text in streams {
        let start = Instant::now();
        for style in STYLES {
            let mut p = Parser::new(style, vec![]);
            let mut out = 0;
            for piece in text.as_bytes().chunks(5) {
                out += p.push(std::str::from_utf8(piece).unwrap()).len();
            }
            assert!(out + p.finish().len() > 0);
        }
        think(false, &[&text]);
        assert!(start.elapsed() < Duration::from_secs(4), "{:?} {}", start.elapsed(), &text[..40]);
    }
}
