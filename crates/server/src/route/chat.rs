//! `/v1/chat/completions`: a conversation is answered.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Map, Value, json};
use tamp_base::ids::Token;
use tamp_text::Message;

use super::openai::{Head, Options, pace};
use super::turn::{self, Turn};
use super::{Method, Route};
use crate::answer::{Likely, Said, Whole, finish_word, token_text};
use crate::ask::{self, conversation, sampling};
use crate::call::Call;
use crate::error::ApiError;
use crate::layer::thinkgate;
use crate::limits::Limits;
use crate::model::Served;
use crate::send::sse::{self, Say, data};
use crate::speech::{Speech, delta, failure, message};
use crate::wire::fields::{IDLE, MODEL, MOST_LOGPROBS, SAMPLING, SENDING};
use crate::wire::form::{Field, Form, Shape, What, field, out_of_range};
use crate::wire::tools::Tools;
use crate::wire::usage::Bill;
use crate::wire::{format, messages, tools};

fn messages_schema() -> Value {
    json!({"type": "array", "minItems": 1, "items": {"type": "object", "required": ["role"]}})
}

fn object_schema() -> Value {
    json!({"type": "object"})
}

/// What makes a prompt of a conversation.
pub static TALK: &[Field] = &[
    field("messages", What::Own(messages_schema), "the conversation; parts of type `text` only"),
    field("tools", What::Own(tools::schema), "functions that the answer may call"),
    field(
        "tool_choice",
        What::Own(tools::choice_schema),
        "`none`, `auto`, `required`, or one function by name [auto]",
    ),
    field("parallel_tool_calls", What::Bool, "an answer may call several tools [true]"),
    field(
        "chat_template_kwargs",
        What::Own(object_schema),
        "variables for the chat template, such as enable_thinking",
    ),
    field("add_generation_prompt", What::Bool, "the prompt ends where an answer begins [true]"),
];

static OWN: &[Field] = &[
    field(
        "response_format",
        What::Own(format::schema),
        "what the answer has to be: text, json_object, json_schema, regex, grammar",
    ),
    field("max_completion_tokens", What::Int(1, 1 << 24), "the newer name of max_tokens"),
    field("logprobs", What::Bool, "log-probabilities of the answer's tokens [false]"),
    field("top_logprobs", What::Int(0, MOST_LOGPROBS), "and of so many likeliest tokens per position"),
    field("metadata", What::Idle, "without effect: nothing is stored"),
    field("store", What::Only(&["false"], "nothing is stored"), "only false"),
    field("service_tier", What::Only(&["\"auto\"", "\"default\""], "there is one tier"), "auto or default"),
    field("safety_identifier", What::Idle, "without effect"),
    field("prompt_cache_key", What::Idle, "without effect: prefixes are found by their tokens"),
    field("modalities", What::Only(&["[\"text\"]"], "answers are text"), "only text"),
    field("audio", What::Only(&[], "answers are text"), "not possible"),
    field("prediction", What::Only(&[], "there is no predicted output"), "not possible"),
    field(
        "reasoning_effort",
        What::Only(&[], "pass what the template knows in chat_template_kwargs"),
        "not possible",
    ),
    field("verbosity", What::Only(&["\"medium\""], "no model here knows it"), "only medium"),
    field("web_search_options", What::Only(&[], "this server fetches nothing"), "not possible"),
    field("functions", What::Only(&["[]"], "use `tools`"), "not possible"),
    field("function_call", What::Only(&["\"none\""], "use `tool_choice`"), "not possible"),
];

/// Fields of the body.
pub static SHAPE: Shape = Shape {
    name: "Chat",
    groups: &[MODEL, TALK, OWN, thinkgate::FIELDS, SAMPLING, SENDING, IDLE],
    required: &["messages"],
};

/// The route.
pub static ROUTE: Route = Route {
    path: "/v1/chat/completions",
    method: Method::Post,
    about: "a conversation is answered",
    keyless: false,
    body: Some(&SHAPE),
    serve: || post(chat),
};

/// A conversation as it was sent.
pub struct Talk {
    /// what was said
    pub messages: Vec<Message>,
    /// what may be called
    pub tools: Tools,
    /// variables of the template
    pub extra: Map<String, Value>,
    generation: bool,
}

/// Names that the server itself gives to templates.
const OURS: &[&str] = &["messages", "tools", "add_generation_prompt", "bos_token", "eos_token"];

impl Talk {
    /// Reads the fields of [`TALK`].
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn read(form: &Form, limits: &Limits) -> Result<Self, ApiError> {
        let messages = messages::read(form.get("messages").unwrap_or(&Value::Null), limits)?;
        let extra = match form.get("chat_template_kwargs") {
            None => Map::new(),
            Some(Value::Object(o)) => o.clone(),
            Some(v) => return Err(out_of_range("chat_template_kwargs", v, "an object")),
        };
        if let Some(name) = OURS.iter().find(|n| extra.contains_key(**n)) {
            let at = format!("chat_template_kwargs.{name}");
            return Err(ApiError::field(at.clone(), format!("`{at}` is the server's to set")));
        }
        let generation = form.flag("add_generation_prompt").unwrap_or(true);
        Ok(Talk { messages, tools: Tools::read(form, limits)?, extra, generation })
    }

    /// The prompt: its text and its tokens.
    ///
    /// # Errors
    /// What the template refuses.
    pub async fn prompt(self, model: &Arc<Served>) -> Result<(String, Vec<Token>, Tools), ApiError> {
        let shown = self.tools.shown.clone();
        let (text, tokens) = conversation(model, self.messages, shown, self.extra, self.generation).await?;
        Ok((text, tokens, self.tools))
    }
}

async fn chat(call: Call) -> Result<Response, ApiError> {
    let form = Form::read(&SHAPE, call.body.clone())?;
    let app = call.app.clone();
    let model = ask::model(&app, form.text("model")).await?;
    let mut wish = sampling(&form, &model, &app)?;
    let newer = form.count("max_completion_tokens");
    if newer.is_some() && wish.max_tokens.is_some() && newer != wish.max_tokens {
        let why = "`max_tokens` and `max_completion_tokens` say different things; send one";
        return Err(ApiError::field("max_completion_tokens", why));
    }
    wish.max_tokens = newer.or(wish.max_tokens);
    let top = form.count("top_logprobs");
    wish.params.logprobs = match (form.flag("logprobs").unwrap_or(false), top) {
        (true, n) => Some(n.unwrap_or(0)),
        (false, None | Some(0)) => None,
        (false, Some(_)) => {
            return Err(ApiError::field("top_logprobs", "`top_logprobs` is only for `logprobs`: true"));
        }
    };
    let options = Options::read(&form)?;
    let (streams, seed) = (wish.streams, wish.params.seed);
    let Turn { ask, flows, speeches, gate, .. } = turn::begin(&call, &form, model.clone(), wish).await?;
    let head = |kind: &'static str| Head::new(kind, "chatcmpl", &ask, seed).gated(gate);
    if streams {
        let choices =
            speeches.into_iter().map(|speech| Choice { speech, begun: false, done: None }).collect();
        let head = head("chat.completion.chunk");
        let say = Stream { head, model, options, choices, bill: Bill::default() };
        let response = sse::response(flows, say, pace(&app)?, app.limits.keep_alive);
        return Ok(thinkgate::mark(gate, response));
    }
    let whole = flows.whole().await?;
    let mut bill = Bill::default();
    let mut choices = Vec::new();
    for (i, (w, speech)) in whole.iter().zip(speeches).enumerate() {
        bill.add(&w.answer, i == 0);
        choices.push(choice(i, w, speech, &model));
    }
    let mut body = head("chat.completion").json();
    body["choices"] = choices.into();
    body["usage"] = bill.json();
    Ok(thinkgate::mark(gate, Json(body).into_response()))
}

fn choice(i: usize, w: &Whole, mut speech: Speech, model: &Served) -> Value {
    w.said.iter().for_each(|said| speech.take(said.clone()));
    speech.finish();
    let part = speech.part();
    let likely = (!part.likely.is_empty()).then(|| logprobs(&part.likely, model));
    json!({
        "index": i,
        "message": message(&part),
        "logprobs": likely,
        "finish_reason": word(w.answer.finish_reason, &speech),
    })
}

fn word(reason: tamp_engine::FinishReason, speech: &Speech) -> &'static str {
    match finish_word(reason) {
        "stop" if speech.called() => "tool_calls",
        other => other,
    }
}

fn logprobs(likely: &[Likely], model: &Served) -> Value {
    let t = model.tokenizer();
    let one = |id: Token, p: f32| json!({"token": token_text(t, id), "logprob": p, "bytes": t.bytes(id)});
    let position = |l: &Likely| {
        let mut v = one(l.token, l.logprob);
        v["top_logprobs"] = l.top.iter().map(|&(id, p)| one(id, p)).collect();
        v
    };
    json!({"content": likely.iter().map(position).collect::<Vec<_>>(), "refusal": null})
}

struct Choice {
    speech: Speech,
    /// its role was sent
    begun: bool,
    done: Option<(&'static str, Option<ApiError>)>,
}

struct Stream {
    head: Head,
    model: Arc<Served>,
    options: Options,
    choices: Vec<Choice>,
    bill: Bill,
}

impl Stream {
    fn event(&self, i: usize, delta: Value, logprobs: Value, reason: Option<&str>, out: &mut Vec<u8>) {
        let mut v = self.head.json();
        v["choices"] = json!([{"index": i, "delta": delta, "logprobs": logprobs, "finish_reason": reason}]);
        self.options.mark(&mut v);
        data(&v, out);
    }
}

impl Say for Stream {
    fn note(&mut self, i: usize, said: Said) {
        let c = &mut self.choices[i];
        if let Said::Done(a) = said {
            c.speech.finish();
            self.bill.add(&a, i == 0);
            c.done = Some((word(a.finish_reason, &c.speech), failure(&a)));
        } else {
            c.speech.take(said);
        }
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        for i in 0..self.choices.len() {
            let c = &mut self.choices[i];
            let (waits, done) = (c.speech.waits(), c.done.take());
            let first = !std::mem::replace(&mut c.begun, true);
            let part = c.speech.part();
            if first {
                self.event(i, json!({"role": "assistant", "content": ""}), Value::Null, None, out);
            }
            if waits {
                let likely = match part.likely.is_empty() {
                    true => Value::Null,
                    false => logprobs(&part.likely, &self.model),
                };
                self.event(i, delta(&part), likely, None, out);
            }
            if let Some((reason, failed)) = done {
                self.event(i, json!({}), Value::Null, Some(reason), out);
                if let Some(e) = failed {
                    data(&e.body(), out);
                }
            }
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.options.end(self.head.json(), &self.bill, out);
    }
}
