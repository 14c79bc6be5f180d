//! `/v1/completions`: a plain prompt goes on.

use axum::Json;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Map, Value, json};
use tamp_base::ids::Token;
use tamp_text::Special;

use super::openai::{Head, Options, pace};
use super::{Method, Route};
use crate::answer::{Likely, Said, Whole, finish_word, token_text};
use crate::ask::{self, Ask, plain, sampling};
use crate::call::Call;
use crate::error::ApiError;
use crate::limits::Limits;
use crate::model::Served;
use crate::send::sse::{self, Say, data};
use crate::wire::fields::{IDLE, MODEL, MOST_LOGPROBS, SAMPLING, SENDING};
use crate::wire::form::{Field, Form, Shape, What, field, out_of_range, whole};
use crate::wire::usage::Bill;

fn prompt_schema() -> Value {
    let tokens = json!({"type": "array", "items": {"type": "integer", "minimum": 0}});
    json!({"oneOf": [
        {"type": "string"}, tokens, {"type": "array", "items": {"oneOf": [{"type": "string"}, tokens]}},
    ]})
}

static OWN: &[Field] = &[
    field("prompt", What::Own(prompt_schema), "text or token ids, or an array of these: each is answered"),
    field("echo", What::Bool, "the answer begins with the prompt [false]"),
    field(
        "logprobs",
        What::Int(0, MOST_LOGPROBS),
        "log-probabilities of so many likeliest tokens per position",
    ),
    field("best_of", What::Only(&["1"], "ask for `n` answers and choose among them"), "only 1"),
    field("suffix", What::Only(&["\"\""], "no model here was made to fill a gap"), "not possible"),
];

/// Fields of the body.
pub static SHAPE: Shape =
    Shape { name: "Completion", groups: &[MODEL, OWN, SAMPLING, SENDING, IDLE], required: &["prompt"] };

/// The route.
pub static ROUTE: Route = Route {
    path: "/v1/completions",
    method: Method::Post,
    about: "a plain prompt goes on",
    keyless: false,
    body: Some(&SHAPE),
    serve: || post(completions),
};

/// A prompt as it was given.
enum Prompt {
    Text(String),
    Tokens(Vec<Token>),
}

fn prompts(v: &Value, limits: &Limits, vocab: usize) -> Result<Vec<Prompt>, ApiError> {
    let one = |v: &Value| match v {
        Value::String(t) => Ok(Prompt::Text(t.clone())),
        Value::Array(ids) if !ids.is_empty() => tokens("prompt", ids, vocab).map(Prompt::Tokens),
        other => Err(out_of_range("prompt", other, "text, token ids, or an array of these")),
    };
    match v {
        Value::Array(all) if all.first().is_some_and(|f| !f.is_number()) => {
            if all.len() > limits.inputs {
                return Err(out_of_range("prompt", v, &format!("at most {} prompts", limits.inputs)));
            }
            all.iter().map(one).collect()
        }
        v => Ok(vec![one(v)?]),
    }
}

/// Token ids out of a body.
pub fn tokens(name: &str, ids: &[Value], vocab: usize) -> Result<Vec<Token>, ApiError> {
    let id = |v: &Value| {
        let id = whole(v).and_then(|n| Token::try_from(n).ok()).filter(|&t| (t as usize) < vocab);
        id.ok_or_else(|| out_of_range(name, v, &format!("token ids from 0 to {}", vocab - 1)))
    };
    ids.iter().map(id).collect()
}

/// The prompts of a body, as text where they are text, and as tokens.
pub async fn read(
    form: &Form,
    model: &std::sync::Arc<Served>,
    limits: &Limits,
) -> Result<Vec<(String, Vec<Token>)>, ApiError> {
    let vocab = model.handle.plan().model.vocab;
    let mut out = Vec::new();
    for p in prompts(form.get("prompt").unwrap_or(&Value::Null), limits, vocab)? {
        out.push(match p {
            Prompt::Text(t) => {
                let ids = plain(model, t.clone(), Special::Parse, true).await?;
                (t, ids)
            }
            Prompt::Tokens(ids) => {
                let bytes = model.tokenizer().decode(&ids, true);
                (String::from_utf8_lossy(&bytes).into_owned(), ids)
            }
        });
    }
    Ok(out)
}

async fn completions(call: Call) -> Result<Response, ApiError> {
    let form = Form::read(&SHAPE, call.body.clone())?;
    let app = call.app.clone();
    let model = ask::model(&app, form.text("model")).await?;
    let mut wish = sampling(&form, &model, &app)?;
    wish.params.logprobs = form.count("logprobs");
    let options = Options::read(&form)?;
    let echo = form.flag("echo").unwrap_or(false);
    if echo && wish.params.logprobs.is_some() {
        let why =
            "`echo` with `logprobs` asks for log-probabilities of the prompt, which are not computed here";
        return Err(ApiError { code: "unsupported_value", ..ApiError::field("logprobs", why) });
    }
    let (texts, prompts): (Vec<String>, Vec<Vec<Token>>) =
        read(&form, &model, &app.limits).await?.into_iter().unzip();
    if prompts.len() * wish.choices as usize > app.limits.inputs {
        let why = format!("prompts × n = {} × {} is too many", prompts.len(), wish.choices);
        return Err(ApiError::field(
            "n",
            format!("{why}; at most {} sequences per request", app.limits.inputs),
        ));
    }
    let ask = Ask::new(&call, model.clone());
    let head = Head::new("text_completion", "cmpl", &ask, wish.params.seed);
    let flows = ask.submit(prompts, &wish).await?;
    let echoes: Vec<String> = if echo { texts } else { Vec::new() };
    let per = wish.choices as usize;
    let echoed = |i: usize| echoes.get(i / per).map_or("", String::as_str);
    if wish.streams {
        let choices =
            (0..flows.len()).map(|i| Choice { text: echoed(i).into(), ..Choice::default() }).collect();
        let say = Stream { head, model, options, per, choices, bill: Bill::default() };
        return Ok(sse::response(flows, say, pace(&app)?, app.limits.keep_alive));
    }
    let whole = flows.whole().await?;
    let mut bill = Bill::default();
    whole.iter().enumerate().for_each(|(i, w)| bill.add(&w.answer, i % per == 0));
    let choices: Vec<Value> =
        whole.iter().enumerate().map(|(i, w)| choice(i, w, echoed(i), &model)).collect();
    let mut body = head.json();
    body["choices"] = choices.into();
    body["usage"] = bill.json();
    Ok(Json(body).into_response())
}

fn choice(i: usize, w: &Whole, echo: &str, model: &Served) -> Value {
    let (likely, mut at) = (w.likely(), 0);
    json!({
        "index": i,
        "text": format!("{echo}{}", w.answer.text),
        "logprobs": (!likely.is_empty()).then(|| logprobs(&likely, model, &mut at)),
        "finish_reason": finish_word(w.answer.finish_reason),
    })
}

/// `offset`: characters of the tokens before; moved on.
fn logprobs(likely: &[Likely], model: &Served, offset: &mut usize) -> Value {
    let t = model.tokenizer();
    let (mut tokens, mut chosen, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
    for l in likely {
        let text = token_text(t, l.token);
        offsets.push(*offset);
        *offset += text.chars().count();
        tokens.push(text);
        chosen.push(l.logprob);
        let top: Map<String, Value> = l.top.iter().map(|&(id, p)| (token_text(t, id), p.into())).collect();
        tops.push(top);
    }
    json!({"tokens": tokens, "token_logprobs": chosen, "top_logprobs": tops, "text_offset": offsets})
}

/// What was said of one choice and not written yet.
#[derive(Default)]
struct Choice {
    text: String,
    likely: Vec<Likely>,
    offset: usize,
    done: Option<(&'static str, Option<ApiError>)>,
}

struct Stream {
    head: Head,
    model: std::sync::Arc<Served>,
    options: Options,
    per: usize,
    choices: Vec<Choice>,
    bill: Bill,
}

impl Say for Stream {
    fn note(&mut self, i: usize, said: Said) {
        match said {
            Said::Token { text, likely, .. } => {
                self.choices[i].text += &text;
                self.choices[i].likely.extend(likely);
            }
            Said::Text(text) => self.choices[i].text += &text,
            Said::Done(a) => {
                self.bill.add(&a, i.is_multiple_of(self.per));
                let failed = a.failure.as_ref().map(ApiError::from);
                self.choices[i].done = Some((finish_word(a.finish_reason), failed));
            }
        }
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        for i in 0..self.choices.len() {
            let c = &mut self.choices[i];
            if c.text.is_empty() && c.likely.is_empty() && c.done.is_none() {
                continue;
            }
            let (text, likely, done) =
                (std::mem::take(&mut c.text), std::mem::take(&mut c.likely), c.done.take());
            let logprobs = (!likely.is_empty()).then(|| logprobs(&likely, &self.model, &mut c.offset));
            let mut v = self.head.json();
            let reason = done.as_ref().map(|d| d.0);
            v["choices"] = json!([{"index": i, "text": text, "logprobs": logprobs, "finish_reason": reason}]);
            self.options.mark(&mut v);
            data(&v, out);
            if let Some((_, Some(e))) = done {
                data(&e.body(), out);
            }
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.options.end(self.head.json(), &self.bill, out);
    }
}
