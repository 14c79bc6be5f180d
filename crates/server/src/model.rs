//! A model behind a name. No type of a device comes this far: an engine is its handle.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tamp_engine::drive::{Driver, Handle};
use tamp_text::grammar::Grammars;
use tamp_text::{Template, Tokenizer};

use crate::error::{ApiError, ServerError};

/// A model that answers.
pub struct Served {
    /// what requests call it
    pub name: Arc<str>,
    /// its engine
    pub handle: Handle,
    /// conversation → text; models without one answer to plain prompts only
    pub template: Option<Template>,
    /// the template's source, for those who look into it
    pub template_source: Option<String>,
    /// compiles what answers have to be
    pub grammars: Grammars,
    /// seconds since 1970 when the file was written, or the model was opened
    pub created: u64,
    /// ends the engine when the last holder lets go
    driver: Mutex<Option<Driver>>,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Served {
    /// A model for its engine. `template`: the source of its chat template.
    ///
    /// # Errors
    /// A template that does not parse.
    pub fn new(
        name: &str,
        handle: Handle,
        template: Option<&str>,
        created: u64,
    ) -> Result<Self, ServerError> {
        let t = handle.tokenizer();
        let piece = |id: Option<u32>| id.map_or("", |id| t.piece(id));
        let parsed = template
            .map(|source| Template::new(source, piece(t.bos()), piece(t.eos())))
            .transpose()
            .map_err(|e| ServerError::Model { name: name.into(), why: e.to_string() })?;
        let grammars = Grammars::new(t);
        Ok(Served {
            grammars,
            name: name.into(),
            handle,
            template: parsed,
            template_source: template.map(str::to_string),
            created,
            driver: Mutex::default(),
        })
    }

    /// Ties the engine's thread to this model: it ends when the last holder lets go.
    pub fn owning(self, driver: Driver) -> Self {
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(driver);
        self
    }

    /// Tokens ⇄ text.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        self.handle.tokenizer()
    }
}

/// A line of `/v1/models`.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// its name
    pub name: Arc<str>,
    /// seconds since 1970
    pub created: u64,
    /// positions per sequence; 0 while it is not loaded
    pub ctx: usize,
    /// in memory now
    pub loaded: bool,
}

/// A future that somebody else's type answers with.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The models behind a server: a fixed set, or a pool that loads and evicts.
pub trait Models: Send + Sync {
    /// The model of this name, loaded if need be; held while somebody has it. An unknown name is a 404 that lists the
    /// known ones: never another model.
    fn get<'a>(&'a self, name: &'a str) -> Later<'a, Result<Arc<Served>, ApiError>>;
    /// All of them, in the operator's order.
    fn list(&self) -> Vec<Listed>;
    /// Those in memory now, for health and metrics.
    fn loaded(&self) -> Vec<Arc<Served>>;
}

/// Models that are there from start to end.
pub struct Fixed(Vec<Arc<Served>>);

impl Fixed {
    /// These.
    pub fn new(models: Vec<Arc<Served>>) -> Self {
        Self(models)
    }
}

/// The refusal of a name.
pub fn unknown_model<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> ApiError {
    let known: Vec<&str> = known.collect();
    let nearest = crate::words::nearest(name, known.iter().copied());
    let hint = nearest.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
    let (name, known) = (crate::words::brief(name), known.join(", "));
    ApiError::status(
        axum::http::StatusCode::NOT_FOUND,
        "model_not_found",
        format!("there is no model `{name}` here; known: {known}{hint}"),
    )
    .at("model")
}

impl Models for Fixed {
    fn get<'a>(&'a self, name: &'a str) -> Later<'a, Result<Arc<Served>, ApiError>> {
        let found = self.0.iter().find(|m| &*m.name == name).cloned();
        let found = found.ok_or_else(|| unknown_model(name, self.0.iter().map(|m| &*m.name)));
        Box::pin(std::future::ready(found))
    }

    fn list(&self) -> Vec<Listed> {
        let line = |m: &Arc<Served>| Listed {
            name: m.name.clone(),
            created: m.created,
            ctx: m.handle.ctx(),
            loaded: true,
        };
        self.0.iter().map(line).collect()
    }

    fn loaded(&self) -> Vec<Arc<Served>> {
        self.0.clone()
    }
}
