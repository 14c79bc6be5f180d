//! The prompt that a request would be answered from: text and tokens, without an answer.

use axum::Json;
use axum::routing::post;
use serde_json::{Value, json};

use super::chat::{self, Talk};
use super::{Method, Route, completions};
use crate::ask::{self, sampling};
use crate::call::Call;
use crate::error::ApiError;
use crate::wire::form::Form;

/// Of a conversation.
pub static CHAT: Route = Route {
    path: "/v1/chat/completions/render",
    method: Method::Post,
    about: "the prompt of a conversation as text and token ids; the body of /v1/chat/completions",
    keyless: false,
    body: Some(&chat::SHAPE),
    serve: || post(of_chat),
};

/// Of plain prompts.
pub static PLAIN: Route = Route {
    path: "/v1/completions/render",
    method: Method::Post,
    about: "plain prompts as token ids; the body of /v1/completions",
    keyless: false,
    body: Some(&completions::SHAPE),
    serve: || post(of_plain),
};

fn prompt(text: &str, tokens: &[u32]) -> Value {
    json!({"prompt": text, "tokens": tokens, "count": tokens.len()})
}

async fn of_chat(call: Call) -> Result<Json<Value>, ApiError> {
    let form = Form::read(&chat::SHAPE, call.body)?;
    let model = ask::model(&call.app, form.text("model")).await?;
    sampling(&form, &model, &call.app)?;
    let (text, tokens, _) = Talk::read(&form, &call.app.limits)?.prompt(&model).await?;
    let mut v = prompt(&text, &tokens);
    v["model"] = (&*model.name).into();
    v["max_model_len"] = model.handle.ctx().into();
    Ok(Json(v))
}

async fn of_plain(call: Call) -> Result<Json<Value>, ApiError> {
    let form = Form::read(&completions::SHAPE, call.body)?;
    let model = ask::model(&call.app, form.text("model")).await?;
    sampling(&form, &model, &call.app)?;
    let all = completions::read(&form, &model, &call.app.limits).await?;
    let prompts: Vec<Value> = all.iter().map(|(text, tokens)| prompt(text, tokens)).collect();
    Ok(Json(json!({"model": &*model.name, "max_model_len": model.handle.ctx(), "prompts": prompts})))
}
