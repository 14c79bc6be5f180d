//! Tokens to a program: recursive descent in Jinja2's order of precedence, with a bound on nesting.

use super::R;
use super::ast::{Args, Cmp, Expr, For, Lit, Macro, Op, Program, Stmt, Target};
use super::lex::{Tok, lex};

/// Deepest nesting of blocks and expressions. Rendering and dropping recurse as deep.
const MAX_DEPTH: u32 = 100;

/// Parses a template.
pub fn parse(source: &str) -> R<Program> {
    let mut p = Parser { toks: lex(source)?, at: 0, depth: 0, macros: vec![], loops: 0 };
    let body = p.body(&[])?;
    if *p.peek() != Tok::End {
        return Err(p.unexpected("the end of the template"));
    }
    Ok(Program { body, macros: p.macros })
}

struct Parser {
    toks: Vec<(Tok, u32)>,
    at: usize,
    depth: u32,
    macros: Vec<Macro>,
    loops: u32,
}

impl Parser {
    fn peek(&self) -> &Tok {
        self.toks.get(self.at).map_or(&Tok::End, |t| &t.0)
    }

    fn next(&mut self) -> Tok {
        let t = self.toks.get_mut(self.at).map_or(Tok::End, |t| std::mem::replace(&mut t.0, Tok::End));
        self.at += 1;
        t
    }

    fn line(&self) -> u32 {
        self.toks.get(self.at).or(self.toks.last()).map_or(0, |t| t.1)
    }

    fn unexpected(&self, want: &str) -> String {
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

    fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Tok::Op(o) if *o == op)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Tok::Name(n) if n == name)
    }

    fn eat_op(&mut self, op: &str) -> bool {
        let yes = self.is_op(op);
        self.at += usize::from(yes);
        yes
    }

    fn eat_name(&mut self, name: &str) -> bool {
        let yes = self.is_name(name);
        self.at += usize::from(yes);
        yes
    }

    fn want_op(&mut self, op: &'static str) -> R<()> {
        if self.eat_op(op) { Ok(()) } else { Err(self.unexpected(&format!("`{op}`"))) }
    }

    fn want_name(&mut self, name: &str) -> R<()> {
        if self.eat_name(name) { Ok(()) } else { Err(self.unexpected(&format!("`{name}`"))) }
    }

    fn name(&mut self) -> R<String> {
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

    fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> R<T>) -> R<T> {
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

    /// An expression, or several with commas.
    fn tuple(&mut self) -> R<Expr> {
        let first = self.expression()?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.eat_op(",") {
            if matches!(self.peek(), Tok::BlockEnd | Tok::VarEnd) || self.is_op(")") {
                break;
            }
            all.push(self.expression()?);
        }
        Ok(Expr::Tuple(all))
    }

    fn expression(&mut self) -> R<Expr> {
        self.deeper(|p| {
            let value = p.or()?;
            if !p.eat_name("if") {
                return Ok(value);
            }
            let cond = p.or()?;
            let other = if p.eat_name("else") { Some(p.expression()?) } else { None };
            Ok(Expr::If(Box::new((value, cond, other))))
        })
    }

    fn or(&mut self) -> R<Expr> {
        let first = self.and()?;
        let mut all = vec![first];
        while self.eat_name("or") {
            all.push(self.and()?);
        }
        Ok(one_or(all, Expr::Or))
    }

    fn and(&mut self) -> R<Expr> {
        let first = self.not()?;
        let mut all = vec![first];
        while self.eat_name("and") {
            all.push(self.not()?);
        }
        Ok(one_or(all, Expr::And))
    }

    fn not(&mut self) -> R<Expr> {
        if self.eat_name("not") {
            return self.deeper(|p| Ok(Expr::Not(Box::new(p.not()?))));
        }
        let left = self.sum()?;
        let mut ops = vec![];
        loop {
            let op = match self.peek() {
                Tok::Op("==") => Cmp::Eq,
                Tok::Op("!=") => Cmp::Ne,
                Tok::Op("<") => Cmp::Lt,
                Tok::Op("<=") => Cmp::Le,
                Tok::Op(">") => Cmp::Gt,
                Tok::Op(">=") => Cmp::Ge,
                Tok::Name(n) if n == "in" => Cmp::In,
                Tok::Name(n)
                    if n == "not"
                        && matches!(self.toks.get(self.at + 1), Some((Tok::Name(n), _)) if n == "in") =>
                {
                    self.at += 1;
                    Cmp::NotIn
                }
                _ => break,
            };
            self.at += 1;
            ops.push((op, self.sum()?));
        }
        Ok(if ops.is_empty() { left } else { Expr::Compare(Box::new(left), ops) })
    }

    fn chain(&mut self, ops: &[(&str, Op)], operand: fn(&mut Self) -> R<Expr>) -> R<Expr> {
        let left = operand(self)?;
        let mut rest = vec![];
        while let Some(op) = ops.iter().find(|o| self.is_op(o.0)).map(|o| o.1) {
            self.at += 1;
            rest.push((op, operand(self)?));
        }
        Ok(if rest.is_empty() { left } else { Expr::Chain(Box::new(left), rest) })
    }

    fn sum(&mut self) -> R<Expr> {
        self.chain(&[("+", Op::Add), ("-", Op::Sub)], Self::concat)
    }

    fn concat(&mut self) -> R<Expr> {
        self.chain(&[("~", Op::Concat)], Self::product)
    }

    fn product(&mut self) -> R<Expr> {
        let ops = [("*", Op::Mul), ("/", Op::Div), ("//", Op::FloorDiv), ("%", Op::Mod)];
        self.chain(&ops, |p| p.chain(&[("**", Op::Pow)], |p| p.unary(true)))
    }

    fn unary(&mut self, filters: bool) -> R<Expr> {
        self.deeper(|p| {
            let e = if p.eat_op("-") {
                Expr::Neg(Box::new(p.unary(false)?))
            } else if p.eat_op("+") {
                Expr::Pos(Box::new(p.unary(false)?))
            } else {
                p.primary()?
            };
            p.postfix(e, filters)
        })
    }

    fn primary(&mut self) -> R<Expr> {
        Ok(match self.peek() {
            Tok::Name(_) => {
                let n = self.name()?;
                match n.as_str() {
                    "true" | "True" => Expr::Lit(Lit::Bool(true)),
                    "false" | "False" => Expr::Lit(Lit::Bool(false)),
                    "none" | "None" => Expr::Lit(Lit::None),
                    _ => Expr::Name(n),
                }
            }
            Tok::Str(_) => {
                let mut all = String::new();
                while matches!(self.peek(), Tok::Str(_)) {
                    if let Tok::Str(s) = self.next() {
                        all.push_str(&s);
                    }
                }
                Expr::Lit(Lit::Str(all))
            }
            &Tok::Int(n) => {
                self.at += 1;
                Expr::Lit(Lit::Int(n))
            }
            &Tok::Float(n) => {
                self.at += 1;
                Expr::Lit(Lit::Float(n))
            }
            Tok::Op("(") => {
                self.at += 1;
                if self.eat_op(")") {
                    return Ok(Expr::Tuple(vec![]));
                }
                let e = self.tuple()?;
                self.want_op(")")?;
                e
            }
            Tok::Op("[") => {
                self.at += 1;
                Expr::List(self.items("]", Self::expression)?)
            }
            Tok::Op("{") => {
                self.at += 1;
                Expr::Dict(self.items("}", |p| {
                    let k = p.expression()?;
                    p.want_op(":")?;
                    Ok((k, p.expression()?))
                })?)
            }
            _ => return Err(self.unexpected("an expression")),
        })
    }

    fn items<T>(&mut self, end: &'static str, item: fn(&mut Self) -> R<T>) -> R<Vec<T>> {
        let mut out = vec![];
        while !self.eat_op(end) {
            if !out.is_empty() {
                self.want_op(",")?;
                if self.eat_op(end) {
                    break;
                }
            }
            out.push(item(self)?);
        }
        Ok(out)
    }

    /// Attributes, items, calls, and where allowed filters and tests. Each wraps the one before: the chain's length
    /// is nesting too.
    fn postfix(&mut self, mut e: Expr, filters: bool) -> R<Expr> {
        let depth = self.depth;
        loop {
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return Err(format!("line {}: nested deeper than {MAX_DEPTH} levels", self.line()));
            }
            let boxed = |e: Expr| Box::new(e);
            if self.eat_op(".") {
                e = match self.peek() {
                    &Tok::Int(i) => {
                        self.at += 1;
                        Expr::Item(boxed(e), boxed(Expr::Lit(Lit::Int(i))))
                    }
                    _ => Expr::Attr(boxed(e), self.name()?),
                };
            } else if self.eat_op("[") {
                e = self.subscript(e)?;
            } else if self.is_op("(") {
                let args = self.args()?;
                e = Expr::Call(boxed(e), args);
            } else if filters && self.eat_op("|") {
                let (name, args) = self.filter_name()?;
                e = Expr::Filter(boxed(e), name, args);
            } else if filters && self.eat_name("is") {
                let negated = self.eat_name("not");
                let name = self.name()?;
                let args = self.test_args()?;
                e = Expr::Test(boxed(e), name, args, negated);
            } else {
                self.depth = depth;
                return Ok(e);
            }
        }
    }

    fn subscript(&mut self, e: Expr) -> R<Expr> {
        let mut parts: [Option<Expr>; 3] = [None, None, None];
        let mut n = 0;
        loop {
            if self.eat_op("]") {
                break;
            }
            if self.eat_op(":") {
                n += 1;
                if n > 2 {
                    return Err(self.unexpected("`]`"));
                }
                continue;
            }
            if parts[n].is_some() {
                return Err(self.unexpected("`]`"));
            }
            parts[n] = Some(self.expression()?);
        }
        let [first, ..] = &mut parts;
        match (n, first.take()) {
            (0, Some(i)) => Ok(Expr::Item(Box::new(e), Box::new(i))),
            (0, None) => Err(self.unexpected("an index")),
            (_, f) => {
                parts[0] = f;
                Ok(Expr::Slice(Box::new(e), Box::new(parts)))
            }
        }
    }

    fn args(&mut self) -> R<Args> {
        self.want_op("(")?;
        let mut a = Args::default();
        let mut any = false;
        while !self.eat_op(")") {
            if any {
                self.want_op(",")?;
                if self.eat_op(")") {
                    break;
                }
            }
            any = true;
            let named =
                matches!((self.peek(), self.toks.get(self.at + 1)), (Tok::Name(_), Some((Tok::Op("="), _))));
            if named {
                let name = self.name()?;
                self.at += 1;
                a.named.push((name, self.expression()?));
            } else {
                a.pos.push(self.expression()?);
            }
        }
        Ok(a)
    }

    fn filter_name(&mut self) -> R<(String, Args)> {
        let name = self.name()?;
        let args = if self.is_op("(") { self.args()? } else { Args::default() };
        Ok((name, args))
    }

    /// Arguments of a test: in parentheses, or one that follows the name.
    fn test_args(&mut self) -> R<Args> {
        let bare = match self.peek() {
            Tok::Op("(") => return self.args(),
            Tok::Name(n) => !matches!(n.as_str(), "else" | "or" | "and" | "is" | "if" | "not" | "in"),
            Tok::Str(_) | Tok::Int(_) | Tok::Float(_) | Tok::Op("[" | "{") => true,
            _ => false,
        };
        if !bare {
            return Ok(Args::default());
        }
        let e = self.primary()?;
        Ok(Args { pos: vec![self.postfix(e, false)?], named: vec![] })
    }
}

fn one_or(mut all: Vec<Expr>, many: fn(Vec<Expr>) -> Expr) -> Expr {
    if all.len() == 1 { all.remove(0) } else { many(all) }
}
