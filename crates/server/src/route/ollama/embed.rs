//! `/api/embed` and `/api/embeddings`: the vectors of `/v1/embeddings` in Ollama's words.

use std::time::Instant;

use axum::Json;
use axum::routing::post;
use serde_json::{Value, json};
use tamp_text::Special;

use super::{MODEL, model, options};
use crate::ask::plain;
use crate::call::Call;
use crate::error::ApiError;
use crate::route::embeddings::vectors;
use crate::route::{Method, Route};
use crate::wire::form::{Field, Form, Shape, What, field, out_of_range};

fn texts() -> Value {
    json!({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
}

static OPTIONS: &[Field] =
    &[field("options", What::Own(options::schema), "checked; none of them moves a vector")];

static MANY_SHAPE: Shape = Shape {
    name: "OllamaEmbed",
    groups: &[
        MODEL,
        &[
            field("input", What::Own(texts), "text, or an array of texts"),
            field(
                "truncate",
                What::Only(&["false"], "nothing is cut: a text that does not fit is refused"),
                "only false",
            ),
            field("dimensions", What::Int(1, 1 << 20), "only the model's own width: a mean cannot be cut"),
        ],
        OPTIONS,
    ],
    required: &["model", "input"],
};

static ONE_SHAPE: Shape = Shape {
    name: "OllamaEmbeddings",
    groups: &[MODEL, &[field("prompt", What::Text(usize::MAX), "the text")], OPTIONS],
    required: &["model", "prompt"],
};

/// Several texts.
pub static MANY: Route = Route {
    path: "/api/embed",
    method: Method::Post,
    about: "the mean hidden state of each text, of length 1, in Ollama's dialect",
    keyless: false,
    body: Some(&MANY_SHAPE),
    serve: || post(many),
};

/// One text.
pub static ONE: Route = Route {
    path: "/api/embeddings",
    method: Method::Post,
    about: "the older form of /api/embed, for one text",
    keyless: false,
    body: Some(&ONE_SHAPE),
    serve: || post(one),
};

fn check(form: &Form, ctx: usize) -> Result<(), ApiError> {
    options::read(form.get("options"), ctx, &mut serde_json::Map::new())
}

async fn many(call: Call) -> Result<Json<Value>, ApiError> {
    let begun = Instant::now();
    let form = Form::read(&MANY_SHAPE, call.body.clone())?;
    let m = model(&call.app, form.text("model")).await?;
    check(&form, m.handle.ctx())?;
    let d = m.handle.plan().model.d;
    if let Some(got) = form.count("dimensions").filter(|&got| got != d) {
        let why = format!("`dimensions` = {got} is not possible: this model's vectors have {d}");
        return Err(ApiError { code: "unsupported_value", ..ApiError::field("dimensions", why) });
    }
    let v = form.get("input").unwrap_or(&Value::Null);
    let inputs = v.as_array().map_or(std::slice::from_ref(v), Vec::as_slice);
    if inputs.len() > call.app.limits.inputs {
        return Err(out_of_range("input", v, &format!("at most {} inputs", call.app.limits.inputs)));
    }
    let mut prompts = Vec::with_capacity(inputs.len());
    for input in inputs {
        let text =
            input.as_str().ok_or_else(|| out_of_range("input", input, "text, or an array of texts"))?;
        prompts.push(plain(&m, text.into(), Special::Plain, true).await?);
    }
    // Nothing asked is nothing answered, as their clients expect.
    let (vectors, total) = match prompts.is_empty() {
        true => (vec![], 0),
        false => vectors(&call, &m, prompts).await?,
    };
    Ok(Json(json!({
        "model": &*m.name, "embeddings": vectors, "total_duration": begun.elapsed().as_nanos() as u64,
        "load_duration": 0, "prompt_eval_count": total,
    })))
}

async fn one(call: Call) -> Result<Json<Value>, ApiError> {
    let form = Form::read(&ONE_SHAPE, call.body.clone())?;
    let m = model(&call.app, form.text("model")).await?;
    check(&form, m.handle.ctx())?;
    let prompt = plain(&m, form.text("prompt").unwrap_or_default().into(), Special::Plain, true).await?;
    let (vectors, _) = vectors(&call, &m, vec![prompt]).await?;
    Ok(Json(json!({"embedding": vectors.first()})))
}
