//! Constrained answers: whatever is drawn under the masks is valid, and nothing valid is ruled out.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod support;

use std::sync::Arc;

use serde_json::{Value, json};
use support::{Rng, small_tokenizer, stored_tokenizer};
use tamp_text::Tokenizer;
use tamp_text::grammar::{Grammar, GrammarSpec, Grammars, State};
use tamp_text::tools::{Event, Parser, Style, Tool};

fn compile(t: &Arc<Tokenizer>, spec: GrammarSpec) -> Grammar {
    Grammars::new(t).compile(&spec).unwrap()
}

fn regex(t: &Arc<Tokenizer>, r: &str) -> Grammar {
    compile(t, GrammarSpec::Regex(r.into()))
}

fn end(t: &Tokenizer) -> u32 {
    t.ends().next().unwrap()
}

/// Draws allowed tokens at random; after `most` it prefers those that bring the end near (an end token, else the ones that
/// close).
fn draw(t: &Tokenizer, state: &mut State, rng: &mut Rng, most: usize) -> Option<Vec<u32>> {
    let mut out = Vec::new();
    for step in 0..most * 4 {
        let mask = state.mask(&[]).unwrap();
        let allowed: Vec<u32> = (0..t.len() as u32).filter(|&i| mask.allows(i)).collect();
        assert_eq!(allowed.len(), mask.count());
        let may_end = state.may_end(&[]).unwrap();
        assert_eq!(mask.allows(end(t)), may_end, "end tokens are allowed exactly where the text is complete");
        if may_end && (step > most || state.must_end() || rng.below(8) == 0) {
            return Some(out);
        }
        let closing = |&&i: &&u32| t.bytes(i).iter().any(|b| b"}]\"".contains(b));
        let pick = match allowed.iter().filter(closing).collect::<Vec<_>>() {
            c if step > most && !c.is_empty() => **rng.pick(&c),
            _ => *rng.pick(&allowed),
        };
        if t.is_end(pick) {
            return Some(out);
        }
        state.advance(pick).unwrap();
        out.push(pick);
    }
    None
}

#[test]
fn a_mask_is_exactly_the_tokens_that_keep_the_text_a_beginning_of_a_match() {
    let t = small_tokenizer();
    // All words of the language, so that the oracle can look.
    let words = ["yes", "no", "never", "name", "names", "é", "00", "000"];
    let g = regex(&t, "yes|no|never|names?|é|0{2,3}");
    let mut todo = vec![vec![]];
    let mut seen = 0;
    while let Some(path) = todo.pop() {
        seen += 1;
        let text: Vec<u8> = path.iter().flat_map(|&i| t.bytes(i)).copied().collect();
        let mut state = g.start();
        let by_path = state.mask(&path).unwrap();
        path.iter().for_each(|&i| state.advance(i).unwrap());
        let by_state = state.mask(&[]).unwrap();
        for i in 0..t.len() as u32 {
            let longer = [&text, t.bytes(i)].concat();
            let want = if t.is_end(i) {
                words.iter().any(|w| w.as_bytes() == text)
            } else {
                !t.is_control(i) && words.iter().any(|w| w.as_bytes().starts_with(&longer))
            };
            assert_eq!(
                by_state.allows(i),
                want,
                "{:?} after {:?}",
                t.piece(i),
                String::from_utf8_lossy(&text)
            );
            assert_eq!(by_path.allows(i), want, "along a path: {:?}", t.piece(i));
            if want && !t.is_end(i) {
                todo.push([path.clone(), vec![i]].concat());
            }
        }
        let over = !words.iter().any(|w| w.len() > text.len() && w.as_bytes().starts_with(&text));
        assert_eq!(state.must_end(), over, "{:?}", String::from_utf8_lossy(&text));
    }
    assert!(seen > 20, "{seen} beginnings");
}

#[test]
fn judging_a_path_changes_nothing() {
    let t = small_tokenizer();
    let g = compile(
        &t,
        GrammarSpec::JsonSchema(json!({"type": "object", "properties": {"a": {"type": "integer"}}})),
    );
    let mut rng = Rng(3);
    for _ in 0..20 {
        let mut state = g.start();
        let Some(answer) = draw(&t, &mut g.start(), &mut rng, 12) else { continue };
        for n in 0..answer.len() {
            let before: Vec<bool> = allows(&t, &mut state);
            let rest = &answer[n..];
            let far = rng.below(rest.len() + 1);
            let there = state.mask(&rest[..far]).unwrap();
            let mut copy = state.clone();
            rest[..far].iter().for_each(|&i| copy.advance(i).unwrap());
            assert_eq!(
                allows(&t, &mut copy),
                (0..t.len() as u32).map(|i| there.allows(i)).collect::<Vec<_>>()
            );
            assert!(state.mask(&[rest[0], end(&t), rest[0]]).is_ok(), "after an end only ends follow");
            let wrong = (0..t.len() as u32).find(|&i| !before[i as usize] && !t.is_end(i)).unwrap();
            assert!(
                state
                    .mask(&[wrong])
                    .unwrap_err()
                    .to_string()
                    .starts_with("the grammar does not allow the token")
            );
            state.forced(&rest[..far]).unwrap();
            assert_eq!(allows(&t, &mut state), before);
            assert!(state.advance(wrong).is_err());
            assert_eq!(allows(&t, &mut state), before);
            state.advance(rest[0]).unwrap();
        }
        assert!(state.may_end(&[]).unwrap());
        state.advance(end(&t)).unwrap();
        assert!(state.must_end() && state.advance(answer[0]).is_err());
        assert!(t.ends().all(|e| state.mask(&[]).unwrap().allows(e)));
        assert_eq!(state.mask(&[]).unwrap().count(), t.ends().count());
    }
}

fn allows(t: &Tokenizer, s: &mut State) -> Vec<bool> {
    let m = s.mask(&[]).unwrap();
    (0..t.len() as u32).map(|i| m.allows(i)).collect()
}

#[test]
fn logits_outside_the_mask_are_ruled_out_and_no_others() {
    let t = small_tokenizer();
    let mut s = regex(&t, "na.*").start();
    let mask = s.mask(&[]).unwrap();
    let mut logits: Vec<f32> = (0..t.len() + 70).map(|i| i as f32).collect();
    mask.apply(&mut logits);
    for (i, x) in logits.iter().enumerate() {
        let want = if mask.allows(i as u32) { i as f32 } else { f32::NEG_INFINITY };
        assert_eq!(*x, want, "{i}");
    }
    assert_eq!(mask.count(), 3, "n, na, name");
}

/// Schemas with what validates against them; no validator of JSON Schema is at hand.
type Check = fn(&Value) -> bool;

fn schemas() -> Vec<(Value, Check)> {
    vec![
        (json!({"type": "object"}), Value::is_object),
        (json!(true), |_| true),
        (json!({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3}), |v| {
            let a = v.as_array().unwrap();
            (1..=3).contains(&a.len()) && a.iter().all(Value::is_boolean)
        }),
        (json!({"enum": ["red", "green", 7, null]}), |v| {
            [json!("red"), json!("green"), json!(7), json!(null)].contains(v)
        }),
        (
            json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 5},
                "n": {"type": "integer", "minimum": 3, "maximum": 20}}, "required": ["name", "n"],
                "additionalProperties": false}),
            |v| {
                let o = v.as_object().unwrap();
                o.len() == 2
                    && o["name"].as_str().unwrap().chars().count() <= 5
                    && (3..=20).contains(&o["n"].as_i64().unwrap())
            },
        ),
        (
            json!({"$defs": {"leaf": {"type": "object", "properties": {"next": {"anyOf": [{"type": "null"},
                {"$ref": "#/$defs/leaf"}]}}, "required": ["next"], "additionalProperties": false}},
                "$ref": "#/$defs/leaf"}),
            |v| {
                let mut v = v;
                while !v.is_null() {
                    assert_eq!(v.as_object().unwrap().len(), 1);
                    v = &v["next"];
                }
                true
            },
        ),
        (json!({"type": "string", "pattern": "^[a-c]{2}-[0-9]$"}), |v| {
            let b = v.as_str().unwrap().as_bytes();
            b.len() == 4
                && b[..2].iter().all(|c| (b'a'..=b'c').contains(c))
                && b[2] == b'-'
                && b[3].is_ascii_digit()
        }),
    ]
}

fn answers_validate(t: &Arc<Tokenizer>, each: usize) {
    let grammars = Grammars::new(t);
    let mut rng = Rng(11);
    for (schema, check) in schemas() {
        let g = grammars.compile(&GrammarSpec::JsonSchema(schema.clone())).unwrap();
        let mut finished = 0;
        for _ in 0..each {
            let Some(answer) = draw(t, &mut g.start(), &mut rng, 30) else { continue };
            finished += 1;
            let text = String::from_utf8(t.decode(&answer, false)).unwrap();
            let v: Value = match serde_json::from_str(&text) {
                Ok(v) => v,
                // 1e999 is JSON, and no f64.
                Err(e) if e.to_string().starts_with("number out of range") => continue,
                Err(e) => panic!("{e}: {text:?}"),
            };
            assert!(check(&v), "{text} under {schema}");
        }
        assert!(finished * 2 > each, "{finished} of {each} ended under {schema}");
    }
}

#[test]
fn every_answer_drawn_under_a_schema_validates() {
    answers_validate(&small_tokenizer(), 40);
}

#[test]
fn every_answer_drawn_under_a_schema_validates_with_real_vocabularies() {
    for name in ["smollm2", "stories15m", "qwen-coder-0.5b"] {
        if let Some(t) = stored_tokenizer(name) {
            answers_validate(&t, 6);
        }
    }
}

#[test]
fn every_valid_answer_can_be_written() {
    let t = small_tokenizer();
    let cases = [
        (json!({"type": "object"}), "{\"a\": [1, -2.5e3, \"x\\u00e9\\n\"], \"b\": {}}"),
        (json!({"type": "object"}), "{\n    \"a\": true,\n    \"b\": null\n}"),
        (json!({"type": "object", "properties": {"x": {"type": "number"}}}), "{\"x\":1}"),
        (json!({"type": "string"}), "\"<tool_call> é 漢\""),
    ];
    for (schema, text) in cases {
        let mut s = compile(&t, GrammarSpec::JsonSchema(schema)).start();
        for id in t.encode(text, tamp_text::Special::Plain, false) {
            s.advance(id).unwrap_or_else(|e| panic!("{text}: {e}"));
        }
        assert!(s.may_end(&[]).unwrap(), "{text}");
    }
}

#[test]
fn white_space_of_json_ends_somewhere() {
    let t = small_tokenizer();
    let mut s = compile(&t, GrammarSpec::JsonObject).start();
    s.advance(t.id_of("{").unwrap()).unwrap();
    let spaces: Vec<u32> = ["Ġ", "Ċ", "ĉ"].iter().map(|p| t.id_of(p).unwrap()).collect();
    let mut n = 0;
    while let Some(&id) = spaces.iter().find(|&&id| s.mask(&[]).unwrap().allows(id)) {
        s.advance(id).unwrap();
        n += 1;
        assert!(n < 200);
    }
    assert!(n > 0);
}

#[test]
fn forced_text_is_offered_in_tokens_that_the_grammar_takes() {
    let t = small_tokenizer();
    let g = regex(&t, "na: true(, 0|, 1)");
    let mut s = g.start();
    let run = s.forced(&[]).unwrap();
    assert_eq!(t.decode(&run, false), b"na: true, ");
    let after = s.forced(&run[..1]).unwrap();
    assert_eq!([t.decode(&run[..1], false), t.decode(&after, false)].concat(), b"na: true, ");
    run.iter().for_each(|&i| s.advance(i).unwrap());
    assert!(s.forced(&[]).unwrap().is_empty(), "0 and 1 are open");
}

fn weather() -> Vec<Tool> {
    Tool::list(&json!([
        {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}, "unit": {"$ref": "#/$defs/unit"}},
            "required": ["city", "unit"], "additionalProperties": false, "$defs": {"unit": {"enum": ["C", "F"]}}}}},
        {"type": "function", "function": {"name": "now"}},
    ]))
    .unwrap()
}

#[test]
fn a_forced_call_is_read_back_with_valid_arguments_in_every_style() {
    let mut vocabularies = vec![small_tokenizer()];
    vocabularies.extend(stored_tokenizer("qwen-coder-0.5b"));
    let mut rng = Rng(5);
    for t in vocabularies {
        for style in [Style::Hermes, Style::Llama3, Style::Mistral] {
            for (tools, parallel) in [(weather(), false), (weather()[..1].to_vec(), false), (weather(), true)]
            {
                let spec = GrammarSpec::ToolCalls { style, tools: tools.clone(), parallel };
                let g = compile(&t, spec);
                let mut finished = 0;
                for _ in 0..8 {
                    let Some(answer) = draw(&t, &mut g.start(), &mut rng, 60) else { continue };
                    finished += 1;
                    let calls = read(&t, style, &tools, &answer);
                    assert!(parallel || calls.len() == 1, "{calls:?}");
                    for (name, args) in calls {
                        assert!(tools.iter().any(|t| t.name == name));
                        if name == "get_weather" {
                            let keys: Vec<&String> = args.as_object().unwrap().keys().collect();
                            assert_eq!(keys, ["city", "unit"]);
                            assert!(args["unit"] == "C" || args["unit"] == "F");
                        }
                    }
                }
                assert!(finished > 2, "{finished} of 8 in {style:?}");
            }
        }
    }
}

fn read(t: &Tokenizer, style: Style, tools: &[Tool], answer: &[u32]) -> Vec<(String, Value)> {
    let mut parser = Parser::new(style, tools.iter().map(|t| t.name.clone()).collect()).of_tokens(t);
    let mut speech = tamp_text::Detokenizer::new(t);
    let mut events = Vec::new();
    for &id in answer {
        let text = speech.push(id);
        events.extend(parser.token(id, &text));
    }
    events.extend(parser.finish());
    let mut calls: Vec<(String, String)> = Vec::new();
    for e in events {
        match e {
            Event::CallStart { name, .. } => calls.push((name, String::new())),
            Event::CallArgs { delta, .. } => calls.last_mut().unwrap().1 += &delta,
            Event::CallEnd { whole, .. } => assert!(whole),
            Event::Text(text) => panic!("text {text:?}"),
        }
    }
    assert!(!calls.is_empty());
    calls.into_iter().map(|(n, a)| (n, serde_json::from_str(&a).unwrap())).collect()
}

/// Specifications that must be refused, with what the sentence says.
#[test]
fn what_cannot_be_meant_is_refused_in_a_sentence_that_names_the_field() {
    let g = Grammars::new(&small_tokenizer());
    let schema = |v: Value| GrammarSpec::JsonSchema(v);
    let mut deep = json!({"type": "object"});
    for _ in 0..80 {
        deep = json!({ "not": deep });
    }
    let tool = |name: &str, p: Value| GrammarSpec::ToolCalls {
        style: Style::Hermes,
        tools: vec![Tool { name: name.into(), parameters: Some(p) }],
        parallel: false,
    };
    let cases = [
        (schema(json!(3)), "`json_schema` cannot be used: a schema is an object or a boolean"),
        (schema(json!(false)), "`json_schema` cannot be used: the schema `false` allows no answer"),
        (schema(deep), "`json_schema` cannot be used: it is nested deeper than 64 levels"),
        (schema(json!({"enum": ["x".repeat(200_000)]})), "`json_schema` cannot be used: it is larger than"),
        (
            schema(json!({"a": {"$ref": "http://x/y"}})),
            "`json_schema.$ref` cannot be used: `http://x/y` points outside",
        ),
        (schema(json!({"x-guidance": {"lenient": true}})), "`json_schema.x-guidance` cannot be used"),
        (schema(json!({"type": "nothing"})), "`json_schema` cannot be used: "),
        (schema(json!({"$ref": "#/$defs/none"})), "`json_schema` cannot be used: "),
        (schema(json!({"type": "integer", "minimum": 5, "maximum": 4})), "`json_schema` cannot be used: "),
        (
            schema(json!({"type": "string", "pattern": "(".repeat(70)})),
            "`json_schema.pattern` cannot be used: its brackets",
        ),
        (GrammarSpec::Regex(String::new()), "`regex` cannot be used: it is empty"),
        (GrammarSpec::Regex("(a".into()), "`regex` cannot be used: "),
        (GrammarSpec::Regex("(?=a)b".into()), "`regex` cannot be used: "),
        (GrammarSpec::Regex("a".repeat(5000)), "`regex` cannot be used: it has 5000 bytes; at most 4096"),
        (GrammarSpec::Regex("[^\\x00-\\x{10FFFF}]".into()), "`regex` cannot be used: "),
        (GrammarSpec::Grammar(" ".into()), "`grammar` cannot be used: it is empty"),
        (GrammarSpec::Grammar("start: nowhere".into()), "`grammar` cannot be used: "),
        (
            GrammarSpec::Grammar("start: \u{1}".into()),
            "`grammar` cannot be used: it holds the control character U+0001",
        ),
        (tool("a b", json!({})), "`tools[0].function.name` cannot be used: `a b` is not"),
        (tool("a", json!(7)), "`tools[0].parameters` cannot be used: a schema is"),
        (tool("a", json!({"type": "array"})), "`tools[0].parameters` cannot be used: the arguments"),
        (
            GrammarSpec::ToolCalls { style: Style::Llama3, tools: vec![], parallel: true },
            "`tools` cannot be used: there are 0",
        ),
    ];
    for (spec, want) in cases {
        let got = g.compile(&spec).expect_err(want).to_string();
        assert!(got.starts_with(want), "{got:?}, expected {want:?}");
        assert!(!got.contains('\n') && got.len() < 500, "{got}");
    }
}

/// Specifications that cost much for their size, or stand at an edge.
fn absurd() -> Vec<GrammarSpec> {
    let schemas = [
        json!({"$ref": "#"}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        json!({"anyOf": (0..4000).map(|i| json!({"const": i})).collect::<Vec<_>>()}),
        json!({"allOf": (0..200).map(|i| json!({"properties": {format!("p{i}"): {"type": "string"}}})).collect::<Vec<_>>()}),
        json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
        json!({"type": "string", "minLength": 1_000_000_000u64}),
        json!({"type": "string", "maxLength": 1_000_000}),
        json!({"type": "string", "pattern": "(a{1000}){1000}"}),
        json!({"type": "string", "pattern": "^(a|a)*$"}),
        json!({"type": "string", "pattern": ".*.*.*.*.*x{0,900}"}),
        json!({"type": "array", "minItems": 1_000_000}),
        json!({"type": "array", "maxItems": 100_000, "items": {"type": "array", "maxItems": 100_000}}),
        json!({"type": "integer", "minimum": -1e300, "maximum": 1e300}),
        json!({"type": "number", "multipleOf": 1e-300}),
        json!({"type": "integer", "multipleOf": 982_451_653u64, "minimum": 1}),
        json!({"enum": (0..5000).map(|i| json!(format!("word {i}"))).collect::<Vec<_>>()}),
        json!({"properties": (0..1500).map(|i| (format!("k{i}"), json!({"type": "string"}))).collect::<serde_json::Map<_, _>>()}),
        json!({"patternProperties": {"^a": {}, "^ab": {}}}),
        json!({"type": "object", "minProperties": 100_000}),
        json!({"if": {}, "then": {}, "not": {"not": {}}}),
        json!({"type": "string", "format": "nope"}),
    ];
    let regexes = [
        "(((a*)*)*)*",
        "a{99999}",
        "(a{100}){100}",
        "((a{50}){50}){50}",
        ".{0,4000}x",
        "(a|b|ab|ba)*(aa|bb){300}",
        "\\p{Greek}\\w+\\b",
        "(?i)straße|(?s).*",
        "a**",
        "[a-z]&&[b]",
        "(.*a){30}",
        "([a-z]+[0-9]*){1,200}!",
    ];
    let larks = [
        "start: start",
        "start: a\na: b\nb: a",
        "start: \"\"",
        "start: s\ns: s s | \"a\" |",
        "start: <[999999]>",
        "start: <[0-4000000000]>",
        "start: <unknown>",
        "start: %json {",
        "start: %json {\"x-guidance\": {\"lenient\": true}}",
        "start: \"a\"{1000000}",
        "start: (\"a\"{1000}){1000}",
        "start: a{0,9999}\na: \"x\" a | \"y\"",
        "%llguidance {\"no_forcing\": 7}\nstart: /a/",
        "%import common.NOPE\nstart: NOPE",
        "start: /a*/ /a*/ /a*/ /a*/ /a*/",
        "start: x\nx: x x x x | /[ab]/",
        "start[max_tokens=0]: /a/",
        "start: a b c\na[lazy]: /.*b/\nb: /b*/\nc[stop=\"\"]: /c+/",
        "start: @other",
        "start: & a | ~ b",
    ];
    let mut all: Vec<GrammarSpec> = schemas.into_iter().map(GrammarSpec::JsonSchema).collect();
    all.extend(regexes.map(|r| GrammarSpec::Regex(r.into())));
    all.extend(larks.map(|l| GrammarSpec::Grammar(l.into())));
    all
}

/// Compiles and, where that works, draws a few tokens: an answer, a refusal or a failure in one sentence, in bounded time.
fn survives(t: &Tokenizer, g: &Grammars, spec: &GrammarSpec, rng: &mut Rng, within: std::time::Duration) {
    let start = std::time::Instant::now();
    let outcome = match g.compile(spec) {
        Ok(grammar) => walk(t, &mut grammar.start(), rng),
        Err(e) => Err(e.to_string()),
    };
    if let Err(e) = outcome {
        assert!(!e.contains('\n') && e.len() < 600, "{e}");
    }
    assert!(start.elapsed() < within, "{:?}: {spec:?}", start.elapsed());
}

fn walk(t: &Tokenizer, state: &mut State, rng: &mut Rng) -> Result<(), String> {
    for _ in 0..12 {
        let mask = state.mask(&[]).map_err(|e| e.to_string())?;
        state.forced(&[]).map_err(|e| e.to_string())?;
        let allowed: Vec<u32> = (0..t.len() as u32).filter(|&i| mask.allows(i)).collect();
        let Some(&next) = allowed.get(rng.below(allowed.len())) else { return Ok(()) };
        state.advance(next).map_err(|e| e.to_string())?;
    }
    Ok(())
}

#[test]
fn absurd_specifications_end_in_bounded_time() {
    let t = small_tokenizer();
    let g = Grammars::new(&t);
    for spec in absurd() {
        let start = std::time::Instant::now();
        survives(&t, &g, &spec, &mut Rng(1), std::time::Duration::from_secs(10));
        let text = format!("{spec:?}");
        println!("{:?} {}", start.elapsed(), text.chars().take(90).collect::<String>());
    }
}

#[test]
fn mutated_specifications_end_in_bounded_time() {
    let t = small_tokenizer();
    let g = Grammars::new(&t);
    let mut rng = Rng(77);
    let good = [
        "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"^a+$\"}},\"required\":[\"a\"]}",
        "{\"$defs\":{\"x\":{\"anyOf\":[{\"$ref\":\"#/$defs/x\"},{\"const\":1}]}},\"$ref\":\"#/$defs/x\"}",
        "(ab|[c-f]{2,5}|\\d+)(x?y)*",
        "start: a b*\na: \"x\" | /[0-9]+/\nb: \"[\" a (\",\" a)* \"]\"",
    ];
    let bag = [
        "{", "}", "(", ")", "[", "]", "*", "+", "{3}", "{1,900}", "|", "\\", "/", "\"", ":", "start", "$ref",
        "#", "1e999",
    ];
    for i in 0..tries(250) {
        let mut b = good[i % good.len()].as_bytes().to_vec();
        for _ in 0..1 + rng.below(4) {
            let at = rng.below(b.len() + 1);
            let to = (at + rng.below(6)).min(b.len());
            match rng.below(4) {
                0 if at < b.len() => b[at] = rng.next() as u8,
                1 => drop(b.drain(at..to)),
                2 => {
                    let part = b[at..to].to_vec();
                    b.splice(at..at, part.repeat(1 + rng.below(30)));
                }
                _ => drop(b.splice(at..at, rng.pick(&bag).bytes())),
            }
        }
        let text = String::from_utf8_lossy(&b).into_owned();
        let within = std::time::Duration::from_secs(10);
        if let Ok(v) = serde_json::from_str(&text) {
            survives(&t, &g, &GrammarSpec::JsonSchema(v), &mut rng, within);
        }
        survives(&t, &g, &GrammarSpec::Regex(text.clone()), &mut rng, within);
        survives(&t, &g, &GrammarSpec::Grammar(text), &mut rng, within);
    }
}

fn tries(fast: usize) -> usize {
    if std::env::var_os("TAMP_TEST_FULL").is_some() { 20_000 } else { fast }
}
