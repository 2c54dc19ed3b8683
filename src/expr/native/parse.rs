//! Recursive descent over the text; no token is copied before it is needed.

use serde_json::Value;

use super::{Dialect, Expr, Fault, Key, Method, Op};
use crate::expr::{ParseError, limits, scope};

pub(super) type Parsed<T> = Result<T, Fault>;

pub fn expression(source: &str, dialect: Dialect) -> Parsed<Expr> {
    let mut parser = Parser { source, rest: source, dialect, depth: 0, nodes: 0 };
    let expr = parser.whole()?;
    parser.space();
    if parser.rest.is_empty() { Ok(expr) } else { parser.foreign() }
}

/// Binary operators from loosest to tightest; longer spellings first within a level.
const LEVELS: &[&[(&str, Op)]] = &[
    &[("||", Op::Or), ("??", Op::Coalesce)],
    &[("&&", Op::And)],
    &[("===", Op::Is), ("!==", Op::IsNot), ("==", Op::Equal), ("!=", Op::Unequal)],
    &[("<=", Op::LessEqual), (">=", Op::MoreEqual), ("<", Op::Less), (">", Op::More), ("in", Op::In)],
    &[("+", Op::Add), ("-", Op::Subtract)],
    &[("*", Op::Multiply), ("/", Op::Divide), ("%", Op::Remainder)],
];

/// Those of [`Dialect::Path`], above and below `not`.
const WORDS: &[&[(&str, Op)]] = &[&[("or", Op::Or)], &[("and", Op::And)]];
const COMPARISONS: &[(&str, Op)] = &[
    ("==", Op::Same),
    ("!=", Op::Differ),
    ("<=", Op::AtMost),
    (">=", Op::AtLeast),
    ("<", Op::Below),
    (">", Op::Above),
    ("in", Op::Within),
];

/// Spellings that begin like a known operator and are something else.
const FOREIGN: &[&str] = &["**", "<<", ">>", "++", "--", "//", "/*", "=>", "||=", "&&=", "??=", "+=", "-=", "*=", "/=", "%="];

pub(super) struct Parser<'s> {
    source: &'s str,
    pub(super) rest: &'s str,
    pub(super) dialect: Dialect,
    depth: usize,
    nodes: usize,
}

impl<'s> Parser<'s> {
    pub(super) fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn offset(&self) -> usize {
        self.source.len() - self.rest.len()
    }

    pub(super) fn foreign<T>(&self) -> Parsed<T> {
        let shown: String = self.rest.chars().take(20).collect();
        Err(Fault::Foreign(if shown.is_empty() { "it ends too early".into() } else { format!("unexpected `{shown}`") }))
    }

    pub(super) fn refused<T>(&self, message: impl Into<String>) -> Parsed<T> {
        Err(Fault::Refused(ParseError::new(message)))
    }

    pub(super) fn eat(&mut self, text: &str) -> bool {
        self.space();
        self.rest.strip_prefix(text).map(|rest| self.rest = rest).is_some()
    }

    fn expect(&mut self, text: &str) -> Parsed<()> {
        if self.eat(text) { Ok(()) } else { self.foreign() }
    }

    /// Counts one more node and one more level; every level is left through [`Parser::leave`].
    fn enter(&mut self) -> Parsed<()> {
        self.depth += 1;
        if self.depth > limits::DEPTH {
            return self.refused(format!("the expression nests deeper than {}", limits::DEPTH));
        }
        self.count()
    }

    fn leave(&mut self) {
        self.depth -= 1;
    }

    fn count(&mut self) -> Parsed<()> {
        self.nodes += 1;
        if self.nodes > limits::NODES {
            return self.refused(format!("the expression has more than {} parts", limits::NODES));
        }
        Ok(())
    }

    /// A whole expression of the dialect.
    fn whole(&mut self) -> Parsed<Expr> {
        if self.dialect == Dialect::Path {
            self.enter()?;
            let expr = self.words(0)?;
            self.leave();
            return Ok(expr);
        }
        self.choice()
    }

    /// `or` and `and`, which give true or false, whatever stands beside them.
    fn words(&mut self, level: usize) -> Parsed<Expr> {
        let Some(operators) = WORDS.get(level) else {
            return self.negation();
        };
        let mut left = self.words(level + 1)?;
        while let Some(op) = self.operator(operators) {
            self.count()?;
            let right = self.words(level + 1)?;
            let both = Expr::Binary(op, Box::new(left), Box::new(right));
            left = Expr::Not(Box::new(Expr::Not(Box::new(both))));
        }
        Ok(left)
    }

    /// `not` binds looser than a comparison.
    fn negation(&mut self) -> Parsed<Expr> {
        self.space();
        let rest = self.rest.strip_prefix("not").filter(|rest| rest.starts_with([' ', '(', '\t', '\n']));
        let Some(rest) = rest else {
            let left = self.unary()?;
            let Some(op) = self.operator(COMPARISONS) else { return Ok(left) };
            self.count()?;
            let right = self.unary()?;
            return Ok(Expr::Binary(op, Box::new(left), Box::new(right)));
        };
        self.rest = rest;
        self.enter()?;
        let inner = self.negation()?;
        self.leave();
        Ok(Expr::Not(Box::new(inner)))
    }

    fn choice(&mut self) -> Parsed<Expr> {
        self.enter()?;
        let test = self.binary(0)?;
        self.space();
        let expr = if self.rest.starts_with('?') && !self.rest.starts_with("?.") && self.eat("?") {
            let yes = self.choice()?;
            self.expect(":")?;
            let no = self.choice()?;
            Expr::Choice(Box::new((test, yes, no)))
        } else {
            test
        };
        self.leave();
        Ok(expr)
    }

    fn binary(&mut self, level: usize) -> Parsed<Expr> {
        let Some(operators) = LEVELS.get(level) else {
            return self.unary();
        };
        let mut left = self.binary(level + 1)?;
        while let Some(op) = self.operator(operators) {
            self.count()?;
            let right = self.binary(level + 1)?;
            left = Expr::Binary(op, Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    fn operator(&mut self, operators: &[(&str, Op)]) -> Option<Op> {
        self.space();
        if FOREIGN.iter().any(|text| self.rest.starts_with(text)) {
            return None;
        }
        for (text, op) in operators {
            let Some(rest) = self.rest.strip_prefix(text) else { continue };
            let word = text.starts_with(char::is_alphabetic);
            if word && rest.starts_with(|next: char| next.is_alphanumeric() || matches!(next, '_' | '-' | '.')) {
                continue;
            }
            self.rest = rest;
            return Some(*op);
        }
        None
    }

    fn unary(&mut self) -> Parsed<Expr> {
        self.space();
        if self.rest.starts_with("--") || self.rest.starts_with("++") {
            return self.foreign();
        }
        let bare = self.dialect == Dialect::Path;
        let wrap: fn(Expr) -> Expr = if bare && !self.rest.starts_with('-') {
            return self.postfix();
        } else if self.eat("!") {
            |inner| Expr::Not(Box::new(inner))
        } else if self.eat("-") {
            negated
        } else if self.eat("+") {
            |inner| Expr::Plus(Box::new(inner))
        } else if self.rest.strip_prefix("typeof").is_some_and(|rest| rest.starts_with([' ', '('])) && self.eat("typeof") {
            |inner| Expr::TypeOf(Box::new(inner))
        } else {
            return self.postfix();
        };
        self.enter()?;
        let inner = self.unary()?;
        self.leave();
        Ok(wrap(inner))
    }

    fn postfix(&mut self) -> Parsed<Expr> {
        let start = {
            self.space();
            self.offset()
        };
        let mut expr = self.primary()?;
        loop {
            // A member may be written on the next line, but not after a space: `a .b` reads as two things in prose.
            let before = self.rest;
            if self.dialect == Dialect::Script {
                self.space();
            }
            let optional = self.rest.starts_with("?.");
            if optional {
                self.rest = &self.rest[2..];
                if self.rest.starts_with(|next: char| next.is_ascii_digit()) {
                    return self.foreign();
                }
            }
            if self.rest.starts_with('[') {
                expr = self.item(expr)?;
            } else if optional || self.rest.strip_prefix('.').is_some_and(|rest| !rest.starts_with('.')) {
                if !optional {
                    self.rest = &self.rest[1..];
                }
                expr = self.member(expr)?;
            } else {
                self.rest = before;
                break;
            }
            self.count()?;
            if let Expr::Path(path) = &mut expr {
                path.text = self.source[start..self.offset()].to_owned();
            }
        }
        self.finish(expr)
    }

    /// Settles what a whole path means: a secret, a variable behind `input`, or itself.
    fn finish(&self, expr: Expr) -> Parsed<Expr> {
        let Expr::Path(mut path) = expr else { return Ok(expr) };
        if path.root == scope::SECRETS {
            return match path.keys.as_slice() {
                [key] => Ok(Expr::Secret { name: key.name().into_owned(), managed: self.dialect == Dialect::Path }),
                _ => self.refused("name one secret: `secrets.name`"),
            };
        }
        if self.dialect == Dialect::Path && path.root == "run" && path.keys == [Key::Name("session".into())] {
            return Ok(Expr::Secret { name: scope::RUN_SESSION.into(), managed: false });
        }
        if self.dialect == Dialect::Script && (path.root == "input" || path.root == "variables") {
            if path.keys.is_empty() {
                return Err(Fault::Foreign(format!("`{}` as a whole", path.root)));
            }
            path.prefixed = true;
        }
        Ok(Expr::Path(path))
    }

    fn item(&mut self, target: Expr) -> Parsed<Expr> {
        self.rest = &self.rest[1..];
        self.enter()?;
        let index = self.whole()?;
        self.leave();
        self.expect("]")?;
        let key = match &index {
            Expr::Literal(Value::String(name)) => Some(Key::from_text(name)),
            Expr::Literal(Value::Number(number)) => number.as_u64().and_then(|index| usize::try_from(index).ok()).map(Key::Index),
            _ => None,
        };
        match key {
            Some(key) => Ok(attach(target, key)),
            // Computed positions, and those counted from the end, mean different things in different languages.
            None if self.dialect.has_hyphens() => Err(Fault::Foreign("a computed position".into())),
            None => Ok(Expr::Item(Box::new(self.finish(target)?), Box::new(index))),
        }
    }

    fn member(&mut self, target: Expr) -> Parsed<Expr> {
        let name = if self.dialect.has_hyphens() { self.segment()? } else { self.name()? };
        if !self.rest.starts_with('(') {
            return Ok(attach(target, Key::from_text(name)));
        }
        if self.dialect == Dialect::Path {
            return Err(Fault::Foreign(format!("the method `{name}`")));
        }
        let method = match name {
            "includes" => Method::Includes,
            "startsWith" => Method::StartsWith,
            "endsWith" => Method::EndsWith,
            "trim" => Method::Trim,
            "toLowerCase" => Method::ToLowerCase,
            "toUpperCase" => Method::ToUpperCase,
            _ => return Err(Fault::Foreign(format!("the method `{name}`"))),
        };
        self.rest = &self.rest[1..];
        let arguments = self.list(")")?;
        let wanted = usize::from(matches!(method, Method::Includes | Method::StartsWith | Method::EndsWith));
        if arguments.len() != wanted {
            return Err(Fault::Foreign(format!("`{name}` with {} arguments", arguments.len())));
        }
        Ok(Expr::Call(Box::new(self.finish(target)?), method, arguments))
    }

    fn list(&mut self, end: &str) -> Parsed<Vec<Expr>> {
        let mut items = Vec::new();
        while !self.eat(end) {
            if !items.is_empty() {
                self.expect(",")?;
                if self.eat(end) {
                    break;
                }
            }
            items.push(self.whole()?);
        }
        Ok(items)
    }

    fn primary(&mut self) -> Parsed<Expr> {
        self.count()?;
        self.space();
        let Some(first) = self.rest.chars().next() else { return self.foreign() };
        match first {
            '(' => {
                self.rest = &self.rest[1..];
                let inner = self.whole()?;
                self.expect(")")?;
                Ok(inner)
            }
            '[' => {
                self.rest = &self.rest[1..];
                self.list("]").map(Expr::List)
            }
            '\'' | '"' => self.text(first),
            '0'..='9' => self.number(),
            '{' if self.dialect == Dialect::Script && self.rest.starts_with("{{") => self.placeholder(),
            _ => self.word(),
        }
    }
}

/// A negative number is a literal, everything else a computation.
fn negated(inner: Expr) -> Expr {
    match inner {
        Expr::Literal(Value::Number(number)) => match number.as_i64() {
            Some(whole) if whole != 0 => Expr::Literal(Value::from(-whole)),
            _ => Expr::Literal(serde_json::Number::from_f64(-number.as_f64().unwrap_or(0.0)).map_or(Value::Null, Value::Number)),
        },
        other => Expr::Minus(Box::new(other)),
    }
}

/// Appends a key to a path, or reads it from a computed value.
fn attach(target: Expr, key: Key) -> Expr {
    match target {
        Expr::Path(mut path) => {
            path.keys.push(key);
            Expr::Path(path)
        }
        other => Expr::Member(Box::new(other), key),
    }
}
