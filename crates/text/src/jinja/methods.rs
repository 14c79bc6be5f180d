//! Python's methods of text, dictionaries and lists, and of `loop`. Those that would change a value are refused, as
//! the sandbox of `transformers` does.

use super::R;
use super::format::to_text;
use super::ops::{equal, int};
use super::value::{MAX_WEIGHT, Shape, Value, too_large};
use super::vm::{Call, Vm};

const TEXT: &[&str] = &[
    "strip",
    "lstrip",
    "rstrip",
    "split",
    "rsplit",
    "splitlines",
    "startswith",
    "endswith",
    "replace",
    "upper",
    "lower",
    "title",
    "capitalize",
    "find",
    "rfind",
    "index",
    "count",
    "join",
    "format",
    "isdigit",
    "isdecimal",
    "isnumeric",
    "isalpha",
    "isalnum",
    "isspace",
    "isupper",
    "islower",
    "removeprefix",
    "removesuffix",
    "zfill",
    "center",
    "ljust",
    "rjust",
    "partition",
    "rpartition",
    "casefold",
    "swapcase",
    "encode",
];
const DICT: &[&str] = &[
    "keys",
    "values",
    "items",
    "get",
    "copy",
    "pop",
    "popitem",
    "update",
    "clear",
    "setdefault",
    "fromkeys",
];
const LIST: &[&str] =
    &["index", "count", "append", "extend", "insert", "pop", "remove", "clear", "reverse", "sort", "copy"];

/// Whether a value has a method of this name.
pub fn has(v: &Value, name: &str) -> bool {
    match v {
        Value::Str(_) => TEXT.contains(&name),
        Value::Dict(_) => DICT.contains(&name),
        Value::List(l) => match l.shape {
            Shape::List => LIST.contains(&name),
            _ => matches!(name, "index" | "count"),
        },
        Value::Loop(_) => matches!(name, "cycle" | "changed"),
        _ => false,
    }
}

/// Calls a method.
pub fn call(vm: &mut Vm, v: &Value, name: &str, a: &Call) -> R<Value> {
    match v {
        Value::Str(s) => text(vm, s, name, a),
        Value::Dict(d) => {
            let pair =
                |k: &Value, v: &Value| Value::list(&vm.meter, vec![k.clone(), v.clone()], Shape::Tuple);
            match name {
                "keys" => list(vm, d.entries.iter().map(|e| e.0.clone()).collect()),
                "values" => list(vm, d.entries.iter().map(|e| e.1.clone()).collect()),
                "items" => {
                    vm.meter.room(d.entries.len() * 128)?;
                    let items = d.entries.iter().map(|e| pair(&e.0, &e.1)).collect::<R<_>>()?;
                    list(vm, items)
                }
                "get" => {
                    let key = a.get(0, "key").ok_or("get needs a key")?;
                    let found = d.get(vm, key)?.cloned();
                    Ok(found.or_else(|| a.get(1, "default").cloned()).unwrap_or(Value::None))
                }
                "copy" => Ok(v.clone()),
                _ => Err(unsafe_method("dict", name)),
            }
        }
        Value::List(l) => {
            let arg = a.get(0, "value").ok_or_else(|| format!("{name} needs a value"));
            match name {
                "count" | "index" => {
                    let (arg, mut n) = (arg?, 0);
                    for (i, x) in l.items.iter().enumerate() {
                        if equal(vm, x, arg)? {
                            if name == "index" {
                                return Ok(Value::Int(i as i128));
                            }
                            n += 1;
                        }
                    }
                    if name == "index" {
                        Err("the value is not in the list".into())
                    } else {
                        Ok(Value::Int(n))
                    }
                }
                "copy" => Ok(v.clone()),
                _ => Err(unsafe_method("list", name)),
            }
        }
        Value::Loop(l) => match name {
            "cycle" if !a.pos.is_empty() => Ok(a.pos[l.at.get() % a.pos.len()].clone()),
            "changed" => {
                let mut last = l.changed.borrow_mut();
                let same = match &*last {
                    Some(old) if old.len() == a.pos.len() => {
                        let mut same = true;
                        for (x, y) in old.iter().zip(&a.pos) {
                            same &= equal(vm, x, y)?;
                        }
                        same
                    }
                    _ => false,
                };
                // The loop itself may not be kept in the loop: it would hold itself.
                if a.pos
                    .iter()
                    .any(|v| matches!(v, Value::Loop(_) | Value::Method(_) | Value::List(_) | Value::Dict(_)))
                {
                    return Err("loop.changed takes simple values".into());
                }
                *last = Some(a.pos.clone());
                Ok(Value::Bool(!same))
            }
            _ => Err("cycle needs values".into()),
        },
        v => Err(format!("{} has no method `{name}`", v.type_name())),
    }
}

fn unsafe_method(of: &str, name: &str) -> String {
    format!("`{name}` would change a {of}, which templates may not")
}

fn list(vm: &Vm, items: Vec<Value>) -> R<Value> {
    Value::list(&vm.meter, items, Shape::List)
}

/// Replaces up to `most` places, the size checked before anything is made.
pub fn replace(vm: &Vm, s: &str, from: &str, to: &str, most: usize) -> R<Value> {
    vm.meter.pay(s.len() / 8)?;
    let places = if from.is_empty() { s.chars().count() + 1 } else { s.matches(from).count() }.min(most);
    let size = (s.len() as u64).saturating_add((places as u64).saturating_mul(to.len() as u64));
    if size > MAX_WEIGHT {
        return Err(too_large());
    }
    vm.meter.room(size as usize)?;
    Value::text(&vm.meter, s.replacen(from, to, most))
}

fn text(vm: &mut Vm, s: &str, name: &str, a: &Call) -> R<Value> {
    vm.meter.pay(s.len() / 8)?;
    let meter = vm.meter.clone();
    let new = |s: &str| Value::text(&meter, s);
    let first = || a.text(0, "sub");
    let chars_before = |i: usize| s[..i].chars().count() as i128;
    Ok(match name {
        "strip" | "lstrip" | "rstrip" => {
            let set = match a.get(0, "chars") {
                None | Some(Value::None) => None,
                Some(v) => Some(v.as_str().ok_or("strip takes text")?),
            };
            // A long set on a long text would be quadratic.
            if set.is_some_and(|p| p.len() > 256) {
                return Err("strip takes at most 256 characters".into());
            }
            let cut = |c: char| set.map_or_else(|| space(c), |p| p.contains(c));
            new(match name {
                "strip" => s.trim_matches(cut),
                "lstrip" => s.trim_start_matches(cut),
                _ => s.trim_end_matches(cut),
            })?
        }
        "split" | "rsplit" => split(vm, s, a, name == "rsplit")?,
        "splitlines" => {
            vm.meter.room(s.len() * 2)?;
            list(vm, s.lines().map(new).collect::<R<_>>()?)?
        }
        "startswith" | "endswith" => {
            let one = |v: &Value| {
                let p = v.as_str().ok_or_else(|| format!("{name} takes text, got {}", v.type_name()))?;
                Ok::<_, String>(if name == "startswith" { s.starts_with(p) } else { s.ends_with(p) })
            };
            let mut yes = false;
            match a.get(0, "prefix").ok_or("an argument is missing")? {
                Value::List(l) => {
                    for v in &l.items {
                        yes |= one(v)?;
                    }
                }
                v => yes = one(v)?,
            }
            Value::Bool(yes)
        }
        "replace" => {
            let most = match a.get(2, "count") {
                None => usize::MAX,
                Some(n) => usize::try_from(int(n)?).unwrap_or(usize::MAX),
            };
            replace(vm, s, a.text(0, "old")?, a.text(1, "new")?, most)?
        }
        "upper" => new(&s.to_uppercase())?,
        "lower" | "casefold" => new(&s.to_lowercase())?,
        "title" => new(&title(s))?,
        "capitalize" => new(&capitalize(s))?,
        "swapcase" => new(&s
            .chars()
            .map(|c| if c.is_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
            .collect::<String>())?,
        "find" => Value::Int(s.find(first()?).map_or(-1, chars_before)),
        "rfind" => Value::Int(s.rfind(first()?).map_or(-1, chars_before)),
        "index" => Value::Int(s.find(first()?).map(chars_before).ok_or("substring not found")?),
        "count" => {
            let p = first()?;
            Value::Int(if p.is_empty() { s.chars().count() + 1 } else { s.matches(p).count() } as i128)
        }
        "join" => {
            let items = vm.items(a.get(0, "iterable").ok_or("join needs values")?)?;
            if let Some(v) = items.items.iter().find(|v| v.as_str().is_none()) {
                return Err(format!("join takes text, got {}", v.type_name()));
            }
            join(vm, &items.items, s)?
        }
        "format" => format(vm, s, a)?,
        "isdigit" | "isdecimal" | "isnumeric" => all(s, char::is_numeric),
        "isalpha" => all(s, char::is_alphabetic),
        "isalnum" => all(s, char::is_alphanumeric),
        "isspace" => all(s, space),
        "isupper" => Value::Bool(s.chars().any(char::is_uppercase) && !s.chars().any(char::is_lowercase)),
        "islower" => Value::Bool(s.chars().any(char::is_lowercase) && !s.chars().any(char::is_uppercase)),
        "removeprefix" => new(s.strip_prefix(first()?).unwrap_or(s))?,
        "removesuffix" => new(s.strip_suffix(first()?).unwrap_or(s))?,
        "zfill" | "center" | "ljust" | "rjust" => pad(vm, s, name, a)?,
        "partition" | "rpartition" => {
            let p = first()?;
            let found = if name == "partition" { s.split_once(p) } else { s.rsplit_once(p) };
            let parts = match found {
                _ if p.is_empty() => return Err("empty separator".into()),
                Some((l, r)) => [l, p, r],
                None if name == "partition" => [s, "", ""],
                None => ["", "", s],
            };
            let parts = parts.into_iter().map(new).collect::<R<_>>()?;
            Value::list(&vm.meter, parts, Shape::Tuple)?
        }
        _ => return Err(format!("text has no method `{name}`")),
    })
}

/// What Python's `str.strip` takes off.
pub fn space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

fn all(s: &str, f: impl Fn(char) -> bool) -> Value {
    Value::Bool(!s.is_empty() && s.chars().all(f))
}

/// Values joined as text.
pub fn join(vm: &Vm, items: &[Value], by: &str) -> R<Value> {
    let size: u64 = items.iter().map(|v| v.weight() + by.len() as u64).sum();
    if size > MAX_WEIGHT {
        return Err(too_large());
    }
    vm.meter.room(size as usize)?;
    let mut out = String::new();
    for (i, v) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(by);
        }
        match v.as_str() {
            Some(s) => out.push_str(s),
            None => out.push_str(&to_text(vm, v)?),
        }
    }
    Value::text(&vm.meter, out)
}

fn split(vm: &Vm, s: &str, a: &Call, right: bool) -> R<Value> {
    vm.meter.room(s.len())?;
    let most = match a.get(1, "maxsplit") {
        None => usize::MAX,
        Some(n) => usize::try_from(int(n)?).unwrap_or(usize::MAX),
    };
    let pieces = most.saturating_add(1);
    let sep = match a.get(0, "sep") {
        None | Some(Value::None) => None,
        Some(v) => Some(v.as_str().ok_or("split takes text")?),
    };
    let mut parts: Vec<&str> = match sep {
        Some("") => return Err("empty separator".into()),
        Some(p) => {
            let n = s.matches(p).count();
            vm.meter.pay(n)?;
            vm.meter.room(n.saturating_mul(128))?;
            if right { s.rsplitn(pieces, p).collect() } else { s.splitn(pieces, p).collect() }
        }
        None => {
            vm.meter.pay(s.len() / 2)?;
            vm.meter.room((s.len() / 2).saturating_mul(64))?;
            let mut out = vec![];
            let mut rest = s.trim_matches(space);
            while !rest.is_empty() {
                if out.len() == most {
                    out.push(rest);
                    break;
                }
                let cut = if right { rest.rfind(space) } else { rest.find(space) };
                let Some(i) = cut else {
                    out.push(rest);
                    break;
                };
                if right {
                    out.push(rest[i..].trim_start_matches(space));
                    rest = rest[..i].trim_end_matches(space);
                } else {
                    out.push(&rest[..i]);
                    rest = rest[i..].trim_start_matches(space);
                }
            }
            out
        }
    };
    if right {
        parts.reverse();
    }
    list(vm, parts.into_iter().map(|p| Value::text(&vm.meter, p)).collect::<R<_>>()?)
}

/// Python's `str.title`.
pub fn title(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    let mut inside = false;
    for c in s.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = c.is_alphabetic();
    }
    out
}

/// Python's `str.capitalize`.
pub fn capitalize(s: &str) -> String {
    let mut chars = s.chars();
    chars
        .next()
        .map_or_else(String::new, |c| c.to_uppercase().chain(chars.flat_map(char::to_lowercase)).collect())
}

fn pad(vm: &Vm, s: &str, name: &str, a: &Call) -> R<Value> {
    let width = int(a.get(0, "width").ok_or("a width is missing")?)?.clamp(0, 1 << 16) as usize;
    let fill = match a.get(1, "fillchar") {
        Some(v) => v.as_str().and_then(|s| s.chars().next()).ok_or("a fill character is missing")?,
        None if name == "zfill" => '0',
        None => ' ',
    };
    let missing = width.saturating_sub(s.chars().count());
    let left = match name {
        "center" => missing / 2 + (missing & width & 1),
        "ljust" => 0,
        _ => missing,
    };
    let fills = |n: usize| std::iter::repeat_n(fill, n);
    let (sign, s) = match s.strip_prefix(['+', '-']) {
        Some(rest) if name == "zfill" => s.split_at(s.len() - rest.len()),
        _ => ("", s),
    };
    let out: String = sign.chars().chain(fills(left)).chain(s.chars()).chain(fills(missing - left)).collect();
    Value::text(&vm.meter, out)
}

/// `str.format` with `{}`, `{0}`, `{name}`.
fn format(vm: &Vm, s: &str, a: &Call) -> R<Value> {
    let mut out = String::new();
    let mut auto = 0;
    let mut rest = s;
    while let Some(i) = rest.find(['{', '}']) {
        out.push_str(&rest[..i]);
        let c = rest.as_bytes()[i];
        rest = &rest[i + 1..];
        if rest.as_bytes().first() == Some(&c) {
            out.push(c as char);
            rest = &rest[1..];
            continue;
        }
        let end = rest.find('}').filter(|_| c == b'{').ok_or("single brace in a format")?;
        let field = &rest[..end];
        rest = &rest[end + 1..];
        let v = if field.is_empty() {
            auto += 1;
            a.pos.get(auto - 1)
        } else if let Ok(n) = field.parse::<usize>() {
            a.pos.get(n)
        } else {
            a.named.iter().find(|n| n.0 == field).map(|n| &n.1)
        };
        let v = v.ok_or_else(|| format!("format has no argument `{}`", crate::error::brief(field, 40)))?;
        out.push_str(&to_text(vm, v)?);
        if out.len() as u64 > MAX_WEIGHT {
            return Err(too_large());
        }
        vm.meter.room(out.len())?;
    }
    out.push_str(rest);
    Value::text(&vm.meter, out)
}
