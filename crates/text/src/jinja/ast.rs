//! What the parser makes of a template.

/// A parsed template. Macros and call bodies are numbered, so that values can name them.
#[derive(Debug, Default)]
pub struct Program {
    pub body: Vec<Stmt>,
    pub macros: Vec<Macro>,
}

#[derive(Debug)]
pub struct Macro {
    pub name: String,
    pub params: Vec<(String, Option<Expr>)>,
    pub body: Vec<Stmt>,
}

#[derive(Debug)]
pub enum Stmt {
    Text(String),
    Emit(Expr),
    For(Box<For>),
    If(Vec<(Expr, Vec<Stmt>)>, Vec<Stmt>),
    Set(Target, Expr),
    /// target, filters, body
    SetBlock(Target, Vec<(String, Args)>, Vec<Stmt>),
    Macro(usize),
    /// the call and the number of the body's macro
    Call(Expr, usize),
    FilterBlock(Vec<(String, Args)>, Vec<Stmt>),
    With(Vec<(Target, Expr)>, Vec<Stmt>),
    /// a scope of its own that changes nothing (`generation`)
    Scope(Vec<Stmt>),
    Break,
    Continue,
}

#[derive(Debug)]
pub struct For {
    pub target: Target,
    pub iter: Expr,
    pub filter: Option<Expr>,
    pub body: Vec<Stmt>,
    pub or_else: Vec<Stmt>,
}

#[derive(Debug)]
pub enum Target {
    Name(String),
    Attr(String, String),
    Tuple(Vec<Target>),
}

#[derive(Debug, Default)]
pub struct Args {
    pub pos: Vec<Expr>,
    pub named: Vec<(String, Expr)>,
}

#[derive(Debug)]
pub enum Lit {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Add,
    Sub,
    Concat,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

#[derive(Debug)]
pub enum Expr {
    Lit(Lit),
    Name(String),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// left to right
    Chain(Box<Expr>, Vec<(Op, Expr)>),
    Compare(Box<Expr>, Vec<(Cmp, Expr)>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Neg(Box<Expr>),
    Pos(Box<Expr>),
    /// value, condition, otherwise
    If(Box<(Expr, Expr, Option<Expr>)>),
    Attr(Box<Expr>, String),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, Box<[Option<Expr>; 3]>),
    Call(Box<Expr>, Args),
    Filter(Box<Expr>, String, Args),
    /// value, test, arguments, negated
    Test(Box<Expr>, String, Args, bool),
}
