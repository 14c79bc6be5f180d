//! From a conversation to sequences that answer it: what every API that takes conversations shares. Routes of other APIs
//! write their body in the words of `/v1/chat/completions` ([`form`]) and go the same way.

use std::sync::Arc;

use serde_json::Value;
use tamp_base::ids::Token;
use tamp_text::grammar::GrammarSpec;
use tamp_text::think;

use super::chat::{self, Talk};
use crate::answer::Flows;
use crate::app::App;
use crate::ask::{self, Ask, Wish};
use crate::call::Call;
use crate::error::ApiError;
use crate::layer::thinkgate::{Scene, VARIABLE};
use crate::model::Served;
use crate::speech::Speech;
use crate::wire::form::Form;
use crate::wire::format;
use crate::wire::tools::{Must, Tools};

/// Sequences that have begun to answer a conversation.
pub struct Turn {
    /// who asks which model
    pub ask: Ask,
    /// the sequences
    pub flows: Flows,
    /// their readers
    pub speeches: Vec<Speech>,
    /// tokens of the prompt
    pub prompt: usize,
    /// the rule that turned thinking off
    pub gate: Option<&'static str>,
}

/// A body of another API in the words of `/v1/chat/completions`.
///
/// # Errors
/// What that route would refuse.
pub fn form(body: Value) -> Result<Form, ApiError> {
    Form::read(&chat::SHAPE, body)
}

/// The prompt of a conversation, and what its answer has to be.
pub struct Prompt {
    text: String,
    /// its tokens
    pub tokens: Vec<Token>,
    tools: Tools,
    spec: Option<GrammarSpec>,
    gate: Option<&'static str>,
}

/// Reads the conversation, asks the gate, renders the template.
///
/// # Errors
/// 400 naming the field.
pub async fn prompt(app: &App, form: &Form, model: &Arc<Served>) -> Result<Prompt, ApiError> {
    let spec = format::read(form.get("response_format"))?;
    let mut talk = Talk::read(form, &app.limits)?;
    let formed = spec.is_some() || talk.tools.must != Must::Nothing;
    let knows = model.template_source.as_ref().is_some_and(|t| t.contains(VARIABLE));
    let open = form.flag("think_gate").unwrap_or(true) && knows && !talk.extra.contains_key(VARIABLE);
    let gate = match open {
        true => app.gate.closes(&app.settings, &Scene { messages: &talk.messages, formed })?,
        false => None,
    };
    if gate.is_some() {
        talk.extra.insert(VARIABLE.into(), false.into());
    }
    let (text, tokens, tools) = talk.prompt(model).await?;
    let spec = tools.constrain(spec, model)?;
    Ok(Prompt { text, tokens, tools, spec, gate })
}

/// Hands the conversation in.
///
/// # Errors
/// 400, 429 or 503; nothing is left running then.
pub async fn begin(call: &Call, form: &Form, model: Arc<Served>, mut wish: Wish) -> Result<Turn, ApiError> {
    let Prompt { text, tokens, tools, spec, gate } = prompt(&call.app, form, &model).await?;
    if let Some(spec) = spec {
        if wish.ignore_eos {
            let why = "`ignore_eos` would go on where the answer's form ends; send one of the two";
            return Err(ApiError::field("ignore_eos", why));
        }
        wish.constraint = Some(ask::grammar(&model, spec).await?);
    }
    let ask = Ask::new(call, model.clone());
    let parser = tools.parser(&model)?;
    // An answer whose form is given has it from its first token on.
    let opened = think::opened_by(&text) && wish.constraint.is_none();
    let prompt = tokens.len();
    let flows = ask.submit(vec![tokens], &wish).await?;
    let speech = |i: usize| Speech::new(opened, parser.clone(), format!("call_{}_{i}", ask.seen.id));
    let speeches = (0..flows.len()).map(speech).collect();
    Ok(Turn { ask, flows, speeches, prompt, gate })
}

/// Holds a wish for thinking to what the model can: one whose template knows nothing of it would not think, and not say so.
///
/// # Errors
/// 400 naming the field.
pub fn thinks(model: &Served, at: &str, on: bool) -> Result<(), ApiError> {
    let template = model.template_source.as_deref().unwrap_or("");
    if !on || template.contains(VARIABLE) || template.contains(think::TAGS.0) {
        return Ok(());
    }
    let why = format!("`{at}` asks `{}` to think, and its chat template does not know how", model.name);
    Err(ApiError { code: "unsupported_value", ..ApiError::field(at, why) })
}
