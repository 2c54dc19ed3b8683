//! Text with `{{ }}` in it: the template of every ordinary field.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::core::Core;
use super::native::{Dialect, Eval, Expr, Fault, Reads, Val};
use super::value::{Text, json_inside, weight};
use super::{Language, ParseError, Scope, limits, scope, secret_named, too_large};
use crate::error::Result;

/// A compiled template. Cheap to clone, made to be rendered many times.
#[derive(Debug, Clone)]
pub struct Template(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    parts: Vec<Part>,
    /// The whole source is one placeholder: its value keeps its type.
    bare: bool,
    reads: Reads,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Slot(Slot),
}

#[derive(Debug, Clone)]
struct Slot {
    /// As written, braces included.
    source: String,
    body: Body,
    /// It stands between the quotes of a JSON string.
    quoted: bool,
}

#[derive(Debug, Clone)]
enum Body {
    Native(Expr),
    Core(Core),
}

/// What rendering gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// One bare `{{ expr }}` keeps its type; everything else is text.
    pub value: Value,
    /// The names that led nowhere, each once, in the order they were met.
    pub unresolved: Vec<String>,
}

/// One part of a template, filled in and not yet joined with the others.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// As it stands in the source.
    Text(String),
    /// A placeholder's value as it reads.
    Value {
        text: String,
        /// The placeholder as it was written.
        source: String,
        /// It was made of a secret.
        secret: bool,
    },
}

/// What stands where a name led nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missing {
    /// Nothing (null when the value keeps its type).
    #[default]
    Empty,
    /// The placeholder itself, as it was written.
    KeepPlaceholder,
}

/// How a value enters the text around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Insert {
    /// As it reads: text without quotes, containers as compact JSON, null as nothing.
    #[default]
    Text,
    /// As JSON: text with its quotes. Between quotes, the text with everything escaped that JSON escapes.
    Json,
}

impl Template {
    /// Compiles a source. Only `{{ }}` means anything; `{% %}` and `{# #}` are plain text.
    pub fn parse(source: &str) -> Result<Self, ParseError> {
        Self::parse_in(source, Language::Fields)
    }

    /// [`Template::parse`] in a language.
    pub fn parse_in(source: &str, language: Language) -> Result<Self, ParseError> {
        if source.len() > limits::SOURCE {
            return Err(ParseError::new(format!("the template is longer than {} bytes", limits::SOURCE)));
        }
        let mut parts = Vec::new();
        let mut quotes = Quotes::default();
        let mut rest = source;
        while let Some(start) = rest.find("{{") {
            let offset = source.len() - rest.len() + start;
            let (text, from) = rest.split_at(start);
            let end = slot_end(from).ok_or_else(|| {
                ParseError::new("`{{` is never closed by `}}`; for braces in the text write `{{ \"{{\" }}`").at(source, offset)
            })?;
            let (slot, after) = from.split_at(end);
            quotes.read(text);
            if !text.is_empty() {
                parts.push(Part::Text(text.to_owned()));
            }
            let body = Body::parse(slot[2..end - 2].trim(), language).map_err(|fault| fault.at(source, offset))?;
            parts.push(Part::Slot(Slot { source: slot.to_owned(), body, quoted: quotes.inside }));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let mut reads = Reads::default();
        for part in &parts {
            if let Part::Slot(slot) = part {
                slot.body.reads(&mut reads);
            }
        }
        let bare = matches!(parts.as_slice(), [Part::Slot(_)]);
        Ok(Self(Arc::new(Compiled { parts, bare, reads })))
    }

    /// The same template, always rendered as text.
    pub(crate) fn as_text(&self) -> Self {
        Self(Arc::new(Compiled { parts: self.0.parts.clone(), bare: false, reads: self.0.reads.clone() }))
    }

    /// Whether there is nothing to fill in.
    pub fn is_literal(&self) -> bool {
        self.0.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// Whether the source is exactly one placeholder.
    pub fn is_bare(&self) -> bool {
        self.0.bare
    }

    /// Whether it reads any secret, managed or of the request.
    pub fn uses_secrets(&self) -> bool {
        self.0.reads.uses_secrets()
    }

    /// The managed secrets it names as `{{secret:NAME}}`.
    pub fn managed_secrets(&self) -> impl Iterator<Item = &str> {
        self.0.reads.managed.iter().map(String::as_str)
    }

    /// The variables it starts from.
    pub fn roots(&self) -> &BTreeSet<String> {
        &self.0.reads.roots
    }

    /// Everything it reads.
    pub fn reads(&self) -> &Reads {
        &self.0.reads
    }

    /// Fills the placeholders in. Missing names are empty and reported.
    pub fn render(&self, scope: &Scope) -> Result<Rendered> {
        self.render_with(scope, Missing::Empty, Insert::Text)
    }

    /// Fills the placeholders in, as text whatever the source is.
    pub fn render_text(&self, scope: &Scope) -> Result<String> {
        let mut unresolved = Vec::new();
        self.text(scope, Missing::Empty, Insert::Text, &mut unresolved)
    }

    /// Fills the placeholders in. Bodies of external tools are rendered with [`Missing::KeepPlaceholder`] and
    /// [`Insert::Json`], which always gives text.
    pub fn render_with(&self, scope: &Scope, missing: Missing, insert: Insert) -> Result<Rendered> {
        let mut unresolved = Vec::new();
        let value = match self.0.parts.as_slice() {
            [Part::Slot(slot)] if self.0.bare && insert == Insert::Text => slot.typed(scope, missing, &mut unresolved)?,
            _ => Value::String(self.text(scope, missing, insert, &mut unresolved)?),
        };
        let mut seen = BTreeSet::new();
        unresolved.retain(|name| seen.insert(name.clone()));
        Ok(Rendered { value, unresolved })
    }

    /// Fills the placeholders in and leaves the pieces apart, with the names that led nowhere: for texts in which a value must not
    /// pass for what stands around it.
    pub fn pieces(&self, scope: &Scope, missing: Missing) -> Result<(Vec<Piece>, Vec<String>)> {
        let (mut unresolved, mut left) = (Vec::new(), limits::OUTPUT);
        let mut pieces = Vec::with_capacity(self.0.parts.len());
        for part in &self.0.parts {
            let piece = match part {
                Part::Text(text) => Piece::Text(text.clone()),
                Part::Slot(slot) => {
                    let mut out = Text::new(left, "the rendered text");
                    slot.write(scope, missing, Insert::Text, &mut out, &mut unresolved)?;
                    let text = out.into_string();
                    left -= text.len();
                    Piece::Value { text, source: slot.source.clone(), secret: slot.uses_secrets() }
                }
            };
            pieces.push(piece);
        }
        Ok((pieces, unresolved))
    }

    fn text(&self, scope: &Scope, missing: Missing, insert: Insert, unresolved: &mut Vec<String>) -> Result<String> {
        let mut out = Text::new(limits::OUTPUT, "the rendered text");
        for part in &self.0.parts {
            match part {
                Part::Text(text) => out.push(text)?,
                Part::Slot(slot) => slot.write(scope, missing, insert, &mut out, unresolved)?,
            }
        }
        Ok(out.into_string())
    }
}

impl Slot {
    fn uses_secrets(&self) -> bool {
        let mut reads = Reads::default();
        self.body.reads(&mut reads);
        reads.uses_secrets()
    }

    fn typed(&self, scope: &Scope, missing: Missing, unresolved: &mut Vec<String>) -> Result<Value> {
        let value = self.body.eval(scope, unresolved)?;
        if value.is_undefined() && missing == Missing::KeepPlaceholder {
            return Ok(Value::String(self.source.clone()));
        }
        let value = value.into_cow();
        if weight(&value, limits::COPIED) >= limits::COPIED {
            return Err(too_large("the rendered value", limits::COPIED));
        }
        Ok(value.into_owned())
    }

    fn write(&self, scope: &Scope, missing: Missing, insert: Insert, out: &mut Text, unresolved: &mut Vec<String>) -> Result<()> {
        let value = self.body.eval(scope, unresolved)?;
        if value.is_undefined() && missing == Missing::KeepPlaceholder {
            return out.push(&self.source);
        }
        let value = value.into_cow();
        match (insert, self.quoted) {
            (Insert::Text, _) => out.push_value(&value),
            (Insert::Json, false) => out.push_json(&value),
            (Insert::Json, true) => {
                let mut inside = Text::new(limits::OUTPUT, "the rendered text");
                inside.push_value(&value)?;
                out.push(&json_inside(&inside.into_string()))
            }
        }
    }
}

impl Body {
    fn parse(source: &str, language: Language) -> Result<Self, ParseError> {
        if source.is_empty() {
            return Err(ParseError::new("`{{ }}` is empty; name a variable"));
        }
        if source.len() > limits::EXPRESSION {
            return Err(ParseError::new(format!("the expression is longer than {} bytes", limits::EXPRESSION)));
        }
        let unreadable = |why: &str| {
            let shown: String = source.chars().take(60).collect();
            ParseError::new(format!("cannot read `{{{{ {shown} }}}}`: {why}"))
        };
        let dialect = if language == Language::Paths { Dialect::Path } else { Dialect::Field };
        match Expr::parse(source, dialect) {
            Ok(expr) => Ok(Self::Native(expr)),
            Err(Fault::Refused(fault)) => Err(fault),
            Err(Fault::Foreign(why)) if language == Language::Paths => Err(unreadable(&why)),
            Err(Fault::Foreign(_)) => Core::parse(source).map(Self::Core).map_err(|fault| unreadable(&fault.message)),
        }
    }

    fn reads(&self, reads: &mut Reads) {
        match self {
            Self::Native(expr) => expr.reads(reads),
            Self::Core(core) => reads.add(core.reads()),
        }
    }

    /// The value. Names that led nowhere are reported only when they left the whole placeholder without a value: a fallback
    /// that worked is no fault. Secrets are reported whatever was made of their absence, unless a fallback stood in; in the
    /// larger language, where that cannot be told, always.
    fn eval<'a>(&'a self, scope: &Scope<'a>, unresolved: &mut Vec<String>) -> Result<Val<'a>> {
        match self {
            Self::Native(expr) => {
                let mut eval = Eval::new(scope);
                let value = eval.eval(expr)?;
                if !value.is_undefined() {
                    eval.missing.retain(|name| secret_named(name).is_some());
                }
                unresolved.append(&mut eval.missing);
                Ok(value)
            }
            Self::Core(core) => {
                let value = core.eval(scope)?;
                let secrets = core.reads().secrets.iter().filter(|name| scope.secret(name).is_none());
                unresolved.extend(secrets.map(|name| format!("{}.{name}", scope::SECRETS)));
                Ok(match value {
                    Some(value) => Val::Own(value),
                    None => {
                        unresolved.extend(core.reads().roots.iter().cloned());
                        Val::Undefined
                    }
                })
            }
        }
    }
}

/// The length of the placeholder that `text` starts with, braces included. Quotes and inner braces are skipped over.
pub(crate) fn slot_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut open, mut quote) = (2, 0usize, None);
    while let Some(byte) = bytes.get(at) {
        match (quote, byte) {
            (Some(_), b'\\') => at += 1,
            (Some(wanted), _) if *byte == wanted => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(*byte),
            (None, b'{') => open += 1,
            (None, b'}') if open > 0 => open -= 1,
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at + 2),
            (None, _) => {}
        }
        at += 1;
    }
    None
}

/// Follows whether a JSON text is inside one of its strings.
#[derive(Default)]
struct Quotes {
    inside: bool,
}

impl Quotes {
    fn read(&mut self, text: &str) {
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' if self.inside => {
                    bytes.next();
                }
                b'"' => self.inside = !self.inside,
                _ => {}
            }
        }
    }
}
