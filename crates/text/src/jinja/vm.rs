//! Runs a program.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use super::R;
use super::ast::{Args, Expr, For, Lit, Program, Stmt, Target};
use super::format::to_text;
use super::ops;
use super::value::{List, Loop, Meter, Shape, Space, Value};
use super::{filters, tests_of};

/// Deepest recursion of the interpreter: nesting of the template times macro calls.
const MAX_DEPTH: usize = 260;
/// Largest output, bytes.
const MAX_OUTPUT: usize = 8 << 20;

/// Arguments of a call.
#[derive(Default)]
pub struct Call {
    pub pos: Vec<Value>,
    pub named: Vec<(String, Value)>,
}

impl Call {
    /// An argument by position or name.
    pub fn get(&self, at: usize, name: &str) -> Option<&Value> {
        self.pos.get(at).or_else(|| self.named.iter().find(|n| n.0 == name).map(|n| &n.1))
    }

    /// A truth value.
    pub fn flag(&self, at: usize, name: &str, default: bool) -> bool {
        self.get(at, name).map_or(default, Value::is_true)
    }

    /// Text.
    pub fn text(&self, at: usize, name: &str) -> R<&str> {
        let v = self.get(at, name).ok_or_else(|| format!("argument `{name}` is missing"))?;
        v.as_str().ok_or_else(|| format!("argument `{name}` must be text, got {}", v.type_name()))
    }
}

pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

pub(super) struct Frame {
    vars: HashMap<String, Value>,
    parent: usize,
}

/// An interpreter for one rendering.
pub struct Vm<'p> {
    pub(super) program: &'p Program,
    pub meter: Rc<Meter>,
    /// Open scopes. Opened and closed like a stack; a macro's parent is the scope it was defined in.
    pub(super) frames: Vec<Frame>,
    current: usize,
    /// the output, and the captures that are open in it
    out: Vec<String>,
    out_bytes: usize,
    pub(super) spaces: Vec<Rc<Space>>,
    depth: usize,
    pub(super) now: i64,
}

impl Drop for Vm<'_> {
    fn drop(&mut self) {
        // Namespaces may hold each other: emptied here, so that nothing leaks and no chain drops recursively.
        self.frames.clear();
        for s in &self.spaces {
            let vars = s.vars.take();
            drop(vars);
        }
    }
}

impl<'p> Vm<'p> {
    /// `now`: seconds since 1970, for `strftime_now`.
    pub fn new(program: &'p Program, meter: Rc<Meter>, now: i64) -> Self {
        let frames = vec![Frame { vars: HashMap::new(), parent: 0 }];
        let out = vec![String::new()];
        Self { program, meter, frames, current: 0, out, out_bytes: 0, spaces: vec![], depth: 0, now }
    }

    /// Sets a global.
    pub fn set_global(&mut self, name: &str, v: Value) {
        self.frames[0].vars.insert(name.into(), v);
    }

    /// Renders.
    pub fn run(&mut self) -> R<String> {
        let program = self.program;
        self.body(&program.body)?;
        Ok(self.out.pop().unwrap_or_default())
    }

    pub(super) fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> R<T>) -> R<T> {
        if self.depth >= MAX_DEPTH {
            return Err(format!("it recurses deeper than {MAX_DEPTH} levels"));
        }
        self.depth += 1;
        let r = f(self);
        self.depth -= 1;
        r
    }

    pub(super) fn scope<T>(&mut self, parent: usize, f: impl FnOnce(&mut Self) -> R<T>) -> R<T> {
        let before = self.current;
        self.frames.push(Frame { vars: HashMap::new(), parent });
        self.current = self.frames.len() - 1;
        let r = f(self);
        self.frames.pop();
        self.current = before;
        r
    }

    pub(super) fn capture(&mut self, f: impl FnOnce(&mut Self) -> R<()>) -> R<Value> {
        self.out.push(String::new());
        let r = f(self);
        let s = self.out.pop().unwrap_or_default();
        self.out_bytes -= s.len();
        r?;
        Value::text(&self.meter, s)
    }

    pub(super) fn emit(&mut self, s: &str) -> R<()> {
        self.meter.pay(s.len() / 32)?;
        self.out_bytes += s.len();
        if self.out_bytes > MAX_OUTPUT {
            // The bytes are not there: a capture that unwinds must not count them.
            self.out_bytes -= s.len();
            return Err(format!("it writes more than {} MB", MAX_OUTPUT >> 20));
        }
        if let Some(out) = self.out.last_mut() {
            out.push_str(s);
        }
        Ok(())
    }

    pub(super) fn set(&mut self, name: &str, v: Value) -> R<()> {
        let vars = &mut self.frames[self.current].vars;
        match vars.get_mut(name) {
            Some(old) => *old = v,
            None => {
                vars.insert(name.into(), v);
            }
        }
        Ok(())
    }

    fn lookup(&self, name: &str) -> Option<&Value> {
        let mut at = self.current;
        loop {
            let frame = self.frames.get(at)?;
            if let Some(v) = frame.vars.get(name) {
                return Some(v);
            }
            if at == 0 {
                return None;
            }
            // Parents come before their children, so this ends.
            at = frame.parent.min(at - 1);
        }
    }

    fn assign(&mut self, t: &Target, v: Value) -> R<()> {
        match t {
            Target::Name(n) => self.set(n, v),
            Target::Attr(n, a) => match self.lookup(n) {
                Some(Value::Space(s)) => {
                    let s = s.clone();
                    put(&s, a, v);
                    Ok(())
                }
                _ => Err(format!("cannot assign attribute `{a}`: `{n}` is not a namespace")),
            },
            Target::Tuple(all) => {
                let items = self.items(&v)?;
                if items.items.len() != all.len() {
                    return Err(format!("{} values to unpack into {}", items.items.len(), all.len()));
                }
                for (t, v) in all.iter().zip(&items.items) {
                    self.assign(t, v.clone())?;
                }
                Ok(())
            }
        }
    }

    pub(super) fn body(&mut self, body: &'p [Stmt]) -> R<Flow> {
        self.deeper(|vm| {
            for s in body {
                match vm.statement(s)? {
                    Flow::Next => {}
                    flow => return Ok(flow),
                }
            }
            Ok(Flow::Next)
        })
    }

    fn statement(&mut self, s: &'p Stmt) -> R<Flow> {
        self.meter.pay(1)?;
        match s {
            Stmt::Text(t) => self.emit(t)?,
            Stmt::Emit(e) => match self.eval(e)? {
                Value::Str(s) => self.emit(&s)?,
                v => {
                    let s = to_text(self, &v)?;
                    self.emit(&s)?;
                }
            },
            Stmt::If(arms, or_else) => {
                for (cond, body) in arms {
                    if self.eval(cond)?.is_true() {
                        return self.body(body);
                    }
                }
                return self.body(or_else);
            }
            Stmt::For(f) => return self.for_loop(f),
            Stmt::Set(t, e) => {
                let v = self.eval(e)?;
                self.assign(t, v)?;
            }
            Stmt::SetBlock(t, fs, body) => {
                let v = self.captured(body)?;
                let v = self.filters(v, fs)?;
                self.assign(t, v)?;
            }
            Stmt::FilterBlock(fs, body) => {
                let v = self.captured(body)?;
                let v = self.filters(v, fs)?;
                let s = to_text(self, &v)?;
                self.emit(&s)?;
            }
            Stmt::Macro(n) => {
                let program = self.program;
                let v = Value::Macro(*n, self.current);
                self.set(&program.macros[*n].name, v)?;
            }
            Stmt::Call(call, n) => {
                let caller = Value::Macro(*n, self.current);
                let v = match call {
                    Expr::Call(callee, args) => self.call(callee, args, Some(caller))?,
                    e => self.eval(e)?,
                };
                let s = to_text(self, &v)?;
                self.emit(&s)?;
            }
            Stmt::With(sets, body) => {
                let values = sets.iter().map(|(_, e)| self.eval(e)).collect::<R<Vec<_>>>()?;
                return self.scope(self.current, |vm| {
                    for ((t, _), v) in sets.iter().zip(values) {
                        vm.assign(t, v)?;
                    }
                    vm.body(body)
                });
            }
            Stmt::Scope(body) => return self.scope(self.current, |vm| vm.body(body)),
            Stmt::Break => return Ok(Flow::Break),
            Stmt::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn captured(&mut self, body: &'p [Stmt]) -> R<Value> {
        self.capture(|vm| vm.scope(vm.current, |vm| vm.body(body)).map(|_| ()))
    }

    fn filters(&mut self, mut v: Value, fs: &'p [(String, Args)]) -> R<Value> {
        for (name, args) in fs {
            let call = self.args(args)?;
            v = filters::filter(self, name, v, call)?;
        }
        Ok(v)
    }

    fn for_loop(&mut self, f: &'p For) -> R<Flow> {
        let over = self.eval(&f.iter)?;
        let mut items = self.items(&over)?;
        if let Some(cond) = &f.filter {
            let mut kept = vec![];
            for v in &items.items {
                let yes = self.scope(self.current, |vm| {
                    vm.assign(&f.target, v.clone())?;
                    Ok(vm.eval(cond)?.is_true())
                })?;
                if yes {
                    kept.push(v.clone());
                }
            }
            items = self.list_of(kept)?;
        }
        if items.items.is_empty() {
            return self.body(&f.or_else);
        }
        let depth = match self.lookup("loop") {
            Some(Value::Loop(l)) => l.depth + 1,
            _ => 1,
        };
        let state =
            Rc::new(Loop { items: items.clone(), at: Cell::new(0), depth, changed: RefCell::new(None) });
        for (i, v) in items.items.iter().enumerate() {
            self.meter.pay(1)?;
            state.at.set(i);
            let flow = self.scope(self.current, |vm| {
                vm.set("loop", Value::Loop(state.clone()))?;
                vm.assign(&f.target, v.clone())?;
                vm.body(&f.body)
            })?;
            if matches!(flow, Flow::Break) {
                break;
            }
        }
        Ok(Flow::Next)
    }

    /// A new list.
    pub fn list_of(&self, items: Vec<Value>) -> R<Rc<List>> {
        match Value::list(&self.meter, items, Shape::List)? {
            Value::List(l) => Ok(l),
            _ => Err("no list".into()),
        }
    }

    /// What a loop over a value visits.
    pub fn items(&self, v: &Value) -> R<Rc<List>> {
        match v {
            Value::List(l) => Ok(l.clone()),
            Value::Undefined(_) => self.list_of(vec![]),
            Value::Dict(d) => self.list_of(d.entries.iter().map(|e| e.0.clone()).collect()),
            Value::Str(s) => {
                self.meter.room(s.len() * 128)?;
                self.meter.pay(s.len())?;
                let mut buf = [0; 4];
                let chars = s.chars().map(|c| Value::text(&self.meter, &*c.encode_utf8(&mut buf)));
                self.list_of(chars.collect::<R<_>>()?)
            }
            v => Err(format!("{} cannot be looped over", v.type_name())),
        }
    }

    /// Evaluates an expression.
    pub(super) fn eval(&mut self, e: &'p Expr) -> R<Value> {
        self.meter.pay(1)?;
        // Leaves first: they need no bookkeeping.
        match e {
            Expr::Lit(l) => return self.literal(l),
            Expr::Name(n) => {
                if let Some(v) = self.lookup(n) {
                    return Ok(v.clone());
                }
                return Ok(super::calls::global(n).map_or_else(|| Value::undefined(n), Value::Func));
            }
            _ => {}
        }
        self.deeper(|vm| vm.eval_inner(e))
    }

    fn literal(&self, l: &Lit) -> R<Value> {
        Ok(match l {
            Lit::None => Value::None,
            Lit::Bool(b) => Value::Bool(*b),
            Lit::Int(i) => Value::Int(*i),
            Lit::Float(f) => Value::Float(*f),
            Lit::Str(s) => Value::text(&self.meter, s.as_str())?,
        })
    }

    fn eval_inner(&mut self, e: &'p Expr) -> R<Value> {
        match e {
            Expr::Lit(l) => self.literal(l),
            Expr::Name(n) => Ok(Value::undefined(n)),
            Expr::List(all) => {
                let items = self.all(all)?;
                Value::list(&self.meter, items, Shape::List)
            }
            Expr::Tuple(all) => {
                let items = self.all(all)?;
                Value::list(&self.meter, items, Shape::Tuple)
            }
            Expr::Dict(all) => {
                let mut entries: Vec<(Value, Value)> = vec![];
                for (k, v) in all {
                    let (k, v) = (self.eval(k)?, self.eval(v)?);
                    self.put_entry(&mut entries, k, v)?;
                }
                Value::dict(&self.meter, entries)
            }
            Expr::Chain(first, rest) => {
                let mut v = self.eval(first)?;
                for (op, e) in rest {
                    self.meter.pay(1)?;
                    let r = self.eval(e)?;
                    v = ops::binary(self, *op, &v, &r)?;
                }
                Ok(v)
            }
            Expr::Compare(first, rest) => {
                let mut left = self.eval(first)?;
                for (op, e) in rest {
                    let right = self.eval(e)?;
                    if !ops::compare(self, *op, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Expr::And(all) => self.first_that(all, false),
            Expr::Or(all) => self.first_that(all, true),
            Expr::Not(e) => Ok(Value::Bool(!self.eval(e)?.is_true())),
            Expr::Neg(e) => {
                let v = self.eval(e)?;
                ops::binary(self, super::ast::Op::Sub, &Value::Int(0), &v).map(|r| match v {
                    // 0 − 0.0 would lose the sign.
                    Value::Float(f) => Value::Float(-f),
                    _ => r,
                })
            }
            Expr::Pos(e) => {
                let v = self.eval(e)?;
                ops::binary(self, super::ast::Op::Add, &Value::Int(0), &v)
            }
            Expr::If(parts) => {
                let (value, cond, other) = &**parts;
                if self.eval(cond)?.is_true() {
                    return self.eval(value);
                }
                other.as_ref().map_or_else(|| Ok(Value::undefined("")), |o| self.eval(o))
            }
            Expr::Attr(e, name) => {
                let v = self.eval(e)?;
                self.attr(&v, name)
            }
            Expr::Item(e, key) => {
                let v = self.eval(e)?;
                let key = self.eval(key)?;
                self.item(&v, &key)
            }
            Expr::Slice(e, parts) => {
                let v = self.eval(e)?;
                let mut ends = [None, None, None];
                for (end, p) in ends.iter_mut().zip(parts.iter()) {
                    if let Some(p) = p {
                        *end = Some(self.eval(p)?);
                    }
                }
                self.slice(&v, [ends[0].as_ref(), ends[1].as_ref(), ends[2].as_ref()])
            }
            Expr::Call(callee, args) => self.call(callee, args, None),
            Expr::Filter(e, name, args) => {
                let v = self.eval(e)?;
                let call = self.args(args)?;
                filters::filter(self, name, v, call)
            }
            Expr::Test(e, name, args, negated) => {
                let v = self.eval(e)?;
                let call = self.args(args)?;
                Ok(Value::Bool(tests_of::test(self, name, &v, &call.pos)? != *negated))
            }
        }
    }

    pub(super) fn all(&mut self, all: &'p [Expr]) -> R<Vec<Value>> {
        all.iter().map(|e| self.eval(e)).collect()
    }

    /// `or` (stop = true) and `and` (stop = false) give the operand that decides.
    fn first_that(&mut self, all: &'p [Expr], stop: bool) -> R<Value> {
        let mut v = Value::None;
        for e in all {
            v = self.eval(e)?;
            if v.is_true() == stop {
                break;
            }
        }
        Ok(v)
    }
}

pub(super) fn put(s: &Space, name: &str, v: Value) {
    let mut vars = s.vars.borrow_mut();
    let old = match vars.iter_mut().find(|e| e.0 == name) {
        Some(e) => Some(std::mem::replace(&mut e.1, v)),
        None => {
            vars.push((name.into(), v));
            None
        }
    };
    drop(vars);
    drop(old);
}
