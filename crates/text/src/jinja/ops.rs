//! Operators, with Python's meaning.

use std::cmp::Ordering;

use super::R;
use super::ast::{Cmp, Op};
use super::format::{printf, to_text};
use super::value::{MAX_WEIGHT, Shape, Value, too_large};
use super::vm::Vm;

/// A number as (integer, or float).
enum Num {
    I(i128),
    F(f64),
}

fn num(v: &Value) -> Option<Num> {
    match v {
        Value::Bool(b) => Some(Num::I((*b).into())),
        Value::Int(i) => Some(Num::I(*i)),
        Value::Float(f) => Some(Num::F(*f)),
        _ => None,
    }
}

/// A whole number, for indices and counts.
pub fn int(v: &Value) -> R<i128> {
    match num(v) {
        Some(Num::I(i)) => Ok(i),
        _ => Err(format!("expected a whole number, got {}", v.type_name())),
    }
}

/// Python's `==`. Costs at most the smaller operand's weight.
pub fn equal(vm: &Vm, a: &Value, b: &Value) -> R<bool> {
    vm.meter.pay(1 + (a.weight().min(b.weight()) / 16) as usize)?;
    Ok(match (a, b) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::Str(a), Value::Str(b)) => ***a == ***b,
        (Value::List(a), Value::List(b)) => {
            if a.shape != b.shape || a.items.len() != b.items.len() {
                return Ok(false);
            }
            for (x, y) in a.items.iter().zip(&b.items) {
                if !equal(vm, x, y)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Dict(a), Value::Dict(b)) => {
            if a.entries.len() != b.entries.len() {
                return Ok(false);
            }
            for (k, v) in &a.entries {
                match b.get(vm, k)? {
                    Some(o) if equal(vm, v, o)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Space(a), Value::Space(b)) => std::rc::Rc::ptr_eq(a, b),
        (Value::Macro(a, _), Value::Macro(b, _)) => a == b,
        (Value::Func(a), Value::Func(b)) => a == b,
        _ => match (num(a), num(b)) {
            (Some(Num::I(a)), Some(Num::I(b))) => a == b,
            (Some(Num::I(a)), Some(Num::F(b))) | (Some(Num::F(b)), Some(Num::I(a))) => a as f64 == b,
            (Some(Num::F(a)), Some(Num::F(b))) => a == b,
            _ => false,
        },
    })
}

impl super::value::Dict {
    /// The value of a key.
    pub fn get(&self, vm: &Vm, key: &Value) -> R<Option<&Value>> {
        vm.meter.pay(self.entries.len() / 8)?;
        for (k, v) in &self.entries {
            let same = match (k, key) {
                (Value::Str(a), Value::Str(b)) => ***a == ***b,
                _ => equal(vm, k, key)?,
            };
            if same {
                return Ok(Some(v));
            }
        }
        Ok(None)
    }
}

/// Python's order, for values that have one.
pub fn order(vm: &Vm, a: &Value, b: &Value) -> R<Ordering> {
    vm.meter.pay(1 + (a.weight().min(b.weight()) / 16) as usize)?;
    let found = match (a, b) {
        (Value::Str(a), Value::Str(b)) => Some((***a).cmp(&***b)),
        (Value::List(a), Value::List(b)) if a.shape == b.shape => {
            for (x, y) in a.items.iter().zip(&b.items) {
                if !equal(vm, x, y)? {
                    return order(vm, x, y);
                }
            }
            Some(a.items.len().cmp(&b.items.len()))
        }
        _ => match (num(a), num(b)) {
            (Some(Num::I(a)), Some(Num::I(b))) => Some(a.cmp(&b)),
            (Some(Num::I(a)), Some(Num::F(b))) => (a as f64).partial_cmp(&b),
            (Some(Num::F(a)), Some(Num::I(b))) => a.partial_cmp(&(b as f64)),
            (Some(Num::F(a)), Some(Num::F(b))) => a.partial_cmp(&b),
            _ => None,
        },
    };
    found.ok_or_else(|| format!("{} and {} have no order", a.type_name(), b.type_name()))
}

/// A comparison.
pub fn compare(vm: &Vm, op: Cmp, a: &Value, b: &Value) -> R<bool> {
    Ok(match op {
        Cmp::Eq => equal(vm, a, b)?,
        Cmp::Ne => !equal(vm, a, b)?,
        Cmp::In => contains(vm, b, a)?,
        Cmp::NotIn => !contains(vm, b, a)?,
        _ => {
            // A comparison with NaN is false, not an error.
            if let (Some(x), Some(y)) = (num(a), num(b))
                && [x, y].iter().any(|n| matches!(n, Num::F(f) if f.is_nan()))
            {
                return Ok(false);
            }
            let o = order(vm, a, b)?;
            match op {
                Cmp::Lt => o.is_lt(),
                Cmp::Le => o.is_le(),
                Cmp::Gt => o.is_gt(),
                _ => o.is_ge(),
            }
        }
    })
}

/// Python's `in`.
pub fn contains(vm: &Vm, whole: &Value, part: &Value) -> R<bool> {
    match whole {
        Value::Str(s) => {
            let p = part.as_str().ok_or_else(|| format!("`in` text needs text, got {}", part.type_name()))?;
            vm.meter.pay(s.len() / 16)?;
            Ok(s.contains(p))
        }
        Value::List(l) => {
            for v in &l.items {
                if equal(vm, v, part)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Dict(d) => Ok(d.get(vm, part)?.is_some()),
        Value::Undefined(_) => Ok(false),
        _ => Err(format!("{} has no `in`", whole.type_name())),
    }
}

/// A binary operator.
pub fn binary(vm: &Vm, op: Op, a: &Value, b: &Value) -> R<Value> {
    if op == Op::Concat {
        let mut s = to_text(vm, a)?;
        s.push_str(&to_text(vm, b)?);
        return Value::text(&vm.meter, s);
    }
    for v in [a, b] {
        if let Value::Undefined(n) = v {
            return Err(format!("`{n}` is undefined"));
        }
    }
    match (op, a, b) {
        (Op::Add, Value::Str(a), Value::Str(b)) => {
            vm.meter.room(a.len() + b.len())?;
            return Value::text(&vm.meter, [&***a, &***b].concat());
        }
        (Op::Add, Value::List(x), Value::List(y)) if x.shape == y.shape => {
            vm.meter.room((x.items.len() + y.items.len()) * 32)?;
            let items = x.items.iter().chain(&y.items).cloned().collect();
            return Value::list(&vm.meter, items, x.shape);
        }
        (Op::Mul, Value::Str(s), n) | (Op::Mul, n, Value::Str(s)) => {
            let n = times(vm, n, s.len() as u64)?;
            return Value::text(&vm.meter, s.repeat(n));
        }
        (Op::Mul, Value::List(l), n) | (Op::Mul, n, Value::List(l)) => {
            let n = times(vm, n, l.items.len() as u64 * 32)?;
            let items: Vec<Value> = (0..n).flat_map(|_| l.items.iter().cloned()).collect();
            return Value::list(&vm.meter, items, l.shape);
        }
        (Op::Mod, Value::Str(f), v) => {
            let args = match v {
                Value::List(l) if l.shape == Shape::Tuple => l.items.as_slice(),
                _ => std::slice::from_ref(v),
            };
            return printf(vm, f, args);
        }
        _ => {}
    }
    let (Some(x), Some(y)) = (num(a), num(b)) else {
        return Err(format!("{} {} {} is not defined", a.type_name(), name(op), b.type_name()));
    };
    match (x, y) {
        (Num::I(x), Num::I(y)) if op != Op::Div => integer(op, x, y),
        (x, y) => float(op, as_f(x), as_f(y)).map(Value::Float),
    }
}

fn as_f(n: Num) -> f64 {
    match n {
        Num::I(i) => i as f64,
        Num::F(f) => f,
    }
}

fn times(vm: &Vm, n: &Value, unit: u64) -> R<usize> {
    let n = int(n)?.max(0);
    let total = u128::from(unit).saturating_mul(n as u128);
    if total > u128::from(MAX_WEIGHT) {
        return Err(too_large());
    }
    vm.meter.room(total as usize)?;
    // A repeated nothing is nothing, however often.
    Ok(if unit == 0 { 0 } else { n as usize })
}

fn integer(op: Op, x: i128, y: i128) -> R<Value> {
    let large = || "a number is too large".to_string();
    if y == 0 && matches!(op, Op::FloorDiv | Op::Mod) {
        return Err("division by zero".into());
    }
    let r = match op {
        Op::Add => x.checked_add(y),
        Op::Sub => x.checked_sub(y),
        Op::Mul => x.checked_mul(y),
        Op::FloorDiv => {
            x.checked_div(y).map(|q| if x % y != 0 && (x % y < 0) != (y < 0) { q - 1 } else { q })
        }
        Op::Mod => x.checked_rem(y).map(|r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r }),
        Op::Pow if y < 0 => return Ok(Value::Float((x as f64).powf(y as f64))),
        Op::Pow => u32::try_from(y).ok().and_then(|y| x.checked_pow(y)),
        Op::Div | Op::Concat => None,
    };
    r.map(Value::Int).ok_or_else(large)
}

fn float(op: Op, x: f64, y: f64) -> R<f64> {
    if y == 0.0 && matches!(op, Op::Div | Op::FloorDiv | Op::Mod) {
        return Err("division by zero".into());
    }
    Ok(match op {
        Op::Add => x + y,
        Op::Sub => x - y,
        Op::Mul => x * y,
        Op::Div => x / y,
        Op::FloorDiv => (x / y).floor(),
        Op::Mod => x - y * (x / y).floor(),
        Op::Pow | Op::Concat => x.powf(y),
    })
}

fn name(op: Op) -> &'static str {
    match op {
        Op::Add => "+",
        Op::Sub => "-",
        Op::Concat => "~",
        Op::Mul => "*",
        Op::Div => "/",
        Op::FloorDiv => "//",
        Op::Mod => "%",
        Op::Pow => "**",
    }
}

/// Indices that Python's slice takes of `len` items.
pub fn slice(len: usize, parts: [Option<&Value>; 3]) -> R<impl Iterator<Item = usize>> {
    let get = |v: Option<&Value>| match v {
        None | Some(Value::None) => Ok(None),
        Some(v) => int(v).map(Some),
    };
    let [start, stop, step] = [get(parts[0])?, get(parts[1])?, get(parts[2])?];
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err("a slice step cannot be zero".into());
    }
    let n = len as i128;
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let clip = |v: i128| if v < 0 { v.saturating_add(n) } else { v }.clamp(low, high);
    let start = start.map_or(if step > 0 { low } else { high }, clip);
    let stop = stop.map_or(if step > 0 { high } else { low }, clip);
    let mut at = Some(start);
    Ok(std::iter::from_fn(move || {
        let i = at.filter(|&i| if step > 0 { i < stop } else { i > stop })?;
        at = i.checked_add(step);
        Some(i as usize)
    }))
}
