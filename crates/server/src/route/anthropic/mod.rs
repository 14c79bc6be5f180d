//! `/v1/messages` and `/v1/messages/count_tokens`: Anthropic's dialect over the same path as every conversation.

mod read;
mod say;

use axum::Json;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};

use super::openai::pace;
use super::turn::{self, Turn};
use super::{Method, Route};
use crate::ask::{self, sampling};
use crate::call::Call;
use crate::error::ApiError;
use crate::layer::thinkgate;
use crate::send::sse;
use crate::wire::fields::{MODEL, MOST_STOPS};
use crate::wire::form::{Field, Form, Shape, What, field};

use say::{Answering, Stream};

fn list() -> Value {
    json!({"type": "array", "items": {"type": "object"}})
}

fn strings() -> Value {
    json!({"type": "array", "maxItems": MOST_STOPS.0, "items": {"type": "string"}})
}

fn object() -> Value {
    json!({"type": "object"})
}

fn text_or_blocks() -> Value {
    json!({"oneOf": [{"type": "string"}, list()]})
}

/// What makes the prompt.
static TALK: &[Field] = &[
    field(
        "messages",
        What::Own(list),
        "the conversation; blocks of type text, tool_use, tool_result and thinking",
    ),
    field("system", What::Own(text_or_blocks), "the system prompt, text or text blocks"),
    field("tools", What::Own(list), "tools that the answer may call"),
    field("tool_choice", What::Own(object), "auto, any, tool (by name) or none [auto]"),
    field(
        "thinking",
        What::Own(object),
        "`type` enabled, adaptive or disabled: the template's enable_thinking",
    ),
    field("output_config", What::Own(object), "`format`: {type: json_schema, schema}"),
    field("output_format", What::Own(object), "the older place of output_config.format"),
    field("cache_control", What::Idle, "without effect: every prefix is cached"),
];

static OWN: &[Field] = &[
    field("max_tokens", What::Int(1, 1 << 24), "new tokens at most"),
    field("stop_sequences", What::Own(strings), "texts that end the answer and are not part of it"),
    field("temperature", What::Num(0.0, 100.0), "0 always takes the likeliest token [1]"),
    field("top_p", What::Above(0.0, 1.0), "keeps the smallest set of tokens with this much probability [1]"),
    field("top_k", What::Int(0, 1 << 20), "keeps the k likeliest tokens; 0 keeps all [0]"),
    field("stream", What::Bool, "send events as they come [false]"),
    field("metadata", What::Idle, "without effect: tenants are known by their key"),
    field("service_tier", What::Only(&["\"auto\"", "\"standard_only\""], "there is one tier"), "one tier"),
    field("seed", What::Int(i64::MIN, i64::MAX), "ours: the same seed gives the same tokens [drawn]"),
    field("deadline_ms", What::Int(1, 86_400_000), "ours: an answer not done by then ends with `deadline`"),
    field("cache_salt", What::Text(256), "ours: narrows whose prefix cache is shared"),
    field("explain_cache", What::Bool, "ours: say why no more of the prompt was cached [false]"),
];

static SHAPE: Shape = Shape {
    name: "Messages",
    groups: &[MODEL, TALK, OWN, thinkgate::FIELDS],
    required: &["messages", "max_tokens"],
};

static COUNT_SHAPE: Shape =
    Shape { name: "CountTokens", groups: &[MODEL, TALK, thinkgate::FIELDS], required: &["messages"] };

/// Answers.
pub static MESSAGES: Route = Route {
    path: "/v1/messages",
    method: Method::Post,
    about: "a conversation is answered, in Anthropic's dialect",
    keyless: false,
    body: Some(&SHAPE),
    serve: || post(messages),
};

/// Counts.
pub static COUNT: Route = Route {
    path: "/v1/messages/count_tokens",
    method: Method::Post,
    about: "tokens of a conversation's prompt, in Anthropic's dialect",
    keyless: false,
    body: Some(&COUNT_SHAPE),
    serve: || post(count),
};

async fn count(call: Call) -> Result<Json<Value>, ApiError> {
    let form = Form::read(&COUNT_SHAPE, call.body)?;
    let model = ask::model(&call.app, form.text("model")).await?;
    let form = turn::form(read::chat(&form, &call.app.limits, &model)?)?;
    let prompt = turn::prompt(&call.app, &form, &model).await?;
    Ok(Json(json!({"input_tokens": prompt.tokens.len()})))
}

async fn messages(call: Call) -> Result<Response, ApiError> {
    let form = Form::read(&SHAPE, call.body.clone())?;
    let app = call.app.clone();
    let model = ask::model(&app, form.text("model")).await?;
    let chat = turn::form(read::chat(&form, &app.limits, &model)?)?;
    let mut wish = sampling(&chat, &model, &app)?;
    wish.stop = form.get("stop_sequences").map_or(Ok(vec![]), read::stops)?;
    let (streams, stops, seed) = (wish.streams, wish.stop.clone(), wish.params.seed);
    let Turn { ask, flows, mut speeches, prompt, gate } =
        turn::begin(&call, &chat, model.clone(), wish).await?;
    let Some(mut speech) = speeches.pop() else { return Err(ApiError::internal("a turn without a reader")) };
    let answering = Answering { id: format!("msg_{}", ask.seen.id), model, stops, seed, gate, prompt };
    if streams {
        let response =
            sse::response(flows, Stream::new(answering, speech), pace(&app)?, app.limits.keep_alive);
        return Ok(thinkgate::mark(gate, response));
    }
    let mut whole = flows.whole().await?;
    let Some(w) = whole.pop() else { return Err(ApiError::internal("a turn without an answer")) };
    w.said.iter().for_each(|said| speech.take(said.clone()));
    speech.finish();
    let body = answering.message(&w.answer, &mut speech);
    Ok(thinkgate::mark(gate, Json(body).into_response()))
}
