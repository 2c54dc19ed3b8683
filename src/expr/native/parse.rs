//! Recursive descent over the text; no token is copied before it is needed.

use serde_json::Value;

use super::{Dialect, Expr, Fault, Key, Method, Op, Path};
use crate::expr::{ParseError, Template, limits, scope};

type Parsed<T> = Result<T, Fault>;

pub fn expression(source: &str, dialect: Dialect) -> Parsed<Expr> {
    let mut parser = Parser { source, rest: source, dialect, depth: 0, nodes: 0 };
    let expr = parser.choice()?;
    parser.space();
    if parser.rest.is_empty() { Ok(expr) } else { parser.foreign() }
}

/// Names that mean something to JavaScript itself; an expression that uses them belongs to the sandbox.
const SCRIPT_WORDS: &[&str] = &[
    "Array",
    "BigInt",
    "Boolean",
    "Date",
    "Error",
    "Infinity",
    "Intl",
    "JSON",
    "Map",
    "Math",
    "NaN",
    "Number",
    "Object",
    "Promise",
    "Reflect",
    "RegExp",
    "Set",
    "String",
    "Symbol",
    "async",
    "await",
    "class",
    "console",
    "const",
    "delete",
    "do",
    "else",
    "eval",
    "for",
    "function",
    "globalThis",
    "if",
    "in",
    "instanceof",
    "isFinite",
    "isNaN",
    "let",
    "new",
    "of",
    "parseFloat",
    "parseInt",
    "return",
    "switch",
    "this",
    "throw",
    "try",
    "var",
    "void",
    "while",
    "yield",
];

/// Words of the larger template language; an expression that starts with one belongs to it.
const FIELD_WORDS: &[&str] = &["and", "else", "if", "in", "is", "not", "or"];

/// Binary operators from loosest to tightest; longer spellings first within a level.
const LEVELS: &[&[(&str, Op)]] = &[
    &[("||", Op::Or), ("??", Op::Coalesce)],
    &[("&&", Op::And)],
    &[("===", Op::Is), ("!==", Op::IsNot), ("==", Op::Equal), ("!=", Op::Unequal)],
    &[("<=", Op::LessEqual), (">=", Op::MoreEqual), ("<", Op::Less), (">", Op::More), ("in", Op::In)],
    &[("+", Op::Add), ("-", Op::Subtract)],
    &[("*", Op::Multiply), ("/", Op::Divide), ("%", Op::Remainder)],
];

/// Spellings that begin like a known operator and are something else.
const FOREIGN: &[&str] = &["**", "<<", ">>", "++", "--", "//", "/*", "=>", "||=", "&&=", "??=", "+=", "-=", "*=", "/=", "%="];

struct Parser<'s> {
    source: &'s str,
    rest: &'s str,
    dialect: Dialect,
    depth: usize,
    nodes: usize,
}

impl<'s> Parser<'s> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn offset(&self) -> usize {
        self.source.len() - self.rest.len()
    }

    fn foreign<T>(&self) -> Parsed<T> {
        let shown: String = self.rest.chars().take(20).collect();
        Err(Fault::Foreign(if shown.is_empty() { "it ends too early".into() } else { format!("unexpected `{shown}`") }))
    }

    fn refused<T>(&self, message: impl Into<String>) -> Parsed<T> {
        Err(Fault::Refused(ParseError::new(message)))
    }

    fn eat(&mut self, text: &str) -> bool {
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
            if *op == Op::In && rest.starts_with(|next: char| next.is_alphanumeric() || next == '_') {
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
        let wrap: fn(Expr) -> Expr = if self.eat("!") {
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
                [key] => Ok(Expr::Secret { name: key.name().into_owned(), managed: false }),
                _ => self.refused("name one secret: `secrets.name`"),
            };
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
        let index = self.choice()?;
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
            None if self.dialect == Dialect::Field => Err(Fault::Foreign("a computed position".into())),
            None => Ok(Expr::Item(Box::new(self.finish(target)?), Box::new(index))),
        }
    }

    fn member(&mut self, target: Expr) -> Parsed<Expr> {
        let name = match self.dialect {
            Dialect::Field => self.segment()?,
            Dialect::Script => self.name()?,
        };
        if !self.rest.starts_with('(') {
            return Ok(attach(target, Key::from_text(name)));
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
            items.push(self.choice()?);
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
                let inner = self.choice()?;
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

    fn word(&mut self) -> Parsed<Expr> {
        let word = match self.dialect {
            Dialect::Field => self.segment()?,
            Dialect::Script => self.name()?,
        };
        if self.dialect == Dialect::Field && self.rest.starts_with(':') {
            match word {
                "secret" => return self.managed_secret(),
                "secrets" => {
                    return self.refused("write `{{secret:NAME}}` for a managed secret, or `{{secrets.name}}` for a secret of the request");
                }
                _ => {}
            }
        }
        match (word, self.dialect) {
            ("true", _) | ("True", Dialect::Field) => return Ok(Expr::Literal(Value::Bool(true))),
            ("false", _) | ("False", Dialect::Field) => return Ok(Expr::Literal(Value::Bool(false))),
            ("null", _) | ("none" | "None", Dialect::Field) => return Ok(Expr::Literal(Value::Null)),
            ("undefined", _) => return Ok(Expr::Undefined),
            _ => {}
        }
        let foreign = match self.dialect {
            Dialect::Field => FIELD_WORDS.contains(&word),
            Dialect::Script => SCRIPT_WORDS.contains(&word),
        };
        if foreign || self.rest.starts_with('(') {
            return Err(Fault::Foreign(format!("`{word}`")));
        }
        Ok(Expr::Path(Path { root: word.to_owned(), keys: Vec::new(), text: word.to_owned(), prefixed: false }))
    }

    fn managed_secret(&mut self) -> Parsed<Expr> {
        self.rest = &self.rest[1..];
        self.space();
        let end =
            self.rest.find(|next: char| !(next.is_ascii_alphanumeric() || matches!(next, '_' | '-' | '.'))).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if name.is_empty() {
            return self.refused("name the secret: `{{secret:NAME}}`");
        }
        self.rest = rest;
        Ok(Expr::Secret { name: name.to_owned(), managed: true })
    }

    fn placeholder(&mut self) -> Parsed<Expr> {
        let Some(end) = crate::expr::template::slot_end(self.rest) else {
            return self.refused("`{{` is never closed");
        };
        let (slot, rest) = self.rest.split_at(end);
        self.rest = rest;
        Template::parse(slot).map(|template| Expr::Text(Box::new(template))).map_err(Fault::Refused)
    }

    /// A name of JavaScript.
    fn name(&mut self) -> Parsed<&'s str> {
        let end = self.rest.find(|next: char| !(next.is_alphanumeric() || matches!(next, '_' | '$'))).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
            return self.foreign();
        }
        self.rest = rest;
        Ok(name)
    }

    /// A name of a field: hyphens inside it belong to it.
    fn segment(&mut self) -> Parsed<&'s str> {
        let mut end = 0;
        let mut characters = self.rest.char_indices().peekable();
        while let Some((at, character)) = characters.next() {
            let inner_hyphen = character == '-'
                && at > 0
                && characters.peek().is_some_and(|(_, next)| next.is_alphanumeric() || matches!(next, '_' | '-'));
            if !(character.is_alphanumeric() || matches!(character, '_' | '$') || inner_hyphen) {
                break;
            }
            end = at + character.len_utf8();
        }
        let (name, rest) = self.rest.split_at(end);
        if name.is_empty() {
            return self.foreign();
        }
        self.rest = rest;
        Ok(name)
    }

    fn number(&mut self) -> Parsed<Expr> {
        let bytes = self.rest.as_bytes();
        let mut end = 0;
        while let Some(byte) = bytes.get(end) {
            let sign = matches!(byte, b'+' | b'-') && end > 0 && matches!(bytes.get(end - 1), Some(b'e' | b'E'));
            if !(byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E') || sign) {
                break;
            }
            end += 1;
        }
        let (text, rest) = self.rest.split_at(end);
        let value: Option<Value> = serde_json::from_str(text).ok();
        match value {
            Some(value) if !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_') => {
                self.rest = rest;
                Ok(Expr::Literal(value))
            }
            _ => self.foreign(),
        }
    }

    fn text(&mut self, quote: char) -> Parsed<Expr> {
        let mut out = String::new();
        let mut characters = self.rest[1..].chars();
        loop {
            match characters.next() {
                None | Some('\n') => return Err(Fault::Foreign("a text that is never closed".into())),
                Some(end) if end == quote => break,
                Some('\\') => escape(&mut characters, &mut out).ok_or_else(|| Fault::Foreign("an unknown escape".into()))?,
                Some(other) => out.push(other),
            }
        }
        self.rest = characters.as_str();
        if self.dialect == Dialect::Script && out.contains("{{") {
            return Template::parse(&out).map(|template| Expr::Text(Box::new(template.as_text()))).map_err(Fault::Refused);
        }
        Ok(Expr::Literal(Value::String(out)))
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

fn escape(characters: &mut std::str::Chars<'_>, out: &mut String) -> Option<()> {
    match characters.next()? {
        'n' => out.push('\n'),
        'r' => out.push('\r'),
        't' => out.push('\t'),
        '0' | 'x' => return None,
        'u' => {
            let digits = characters.as_str().get(..4)?;
            out.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
            *characters = characters.as_str()[4..].chars();
        }
        other => out.push(other),
    }
    Some(())
}
