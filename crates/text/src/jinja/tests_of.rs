//! Tests: what may follow `is`.

use super::R;
use super::ast::Cmp;
use super::ops::{compare, int};
use super::value::{Shape, Value};
use super::vm::Vm;

/// Runs a test.
pub fn test(vm: &Vm, name: &str, v: &Value, args: &[Value]) -> R<bool> {
    let arg = || args.first().ok_or_else(|| format!("test `{name}` needs an argument"));
    Ok(match name {
        "defined" => !matches!(v, Value::Undefined(_)),
        "undefined" => matches!(v, Value::Undefined(_)),
        "none" => matches!(v, Value::None),
        "string" => matches!(v, Value::Str(_)),
        "number" => matches!(v, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "integer" => matches!(v, Value::Int(_)),
        "float" => matches!(v, Value::Float(_)),
        "boolean" => matches!(v, Value::Bool(_)),
        "true" => matches!(v, Value::Bool(true)),
        "false" => matches!(v, Value::Bool(false)),
        "mapping" => matches!(v, Value::Dict(_)),
        "sequence" => match v {
            Value::List(l) => l.shape != Shape::Iter,
            v => matches!(v, Value::Str(_) | Value::Dict(_) | Value::Undefined(_)),
        },
        "iterable" => {
            matches!(
                v,
                Value::Str(_) | Value::List(_) | Value::Dict(_) | Value::Undefined(_) | Value::Loop(_)
            )
        }
        "callable" => {
            matches!(v, Value::Macro(..) | Value::Func(_) | Value::Method(_) | Value::Undefined(_))
        }
        "odd" => int(v)?.rem_euclid(2) == 1,
        "even" => int(v)?.rem_euclid(2) == 0,
        "divisibleby" => {
            let d = int(arg()?)?;
            int(v)?.checked_rem(d).ok_or("division by zero")? == 0
        }
        "eq" | "equalto" => compare(vm, Cmp::Eq, v, arg()?)?,
        "ne" => compare(vm, Cmp::Ne, v, arg()?)?,
        "lt" | "lessthan" => compare(vm, Cmp::Lt, v, arg()?)?,
        "le" => compare(vm, Cmp::Le, v, arg()?)?,
        "gt" | "greaterthan" => compare(vm, Cmp::Gt, v, arg()?)?,
        "ge" => compare(vm, Cmp::Ge, v, arg()?)?,
        "in" => compare(vm, Cmp::In, v, arg()?)?,
        "sameas" => match (v, arg()?) {
            (Value::Bool(_), o) | (o, Value::Bool(_)) if !matches!(o, Value::Bool(_)) => false,
            (v, o) => compare(vm, Cmp::Eq, v, o)?,
        },
        "lower" => cased(v, char::is_uppercase),
        "upper" => cased(v, char::is_lowercase),
        "escaped" => false,
        _ => return Err(format!("unknown test `{}`", crate::error::brief(name, 40))),
    })
}

fn cased(v: &Value, other: fn(char) -> bool) -> bool {
    v.as_str().is_some_and(|s| s.chars().any(char::is_alphabetic) && !s.chars().any(other))
}
