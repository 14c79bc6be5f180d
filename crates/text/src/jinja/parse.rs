//! Tokens to a program: recursive descent in Jinja2's order of precedence, with a bound on nesting.

use super::R;
use super::ast::{Expr, For, Macro, Program, Stmt, Target};
use super::lex::{Tok, lex};

/// Deepest nesting of blocks and expressions. Rendering and dropping recurse as deep.
pub(super) const MAX_DEPTH: u32 = 100;

/// Parses a template.
pub fn parse(source: &str) -> R<Program> {
    let mut p = Parser { toks: lex(source)?, at: 0, depth: 0, macros: vec![], loops: 0 };
    let body = p.body(&[])?;
    if *p.peek() != Tok::End {
        return Err(p.unexpected("the end of the template"));
    }
    Ok(Program { body, macros: p.macros })
}

pub(super) struct Parser {
    pub(super) toks: Vec<(Tok, u32)>,
    pub(super) at: usize,
    pub(super) depth: u32,
    macros: Vec<Macro>,
    loops: u32,
}

impl Parser {
    pub(super) fn peek(&self) -> &Tok {
        self.toks.get(self.at).map_or(&Tok::End, |t| &t.0)
    }

    pub(super) fn next(&mut self) -> Tok {
        let t = self.toks.get_mut(self.at).map_or(Tok::End, |t| std::mem::replace(&mut t.0, Tok::End));
        self.at += 1;
        t
    }

    pub(super) fn line(&self) -> u32 {
        self.toks.get(self.at).or(self.toks.last()).map_or(0, |t| t.1)
    }

    pub(super) fn unexpected(&self, want: &str) -> String {
        let got = match self.peek() {
            Tok::Text(_) => "text".into(),
            Tok::BlockStart => "`{%`".into(),
            Tok::BlockEnd => "`%}`".into(),
            Tok::VarStart => "`{{`".into(),
            Tok::VarEnd => "`}}`".into(),
            Tok::Name(n) => format!("`{}`", crate::error::brief(n, 40)),
            Tok::Str(_) => "a string".into(),
            Tok::Int(_) | Tok::Float(_) => "a number".into(),
            Tok::Op(o) => format!("`{o}`"),
            Tok::End => "the end of the template".to_string(),
        };
        format!("line {}: expected {want}, found {got}", self.line())
    }

    pub(super) fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Tok::Op(o) if *o == op)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Tok::Name(n) if n == name)
    }

    pub(super) fn eat_op(&mut self, op: &str) -> bool {
        let yes = self.is_op(op);
        self.at += usize::from(yes);
        yes
    }

    pub(super) fn eat_name(&mut self, name: &str) -> bool {
        let yes = self.is_name(name);
        self.at += usize::from(yes);
        yes
    }

    pub(super) fn want_op(&mut self, op: &'static str) -> R<()> {
        if self.eat_op(op) { Ok(()) } else { Err(self.unexpected(&format!("`{op}`"))) }
    }

    fn want_name(&mut self, name: &str) -> R<()> {
        if self.eat_name(name) { Ok(()) } else { Err(self.unexpected(&format!("`{name}`"))) }
    }

    pub(super) fn name(&mut self) -> R<String> {
        match self.peek() {
            Tok::Name(_) => match self.next() {
                Tok::Name(n) => Ok(n),
                _ => Ok(String::new()),
            },
            _ => Err(self.unexpected("a name")),
        }
    }

    fn block_end(&mut self) -> R<()> {
        if *self.peek() == Tok::BlockEnd {
            self.at += 1;
            return Ok(());
        }
        Err(self.unexpected("`%}`"))
    }

    pub(super) fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> R<T>) -> R<T> {
        if self.depth >= MAX_DEPTH {
            return Err(format!("line {}: nested deeper than {MAX_DEPTH} levels", self.line()));
        }
        self.depth += 1;
        let r = f(self);
        self.depth -= 1;
        r
    }

    /// Statements up to a block that starts with one of `ends`, whose name is consumed.
    fn body(&mut self, ends: &[&str]) -> R<Vec<Stmt>> {
        let mut out = vec![];
        loop {
            match self.peek() {
                Tok::End => return if ends.is_empty() { Ok(out) } else { Err(self.unexpected(ends[0])) },
                Tok::Text(_) => {
                    if let Tok::Text(t) = self.next() {
                        out.push(Stmt::Text(t));
                    }
                }
                Tok::VarStart => {
                    self.at += 1;
                    let e = self.tuple()?;
                    if *self.peek() != Tok::VarEnd {
                        return Err(self.unexpected("`}}`"));
                    }
                    self.at += 1;
                    out.push(Stmt::Emit(e));
                }
                Tok::BlockStart => {
                    self.at += 1;
                    if ends.iter().any(|e| self.is_name(e)) {
                        return Ok(out);
                    }
                    let s = self.deeper(Self::statement)?;
                    out.push(s);
                }
                _ => return Err(self.unexpected("a statement")),
            }
        }
    }

    fn statement(&mut self) -> R<Stmt> {
        let name = self.name()?;
        match name.as_str() {
            "for" => self.for_loop(),
            "if" => self.if_block(),
            "set" => self.set(),
            "macro" => {
                let name = self.name()?;
                let params = self.params()?;
                self.block_end()?;
                let body = self.closed("endmacro")?;
                self.macros.push(Macro { name, params, body });
                Ok(Stmt::Macro(self.macros.len() - 1))
            }
            "call" => {
                let params = if self.is_op("(") { self.params()? } else { vec![] };
                let call = self.expression()?;
                if !matches!(call, Expr::Call(..)) {
                    return Err(self.unexpected("a call"));
                }
                self.block_end()?;
                let body = self.closed("endcall")?;
                self.macros.push(Macro { name: "caller".into(), params, body });
                Ok(Stmt::Call(call, self.macros.len() - 1))
            }
            "filter" => {
                let mut filters = vec![self.filter_name()?];
                while self.eat_op("|") {
                    filters.push(self.filter_name()?);
                }
                self.block_end()?;
                Ok(Stmt::FilterBlock(filters, self.closed("endfilter")?))
            }
            "with" => {
                let mut sets = vec![];
                while *self.peek() != Tok::BlockEnd {
                    if !sets.is_empty() {
                        self.want_op(",")?;
                    }
                    let t = self.target(false)?;
                    self.want_op("=")?;
                    sets.push((t, self.expression()?));
                }
                self.block_end()?;
                Ok(Stmt::With(sets, self.closed("endwith")?))
            }
            "generation" => {
                self.block_end()?;
                Ok(Stmt::Scope(self.closed("endgeneration")?))
            }
            "break" | "continue" if self.loops > 0 => {
                self.block_end()?;
                Ok(if name == "break" { Stmt::Break } else { Stmt::Continue })
            }
            n => Err(format!("line {}: unknown tag `{}`", self.line(), crate::error::brief(n, 40))),
        }
    }

    /// A body and its end tag.
    fn closed(&mut self, end: &'static str) -> R<Vec<Stmt>> {
        // A loop's `break` cannot leave a macro or a captured block.
        let loops = std::mem::replace(&mut self.loops, 0);
        let body = self.body(&[end]);
        self.loops = loops;
        let body = body?;
        self.want_name(end)?;
        self.block_end()?;
        Ok(body)
    }

    fn for_loop(&mut self) -> R<Stmt> {
        let target = self.target(true)?;
        self.want_name("in")?;
        // Not a conditional expression: `if` starts the loop's filter.
        let mut iter = self.or()?;
        if self.is_op(",") {
            let mut items = vec![iter];
            while self.eat_op(",") {
                items.push(self.or()?);
            }
            iter = Expr::Tuple(items);
        }
        let filter = if self.eat_name("if") { Some(self.expression()?) } else { None };
        if self.is_name("recursive") {
            return Err(format!("line {}: recursive loops are not supported", self.line()));
        }
        self.block_end()?;
        self.loops += 1;
        let body = self.body(&["endfor", "else"]);
        self.loops -= 1;
        let body = body?;
        let mut or_else = vec![];
        if self.eat_name("else") {
            self.block_end()?;
            or_else = self.body(&["endfor"])?;
        }
        self.want_name("endfor")?;
        self.block_end()?;
        Ok(Stmt::For(Box::new(For { target, iter, filter, body, or_else })))
    }

    fn if_block(&mut self) -> R<Stmt> {
        let mut arms = vec![];
        loop {
            let cond = self.tuple()?;
            self.block_end()?;
            let body = self.body(&["elif", "else", "endif"])?;
            arms.push((cond, body));
            if self.eat_name("elif") {
                continue;
            }
            let mut or_else = vec![];
            if self.eat_name("else") {
                self.block_end()?;
                or_else = self.body(&["endif"])?;
            }
            self.want_name("endif")?;
            self.block_end()?;
            return Ok(Stmt::If(arms, or_else));
        }
    }

    fn set(&mut self) -> R<Stmt> {
        let target = self.target(true)?;
        if self.eat_op("=") {
            let e = self.tuple()?;
            self.block_end()?;
            return Ok(Stmt::Set(target, e));
        }
        let mut filters = vec![];
        while self.eat_op("|") {
            filters.push(self.filter_name()?);
        }
        self.block_end()?;
        Ok(Stmt::SetBlock(target, filters, self.closed("endset")?))
    }

    fn target(&mut self, tuple: bool) -> R<Target> {
        let first = self.deeper(|p| {
            if p.eat_op("(") {
                let t = p.target(true)?;
                p.want_op(")")?;
                return Ok(t);
            }
            let name = p.name()?;
            if p.eat_op(".") { Ok(Target::Attr(name, p.name()?)) } else { Ok(Target::Name(name)) }
        })?;
        if !tuple || !self.is_op(",") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.eat_op(",") {
            if self.is_op(")") || self.is_op("=") || self.is_name("in") {
                break;
            }
            all.push(self.target(false)?);
        }
        Ok(Target::Tuple(all))
    }

    fn params(&mut self) -> R<Vec<(String, Option<Expr>)>> {
        self.want_op("(")?;
        let mut out = vec![];
        while !self.eat_op(")") {
            if !out.is_empty() {
                self.want_op(",")?;
                if self.eat_op(")") {
                    break;
                }
            }
            let name = self.name()?;
            let default = if self.eat_op("=") { Some(self.expression()?) } else { None };
            out.push((name, default));
        }
        Ok(out)
    }
}
