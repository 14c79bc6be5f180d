//! Plain data that every room shares. Nothing here does I/O.
//!
//! | module | what it holds |
//! |---|---|
//! | [`card`] | what a technique says of itself, its knobs, the visible table of a room |
//! | [`settings`] | `--use` and `--set`, the same words on the command line, in `tamp.toml` and in lab specs |
//! | [`meta`] | typed model metadata, as GGUF spells it; every importer translates into it |
//! | [`ids`] | sequence, page and token ids |
//! | [`near`] | which known word somebody meant |
//! | [`clock`] | injected time |
//! | [`count`] | asked / declined / acted, and work counters |
//! | [`record`] | the record of one measured process, shared by those who write it and those who judge |
//! | [`scored`] | what a process tells of its output's quality: likelihoods, divergences, graded answers |
//! | [`span`] | what took how long, in a ring that nobody waits for |
//! | [`wall`] | whether guessing and checking can pay: predicted from measured widths |
#![forbid(unsafe_code)]

pub mod card;
pub mod clock;
pub mod count;
pub mod ids;
pub mod meta;
pub mod near;
pub mod record;
pub mod scored;
pub mod settings;
pub mod span;
pub mod texts;
pub mod wall;
