//! `/v1/embeddings`: the mean of the hidden states over a text. A model made for generation gives vectors that are
//! comparable with each other, not with those of a model trained for embeddings.

use std::sync::Arc;

use axum::Json;
use axum::routing::post;
use serde_json::{Value, json};
use tamp_base::ids::Token;
use tamp_engine::{Params, Task};
use tamp_text::Special;

use super::completions::tokens;
use super::{Method, Route};
use crate::ask::{self, Ask, Wish, plain};
use crate::call::Call;
use crate::error::ApiError;
use crate::model::Served;
use crate::wire::fields::{IDLE, MODEL};
use crate::wire::form::{Field, Form, Shape, What, field, out_of_range};

fn input_schema() -> Value {
    let tokens = json!({"type": "array", "items": {"type": "integer", "minimum": 0}});
    json!({"oneOf": [
        {"type": "string"}, tokens, {"type": "array", "items": {"oneOf": [{"type": "string"}, tokens]}},
    ]})
}

static OWN: &[Field] = &[
    field("input", What::Own(input_schema), "text or token ids, or an array of these"),
    field("encoding_format", What::Word(&["float", "base64"]), "base64: little-endian 32-bit floats [float]"),
    field("dimensions", What::Int(1, 1 << 20), "only the model's own width: a mean cannot be cut"),
];

static SHAPE: Shape = Shape { name: "Embeddings", groups: &[MODEL, OWN, IDLE], required: &["input"] };

/// The route.
pub static ROUTE: Route = Route {
    path: "/v1/embeddings",
    method: Method::Post,
    about: "the mean hidden state of each text, of length 1",
    keyless: false,
    body: Some(&SHAPE),
    serve: || post(embeddings),
};

async fn embeddings(call: Call) -> Result<Json<Value>, ApiError> {
    let form = Form::read(&SHAPE, call.body.clone())?;
    let app = call.app.clone();
    let model = ask::model(&app, form.text("model")).await?;
    let facts = &model.handle.plan().model;
    if let Some(d) = form.count("dimensions").filter(|&d| d != facts.d) {
        let why = format!("`dimensions` = {d} is not possible: this model's vectors have {}", facts.d);
        return Err(ApiError { code: "unsupported_value", ..ApiError::field("dimensions", why) });
    }
    let base64 = form.text("encoding_format") == Some("base64");
    let v = form.get("input").unwrap_or(&Value::Null);
    let many = v.as_array().filter(|a| a.first().is_some_and(|f| !f.is_number()));
    let inputs = many.map_or(std::slice::from_ref(v), Vec::as_slice);
    if inputs.len() > app.limits.inputs {
        return Err(out_of_range("input", v, &format!("at most {} inputs", app.limits.inputs)));
    }
    let mut prompts: Vec<Vec<Token>> = Vec::with_capacity(inputs.len());
    for input in inputs {
        prompts.push(match input {
            Value::String(t) => plain(&model, t.clone(), Special::Plain, true).await?,
            Value::Array(ids) if !ids.is_empty() => tokens("input", ids, facts.vocab)?,
            other => return Err(out_of_range("input", other, "text, token ids, or an array of these")),
        });
    }
    let (vectors, total) = vectors(&call, &model, prompts).await?;
    let mut data = Vec::with_capacity(vectors.len());
    for (i, vector) in vectors.into_iter().enumerate() {
        let vector = if base64 { encode(&vector).into() } else { json!(vector) };
        data.push(json!({"object": "embedding", "index": i, "embedding": vector}));
    }
    let usage = json!({"prompt_tokens": total, "total_tokens": total});
    Ok(Json(json!({"object": "list", "model": &*model.name, "data": data, "usage": usage})))
}

/// The vectors of texts, each of length 1, and the sum of their tokens.
///
/// # Errors
/// A text the context does not hold; an engine that gives none.
pub async fn vectors(
    call: &Call,
    model: &Arc<Served>,
    prompts: Vec<Vec<Token>>,
) -> Result<(Vec<Vec<f32>>, usize), ApiError> {
    let wish = Wish {
        params: Params::default(),
        max_tokens: Some(1),
        stop: vec![],
        ignore_eos: true,
        task: Task::Embed,
        constraint: None,
        explain_cache: false,
        deadline: None,
        salt: None,
        choices: 1,
        streams: false,
    };
    let whole = Ask::new(call, model.clone()).submit(prompts, &wish).await?.whole().await?;
    let mut total = 0;
    let mut out = Vec::with_capacity(whole.len());
    for w in whole {
        total += w.answer.prompt_tokens.len();
        let Some(vector) = w.answer.embedding else {
            return Err(ApiError::internal(format!("the engine of `{}` gives no embeddings", model.name)));
        };
        out.push(unit(vector));
    }
    Ok((out, total))
}

/// Of length 1, as clients that compare by dot product expect; a zero vector stays.
fn unit(mut v: Vec<f32>) -> Vec<f32> {
    let norm = v.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if norm > 0.0 {
        v.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
    v
}

/// Base64 of the floats' little-endian bytes.
fn encode(v: &[f32]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = v.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let at = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= three.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_written_as_clients_read_them() {
        assert_eq!(encode(&[1.0]), "AACAPw==");
        assert_eq!(encode(&[1.0, -2.0]), "AACAPwAAAMA=");
        assert_eq!(encode(&[0.5, 0.25, 3.0]), "AAAAPwAAgD4AAEBA");
        assert_eq!(encode(&[]), "");
        assert_eq!(unit(vec![3.0, 4.0]), [0.6, 0.8]);
        assert_eq!(unit(vec![0.0, 0.0]), [0.0, 0.0]);
    }
}
