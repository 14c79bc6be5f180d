//! Values of a template. Immutable, so that no cycle can form; only namespaces change, and those are counted and
//! emptied by the interpreter. Every value that can hold others knows its depth and its size written out, so that
//! printing, comparing and dropping are bounded before they begin.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::R;

/// Counts what a rendering has used.
#[derive(Debug)]
pub struct Meter {
    fuel: Cell<u64>,
    live: Cell<usize>,
    most_live: usize,
}

impl Meter {
    /// `fuel` steps, `most_live` bytes held by values at a time.
    pub fn new(fuel: u64, most_live: usize) -> Rc<Self> {
        Rc::new(Self { fuel: Cell::new(fuel), live: Cell::new(0), most_live })
    }

    /// Pays for `n` steps.
    pub fn pay(&self, n: usize) -> R<()> {
        match self.fuel.get().checked_sub(n as u64) {
            Some(left) => {
                self.fuel.set(left);
                Ok(())
            }
            None => Err("it takes too many steps".into()),
        }
    }

    /// Checks that `n` more bytes may be held, before they are made.
    pub fn room(&self, n: usize) -> R<()> {
        if self.live.get().saturating_add(n) > self.most_live {
            return Err(format!("it holds more than {} MB at a time", self.most_live >> 20));
        }
        Ok(())
    }

    fn hold(&self, n: usize) -> R<()> {
        self.room(n)?;
        self.live.set(self.live.get() + n);
        Ok(())
    }

    fn release(&self, n: usize) {
        self.live.set(self.live.get().saturating_sub(n));
    }
}

/// Deepest nesting of lists and dictionaries.
pub const MAX_DEPTH: u32 = 120;
/// Largest value written out, in characters and items: shared parts count each time they would be written.
pub const MAX_WEIGHT: u64 = 8 << 20;

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// a name or attribute that is not there
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Rc<Text>),
    List(Rc<List>),
    Dict(Rc<Dict>),
    Space(Rc<Space>),
    /// number of the macro, scopes that were open where it was defined
    Macro(usize, usize),
    /// a method of a value
    Method(Rc<(Value, String)>),
    /// a global function
    Func(&'static str),
    Loop(Rc<Loop>),
}

/// Text.
#[derive(Debug)]
pub struct Text {
    s: Box<str>,
    meter: Rc<Meter>,
}

/// How a sequence came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    List,
    Tuple,
    /// what a filter yields lazily in Jinja: true even when empty, without a length
    Iter,
}

/// A sequence.
#[derive(Debug)]
pub struct List {
    pub items: Vec<Value>,
    pub shape: Shape,
    depth: u32,
    weight: u64,
    meter: Rc<Meter>,
}

/// A dictionary in insertion order.
#[derive(Debug)]
pub struct Dict {
    pub entries: Vec<(Value, Value)>,
    depth: u32,
    weight: u64,
    meter: Rc<Meter>,
}

/// A namespace.
#[derive(Debug, Default)]
pub struct Space {
    pub vars: RefCell<Vec<(String, Value)>>,
}

/// The `loop` of a running loop.
#[derive(Debug)]
pub struct Loop {
    pub items: Rc<List>,
    pub at: Cell<usize>,
    pub depth: usize,
    pub changed: RefCell<Option<Vec<Value>>>,
}

impl Drop for Text {
    fn drop(&mut self) {
        self.meter.release(self.s.len() + 64);
    }
}

impl Drop for List {
    fn drop(&mut self) {
        self.meter.release(self.items.len() * 32 + 64);
    }
}

impl Drop for Dict {
    fn drop(&mut self) {
        self.meter.release(self.entries.len() * 64 + 64);
    }
}

impl std::ops::Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        &self.s
    }
}

impl Value {
    /// Text, paid for by its length.
    pub fn text(meter: &Rc<Meter>, s: impl Into<Box<str>>) -> R<Self> {
        let s = s.into();
        if s.len() as u64 > MAX_WEIGHT {
            return Err(too_large());
        }
        meter.pay(s.len() / 32)?;
        meter.hold(s.len() + 64)?;
        Ok(Self::Str(Rc::new(Text { s, meter: meter.clone() })))
    }

    /// A sequence.
    pub fn list(meter: &Rc<Meter>, items: Vec<Value>, shape: Shape) -> R<Self> {
        let (mut depth, mut weight) = (0, 2u64);
        for v in &items {
            depth = depth.max(v.depth());
            weight = weight.saturating_add(v.weight() + 1);
        }
        let depth = bound(depth + 1, weight)?;
        meter.pay(items.len() / 8)?;
        meter.hold(items.len() * 32 + 64)?;
        Ok(Self::List(Rc::new(List { items, shape, depth, weight, meter: meter.clone() })))
    }

    /// A dictionary; the caller sees to it that no key comes twice.
    pub fn dict(meter: &Rc<Meter>, entries: Vec<(Value, Value)>) -> R<Self> {
        let (mut depth, mut weight) = (0, 2u64);
        for (k, v) in &entries {
            depth = depth.max(v.depth()).max(k.depth());
            weight = weight.saturating_add(k.weight() + v.weight() + 2);
        }
        let depth = bound(depth + 1, weight)?;
        meter.pay(entries.len() / 8)?;
        meter.hold(entries.len() * 64 + 64)?;
        Ok(Self::Dict(Rc::new(Dict { entries, depth, weight, meter: meter.clone() })))
    }

    /// What a caller hands in.
    pub fn from_json(meter: &Rc<Meter>, v: &serde_json::Value, depth: u32) -> R<Self> {
        use serde_json::Value as J;
        if depth > MAX_DEPTH {
            return Err(format!("the conversation nests deeper than {MAX_DEPTH} levels"));
        }
        Ok(match v {
            J::Null => Self::None,
            J::Bool(b) => Self::Bool(*b),
            J::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
                (Some(i), ..) => Self::Int(i.into()),
                (_, Some(u), _) => Self::Int(u.into()),
                (.., f) => Self::Float(f.unwrap_or(f64::NAN)),
            },
            J::String(s) => Self::text(meter, s.as_str())?,
            J::Array(a) => {
                let items = a.iter().map(|v| Self::from_json(meter, v, depth + 1)).collect::<R<_>>()?;
                Self::list(meter, items, Shape::List)?
            }
            J::Object(o) => {
                let entries = o
                    .iter()
                    .map(|(k, v)| Ok((Self::text(meter, k.as_str())?, Self::from_json(meter, v, depth + 1)?)))
                    .collect::<R<_>>()?;
                Self::dict(meter, entries)?
            }
        })
    }

    fn depth(&self) -> u32 {
        match self {
            Self::List(l) => l.depth,
            Self::Dict(d) => d.depth,
            Self::Method(m) => m.0.depth() + 1,
            Self::Loop(l) => l.items.depth + 1,
            _ => 0,
        }
    }

    /// Characters and items of the value written out.
    pub fn weight(&self) -> u64 {
        match self {
            Self::Str(s) => s.len() as u64,
            Self::List(l) => l.weight,
            Self::Dict(d) => d.weight,
            _ => 8,
        }
    }

    /// A missing name.
    pub fn undefined(name: &str) -> Self {
        Self::Undefined(Rc::from(crate::error::brief(name, 60)))
    }

    /// Text, if it is.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(s) => Some(s),
            _ => None,
        }
    }

    /// Python's name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::List(l) => match l.shape {
                Shape::List => "list",
                Shape::Tuple => "tuple",
                Shape::Iter => "generator",
            },
            Self::Dict(_) => "dict",
            Self::Space(_) => "Namespace",
            Self::Macro(..) => "Macro",
            Self::Method(_) | Self::Func(_) => "function",
            Self::Loop(_) => "LoopContext",
        }
    }

    /// Python's truth.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(b) => *b,
            Self::Int(i) => *i != 0,
            Self::Float(f) => *f != 0.0,
            Self::Str(s) => !s.is_empty(),
            Self::List(l) => !l.items.is_empty() || l.shape == Shape::Iter,
            Self::Dict(d) => !d.entries.is_empty(),
            _ => true,
        }
    }
}

fn bound(depth: u32, weight: u64) -> R<u32> {
    if depth > MAX_DEPTH {
        return Err(format!("a value nests deeper than {MAX_DEPTH} levels"));
    }
    if weight > MAX_WEIGHT {
        return Err(too_large());
    }
    Ok(depth)
}

/// A value over [`MAX_WEIGHT`].
pub fn too_large() -> String {
    format!("a value is larger than {} MB", MAX_WEIGHT >> 20)
}
