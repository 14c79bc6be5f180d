//! KV memory: pages, tables, copy-on-write.
#![forbid(unsafe_code)]
