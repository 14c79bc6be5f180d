//! Workloads that print rows.
#![forbid(unsafe_code)]
