//! Equality with Jinja2: published chat templates over five conversations, and a grammar of small templates.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};
use tamp_text::{Message, Template};

const NOW: i64 = 1_751_328_000;

/// Python that can import jinja2: the machine's, or one in a virtual environment made here.
fn python() -> Option<String> {
    let can = |p: &str| {
        Command::new(p)
            .args(["-c", "import jinja2.sandbox; assert jinja2.__version__ >= '3.1'"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    if can("python3") {
        return Some("python3".into());
    }
    let venv = support::cache().join("venv-jinja2");
    let python = venv.join("bin/python3").display().to_string();
    if !can(&python) {
        let _ = Command::new("python3").args(["-m", "venv"]).arg(&venv).status();
        let _ = Command::new(&python).args(["-m", "pip", "install", "-q", "jinja2==3.1.6"]).status();
    }
    let ok = can(&python);
    if !ok {
        println!("SKIPPED: no Python with jinja2 could be found or made");
    }
    ok.then_some(python)
}

fn reference(templates: &BTreeMap<String, String>, conversations: &[Value]) -> Option<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/jinja_reference.py");
    let mut child =
        Command::new(python()?).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let job = json!({"templates": templates, "conversations": conversations, "now": NOW});
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(job.to_string().as_bytes()).unwrap());
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(out.status.success());
    Some(serde_json::from_slice(&out.stdout).unwrap())
}

fn ours(source: &str, c: &Value) -> Result<String, String> {
    let t = Template::new(source, "<s>", "</s>").map_err(|e| e.to_string())?.at(NOW);
    let messages: Vec<Message> = serde_json::from_value(c["messages"].clone()).unwrap();
    let tools = c.get("tools").filter(|t| !t.is_null());
    let extra: Map<String, Value> = c.get("extra").and_then(Value::as_object).cloned().unwrap_or_default();
    t.render(&messages, tools, c["add_generation_prompt"] == true, &extra).map_err(|e| e.to_string())
}

fn conversations() -> Vec<Value> {
    let weather = json!({"type": "function", "function": {
        "name": "get_weather",
        "description": "Get the weather of a city — with \"units\" & <tags>",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "City name, e.g. 東京"},
                "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
                "days": {"type": "integer", "minimum": 1, "maximum": 18446744073709551615u64},
                "detail": {"type": "object", "properties": {"wind": {"type": "boolean"}}, "required": ["wind"]},
                "at": {"type": "array", "items": {"type": "number"}}
            },
            "required": ["city"]
        }
    }});
    let clock = json!({"type": "function", "function": {
        "name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}});
    vec![
        json!({"messages": [{"role": "user", "content": "Hello!"}], "add_generation_prompt": true}),
        json!({"messages": [
            {"role": "system", "content": "You are terse.\nAlways."},
            {"role": "user", "content": "What is 2+2?"},
        ], "add_generation_prompt": true}),
        json!({"messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "answer one"},
            {"role": "user", "content": "second"},
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\nanswer two"},
            {"role": "user", "content": "third"},
            {"role": "assistant", "content": "answer three"},
        ], "add_generation_prompt": false}),
        json!({"messages": [
            {"role": "user", "content": "Weather in Paris?"},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "call12345", "type": "function", "function":
                {"name": "get_weather", "arguments": {"city": "Paris", "days": 2, "detail": {"wind": true}, "at": [1.5, 2]}}}]},
            {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": "{\"temp\": 21.5}"},
            {"role": "assistant", "content": "It is 21.5 °C."},
            {"role": "user", "content": "And the time?"},
        ], "tools": [weather, clock], "add_generation_prompt": true, "extra": {"enable_thinking": false}}),
        json!({"messages": [
            {"role": "user", "content": "  lead & trail \n\n{{ not.a.template }} {% if %} 'q' \"dq\" \\n <b>\u{1F980} é e\u{301} 漢字\u{3000}\t"},
            {"role": "assistant", "content": "<|im_end|></think>```rust\nfn main() {}\n```\r\n", "reasoning_content": "Because\n\"so\""},
            {"role": "user", "content": ""},
            {"role": "user", "content": "x"},
        ], "add_generation_prompt": true, "extra": {"enable_thinking": true}}),
    ]
}

#[test]
fn published_chat_templates_render_what_jinja2_renders() {
    let Some(models) = support::llama_cpp_models() else { return };
    let templates: BTreeMap<String, String> = std::fs::read_dir(models.join("templates"))
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "jinja"))
        .map(|p| (p.file_stem().unwrap().to_string_lossy().into(), std::fs::read_to_string(p).unwrap()))
        .collect();
    let conversations = conversations();
    let Some(want) = reference(&templates, &conversations) else { return };
    let (mut equal, mut rendered, mut refused) = (0, 0, 0);
    for (name, source) in &templates {
        let mut bad = vec![];
        for (i, c) in conversations.iter().enumerate() {
            let want = &want[name][i];
            match (ours(source, c), want["ok"].as_str()) {
                (Ok(got), Some(text)) if got == text => rendered += 1,
                (Err(_), None) => refused += 1,
                (got, text) => {
                    let got = got.unwrap_or_else(|e| format!("ERROR {e}"));
                    let text = text.map_or_else(|| format!("ERROR {}", want["error"]), String::from);
                    let at = got.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
                    let at = (0..=at)
                        .rev()
                        .find(|&i| got.is_char_boundary(i) && text.is_char_boundary(i))
                        .unwrap();
                    let part = |s: &str| s[at..].chars().take(120).collect::<String>();
                    bad.push(format!(
                        "  conversation {i} at {at}:\n    got  {:?}\n    want {:?}",
                        part(&got),
                        part(&text)
                    ));
                }
            }
        }
        if bad.is_empty() {
            equal += 1;
        } else {
            println!("{name}:\n{}", bad.join("\n"));
        }
    }
    println!(
        "{equal} of {} templates equal Jinja2: {rendered} renderings, {refused} refused by both",
        templates.len()
    );
    assert!(equal * 10 >= templates.len() * 9, "{equal} of {}", templates.len());
    assert!(rendered > refused * 4);
}
