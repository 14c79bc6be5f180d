//! Constrained answers: which tokens may come next so that the whole text stays inside a JSON schema, a regular
//! expression or a grammar (`llguidance`: Earley parser and lazy lexer over the bytes of the vocabulary).
//!
//! Masks are exact and depend on the tokens so far alone: every token that keeps the text a beginning of some valid text
//! is allowed, also where the grammar leaves a single text that could be cut into tokens in several ways. Forced text is
//! offered as a guess ([`State::forced`]) instead of narrowing the mask, so a guess never changes the answer.

mod check;
mod state;
mod vocabulary;

use std::fmt;
use std::sync::{Arc, OnceLock};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::TokEnv;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::error::{Error, brief};
use crate::tokenizer::Tokenizer;
use crate::tools::{Style, Tool};

pub use check::{MAX_DEPTH, MAX_GRAMMAR_BYTES, MAX_REGEX_BYTES, MAX_SCHEMA_BYTES};
pub use state::{Mask, State};

/// What an answer has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum GrammarSpec {
    /// any JSON object
    JsonObject,
    /// JSON that is valid under this schema (the keywords of draft 2020-12 that `llguidance` keeps; others are refused).
    /// `$ref` only inside the schema
    JsonSchema(Value),
    /// text that matches as a whole (syntax of the `regex` crate, without anchors and lookaround)
    Regex(String),
    /// a Lark grammar in `llguidance`'s dialect (`start: …`, `/regex/`, `%json {…}`, `<[id]>` for a control token); GBNF
    /// is not accepted
    Grammar(String),
    /// a call of one of these tools in the way this model writes calls
    ToolCalls {
        /// how the model writes calls
        style: Style,
        /// what may be called; one tool for a named `tool_choice`
        tools: Vec<Tool>,
        /// several calls may follow one another
        parallel: bool,
    },
}

impl GrammarSpec {
    /// The name under which refusals speak of it.
    fn field(&self) -> &'static str {
        match self {
            Self::JsonObject => "json_object",
            Self::JsonSchema(_) => "json_schema",
            Self::Regex(_) => "regex",
            Self::Grammar(_) => "grammar",
            Self::ToolCalls { .. } => "tools",
        }
    }
}

/// Compiles grammars for one tokenizer. The tables over its vocabulary (some tens of megabytes for 150 000 tokens) are made at
/// the first use. Share it between threads.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    factory: OnceLock<Result<ParserFactory, Error>>,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").field("built", &self.factory.get().is_some()).finish()
    }
}

/// Bounds of one grammar, all in work done and none in time, so that the same request always meets the same answer. At the speeds
/// `llguidance` names (50 000 units per ms to build, 14 000 per ms in a mask) they are 20 ms and 15 ms.
fn limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_items_in_row: 2_000,
        // 1 to 2 kB each
        max_lexer_states: 50_000,
        max_grammar_size: 200_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

impl Grammars {
    /// For the tokenizer of the model that will answer. Costs nothing yet.
    pub fn new(tokenizer: &Arc<Tokenizer>) -> Self {
        Self { tokenizer: Arc::clone(tokenizer), factory: OnceLock::new() }
    }

    /// Compiles a specification.
    ///
    /// # Errors
    /// One sentence that names the field and what is wrong with it: not understood, over a bound, satisfiable by nothing; or
    /// that the tokenizer has no end token, so that a constrained answer could not end.
    pub fn compile(&self, spec: &GrammarSpec) -> Result<Grammar, Error> {
        let field = spec.field();
        let refuse = |why: String| Error::Grammar { field: field.into(), why };
        let top = match spec {
            GrammarSpec::JsonObject => schema(&json!({"type": "object"})),
            GrammarSpec::JsonSchema(s) => {
                check::schema(field, s)?;
                schema(s)
            }
            GrammarSpec::Regex(r) => {
                check::regex(field, r)?;
                TopLevelGrammar::from_regex(r)
            }
            GrammarSpec::Grammar(g) => {
                check::lark(field, g)?;
                TopLevelGrammar::from_lark(g.clone())
            }
            GrammarSpec::ToolCalls { style, tools, parallel } => {
                check::tools(tools)?;
                TopLevelGrammar::from_lark(style.grammar(&self.tokenizer, tools, *parallel))
            }
        };
        let factory = self.factory()?;
        let parser = factory.create_parser(top).map_err(|e| refuse(sentence(&e)))?;
        let mut start = Matcher::new(Ok(parser));
        // The first mask finds what compiling does not: a lexer over its bounds, a grammar that no text satisfies.
        start.compute_mask_or_eos().map_err(|e| refuse(sentence(&e)))?;
        Ok(Grammar { inner: Arc::new(Inner { start, tokenizer: Arc::clone(&self.tokenizer) }) })
    }

    fn factory(&self) -> Result<&ParserFactory, Error> {
        let made = self.factory.get_or_init(|| {
            let env: TokEnv = Arc::new(vocabulary::Vocabulary::new(&self.tokenizer)?);
            let broken =
                |e| Error::Broken(format!("no grammar can be laid over its tokens: {}", sentence(&e)));
            let mut factory = ParserFactory::new_simple(&env).map_err(broken)?;
            factory.quiet();
            *factory.limits_mut() = limits();
            Ok(factory)
        });
        made.as_ref().map_err(Clone::clone)
    }
}

/// A compiled grammar; clones share it.
#[derive(Clone)]
pub struct Grammar {
    inner: Arc<Inner>,
}

struct Inner {
    /// never moved
    start: Matcher,
    tokenizer: Arc<Tokenizer>,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

impl Grammar {
    /// The state of a sequence at the beginning of its answer.
    pub fn start(&self) -> State {
        State::new(self.clone())
    }
}

/// White space between tokens of JSON is bounded: a model at a loss else writes newlines to the end of the context.
const JSON_SPACE: &str = r"[ \t]{1,2}|\r?\n[ \t]{0,64}";

/// The options that every schema is compiled under, as `llguidance` reads them.
pub(crate) fn schema_options() -> Value {
    json!({"whitespace_pattern": JSON_SPACE, "json_allow_general_unicode_escapes": true})
}

fn schema(schema: &Value) -> TopLevelGrammar {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        s => s.clone(),
    };
    if let Value::Object(o) = &mut schema {
        o.insert("x-guidance".into(), schema_options());
    }
    TopLevelGrammar::from_json_schema(schema)
}

/// The first line of an error, without the parser's state.
fn sentence(e: &impl fmt::Display) -> String {
    let all = e.to_string();
    let line = all.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("it cannot be compiled");
    brief(line, 300)
}
