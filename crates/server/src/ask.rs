//! From wire types to the engine: a conversation to tokens, fields to parameters, a wish to sequences.
//!
//! ```text
//! body → Form → sampling(…) → Wish ─┐
//! messages → template → tokens ─────┴→ Ask::submit → Flows (see `answer`)
//! ```
//! Routes of other APIs fill a [`Wish`] from their own fields and go the same way.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tamp_base::ids::Token;
use tamp_engine::{Cancel, EngineError, Params, Request, Task};
use tamp_text::grammar::{Grammar, GrammarSpec};
use tamp_text::{Message, Special};

use crate::answer::Flows;
use crate::app::App;
use crate::call::Call;
use crate::error::ApiError;
use crate::keys::salted;
use crate::layer::{Caller, Seen};
use crate::life::life;
use crate::model::Served;
use crate::observe::Facts;
use crate::wire::fields::MOST_STOPS;
use crate::wire::form::{Form, out_of_range};

/// What somebody wants of a prompt, beside the prompt.
#[derive(Clone, Debug)]
pub struct Wish {
    /// sampling; `choice` is filled in
    pub params: Params,
    /// new tokens at most
    pub max_tokens: Option<usize>,
    /// texts that end the answer
    pub stop: Vec<String>,
    /// go on after an end token
    pub ignore_eos: bool,
    /// what is wanted
    pub task: Task,
    /// from receipt
    pub deadline: Option<Duration>,
    /// the answer stays inside it
    pub constraint: Option<Grammar>,
    /// say why no more of the prompt was cached
    pub explain_cache: bool,
    /// narrows the prefix cache's namespace
    pub salt: Option<String>,
    /// answers per prompt
    pub choices: u32,
    /// tokens are sent as they come
    pub streams: bool,
}

/// Who asks which model.
pub struct Ask {
    /// the server's state
    pub app: Arc<App>,
    /// id, trace, time
    pub seen: Seen,
    /// who asks
    pub caller: Caller,
    /// the model
    pub model: Arc<Served>,
}

/// The model that a body names; where only one is served, it need not.
///
/// # Errors
/// 404 with the known names.
pub async fn model(app: &App, name: Option<&str>) -> Result<Arc<Served>, ApiError> {
    if let Some(name) = name {
        return app.models.get(name).await;
    }
    let all = app.models.list();
    match all.as_slice() {
        [only] => app.models.get(&only.name).await,
        _ => {
            let known: Vec<&str> = all.iter().map(|m| &*m.name).collect();
            let why = format!("`model` is missing; known: {}", known.join(", "));
            Err(ApiError { code: "missing_field", ..ApiError::field("model", why) })
        }
    }
}

/// Reads the sampling fields.
///
/// # Errors
/// 400 naming the field.
pub fn sampling(form: &Form, model: &Served, app: &App) -> Result<Wish, ApiError> {
    let params = Params {
        temperature: form.num("temperature").unwrap_or(1.0),
        top_k: form.count("top_k").unwrap_or(0),
        top_p: form.num("top_p").unwrap_or(1.0),
        min_p: form.num("min_p").unwrap_or(0.0),
        repetition_penalty: form.num("repetition_penalty").unwrap_or(1.0),
        presence_penalty: form.num("presence_penalty").unwrap_or(0.0),
        frequency_penalty: form.num("frequency_penalty").unwrap_or(0.0),
        logit_bias: form.get("logit_bias").map_or(Ok(vec![]), |v| biases(v, app.limits.biases))?,
        seed: form.int("seed").map_or_else(draw, |s| s as u64),
        top_n_sigma: form.num("top_n_sigma").unwrap_or(0.0),
        typical_p: form.num("typical_p").unwrap_or(1.0),
        xtc_probability: form.num("xtc_probability").unwrap_or(0.0),
        xtc_threshold: form.num("xtc_threshold").unwrap_or(0.1),
        dry_multiplier: form.num("dry_multiplier").unwrap_or(0.0),
        dry_base: form.num("dry_base").unwrap_or(1.75),
        dry_allowed_length: form.count("dry_allowed_length").unwrap_or(2),
        dry_last_n: form.count("dry_last_n"),
        dry_breakers: breakers(form, model)?,
        mirostat: form.count("mirostat").unwrap_or(0) as u32,
        mirostat_tau: form.num("mirostat_tau").unwrap_or(5.0),
        mirostat_eta: form.num("mirostat_eta").unwrap_or(0.1),
        ..Params::default()
    };
    let vocab = model.handle.plan().model.vocab;
    params.check(vocab).map_err(|e| ApiError::bad("invalid_value", e.to_string()))?;
    Ok(Wish {
        params,
        max_tokens: form.count("max_tokens"),
        stop: form.get("stop").map_or(Ok(vec![]), stops)?,
        ignore_eos: form.flag("ignore_eos").unwrap_or(false),
        task: Task::Generate,
        constraint: None,
        explain_cache: form.flag("explain_cache").unwrap_or(false),
        deadline: form.count("deadline_ms").map(|ms| Duration::from_millis(ms as u64)),
        salt: form.text("cache_salt").map(str::to_string),
        choices: form.int("n").map_or(1, |n| n as u32),
        streams: form.flag("stream").unwrap_or(false),
    })
}

/// What no repetition runs across, where repetitions are punished: OpenAI has no such field, these are the words of
/// those who have.
fn breakers(form: &Form, model: &Served) -> Result<Vec<Token>, ApiError> {
    const USUAL: [&str; 4] = ["\n", ":", "\"", "*"];
    let given = form.get("dry_sequence_breakers");
    if form.num("dry_multiplier").unwrap_or(0.0) == 0.0 {
        return match given {
            Some(_) => {
                let why = "`dry_sequence_breakers` is only for a `dry_multiplier` above 0";
                Err(ApiError::field("dry_sequence_breakers", why))
            }
            None => Ok(vec![]),
        };
    }
    let strings: Vec<String> = match given {
        None => USUAL.map(String::from).into(),
        Some(v) => {
            let texts = v.as_array().map(|a| a.iter().map(|s| s.as_str().map(str::to_string)).collect());
            let texts: Option<Vec<String>> = texts.flatten();
            texts.ok_or_else(|| out_of_range("dry_sequence_breakers", v, "an array of texts"))?
        }
    };
    tamp_engine::dry::breakers(model.tokenizer(), &strings)
        .map_err(|e| ApiError::field("dry_sequence_breakers", e.to_string()))
}

/// Compiles what the answer has to be.
///
/// # Errors
/// 400 with what is wrong with it.
pub async fn grammar(model: &Arc<Served>, spec: GrammarSpec) -> Result<Grammar, ApiError> {
    let model = model.clone();
    aside(move || model.grammars.compile(&spec).map_err(|e| ApiError::bad("invalid_grammar", e.to_string())))
        .await
}

/// A seed nobody chose: 53 bits, so that every JSON reader keeps it exact.
pub fn draw() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 11
}

fn biases(v: &Value, most: usize) -> Result<Vec<(Token, f32)>, ApiError> {
    let want = format!("an object of at most {most} token ids, each with a number from -100 to 100");
    let refuse = |got: &Value| out_of_range("logit_bias", got, &want);
    let map = v.as_object().filter(|m| m.len() <= most).ok_or_else(|| refuse(v))?;
    let one = |(id, bias): (&String, &Value)| {
        let id: Token = id.parse().map_err(|_| refuse(&Value::String(id.clone())))?;
        let bias = bias.as_f64().filter(|b| b.abs() <= 100.0).ok_or_else(|| refuse(bias))?;
        Ok((id, bias as f32))
    };
    let mut out = map.iter().map(one).collect::<Result<Vec<_>, ApiError>>()?;
    out.sort_by_key(|b| b.0);
    match out.windows(2).find(|w| w[0].0 == w[1].0) {
        Some(w) => Err(ApiError::field("logit_bias", format!("`logit_bias` names token {} twice", w[0].0))),
        None => Ok(out),
    }
}

/// One text or several.
///
/// # Errors
/// Too many, too long, empty.
pub fn stops(v: &Value) -> Result<Vec<String>, ApiError> {
    let (most, bytes) = MOST_STOPS;
    let want = format!("text, or an array of at most {most}, each of 1 to {bytes} bytes");
    let all = match v {
        Value::Array(all) => all.as_slice(),
        one => std::slice::from_ref(one),
    };
    let fine = |s: &&str| !s.is_empty() && s.len() <= bytes;
    let texts: Option<Vec<&str>> = all.iter().map(|s| s.as_str().filter(fine)).collect();
    match texts.filter(|t| t.len() <= most) {
        Some(texts) => Ok(texts.into_iter().map(str::to_string).collect()),
        None => Err(out_of_range("stop", v, &want)),
    }
}

/// Work on text runs beside the threads that serve connections: a long prompt must not hold other clients up.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(ApiError::internal("reading the prompt panicked; this is a bug, see the log"))
    })
}

/// A conversation as the model was trained to read it: the text and its tokens.
///
/// # Errors
/// A model without a template, or a template that refuses the conversation.
pub async fn conversation(
    model: &Arc<Served>,
    messages: Vec<Message>,
    tools: Option<Value>,
    extra: Map<String, Value>,
    generation: bool,
) -> Result<(String, Vec<Token>), ApiError> {
    let model = model.clone();
    aside(move || {
        let Some(template) = &model.template else {
            let why = "this model's file has no chat template; send a plain prompt to /v1/completions";
            return Err(ApiError::field("messages", why));
        };
        let text = template
            .render(&messages, tools.as_ref(), generation, &extra)
            .map_err(|e| ApiError::field("messages", e.to_string()))?;
        let t = model.tokenizer();
        // Templates usually write the start token themselves.
        let bos = t.bos().map_or("", |id| t.piece(id));
        let written = !bos.is_empty() && text.starts_with(bos);
        let tokens = t.encode(&text, Special::Parse, !written);
        Ok((text, tokens))
    })
    .await
}

/// The tokens of a text taken as it is. `special`: words that spell control tokens become those tokens; `bos`: the
/// start token comes first where the model asks for one.
pub async fn plain(
    model: &Arc<Served>,
    text: String,
    special: Special,
    bos: bool,
) -> Result<Vec<Token>, ApiError> {
    let model = model.clone();
    aside(move || Ok(model.tokenizer().encode(&text, special, bos))).await
}

impl Ask {
    /// For a call.
    pub fn new(call: &Call, model: Arc<Served>) -> Self {
        Ask { app: call.app.clone(), seen: call.seen.clone(), caller: call.caller.clone(), model }
    }

    /// Refuses what the context cannot hold: a prompt is never cut.
    pub fn fits(&self, prompt: usize, max_tokens: Option<usize>) -> Result<(), ApiError> {
        let ctx = self.model.handle.ctx();
        let new = max_tokens.unwrap_or(1);
        if prompt > 0 && prompt.saturating_add(new) <= ctx {
            return Ok(());
        }
        if prompt == 0 {
            return Err(ApiError::bad("empty_prompt", "the prompt has no tokens; give at least one"));
        }
        let why = format!(
            "{prompt} prompt tokens and {new} new ones do not fit into the context of {ctx}; nothing was cut: \
             shorten the prompt, ask for fewer tokens, or serve with a larger --ctx"
        );
        Err(ApiError::bad("context_length_exceeded", why))
    }

    /// Hands every prompt in, `choices` sequences each, and waits until the first of them has something to say, so that
    /// a refusal still has its status.
    ///
    /// # Errors
    /// 400, 429 or 503; nothing is left running then.
    pub async fn submit(&self, prompts: Vec<Vec<Token>>, wish: &Wish) -> Result<Flows, ApiError> {
        for p in &prompts {
            self.fits(p.len(), wish.max_tokens)?;
        }
        if let Some(row) = &self.caller.row {
            row.admit()?;
        }
        let handle = &self.model.handle;
        let received = handle.now().saturating_sub(self.seen.at.elapsed());
        let mut who = self.caller.who.clone();
        who.namespace = salted(who.namespace, wish.salt.as_deref());
        let mut flows = Vec::with_capacity(prompts.len() * wish.choices as usize);
        for prompt in prompts {
            for choice in 0..wish.choices {
                let facts = self.facts(flows.len() as u32, prompt.len(), wish);
                self.app.observers.admit(&facts)?;
                let limits = &self.app.limits;
                let row = self.caller.row.clone();
                let owes = if choice == 0 { prompt.len() } else { 0 };
                let (outlet, flow) =
                    life(facts, self.app.observers.clone(), row, owes, limits.unread, limits.stall);
                outlet.queued();
                let request = Request {
                    prompt: prompt.clone(),
                    params: Params { choice, ..wish.params.clone() },
                    max_tokens: wish.max_tokens,
                    stop: wish.stop.clone(),
                    ignore_eos: wish.ignore_eos,
                    received: Some(received),
                    cancel: Cancel::default(),
                    who: who.clone(),
                    task: wish.task,
                    constraint: wish.constraint.clone(),
                    explain_cache: wish.explain_cache,
                    deadline: wish.deadline.map(|d| received + d),
                };
                handle.submit(request, Box::new(outlet)).map_err(|e| self.refused(e))?;
                flows.push(flow);
            }
        }
        let mut flows = Flows::new(flows);
        flows.begin().await?;
        Ok(flows)
    }

    fn refused(&self, e: EngineError) -> ApiError {
        match self.model.handle.broken() {
            Some(why) => ApiError::internal(format!("the engine of `{}` ended: {why}", self.model.name)),
            None => e.into(),
        }
    }

    fn facts(&self, choice: u32, prompt_tokens: usize, wish: &Wish) -> Facts {
        Facts {
            request: self.seen.id.clone(),
            choice,
            trace: self.seen.trace,
            route: self.seen.route,
            model: self.model.name.clone(),
            tenant: self.caller.who.tenant,
            who: self.caller.name.clone(),
            received: self.seen.at,
            prompt_tokens,
            max_tokens: wish.max_tokens,
            streams: wish.streams,
        }
    }
}
