//! Names, numbers, texts and secrets: the smallest parts of an expression.

use serde_json::Value;

use super::parse::{Parsed, Parser};
use super::{Dialect, Expr, Fault, Path};
use crate::expr::Template;

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

impl<'s> Parser<'s> {
    pub(super) fn word(&mut self) -> Parsed<Expr> {
        let word = if self.dialect.has_hyphens() { self.segment()? } else { self.name()? };
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
            ("undefined", Dialect::Field | Dialect::Script) => return Ok(Expr::Undefined),
            _ => {}
        }
        let foreign = match self.dialect {
            Dialect::Field | Dialect::Path => FIELD_WORDS.contains(&word),
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

    pub(super) fn placeholder(&mut self) -> Parsed<Expr> {
        let Some(end) = crate::expr::template::slot_end(self.rest) else {
            return self.refused("`{{` is never closed");
        };
        let (slot, rest) = self.rest.split_at(end);
        self.rest = rest;
        Template::parse(slot).map(|template| Expr::Text(Box::new(template))).map_err(Fault::Refused)
    }

    /// A name of JavaScript.
    pub(super) fn name(&mut self) -> Parsed<&'s str> {
        let end = self.rest.find(|next: char| !(next.is_alphanumeric() || matches!(next, '_' | '$'))).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
            return self.foreign();
        }
        self.rest = rest;
        Ok(name)
    }

    /// A name of a field: hyphens inside it belong to it.
    pub(super) fn segment(&mut self) -> Parsed<&'s str> {
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

    pub(super) fn number(&mut self) -> Parsed<Expr> {
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

    pub(super) fn text(&mut self, quote: char) -> Parsed<Expr> {
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
