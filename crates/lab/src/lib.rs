//! Falsifiable experiments: a frozen question, bracketed samples from fresh processes, checks, statistics, one of eight
//! verdicts, and a ledger that is only ever added to. Links no engine: an arm is a process that prints a
//! [`tamp_base::record::Sample`].
//!
//! | module | what it holds |
//! |---|---|
//! | [`spec`] | the question, its id, the rules of asking |
//! | [`observe`] | facts by path, and predicates on them |
//! | [`run`] | from question to verdict, resumable |
//! | [`bench`] | where samples come from: fresh processes |
//! | [`host`] | the machine, and whether it is quiet |
//! | [`check`], [`quality`] | what must be true before speed means anything |
//! | [`stats`] | orders, paired ratios, intervals, floors, looks, drift; the self-test |
//! | [`verdict`] | from records to one of eight verdicts |
//! | [`lock`] | one measurement at a time on a machine |
//! | [`ledger`], [`record`] | rows and records that are only added to |
//! | [`replay`] | the same records give the same verdict |
//! | [`why`], [`queue`] | what is known, who may run |
//! | [`program`] | a queue of questions under one bar |
//! | [`code`] | revisions and patches as arms |
//! | [`foreign`], [`others`] | engines that are not ours, and built revisions, as arms |
//! | [`report`] | one page of plots |
#![forbid(unsafe_code)]

pub mod bench;
pub mod check;
pub mod code;
pub mod foreign;
pub mod host;
pub mod ledger;
pub mod lock;
pub mod observe;
pub mod others;
pub mod program;
pub mod quality;
pub mod queue;
pub mod record;
pub mod replay;
pub mod report;
pub mod run;
pub mod spec;
pub mod stats;
pub mod verdict;
pub mod why;
