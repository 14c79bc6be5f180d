//! `options`: Ollama's names for what chooses tokens, and its defaults.

use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::wire::form::{Field, Form, Shape, What, field, object};

use super::refused;

const OPERATOR: &str = "without effect on answers: the operator's to choose";

static FIELDS: &[Field] = &[
    field("temperature", What::Num(0.0, 100.0), "0 always takes the likeliest token [0.8]"),
    field("top_k", What::Int(0, 1 << 20), "keeps the k likeliest tokens [40]"),
    field("top_p", What::Above(0.0, 1.0), "keeps the smallest set with this much probability [0.9]"),
    field(
        "min_p",
        What::Num(0.0, 1.0),
        "drops tokens below this fraction of the likeliest one's probability [0]",
    ),
    field("typical_p", What::Above(0.0, 1.0), "locally typical sampling [1]"),
    field("repeat_penalty", What::Above(0.0, 100.0), "divides the logits of tokens already seen [1.1]"),
    field(
        "repeat_last_n",
        What::Only(&["-1"], "penalties see the whole context"),
        "only -1, the whole context",
    ),
    field("presence_penalty", What::Num(-10.0, 10.0), "subtracted from logits of tokens generated [0]"),
    field("frequency_penalty", What::Num(-10.0, 10.0), "subtracted once per time a token was generated [0]"),
    field("mirostat", What::Only(&["0", "2"], "version 2 is the one here"), "0 or 2 [0]"),
    field("mirostat_tau", What::Num(0.0, 100.0), "the surprise aimed at [5]"),
    field("mirostat_eta", What::Num(0.0, 1.0), "how fast it is corrected [0.1]"),
    field("penalize_newline", What::Only(&["true"], "every token is penalised"), "only true"),
    field("tfs_z", What::Only(&["1", "1.0"], "tail-free sampling is not here"), "only 1"),
    field("seed", What::Int(i64::MIN, i64::MAX), "the same seed gives the same tokens [drawn]"),
    field(
        "num_predict",
        What::Int(-2, 1 << 24),
        "new tokens at most; -1 and -2: to the end of the context [-1]",
    ),
    field("num_ctx", What::Int(1, 1 << 24), "refused where the served context is shorter"),
    field("stop", What::Own(strings), "texts that end the answer"),
    field("num_keep", What::Idle, "without effect: no context is ever shifted"),
    field("num_batch", What::Idle, OPERATOR),
    field("num_gpu", What::Idle, OPERATOR),
    field("main_gpu", What::Idle, OPERATOR),
    field("num_thread", What::Idle, OPERATOR),
    field("numa", What::Idle, OPERATOR),
    field("low_vram", What::Idle, OPERATOR),
    field("use_mmap", What::Idle, OPERATOR),
    field("use_mlock", What::Idle, OPERATOR),
];

static SHAPE: Shape = Shape { name: "OllamaOptions", groups: &[FIELDS], required: &[] };

fn strings() -> Value {
    json!({"type": "array", "items": {"type": "string"}})
}

/// The JSON schema of `options`.
pub fn schema() -> Value {
    SHAPE.schema()
}

/// Adds them to a body in the words of `/v1/chat/completions`. `ctx`: the served context.
///
/// # Errors
/// 400 naming the option.
pub fn read(v: Option<&Value>, ctx: usize, out: &mut Map<String, Value>) -> Result<(), ApiError> {
    let empty = json!({});
    let v = v.unwrap_or(&empty);
    object("options", v, NAMES)?;
    let form = Form::read(&SHAPE, v.clone()).map_err(|e| inside(&e))?;
    if let Some(n) = form.count("num_ctx").filter(|&n| n > ctx) {
        let why = format!(
            "{n} positions were asked for and the served context has {ctx}; serve with a larger --ctx"
        );
        return Err(refused("options.num_ctx", &why));
    }
    for (name, default) in [
        ("temperature", json!(0.8)),
        ("top_k", json!(40)),
        ("top_p", json!(0.9)),
        ("repeat_penalty", json!(1.1)),
    ] {
        let ours = if name == "repeat_penalty" { "repetition_penalty" } else { name };
        out.insert(ours.into(), form.get(name).cloned().unwrap_or(default));
    }
    let same = [
        "min_p",
        "typical_p",
        "presence_penalty",
        "frequency_penalty",
        "mirostat",
        "mirostat_tau",
        "mirostat_eta",
        "seed",
        "stop",
    ];
    for name in same {
        if let Some(v) = form.get(name) {
            out.insert(name.into(), v.clone());
        }
    }
    match form.int("num_predict") {
        Some(0) => return Err(refused("options.num_predict", "an answer has at least one token")),
        Some(n) if n > 0 => drop(out.insert("max_tokens".into(), n.into())),
        _ => {}
    }
    Ok(())
}

static NAMES: &[&str] = &[
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "penalize_newline",
    "tfs_z",
    "seed",
    "num_predict",
    "num_ctx",
    "stop",
    "num_keep",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "numa",
    "low_vram",
    "use_mmap",
    "use_mlock",
];

fn inside(e: &ApiError) -> ApiError {
    let param = e.param.as_deref().unwrap_or("");
    ApiError {
        param: Some(format!("options.{param}")),
        message: e.message.replacen(&format!("`{param}`"), &format!("`options.{param}`"), 1),
        ..e.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(v: Value) -> Result<Value, ApiError> {
        let mut out = Map::new();
        read(Some(&v), 100, &mut out).map(|()| Value::Object(out))
    }

    #[test]
    fn options_are_mapped_by_name_over_their_defaults() {
        let names: Vec<&str> = FIELDS.iter().map(|f| f.name).collect();
        assert_eq!(names, NAMES);
        assert_eq!(
            of(json!({})).unwrap(),
            json!({"temperature": 0.8, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.1})
        );
        let got = of(
            json!({"temperature": 0, "repeat_penalty": 1.0, "num_predict": 7, "stop": ["x"], "num_ctx": 100,
            "mirostat": 2, "seed": 4, "num_thread": 3}),
        );
        let want = json!({"temperature": 0, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.0, "max_tokens": 7,
            "stop": ["x"], "mirostat": 2, "seed": 4});
        assert_eq!(got.unwrap(), want);
        assert_eq!(of(json!({"num_predict": -1})).unwrap().get("max_tokens"), None);
    }

    #[test]
    fn an_option_that_is_not_taken_is_named() {
        for (bad, place, says) in [
            (json!({"temprature": 1}), "options.temprature", "did you mean `temperature`?"),
            (json!({"top_p": 0}), "options.top_p", "`options.top_p` = 0"),
            (json!({"num_ctx": 101}), "options.num_ctx", "has 100"),
            (json!({"num_predict": 0}), "options.num_predict", "at least one"),
            (json!({"repeat_last_n": 64}), "options.repeat_last_n", "whole context"),
            (json!({"mirostat": 1}), "options.mirostat", "version 2"),
            (json!(3), "options", "an object"),
        ] {
            let e = of(bad).unwrap_err();
            assert_eq!(e.param.as_deref(), Some(place));
            assert!(e.message.contains(says), "{}", e.message);
        }
    }
}
