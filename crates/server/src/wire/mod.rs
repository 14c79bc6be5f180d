//! What stands in bodies: strict JSON, the tables of fields, conversations.

pub mod fields;
pub mod form;
pub mod format;
pub mod json;
pub mod messages;
pub mod tools;
pub mod usage;
