//! Tokens to text and back, chat templates, streaming detokenisation.
#![forbid(unsafe_code)]
