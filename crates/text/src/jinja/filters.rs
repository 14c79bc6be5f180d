//! Filters of one value. Those that work through a sequence are in `sequences`.

use super::R;
use super::format::{Json, printf, to_text};
use super::methods::{self, capitalize, replace, space, title};
use super::ops::{self, int};
use super::sequences;
use super::value::{MAX_WEIGHT, Shape, Value, too_large};
use super::vm::{Call, Vm};

/// Runs a filter.
pub fn filter(vm: &mut Vm, name: &str, v: Value, a: Call) -> R<Value> {
    vm.meter.pay(1 + (v.weight() / 256) as usize)?;
    let meter = vm.meter.clone();
    let new = |s: String| Value::text(&meter, s);
    Ok(match name {
        "tojson" => tojson(vm, &v, &a)?,
        "trim" => {
            let s = to_text(vm, &v)?;
            let set = match a.get(0, "chars") {
                None | Some(Value::None) => None,
                Some(c) => Some(c.as_str().filter(|c| c.len() <= 256).ok_or("trim takes a few characters")?),
            };
            new(s.trim_matches(|c| set.map_or_else(|| space(c), |p| p.contains(c))).into())?
        }
        "string" | "safe" => match v {
            Value::Str(_) => v,
            v => new(to_text(vm, &v)?)?,
        },
        "length" | "count" => Value::Int(match &v {
            Value::Undefined(_) => 0,
            Value::Str(s) => {
                vm.meter.pay(s.len() / 16)?;
                s.chars().count() as i128
            }
            Value::Dict(d) => d.entries.len() as i128,
            Value::List(l) if l.shape != Shape::Iter => l.items.len() as i128,
            v => return Err(format!("{} has no length", v.type_name())),
        }),
        "default" | "d" => {
            let missing = matches!(v, Value::Undefined(_)) || a.flag(1, "boolean", false) && !v.is_true();
            if !missing {
                return Ok(v);
            }
            match a.get(0, "default_value") {
                Some(d) => d.clone(),
                None => new(String::new())?,
            }
        }
        "upper" => new(to_text(vm, &v)?.to_uppercase())?,
        "lower" => new(to_text(vm, &v)?.to_lowercase())?,
        "title" => new(title(&to_text(vm, &v)?))?,
        "capitalize" => new(capitalize(&to_text(vm, &v)?))?,
        "replace" => {
            let most = match a.get(2, "count") {
                None | Some(Value::None) => usize::MAX,
                Some(n) => usize::try_from(int(n)?).unwrap_or(usize::MAX),
            };
            let s = to_text(vm, &v)?;
            replace(vm, &s, a.text(0, "old")?, a.text(1, "new")?, most)?
        }
        "escape" | "e" | "forceescape" => {
            let s = to_text(vm, &v)?;
            if s.len() as u64 * 5 > MAX_WEIGHT {
                return Err(too_large());
            }
            let mut out = String::new();
            for c in s.chars() {
                match c {
                    '&' => out.push_str("&amp;"),
                    '<' => out.push_str("&lt;"),
                    '>' => out.push_str("&gt;"),
                    '\'' => out.push_str("&#39;"),
                    '"' => out.push_str("&#34;"),
                    c => out.push(c),
                }
            }
            new(out)?
        }
        "abs" => match v {
            Value::Float(f) => Value::Float(f.abs()),
            v => Value::Int(int(&v)?.checked_abs().ok_or("a number is too large")?),
        },
        "int" => to_int(&v, &a)?,
        "float" => match &v {
            Value::Float(_) => v,
            Value::Int(i) => Value::Float(*i as f64),
            Value::Bool(b) => Value::Float(f64::from(u8::from(*b))),
            Value::Str(s) if s.trim().parse::<f64>().is_ok() => Value::Float(s.trim().parse().unwrap_or(0.0)),
            _ => a.get(0, "default").cloned().unwrap_or(Value::Float(0.0)),
        },
        "round" => round(&v, &a)?,
        "indent" => indent(vm, &v, &a)?,
        "format" => {
            let s = to_text(vm, &v)?;
            printf(vm, &s, &a.pos)?
        }
        "wordcount" => Value::Int(to_text(vm, &v)?.split_whitespace().count() as i128),
        "center" => {
            let s = new(to_text(vm, &v)?)?;
            let a = if a.pos.is_empty() { Call { pos: vec![Value::Int(80)], named: vec![] } } else { a };
            methods::call(vm, &s, "center", &a)?
        }
        "truncate" => truncate(vm, &v, &a)?,
        "items" => match v {
            Value::Undefined(_) => Value::list(&meter, vec![], Shape::List)?,
            Value::Dict(_) => methods::call(vm, &v, "items", &a)?,
            v => return Err(format!("{} has no items", v.type_name())),
        },
        "attr" => {
            let name = a.text(0, "name")?;
            match v {
                // Jinja's `attr` never looks at items.
                Value::Dict(_) if !methods::has(&v, name) => Value::undefined(name),
                v => vm.attr(&v, name)?,
            }
        }
        _ => return sequences::filter(vm, name, v, a),
    })
}

fn tojson(vm: &mut Vm, v: &Value, a: &Call) -> R<Value> {
    let indent = match a.get(1, "indent").or(a.named.iter().find(|n| n.0 == "indent").map(|n| &n.1)) {
        None | Some(Value::None) => None,
        Some(Value::Str(s)) if s.len() <= 64 => Some(s.to_string()),
        Some(n) => Some(" ".repeat(int(n)?.clamp(0, 64) as usize)),
    };
    let default = if indent.is_some() { "," } else { ", " };
    let separators = match a.get(2, "separators") {
        None | Some(Value::None) => (default.to_string(), ": ".to_string()),
        Some(Value::List(l)) => match &l.items[..] {
            [Value::Str(x), Value::Str(y)] if x.len() + y.len() <= 64 => (x.to_string(), y.to_string()),
            _ => return Err("separators are two short texts".into()),
        },
        Some(_) => return Err("separators are two short texts".into()),
    };
    let json = Json {
        indent,
        separators,
        sort_keys: a.flag(3, "sort_keys", false),
        ensure_ascii: a.flag(0, "ensure_ascii", false),
    };
    vm.meter.pay((v.weight() / 8) as usize)?;
    vm.meter.room(v.weight() as usize)?;
    let mut out = String::new();
    json.write(v, 0, MAX_WEIGHT as usize, &mut out)?;
    Value::text(&vm.meter, out)
}

fn to_int(v: &Value, a: &Call) -> R<Value> {
    let default = || a.get(0, "default").cloned().unwrap_or(Value::Int(0));
    Ok(match v {
        Value::Int(_) => v.clone(),
        Value::Bool(b) => Value::Int((*b).into()),
        Value::Float(f) if f.is_finite() && f.abs() < 1e38 => Value::Int(f.trunc() as i128),
        Value::Str(s) => {
            let s = s.trim();
            match (s.replace('_', "").parse::<i128>(), s.parse::<f64>()) {
                (Ok(i), _) => Value::Int(i),
                (_, Ok(f)) if f.is_finite() && f.abs() < 1e38 => Value::Int(f.trunc() as i128),
                _ => default(),
            }
        }
        _ => default(),
    })
}

fn round(v: &Value, a: &Call) -> R<Value> {
    let f = match v {
        Value::Float(f) => *f,
        v => int(v)? as f64,
    };
    let digits = a.get(0, "precision").map_or(Ok(0), int)?.clamp(-30, 30) as i32;
    let scale = 10f64.powi(digits);
    let method = a.get(1, "method").and_then(Value::as_str).unwrap_or("common");
    Ok(Value::Float(match method {
        "ceil" => (f * scale).ceil() / scale,
        "floor" => (f * scale).floor() / scale,
        // Python rounds the decimal value, half to even: so does the formatter.
        _ if digits >= 0 => format!("{f:.*}", digits as usize).parse().unwrap_or(f),
        _ => (f * scale).round() / scale,
    }))
}

fn indent(vm: &mut Vm, v: &Value, a: &Call) -> R<Value> {
    let s = to_text(vm, v)?;
    let by = match a.get(0, "width") {
        None => " ".repeat(4),
        Some(Value::Str(s)) if s.len() <= 256 => s.to_string(),
        Some(n) => " ".repeat(int(n)?.clamp(0, 256) as usize),
    };
    let (first, blank) = (a.flag(1, "first", false), a.flag(2, "blank", false));
    let lines = s.matches('\n').count() + 1;
    if (s.len() + lines * by.len()) as u64 > MAX_WEIGHT {
        return Err(too_large());
    }
    let mut out = String::new();
    for (i, line) in s.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if (i > 0 && (blank || !line.is_empty())) || (i == 0 && first) {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    Value::text(&vm.meter, out)
}

fn truncate(vm: &mut Vm, v: &Value, a: &Call) -> R<Value> {
    let s = to_text(vm, v)?;
    let most = a.get(0, "length").map_or(Ok(255), int)?.clamp(0, 1 << 30) as usize;
    let kill = a.flag(1, "killwords", false);
    let end = a.get(2, "end").and_then(Value::as_str).unwrap_or("...").to_string();
    let leeway = a.get(3, "leeway").map_or(Ok(5), int)?.clamp(0, 1 << 30) as usize;
    let n = s.chars().count();
    if n <= most.saturating_add(leeway) {
        return Value::text(&vm.meter, s);
    }
    let keep: String = s.chars().take(most.saturating_sub(end.chars().count())).collect();
    let keep = match keep.rsplit_once(' ') {
        Some((words, _)) if !kill => words.to_string(),
        _ => keep,
    };
    let end = Value::text(&vm.meter, end)?;
    let keep = Value::text(&vm.meter, keep)?;
    ops::binary(vm, super::ast::Op::Add, &keep, &end)
}
