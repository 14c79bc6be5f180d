//! A Jinja2 interpreter for chat templates.
//!
//! Ours, because a template comes with a model file and may be hostile: every step, byte and nesting level is
//! counted, values cannot change once made, and nothing recurses deeper than the parser allowed. The engine we tried
//! first (minijinja 2.24) panics on `[1,2,3][0:5:-1]`, overflows the stack when a list of 90 000 levels is dropped,
//! and has no bound on what `~` doubles in a loop.
//!
//! Semantics are Python's where templates can see them: `True`, `None`, `repr`, slices, string methods, `json.dumps`.
//! Lists and dictionaries are read-only, as in the sandbox that `transformers` renders in.

mod ast;
mod calls;
mod expr;
mod filters;
mod format;
mod lex;
mod methods;
mod ops;
mod parse;
mod sequences;
mod tests_of;
mod value;
mod vm;

pub use ast::Program;
pub use parse::parse;
pub use value::{Meter, Value};
pub use vm::Vm;

/// Why parsing or rendering stopped, in words.
pub type R<T> = Result<T, String>;
