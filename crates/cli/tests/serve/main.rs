//! What the server promises, shown on the real program: one file per promise. The fast forms run on a small seeded
//! model and take seconds; with `TAMP_FULL=1` the counts are those of the promise and the model is the default one, from
//! `TAMP_STORE`.
#![allow(clippy::unwrap_used)] // a helper of a test is a test
#![cfg(unix)] // the way out is a signal

#[path = "../common/mod.rs"]
mod common;
#[path = "../../../server/tests/common/http.rs"]
mod http;

mod cost;
mod crash;
mod drain;
mod fair;
mod host;
mod leave;
mod one_answer;
mod overload;
mod prefix;
mod stall;
mod start;
