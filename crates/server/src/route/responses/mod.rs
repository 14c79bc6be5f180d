//! `/v1/responses`: OpenAI's newer dialect. Nothing is stored, so a response cannot be continued by its id.

mod read;
mod say;

use std::time::{SystemTime, UNIX_EPOCH};

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
use crate::wire::fields::{IDLE, MODEL};
use crate::wire::form::{Field, Form, Shape, What, field};

use say::{Answering, Stream};

fn input() -> Value {
    json!({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]})
}

fn list() -> Value {
    json!({"type": "array", "items": {"type": "object"}})
}

fn object() -> Value {
    json!({"type": "object"})
}

fn choice() -> Value {
    json!({"oneOf": [{"enum": ["none", "auto", "required"]}, {"type": "object"}]})
}

const STORED: &str = "nothing is stored; send the whole conversation as `input`";

static OWN: &[Field] = &[
    field(
        "input",
        What::Own(input),
        "text, or items: message, function_call, function_call_output, reasoning",
    ),
    field("instructions", What::Text(usize::MAX), "the system message"),
    field("tools", What::Own(list), "functions that the answer may call"),
    field("tool_choice", What::Own(choice), "none, auto, required, or one function by name [auto]"),
    field("parallel_tool_calls", What::Bool, "an answer may call several tools [true]"),
    field("text", What::Own(object), "`format`: text, json_object or json_schema"),
    field("reasoning", What::Own(object), "`effort`: none turns thinking off; others are refused"),
    field("max_output_tokens", What::Int(1, 1 << 24), "new tokens at most [to the end of the context]"),
    field("temperature", What::Num(0.0, 100.0), "0 always takes the likeliest token [1]"),
    field("top_p", What::Above(0.0, 1.0), "keeps the smallest set of tokens with this much probability [1]"),
    field("stream", What::Bool, "send events as they come [false]"),
    field("stream_options", What::Own(object), "`include_obfuscation`: only false"),
    field("store", What::Only(&["false"], STORED), "only false, and false when it is left out"),
    field("previous_response_id", What::Only(&[], STORED), "not possible"),
    field("conversation", What::Only(&[], STORED), "not possible"),
    field("prompt", What::Only(&[], STORED), "not possible"),
    field("background", What::Only(&["false"], STORED), "only false"),
    field("include", What::Only(&["[]"], "nothing more can be included"), "only []"),
    field("truncation", What::Only(&["\"disabled\""], "a prompt is never cut"), "only disabled"),
    field("top_logprobs", What::Only(&["0"], "ask /v1/chat/completions for them"), "only 0"),
    field("max_tool_calls", What::Only(&[], "this server runs no tools"), "not possible"),
    field("service_tier", What::Only(&["\"auto\"", "\"default\""], "there is one tier"), "auto or default"),
    field("metadata", What::Idle, "without effect: nothing is stored"),
    field("safety_identifier", What::Idle, "without effect"),
    field("prompt_cache_key", What::Idle, "without effect: prefixes are found by their tokens"),
    field("seed", What::Int(i64::MIN, i64::MAX), "ours: the same seed gives the same tokens [drawn]"),
    field("deadline_ms", What::Int(1, 86_400_000), "ours: an answer not done by then is incomplete"),
    field("cache_salt", What::Text(256), "ours: narrows whose prefix cache is shared"),
    field("explain_cache", What::Bool, "ours: say why no more of the prompt was cached [false]"),
];

static SHAPE: Shape =
    Shape { name: "Responses", groups: &[MODEL, OWN, thinkgate::FIELDS, IDLE], required: &["input"] };

/// The route.
pub static ROUTE: Route = Route {
    path: "/v1/responses",
    method: Method::Post,
    about: "a conversation is answered, in OpenAI's newer dialect",
    keyless: false,
    body: Some(&SHAPE),
    serve: || post(responses),
};

async fn responses(call: Call) -> Result<Response, ApiError> {
    let form = Form::read(&SHAPE, call.body.clone())?;
    let app = call.app.clone();
    let model = ask::model(&app, form.text("model")).await?;
    let chat = turn::form(read::chat(&form, &app.limits, &model)?)?;
    let wish = sampling(&chat, &model, &app)?;
    let streams = wish.streams;
    let Turn { ask, flows, mut speeches, gate, .. } = turn::begin(&call, &chat, model.clone(), wish).await?;
    let mut speech = speeches.pop().ok_or_else(|| ApiError::internal("a turn without a reader"))?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let answering = Answering::new(&ask.seen.id, created, &model.name, &form, gate);
    if streams {
        let say = Stream::new(answering, speech);
        let response = sse::response(flows, say, pace(&app)?, app.limits.keep_alive);
        return Ok(thinkgate::mark(gate, response));
    }
    let mut whole = flows.whole().await?;
    let w = whole.pop().ok_or_else(|| ApiError::internal("a turn without an answer"))?;
    w.said.iter().for_each(|said| speech.take(said.clone()));
    speech.finish();
    let body = answering.whole(&speech.part(), &w.answer, speech.thought());
    Ok(thinkgate::mark(gate, Json(body).into_response()))
}
