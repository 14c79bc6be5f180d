//! Attributes, items and calls.

use std::rc::Rc;

use super::R;
use super::ast::{Args, Expr};
use super::format::{strftime, to_text};
use super::methods;
use super::ops;
use super::value::{Loop, Shape, Space, Value};
use super::vm::{Call, Vm, put};

/// Most namespaces; they live until the end.
const MAX_SPACES: usize = 10_000;

impl<'p> Vm<'p> {
    /// Adds or replaces an entry.
    pub fn put_entry(&self, entries: &mut Vec<(Value, Value)>, k: Value, v: Value) -> R<()> {
        if matches!(k, Value::List(_) | Value::Dict(_)) {
            return Err(format!("{} cannot be a key", k.type_name()));
        }
        self.meter.pay(1 + entries.len() / 4)?;
        for e in entries.iter_mut() {
            if ops::equal(self, &e.0, &k)? {
                e.1 = v;
                return Ok(());
            }
        }
        entries.push((k, v));
        Ok(())
    }

    /// `value.name`.
    pub fn attr(&mut self, v: &Value, name: &str) -> R<Value> {
        if methods::has(v, name) {
            return Ok(Value::Method(Rc::new((v.clone(), name.into()))));
        }
        let found = match v {
            Value::Undefined(n) => return Err(format!("`{n}` is undefined, so it has no `{name}`")),
            Value::Dict(d) => {
                let key = Value::text(&self.meter, name)?;
                d.get(self, &key)?.cloned()
            }
            Value::Space(s) => s.vars.borrow().iter().find(|e| e.0 == name).map(|e| e.1.clone()),
            Value::Loop(l) => loop_attr(l, name),
            Value::Macro(n, _) if name == "name" => {
                let program = self.program;
                Some(Value::text(&self.meter, program.macros[*n].name.as_str())?)
            }
            _ => None,
        };
        Ok(found.unwrap_or_else(|| Value::undefined(name)))
    }

    /// `value[key]`.
    pub fn item(&mut self, v: &Value, key: &Value) -> R<Value> {
        let found = match (v, key) {
            (Value::Undefined(n), _) => return Err(format!("`{n}` is undefined, so it has no items")),
            (Value::Dict(d), k) => d.get(self, k)?.cloned(),
            (Value::List(l), Value::Int(_) | Value::Bool(_)) => {
                index(ops::int(key)?, l.items.len()).map(|i| l.items[i].clone())
            }
            (Value::Str(s), Value::Int(_) | Value::Bool(_)) => {
                self.meter.pay(s.len() / 16)?;
                let c = index(ops::int(key)?, s.chars().count()).and_then(|i| s.chars().nth(i));
                match c {
                    Some(c) => Some(Value::text(&self.meter, c.to_string())?),
                    None => None,
                }
            }
            _ => None,
        };
        match (found, key) {
            (Some(v), _) => Ok(v),
            (None, Value::Str(k)) => {
                if matches!(v, Value::Dict(_)) && !methods::has(v, k) {
                    return Ok(Value::undefined(k));
                }
                self.attr(v, k)
            }
            (None, _) => Ok(Value::undefined("item")),
        }
    }

    pub(super) fn slice(&mut self, v: &Value, parts: [Option<&Value>; 3]) -> R<Value> {
        match v {
            Value::List(l) => {
                let items = ops::slice(l.items.len(), parts)?.map(|i| l.items[i].clone()).collect();
                Value::list(&self.meter, items, l.shape)
            }
            Value::Str(s) => {
                self.meter.pay(s.len() / 8)?;
                self.meter.room(s.len() * 4)?;
                let chars: Vec<char> = s.chars().collect();
                let s: String = ops::slice(chars.len(), parts)?.map(|i| chars[i]).collect();
                Value::text(&self.meter, s)
            }
            Value::Undefined(n) => Err(format!("`{n}` is undefined")),
            v => Err(format!("{} cannot be sliced", v.type_name())),
        }
    }

    pub(super) fn args(&mut self, a: &'p Args) -> R<Call> {
        let pos = self.all(&a.pos)?;
        let named = a.named.iter().map(|(n, e)| Ok((n.clone(), self.eval(e)?))).collect::<R<_>>()?;
        Ok(Call { pos, named })
    }

    pub(super) fn call(&mut self, callee: &'p Expr, args: &'p Args, caller: Option<Value>) -> R<Value> {
        if let Expr::Attr(obj, name) = callee {
            let v = self.eval(obj)?;
            let mut call = self.args(args)?;
            if methods::has(&v, name) {
                return methods::call(self, &v, name, &call);
            }
            let f = self.attr(&v, name)?;
            call.named.extend(caller.map(|c| ("caller".to_string(), c)));
            return self.call_value(&f, call);
        }
        let f = self.eval(callee)?;
        let mut call = self.args(args)?;
        call.named.extend(caller.map(|c| ("caller".to_string(), c)));
        self.call_value(&f, call)
    }

    fn call_value(&mut self, f: &Value, call: Call) -> R<Value> {
        match f {
            Value::Macro(n, scope) => self.deeper(|vm| vm.call_macro(*n, *scope, call)),
            Value::Method(m) => methods::call(self, &m.0, &m.1, &call),
            Value::Func(name) => self.function(name, call),
            Value::Undefined(n) => Err(format!("`{n}` is undefined")),
            v => Err(format!("{} cannot be called", v.type_name())),
        }
    }

    fn call_macro(&mut self, n: usize, scope: usize, call: Call) -> R<Value> {
        let program = self.program;
        let m = &program.macros[n];
        if call.pos.len() > m.params.len() {
            return Err(format!("macro `{}` takes {} arguments", m.name, m.params.len()));
        }
        let parent = scope.min(self.frames.len() - 1);
        self.capture(|vm| {
            vm.scope(parent, |vm| {
                for (i, (name, default)) in m.params.iter().enumerate() {
                    let v = match (call.get(i, name), default) {
                        (Some(v), _) => v.clone(),
                        (None, Some(d)) => vm.eval(d)?,
                        (None, None) => Value::undefined(name),
                    };
                    vm.set(name, v)?;
                }
                for (name, v) in &call.named {
                    if name == "caller" {
                        vm.set(name, v.clone())?;
                    } else if !m.params.iter().any(|p| p.0 == *name) {
                        return Err(format!("macro `{}` has no argument `{name}`", m.name));
                    }
                }
                vm.body(&m.body).map(|_| ())
            })
        })
    }

    fn function(&mut self, name: &str, call: Call) -> R<Value> {
        match name {
            "raise_exception" => {
                let v = call.get(0, "message").cloned().unwrap_or(Value::None);
                Err(crate::error::brief(&to_text(self, &v)?, 500))
            }
            "strftime_now" => {
                let f = call.text(0, "format")?;
                if f.len() > 256 {
                    return Err("the date format is too long".into());
                }
                Value::text(&self.meter, strftime(f, self.now))
            }
            "namespace" => {
                if self.spaces.len() >= MAX_SPACES {
                    return Err(format!("it makes more than {MAX_SPACES} namespaces"));
                }
                let space = Rc::new(Space::default());
                self.spaces.push(space.clone());
                if let Some(Value::Dict(d)) = call.pos.first() {
                    for (k, v) in &d.entries {
                        put(&space, k.as_str().unwrap_or(""), v.clone());
                    }
                }
                call.named.into_iter().for_each(|(k, v)| put(&space, &k, v));
                Ok(Value::Space(space))
            }
            "dict" => {
                let mut entries = vec![];
                if let Some(Value::Dict(d)) = call.pos.first() {
                    entries.extend(d.entries.iter().cloned());
                }
                for (k, v) in call.named {
                    let k = Value::text(&self.meter, k)?;
                    self.put_entry(&mut entries, k, v)?;
                }
                Value::dict(&self.meter, entries)
            }
            _ => {
                let n = call.pos.iter().map(ops::int).collect::<R<Vec<_>>>()?;
                let (start, stop, step) = match n[..] {
                    [stop] => (0, stop, 1),
                    [start, stop] => (start, stop, 1),
                    [start, stop, step] => (start, stop, step),
                    _ => return Err("range takes one to three numbers".into()),
                };
                if step == 0 {
                    return Err("range needs a step".into());
                }
                let span = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) };
                let len = if span <= 0 { 0 } else { (span - 1) / step.saturating_abs() + 1 };
                if len > 100_000 {
                    return Err("range has more than 100000 items".into());
                }
                self.meter.pay(len as usize)?;
                let items = (0..len).map(|i| Value::Int(start.saturating_add(i.saturating_mul(step))));
                Value::list(&self.meter, items.collect(), Shape::List)
            }
        }
    }
}

/// The functions every template can call.
pub(super) fn global(name: &str) -> Option<&'static str> {
    ["namespace", "raise_exception", "strftime_now", "range", "dict"].into_iter().find(|g| *g == name)
}

fn index(i: i128, len: usize) -> Option<usize> {
    let i = if i < 0 { i.checked_add(len as i128)? } else { i };
    usize::try_from(i).ok().filter(|&i| i < len)
}

fn loop_attr(l: &Loop, name: &str) -> Option<Value> {
    let (i, n) = (l.at.get(), l.items.items.len());
    let int = |v: usize| Some(Value::Int(v as i128));
    match name {
        "index" => int(i + 1),
        "index0" => int(i),
        "revindex" => int(n - i),
        "revindex0" => int(n - i - 1),
        "first" => Some(Value::Bool(i == 0)),
        "last" => Some(Value::Bool(i + 1 == n)),
        "length" => int(n),
        "depth" => int(l.depth),
        "depth0" => int(l.depth - 1),
        "previtem" => i.checked_sub(1).map(|i| l.items.items[i].clone()),
        "nextitem" => l.items.items.get(i + 1).cloned(),
        _ => None,
    }
}
