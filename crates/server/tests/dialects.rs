//! Anthropic's, Ollama's and OpenAI's newer dialect over raw HTTP: what each route says, in which order, and what it
//! refuses.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Response, Running, options, served_with, start, start_model};
use serde_json::{Value, json};

/// Shows tools, thinks where it may, and names every role.
const TEMPLATE: &str = "{% if tools %}<tool_call>{{ tools[0].function.name }}</tool_call>{% endif %}\
    {% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls or [] %}({{ c.function.name }}){% endfor %}{% endfor %}\
    {% if enable_thinking is defined %}{{ '<think>' if enable_thinking else '<no>' }}{% endif %}";

fn talker() -> Running {
    start_model(served_with("tiny", options(), Some(TEMPLATE), &[]), |_| ())
}

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

fn flag() -> Value {
    json!({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": false})
}

/// A body with more fields.
fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn names(events: &[(String, Value)]) -> Vec<&str> {
    let mut out: Vec<&str> = events.iter().map(|e| e.0.as_str()).collect();
    out.dedup();
    out
}

/// All strings at this place of the events, as one.
fn joined(events: &[(String, Value)], place: &str) -> String {
    events.iter().filter_map(|e| e.1.pointer(place)?.as_str()).collect()
}

fn refused(r: &Response, param: &str, says: &str) {
    assert_eq!(r.status, 400, "{param}: {}", String::from_utf8_lossy(&r.body));
    let v = r.json();
    let got = v.pointer("/error/param").or(v.get("param")).and_then(Value::as_str);
    assert_eq!(got, Some(param), "{v}");
    assert!(r.message().contains(says), "{says}: {v}");
}

#[test]
fn messages_stream_in_anthropics_order_and_say_what_a_whole_answer_says() {
    let s = start();
    let body = json!({"messages": user("hi"), "max_tokens": 12, "seed": 5, "system": [{"type": "text", "text": "s"}]});
    let whole = s.post("/v1/messages", &body).json();
    let stream = s.post("/v1/messages", &with(body.clone(), json!({"stream": true})));
    assert_eq!(stream.header("content-type"), Some("text/event-stream"));
    let events = stream.named();
    assert!(events.iter().all(|(n, v)| v["type"] == **n));
    let want = [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names(&events), want);
    assert_eq!(joined(&events, "/delta/text"), whole["content"][0]["text"]);
    assert_eq!(
        (&whole["type"], &whole["role"], &whole["model"]),
        (&json!("message"), &json!("assistant"), &json!("tiny"))
    );
    assert_eq!(whole["content"].as_array().unwrap().len(), 1);
    let last = &events[events.len() - 2].1;
    assert_eq!(last["delta"]["stop_reason"], whole["stop_reason"]);
    assert_eq!(last["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
    let counted = s.post("/v1/messages/count_tokens", &json!({"messages": user("hi"), "system": "s"})).json();
    let u = &whole["usage"];
    let input = u["input_tokens"].as_u64().unwrap() + u["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(counted["input_tokens"], input);
    assert_eq!(events[0].1["message"]["usage"]["input_tokens"], input);
    // A text that ends the answer is named and is not part of it.
    let text = whole["content"][0]["text"].as_str().unwrap();
    let stop: String = text.chars().skip(3).take(2).collect();
    let cut = s.post("/v1/messages", &with(body, json!({"stop_sequences": ["\u{1}nowhere", stop]}))).json();
    assert_eq!((&cut["stop_reason"], &cut["stop_sequence"]), (&json!("stop_sequence"), &json!(stop)));
    assert!(!cut["content"][0]["text"].as_str().unwrap_or("").contains(&stop));
}

#[test]
fn a_tool_that_must_be_called_is_called_in_every_dialect_with_arguments_that_validate() {
    let s = talker();
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": flag()}});
    for seed in 0..4 {
        let fine = |args: &Value| {
            assert!(args["a"].is_boolean() && args.as_object().unwrap().len() == 1, "{args}");
        };
        let body = json!({"messages": user("hi"), "max_tokens": 200, "seed": seed,
            "tools": [{"name": "f", "input_schema": flag()}], "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": true}});
        let m = s.post("/v1/messages", &body).json();
        assert_eq!(m["stop_reason"], "tool_use", "{m}");
        assert_eq!((&m["content"][0]["type"], &m["content"][0]["name"]), (&json!("tool_use"), &json!("f")));
        fine(&m["content"][0]["input"]);
        let events = s.post("/v1/messages", &with(body, json!({"stream": true}))).named();
        let args: Value = serde_json::from_str(&joined(&events, "/delta/partial_json")).unwrap();
        assert_eq!(args, m["content"][0]["input"]);
        let kinds: Vec<&Value> = events.iter().filter_map(|e| e.1.pointer("/content_block/type")).collect();
        assert_eq!(kinds, ["tool_use"]);

        let body = json!({"input": "hi", "max_output_tokens": 200, "seed": seed, "parallel_tool_calls": false,
            "tools": [{"type": "function", "name": "f", "parameters": flag()}], "tool_choice": {"type": "function", "name": "f"}});
        let r = s.post("/v1/responses", &body).json();
        let call = &r["output"][0];
        assert_eq!(
            (&r["status"], &call["type"], &call["name"]),
            (&json!("completed"), &json!("function_call"), &json!("f"))
        );
        fine(&serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap());
        let events = s.post("/v1/responses", &with(body, json!({"stream": true}))).named();
        let want = [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ];
        assert_eq!(names(&events), want);
        let of_delta: Vec<(String, Value)> =
            events.iter().filter(|e| e.0.ends_with(".delta")).cloned().collect();
        assert_eq!(joined(&of_delta, "/delta"), call["arguments"]);

        // This dialect knows no choice; a form makes the answer certain, and tools are read out of what is free.
        let body = json!({"model": "tiny", "messages": user("hi"), "stream": false, "tools": [tool], "options": {"num_predict": 5, "seed": seed}});
        assert_eq!(s.post("/api/chat", &body).json()["done"], true);
    }
}

#[test]
fn a_form_is_kept_in_every_dialect() {
    let s = talker();
    let schema = json!({"type": "object", "properties": {"n": {"enum": [1, 22, 333]}, "b": {"type": "boolean"}},
        "required": ["n", "b"], "additionalProperties": false});
    let fine = |text: &Value| {
        let v: Value = serde_json::from_str(text.as_str().unwrap()).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!([1, 22, 333].iter().any(|n| v["n"] == *n) && v["b"].is_boolean(), "{v}");
    };
    for seed in 0..3 {
        let body = json!({"messages": user("hi"), "max_tokens": 300, "seed": seed,
            "output_config": {"format": {"type": "json_schema", "schema": schema}}});
        fine(&s.post("/v1/messages", &body).json()["content"][0]["text"]);
        let body = json!({"model": "tiny:latest", "messages": user("hi"), "format": schema, "options": {"seed": seed}});
        let lines = s.post("/api/chat", &body).lines();
        let text: String = lines.iter().filter_map(|l| l["message"]["content"].as_str()).collect();
        fine(&text.into());
        for raw in [true, false] {
            let body = json!({"model": "tiny", "prompt": "hi", "raw": raw, "format": schema, "stream": false, "options": {"seed": seed}});
            fine(&s.post("/api/generate", &body).json()["response"]);
        }
        let body = json!({"input": "hi", "seed": seed, "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}});
        fine(&s.post("/v1/responses", &body).json()["output"][0]["content"][0]["text"]);
    }
}

#[test]
fn reasoning_stands_apart_and_is_counted() {
    let s = talker();
    let think = json!({"messages": user("hi"), "max_tokens": 9, "seed": 3, "thinking": {"type": "adaptive"}, "stream": true});
    let events = s.post("/v1/messages", &think).named();
    let kinds: Vec<&Value> = events.iter().filter_map(|e| e.1.pointer("/content_block/type")).collect();
    assert_eq!(kinds, ["thinking"]);
    let thought = joined(&events, "/delta/thinking");
    assert!(!thought.is_empty());
    let on = json!({"model": "tiny", "prompt": "hi", "think": true, "stream": false,
        "options": {"num_predict": 9, "seed": 3, "temperature": 1, "top_k": 0, "top_p": 1, "repeat_penalty": 1}});
    let g = s.post("/api/generate", &on).json();
    assert_eq!((g["thinking"].as_str(), g["response"].as_str()), (Some(&*thought), Some("")));
    let off = s.post("/api/generate", &with(on, json!({"think": false}))).json();
    assert!(off.get("thinking").is_none());
    // An older answer's reasoning comes back as an item and goes to the template's message.
    let body = json!({"max_output_tokens": 3, "input": [
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "4"},
    ]});
    let r = s.post("/v1/responses", &body).json();
    assert_eq!(
        (&r["status"], &r["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens")),
        "{r}"
    );
    assert_eq!(r["usage"]["output_tokens_details"]["reasoning_tokens"], 0);
}

#[test]
fn responses_stream_in_order_and_say_what_a_whole_answer_says() {
    let s = start();
    let body = json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}], "instructions": "s",
        "max_output_tokens": 7, "seed": 2, "metadata": {"k": "v"}});
    let whole = s.post("/v1/responses", &body).json();
    let events = s.post("/v1/responses", &with(body, json!({"stream": true}))).named();
    let want = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ];
    let got = names(&events);
    let end = if whole["status"] == "completed" { "response.completed" } else { "response.incomplete" };
    assert_eq!((&got[..8], got[8]), (&want[..8], end));
    assert!(events.iter().enumerate().all(|(i, e)| e.1["sequence_number"] == i && e.1["type"] == *e.0));
    let deltas: Vec<(String, Value)> =
        events.iter().filter(|e| e.0.ends_with("text.delta")).cloned().collect();
    assert_eq!(joined(&deltas, "/delta"), whole["output"][0]["content"][0]["text"]);
    let last = &events.last().unwrap().1["response"];
    assert_eq!(last["output"][0]["content"], whole["output"][0]["content"]);
    assert_eq!(last["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
    assert_eq!(
        (&whole["store"], &whole["metadata"]["k"], &whole["object"]),
        (&json!(false), &json!("v"), &json!("response"))
    );
}

#[test]
fn ollama_streams_lines_and_its_last_object_says_what_it_took() {
    let s = start();
    let options = json!({"num_predict": 6, "seed": 4, "num_thread": 2});
    let body = json!({"model": "tiny", "messages": user("hi"), "options": options, "keep_alive": "5m"});
    let stream = s.post("/api/chat", &body);
    assert_eq!(stream.header("content-type"), Some("application/x-ndjson"));
    let lines = stream.lines();
    let whole = s.post("/api/chat", &with(body, json!({"stream": false}))).json();
    let text: String = lines.iter().map(|l| l["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(text, whole["message"]["content"]);
    let (last, before) = lines.split_last().unwrap();
    assert!(before.iter().all(|l| l["done"] == false && l["model"] == "tiny"));
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &whole["done_reason"]));
    for name in ["total_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"]
    {
        assert!(last[name].as_u64().unwrap() > 0, "{name}: {last}");
    }
    assert!(last["created_at"].as_str().unwrap().ends_with('Z'));
    let g = s.post("/api/generate", &json!({"model": "tiny", "prompt": "hi", "options": options})).lines();
    assert_eq!(
        g.iter().map(|l| l["response"].as_str().unwrap()).collect::<String>(),
        text,
        "the same conversation"
    );
    for path in ["/api/chat", "/api/generate"] {
        assert_eq!(s.post(path, &json!({"model": "tiny"})).json()["done_reason"], "load");
    }
    assert_eq!(s.get("/api/tags").json()["models"][0]["name"], "tiny");
    assert_eq!(s.get("/api/ps").json()["models"][0]["model"], "tiny");
    let show = s.post("/api/show", &json!({"model": "tiny"})).json();
    assert_eq!(show["model_info"]["qwen2.vocab_size"], s.handle.plan().model.vocab);
    assert!(show["template"].as_str().unwrap().contains("im_start"));
    let e = s.post("/api/embed", &json!({"model": "tiny", "input": ["the cat", "a"]}));
    let theirs = s.post("/v1/embeddings", &json!({"input": ["the cat", "a"]})).json();
    let e = e.json();
    assert_eq!(e["embeddings"][1], theirs["data"][1]["embedding"]);
    assert_eq!(e["prompt_eval_count"], theirs["usage"]["prompt_tokens"]);
    let one = s.post("/api/embeddings", &json!({"model": "tiny", "prompt": "the cat"})).json();
    assert_eq!(one["embedding"], e["embeddings"][0]);
    let norm: f64 = one["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap().powi(2)).sum();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");
}

#[test]
fn refusals_are_in_the_dialects_shape_and_name_its_fields() {
    let s = start();
    let m =
        |more: Value| s.post("/v1/messages", &with(json!({"messages": user("hi"), "max_tokens": 3}), more));
    let e = m(json!({"temprature": 1}));
    assert_eq!(
        (&e.json()["type"], &e.json()["error"]["type"]),
        (&json!("error"), &json!("invalid_request_error"))
    );
    refused(&e, "temprature", "did you mean `temperature`?");
    refused(&s.post("/v1/messages", &json!({"messages": user("hi")})), "max_tokens", "missing");
    let image = json!([{"type": "image", "source": {"type": "url", "url": "http://10.0.0.1/"}}]);
    for (more, place, says) in [
        (
            json!({"messages": [{"role": "user", "content": image}]}),
            "messages[0].content[0].type",
            "fetches nothing",
        ),
        (
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
            "messages[1].role",
            "end with",
        ),
        (json!({"messages": [{"role": "system", "content": "a"}]}), "messages[0].role", "user or assistant"),
        (json!({"messages": []}), "messages", "1 to"),
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}),
            "thinking.budget_tokens",
            "no budget",
        ),
        (json!({"thinking": {"type": "adaptive"}}), "thinking", "does not know how"),
        (json!({"tool_choice": {"type": "any"}}), "tool_choice", "no `tools`"),
        (json!({"tools": [{"type": "web_search_20250305", "name": "w"}]}), "tools[0].type", "runs none"),
        (json!({"tools": [{"name": "w"}]}), "tools[0].input_schema", "JSON schema"),
        (json!({"stop_sequences": "x"}), "stop_sequences", "array"),
        (json!({"stop_sequences": [""]}), "stop_sequences", "`stop_sequences`"),
        (json!({"output_config": {"effort": "high"}}), "output_config.effort", "efforts"),
    ] {
        refused(&m(more), place, says);
    }
    assert_eq!(m(json!({"model": "claude"})).json()["error"]["type"], "not_found_error");

    let c = |more: Value| s.post("/api/chat", &with(json!({"model": "tiny", "messages": user("hi")}), more));
    for (more, place, says) in [
        (json!({"options": {"num_predikt": 1}}), "options.num_predikt", "did you mean `num_predict`?"),
        (json!({"options": {"num_ctx": 1 << 20}}), "options.num_ctx", "--ctx"),
        (json!({"format": "xml"}), "format", "JSON schema"),
        (json!({"think": true}), "think", "does not know how"),
        (
            json!({"messages": [{"role": "user", "content": "x", "images": ["AA"]}]}),
            "messages[0].images",
            "text only",
        ),
    ] {
        let e = c(more);
        assert!(e.json()["error"].is_string());
        refused(&e, place, says);
    }
    let g = |more: Value| s.post("/api/generate", &with(json!({"model": "tiny", "prompt": "hi"}), more));
    refused(&g(json!({"suffix": "x"})), "suffix", "fill a gap");
    refused(&g(json!({"raw": true, "system": "x"})), "system", "raw prompt");
    refused(
        &s.post("/api/embed", &json!({"model": "tiny", "input": "a", "truncate": true})),
        "truncate",
        "nothing is cut",
    );
    assert_eq!(g(json!({"model": "llama3"})).status, 404);

    let r =
        |more: Value| s.post("/v1/responses", &with(json!({"input": "hi", "max_output_tokens": 3}), more));
    for (more, place, says) in [
        (json!({"store": true}), "store", "nothing is stored"),
        (json!({"previous_response_id": "resp_1"}), "previous_response_id", "nothing is stored"),
        (json!({"background": true}), "background", "nothing is stored"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type", "no tools of its own"),
        (json!({"input": [{"type": "item_reference", "id": "x"}]}), "input[0].type", "item_reference"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
            "input[0].content[0].type",
            "text only",
        ),
        (json!({"reasoning": {"effort": "high"}}), "reasoning.effort", "high"),
        (json!({"truncation": "auto"}), "truncation", "never cut"),
        (json!({"text": {"format": {"type": "json_schema"}}}), "text.format.schema", "JSON schema"),
    ] {
        refused(&r(more), place, says);
    }
    s.idle();
}

#[test]
fn the_think_gate_acts_only_where_it_may_and_never_silently() {
    let uses = |rules: bool| {
        start_model(served_with("tiny", options(), Some(TEMPLATE), &[]), |app| {
            if rules {
                app.settings.add_use("server.thinkgate=rules", "test").unwrap();
            }
        })
    };
    let tool = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": null, "tool_calls":
        [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, {"role": "tool", "tool_call_id": "1", "content": "4"}]);
    let body = |more: Value| with(json!({"messages": tool, "max_tokens": 2, "seed": 1}), more);
    let header = |r: &Response| r.header("x-tamp-think-gate").map(str::to_string);
    let s = uses(true);
    let r = s.post("/v1/chat/completions", &body(json!({})));
    assert_eq!(header(&r).as_deref(), Some("off (rule tool_result)"));
    assert_eq!(r.json()["think_gate"], json!({"thinking": "off", "rule": "tool_result"}));
    let closed = r.json()["usage"]["prompt_tokens"].as_u64().unwrap();
    let stream = s.post("/v1/chat/completions", &body(json!({"stream": true})));
    assert_eq!(header(&stream).as_deref(), Some("off (rule tool_result)"));
    assert_eq!(stream.events()[0]["think_gate"]["rule"], "tool_result");
    // What the request says itself wins, in both directions.
    for more in [json!({"think_gate": false}), json!({"chat_template_kwargs": {"enable_thinking": true}})] {
        let r = s.post("/v1/chat/completions", &body(more));
        assert_eq!((r.status, header(&r), r.json().get("think_gate")), (200, None, None));
        assert_ne!(r.json()["usage"]["prompt_tokens"], closed, "the template saw the difference");
    }
    let theirs =
        json!([{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "4"}]}]);
    let r = s.post("/v1/messages", &json!({"messages": theirs, "max_tokens": 2}));
    assert_eq!(
        (header(&r).as_deref(), &r.json()["think_gate"]["rule"]),
        (Some("off (rule tool_result)"), &json!("tool_result"))
    );
    let r = s.post(
        "/api/generate",
        &json!({"model": "tiny", "prompt": "Sort: b a", "options": {"num_predict": 2}}),
    );
    assert_eq!(
        (header(&r).as_deref(), &r.lines().last().unwrap()["think_gate"]["rule"]),
        (Some("off (rule formatting)"), &json!("formatting"))
    );
    let r = s.post(
        "/v1/responses",
        &json!({"input": "x", "text": {"format": {"type": "json_schema", "name": "x", "schema": flag()}}}),
    );
    assert_eq!(
        (header(&r).as_deref(), &r.json()["think_gate"]["rule"]),
        (Some("off (rule schema)"), &json!("schema"))
    );
    let acts = &s.get("/v1/about").json()["think_gate"];
    assert_eq!((&acts["asked"], &acts["acted"]), (&json!(5), &json!(5)));
    let s = uses(false);
    let r = s.post("/v1/chat/completions", &body(json!({})));
    assert_eq!((header(&r), r.json().get("think_gate")), (None, None));
}

#[test]
fn several_answers_to_one_prompt_compute_it_once() {
    let shared = ["kv.prefix=tree", "engine.coalesce=prefix"];
    let text = "the cat sat on the mat and looked at the moon for a long while ".repeat(4);
    let body = json!({"messages": user(&text), "max_tokens": 6, "n": 6, "seed": 9});
    let rows = |uses: &[&str]| {
        let s = start_model(served_with("tiny", options(), None, uses), |_| ());
        let r = s.post("/v1/chat/completions", &body).json();
        let prompt = r["usage"]["prompt_tokens"].as_u64().unwrap();
        let texts: Vec<String> =
            r["choices"].as_array().unwrap().iter().map(|c| c["message"]["content"].to_string()).collect();
        // What the engine tells of itself is what stood after its last step.
        s.idle();
        let stats = s.handle.stats();
        (prompt, stats.work.target_positions, stats.prefix_hits, texts)
    };
    let (prompt, alone, none, texts) = rows(&[]);
    let (_, together, hits, same) = rows(&shared);
    assert_eq!(none, 0);
    assert_eq!(same, texts, "sharing changes no answer");
    // Five of six prompts come out of the cache but for their last, unfinished page.
    let saved = 5 * ((prompt - 1) / 16 * 16);
    assert_eq!((hits, alone - together), (saved, saved), "prompt of {prompt}");
    let distinct: std::collections::BTreeSet<&String> = texts.iter().collect();
    assert!(distinct.len() > 1, "the answers differ");
}
