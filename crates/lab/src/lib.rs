//! Falsifiable experiments: a frozen question, bracketed samples from fresh processes, checks, statistics, one of eight
//! verdicts, and a ledger that is only ever added to. Links no engine: an arm is a process that prints a
//! [`tamp_base::record::Sample`].
#![forbid(unsafe_code)]

pub mod foreign;
pub mod lock;
pub mod report;
pub mod stats;
