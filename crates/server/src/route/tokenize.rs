//! `/tokenize` and `/detokenize`: text ⇄ token ids.

use axum::Json;
use axum::routing::post;
use serde_json::{Value, json};
use tamp_text::Special;

use super::chat::{TALK, Talk};
use super::completions::tokens;
use super::{Method, Route};
use crate::ask::{self, plain};
use crate::call::Call;
use crate::error::ApiError;
use crate::wire::fields::MODEL;
use crate::wire::form::{Field, Form, Shape, What, field, out_of_range};

static TEXT: &[Field] = &[
    field("prompt", What::Text(usize::MAX), "the text; instead of `messages`"),
    field("add_special_tokens", What::Bool, "the start token first, where the model asks for one [true]"),
    field("parse_special", What::Bool, "words that spell control tokens become those tokens [true]"),
    field("return_token_strs", What::Bool, "also the tokens' texts [false]"),
];

static TOKENIZE_SHAPE: Shape = Shape { name: "Tokenize", groups: &[MODEL, TEXT, TALK], required: &[] };

/// Text or a conversation → ids.
pub static TOKENIZE: Route = Route {
    path: "/tokenize",
    method: Method::Post,
    about: "token ids of a text or a conversation",
    keyless: false,
    body: Some(&TOKENIZE_SHAPE),
    serve: || post(tokenize),
};

fn ids_schema() -> Value {
    json!({"type": "array", "items": {"type": "integer", "minimum": 0}})
}

static DETOKENIZE_SHAPE: Shape = Shape {
    name: "Detokenize",
    groups: &[
        MODEL,
        &[
            field("tokens", What::Own(ids_schema), "token ids"),
            field("special", What::Bool, "control tokens are written out [true]"),
        ],
    ],
    required: &["tokens"],
};

/// Ids → text.
pub static DETOKENIZE: Route = Route {
    path: "/detokenize",
    method: Method::Post,
    about: "the text of token ids; what is no whole character reads as U+FFFD",
    keyless: false,
    body: Some(&DETOKENIZE_SHAPE),
    serve: || post(detokenize),
};

async fn tokenize(call: Call) -> Result<Json<Value>, ApiError> {
    let form = Form::read(&TOKENIZE_SHAPE, call.body)?;
    let model = ask::model(&call.app, form.text("model")).await?;
    let flag = |name| form.flag(name).unwrap_or(true);
    let ids = match (form.text("prompt"), form.get("messages")) {
        (Some(text), None) => {
            let special = if flag("parse_special") { Special::Parse } else { Special::Plain };
            plain(&model, text.into(), special, flag("add_special_tokens")).await?
        }
        (None, Some(_)) => Talk::read(&form, &call.app.limits)?.prompt(&model).await?.1,
        _ => return Err(ApiError::field("prompt", "send either `prompt` or `messages`")),
    };
    let t = model.tokenizer();
    let strings = form.flag("return_token_strs") == Some(true);
    let strings: Option<Vec<&str>> = strings.then(|| ids.iter().map(|&id| t.piece(id)).collect());
    Ok(Json(json!({
        "count": ids.len(), "max_model_len": model.handle.ctx(), "tokens": ids, "token_strs": strings,
    })))
}

async fn detokenize(call: Call) -> Result<Json<Value>, ApiError> {
    let form = Form::read(&DETOKENIZE_SHAPE, call.body)?;
    let model = ask::model(&call.app, form.text("model")).await?;
    let v = form.get("tokens").unwrap_or(&Value::Null);
    let Value::Array(ids) = v else { return Err(out_of_range("tokens", v, "an array of token ids")) };
    let ids = tokens("tokens", ids, model.handle.plan().model.vocab)?;
    let bytes = model.tokenizer().decode(&ids, form.flag("special").unwrap_or(true));
    Ok(Json(json!({"prompt": String::from_utf8_lossy(&bytes)})))
}
