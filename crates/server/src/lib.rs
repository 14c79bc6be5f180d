//! HTTP: one endpoint per file, wire types, layers. It knows an engine by its [`tamp_engine::drive::Handle`] alone.
#![forbid(unsafe_code)]
