//! HTTP: one endpoint per file, wire types, layers. It knows an engine by its [`tamp_engine::drive::Handle`] alone.
//!
//! | module | what it holds |
//! |---|---|
//! | [`app`] | what every request may use: models, bounds, keys, observers, the way out |
//! | [`board`], [`meter`] | what the page shows: figures handed in, and figures that move |
//! | [`model`] | a served model, and the set or pool that models come from |
//! | [`route`] | the table of routes; one endpoint per file |
//! | [`ask`], [`answer`], [`speech`] | wire types → engine, and the way back |
//! | [`send`] | server-sent events, the room `server.stream` |
//! | [`serve`] | the listener: connections, signals, the drain |
//! | [`layer`] | around every route: id and trace, host and origin, key |
//! | [`observe`] | a request's life, told to metrics, objectives, spans and health |
//! | [`error`] | refusals, in OpenAI's shape |
//! | [`keys`] | tenants |
//! | [`ops`] | the observer of everything: [`metrics`], [`health`], objectives, costs, names of spans |
//! | [`pool`] | several models behind names, loaded when asked for |
//! | [`kvevents`] | what the KV cache holds, for routers |
//! | [`otlp`] | spans to a collector |
//! | [`drain`] | the way out |
#![forbid(unsafe_code)]

pub mod answer;
pub mod app;
pub mod ask;
pub mod board;
pub mod call;
pub mod drain;
pub mod error;
pub mod health;
pub mod keys;
pub mod kvevents;
pub mod layer;
pub mod life;
pub mod limits;
pub mod meter;
pub mod metrics;
pub mod model;
pub mod observe;
pub mod ops;
pub mod otlp;
pub mod pool;
pub mod rolling;
pub mod route;
pub mod send;
pub mod serve;
pub mod speech;
pub mod wire;
pub mod words;
