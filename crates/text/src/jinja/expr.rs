//! Expressions, in Jinja's order of precedence.

use super::R;
use super::ast::{Args, Cmp, Expr, Lit, Op};
use super::lex::Tok;
use super::parse::{MAX_DEPTH, Parser};

impl Parser {
    /// An expression, or several with commas.
    pub(super) fn tuple(&mut self) -> R<Expr> {
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

    pub(super) fn expression(&mut self) -> R<Expr> {
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

    pub(super) fn or(&mut self) -> R<Expr> {
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

    pub(super) fn args(&mut self) -> R<Args> {
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

    pub(super) fn filter_name(&mut self) -> R<(String, Args)> {
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
