//! Filters that work through a sequence.

use std::cmp::Ordering;

use super::R;
use super::ast::{Cmp, Op};
use super::filters;
use super::methods::join;
use super::ops::{binary, compare, int, order};
use super::tests_of::test;
use super::value::{Shape, Value};
use super::vm::{Call, Vm};

/// Runs a filter.
pub fn filter(vm: &mut Vm, name: &str, v: Value, a: Call) -> R<Value> {
    // Jinja lets these work through anything that is not true.
    let lenient = matches!(name, "select" | "reject" | "selectattr" | "rejectattr" | "map");
    let v = if lenient && !v.is_true() { Value::list(&vm.meter, vec![], Shape::List)? } else { v };
    let list = |vm: &Vm, items, shape| Value::list(&vm.meter, items, shape);
    Ok(match name {
        "join" => {
            let items = vm.items(&v)?;
            let by = match a.get(0, "d") {
                None => String::new(),
                Some(d) => super::format::to_text(vm, d)?,
            };
            match a.get(1, "attribute").cloned() {
                None => join(vm, &items.items, &by)?,
                Some(key) => {
                    let picked = items.items.iter().map(|v| path(vm, v, &key)).collect::<R<Vec<_>>>()?;
                    join(vm, &picked, &by)?
                }
            }
        }
        "list" => {
            let items = vm.items(&v)?.items.clone();
            list(vm, items, Shape::List)?
        }
        "first" => vm.items(&v)?.items.first().cloned().unwrap_or_else(|| Value::undefined("first")),
        "last" => vm.items(&v)?.items.last().cloned().unwrap_or_else(|| Value::undefined("last")),
        "reverse" => match &v {
            Value::Str(s) => Value::text(&vm.meter, s.chars().rev().collect::<String>())?,
            v => {
                let items = vm.items(v)?.items.iter().rev().cloned().collect();
                list(vm, items, Shape::Iter)?
            }
        },
        "select" | "reject" | "selectattr" | "rejectattr" => {
            let by_attr = name.ends_with("attr");
            let want = name.starts_with("select");
            let key =
                if by_attr { Some(a.get(0, "attribute").ok_or("an attribute is missing")?) } else { None };
            let rest = &a.pos[usize::from(by_attr).min(a.pos.len())..];
            let mut kept = vec![];
            for item in &vm.items(&v)?.items {
                let value = match key {
                    Some(k) => path(vm, item, k)?,
                    None => item.clone(),
                };
                let yes = match rest {
                    [] => value.is_true(),
                    [t, args @ ..] => test(vm, t.as_str().ok_or("a test is a name")?, &value, args)?,
                };
                vm.meter.pay(1)?;
                if yes == want {
                    kept.push(item.clone());
                }
            }
            list(vm, kept, Shape::Iter)?
        }
        "map" => {
            let items = vm.items(&v)?;
            let mut out = Vec::with_capacity(items.items.len());
            let attribute = a.named.iter().find(|n| n.0 == "attribute").map(|n| &n.1);
            let default = a.named.iter().find(|n| n.0 == "default").map(|n| &n.1);
            for item in &items.items {
                vm.meter.pay(1)?;
                out.push(match (attribute, a.pos.first()) {
                    (Some(k), _) => match path(vm, item, k)? {
                        Value::Undefined(_) if default.is_some() => default.cloned().unwrap_or(Value::None),
                        v => v,
                    },
                    (None, Some(f)) => {
                        let f = f.as_str().ok_or("a filter is a name")?;
                        let call = Call { pos: a.pos[1..].to_vec(), named: a.named.clone() };
                        filters::filter(vm, f, item.clone(), call)?
                    }
                    (None, None) => return Err("map needs an attribute or a filter".into()),
                });
            }
            list(vm, out, Shape::Iter)?
        }
        "sort" | "unique" | "min" | "max" => sorted(vm, name, &v, &a)?,
        "dictsort" => {
            let Value::Dict(d) = &v else { return Err(format!("{} has no items", v.type_name())) };
            let by = usize::from(a.get(1, "by").and_then(Value::as_str) == Some("value"));
            let mut keyed = vec![];
            for (k, x) in &d.entries {
                let key = fold(vm, [k, x][by], a.flag(0, "case_sensitive", false))?;
                keyed.push((key, Value::list(&vm.meter, vec![k.clone(), x.clone()], Shape::Tuple)?));
            }
            let items = sort(vm, keyed, a.flag(2, "reverse", false))?;
            list(vm, items, Shape::List)?
        }
        "sum" => {
            let mut total = a.get(1, "start").cloned().unwrap_or(Value::Int(0));
            for item in &vm.items(&v)?.items {
                let x = match a.get(0, "attribute") {
                    Some(k) if !matches!(k, Value::None) => path(vm, item, k)?,
                    _ => item.clone(),
                };
                total = binary(vm, Op::Add, &total, &x)?;
            }
            total
        }
        "batch" => {
            let n = usize::try_from(int(a.get(0, "linecount").ok_or("batch needs a size")?)?)
                .ok()
                .filter(|&n| n > 0)
                .ok_or("batch needs a size")?;
            let items = vm.items(&v)?;
            let parts = items.items.chunks(n).map(|c| list(vm, c.to_vec(), Shape::List));
            let parts = parts.collect::<R<_>>()?;
            list(vm, parts, Shape::Iter)?
        }
        _ => return Err(format!("unknown filter `{}`", crate::error::brief(name, 40))),
    })
}

/// `a.b.0` of a value, as filters' `attribute` arguments spell it.
fn path(vm: &mut Vm, v: &Value, key: &Value) -> R<Value> {
    let Value::Str(s) = key else { return vm.item(v, key) };
    let mut v = v.clone();
    for part in s.split('.') {
        let key = match part.parse::<i128>() {
            Ok(i) => Value::Int(i),
            Err(_) => Value::text(&vm.meter, part)?,
        };
        v = vm.item(&v, &key)?;
    }
    Ok(v)
}

/// The key that text sorts by.
fn fold(vm: &Vm, v: &Value, case_sensitive: bool) -> R<Value> {
    match v {
        Value::Str(s) if !case_sensitive => Value::text(&vm.meter, s.to_lowercase()),
        v => Ok(v.clone()),
    }
}

/// Stable sort by key. Our own merge sort: the order is partial, and the standard sort may panic on such.
fn sort(vm: &Vm, mut items: Vec<(Value, Value)>, reverse: bool) -> R<Vec<Value>> {
    fn go(vm: &Vm, items: &mut Vec<(Value, Value)>, reverse: bool) -> R<()> {
        if items.len() < 2 {
            return Ok(());
        }
        let mut right = items.split_off(items.len() / 2);
        go(vm, items, reverse)?;
        go(vm, &mut right, reverse)?;
        let left = std::mem::take(items);
        let (mut l, mut r) = (left.into_iter().peekable(), right.into_iter().peekable());
        while let (Some(x), Some(y)) = (l.peek(), r.peek()) {
            let o = order(vm, &x.0, &y.0)?;
            let o = if reverse { o.reverse() } else { o };
            items.extend(if o == Ordering::Greater { r.next() } else { l.next() });
        }
        items.extend(l);
        items.extend(r);
        Ok(())
    }
    go(vm, &mut items, reverse)?;
    Ok(items.into_iter().map(|i| i.1).collect())
}

fn sorted(vm: &mut Vm, name: &str, v: &Value, a: &Call) -> R<Value> {
    // sort(reverse, case_sensitive, attribute); the others (case_sensitive, attribute)
    let shift = usize::from(name == "sort");
    let case = a.flag(shift, "case_sensitive", false);
    let attribute = a.get(shift + 1, "attribute").filter(|k| !matches!(k, Value::None)).cloned();
    let items = vm.items(v)?;
    let mut keyed: Vec<(Value, Value)> = vec![];
    for item in &items.items {
        let key = match &attribute {
            Some(k) => path(vm, item, k)?,
            None => item.clone(),
        };
        let key = fold(vm, &key, case)?;
        if name == "unique" {
            let mut seen = false;
            for (k, _) in &keyed {
                seen = seen || compare(vm, Cmp::Eq, k, &key)?;
            }
            if seen {
                continue;
            }
        }
        keyed.push((key, item.clone()));
    }
    let reverse = name == "max" || name == "sort" && a.flag(0, "reverse", false);
    match name {
        "unique" => Value::list(&vm.meter, keyed.into_iter().map(|i| i.1).collect(), Shape::Iter),
        "sort" => {
            let items = sort(vm, keyed, reverse)?;
            Value::list(&vm.meter, items, Shape::List)
        }
        _ => {
            let items = sort(vm, keyed, reverse)?;
            Ok(items.into_iter().next().unwrap_or_else(|| Value::undefined(name)))
        }
    }
}
