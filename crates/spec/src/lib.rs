//! Guess and check: proposers and acceptors.
#![forbid(unsafe_code)]
