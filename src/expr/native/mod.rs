//! The expressions that need no engine: paths, literals, fallbacks, and the common operators of JavaScript.
//!
//! Three dialects share one grammar. In [`Dialect::Field`] (inside `{{ }}`) an unspaced hyphen belongs to a name and
//! `secret:NAME` is a managed secret; in [`Dialect::Script`] (conditions) a hyphen subtracts, `input.x` and
//! `variables.x` mean `x`, and `{{ }}` may stand for a value. [`Dialect::Path`] is the language of workflows: paths as in fields, the words
//! `and`, `or`, `not`, comparisons that never convert, no arithmetic, and `secrets.NAME` is a managed secret. What the grammar does not know is
//! reported as [`Fault::Foreign`], so that the caller can hand the text to a larger engine.

mod eval;
mod parse;
mod scan;

use std::collections::BTreeSet;

use serde_json::Value;

use super::{ParseError, Template};

pub use eval::{Eval, Val};

/// Which of the spellings is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Field,
    Script,
    Path,
}

impl Dialect {
    /// Whether a hyphen within a name belongs to it.
    const fn has_hyphens(self) -> bool {
        matches!(self, Self::Field | Self::Path)
    }
}

/// Why a text is not one of these expressions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Not this grammar; a larger one may know it.
    Foreign(String),
    /// Wrong in every grammar.
    Refused(ParseError),
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    Name(String),
    /// A position in a list, or a name made of digits.
    Index(usize),
}

/// `root.key[0]…`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub root: String,
    pub keys: Vec<Key>,
    /// As it was written, for reports.
    pub text: String,
    /// The root is `input` or `variables` of a script: the first key names the variable.
    pub prefixed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Or,
    Coalesce,
    And,
    Is,
    IsNot,
    Equal,
    Unequal,
    Less,
    LessEqual,
    More,
    MoreEqual,
    In,
    /// Equal in type and value, containers member by member; nothing is equal to null.
    Same,
    Differ,
    /// Orders, of two numbers or two texts; false for everything else.
    Below,
    AtMost,
    Above,
    AtLeast,
    /// A member of a list, a name in an object, a part of a text; nothing is converted.
    Within,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Includes,
    StartsWith,
    EndsWith,
    Trim,
    ToLowerCase,
    ToUpperCase,
}

/// One parsed expression.
#[derive(Debug, Clone)]
pub enum Expr {
    Literal(Value),
    Undefined,
    Path(Path),
    /// `secrets.name`, or `secret:NAME` when managed.
    Secret {
        name: String,
        managed: bool,
    },
    Member(Box<Expr>, Key),
    Item(Box<Expr>, Box<Expr>),
    Call(Box<Expr>, Method, Vec<Expr>),
    Not(Box<Expr>),
    Minus(Box<Expr>),
    Plus(Box<Expr>),
    TypeOf(Box<Expr>),
    Binary(Op, Box<Expr>, Box<Expr>),
    Choice(Box<(Expr, Expr, Expr)>),
    List(Vec<Expr>),
    /// A text with placeholders of its own; only in conditions.
    Text(Box<Template>),
}

/// What an expression reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reads {
    pub roots: BTreeSet<String>,
    /// Request secrets, `secrets.name`.
    pub secrets: BTreeSet<String>,
    /// Managed secrets, `secret:NAME`.
    pub managed: BTreeSet<String>,
    /// The first two names of each path that has two.
    pub members: BTreeSet<(String, String)>,
}

impl Reads {
    pub fn add(&mut self, other: &Self) {
        self.roots.extend(other.roots.iter().cloned());
        self.secrets.extend(other.secrets.iter().cloned());
        self.managed.extend(other.managed.iter().cloned());
        self.members.extend(other.members.iter().cloned());
    }

    /// Whether any secret is read, managed or of the request.
    pub fn uses_secrets(&self) -> bool {
        !self.secrets.is_empty() || !self.managed.is_empty()
    }
}

impl Expr {
    pub fn parse(source: &str, dialect: Dialect) -> Result<Self, Fault> {
        parse::expression(source, dialect)
    }

    /// Adds what this expression reads to `reads`.
    pub fn reads(&self, reads: &mut Reads) {
        match self {
            Self::Literal(_) | Self::Undefined => {}
            Self::Path(path) => {
                reads.roots.insert(path.variable());
                if let Some(key) = path.keys.first().filter(|_| !path.prefixed) {
                    reads.members.insert((path.root.clone(), key.name().into_owned()));
                }
            }
            Self::Secret { name, managed: true } => {
                reads.managed.insert(name.clone());
            }
            Self::Secret { name, managed: false } => {
                reads.secrets.insert(name.clone());
            }
            Self::Member(inner, _) | Self::Not(inner) | Self::Minus(inner) | Self::Plus(inner) | Self::TypeOf(inner) => inner.reads(reads),
            Self::Item(left, right) | Self::Binary(_, left, right) => {
                left.reads(reads);
                right.reads(reads);
            }
            Self::Call(target, _, arguments) => {
                target.reads(reads);
                arguments.iter().for_each(|argument| argument.reads(reads));
            }
            Self::Choice(parts) => [&parts.0, &parts.1, &parts.2].into_iter().for_each(|part| part.reads(reads)),
            Self::List(items) => items.iter().for_each(|item| item.reads(reads)),
            Self::Text(template) => reads.add(template.reads()),
        }
    }
}

impl Path {
    /// The variable this path starts at.
    pub fn variable(&self) -> String {
        match self.keys.first() {
            Some(key) if self.prefixed => key.name().into_owned(),
            _ => self.root.clone(),
        }
    }
}

impl Key {
    /// The key as a field's name.
    pub fn name(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Self::Name(name) => name.into(),
            Self::Index(index) => index.to_string().into(),
        }
    }

    /// A key from its text: digits without leading zeros are a position.
    pub fn from_text(text: &str) -> Self {
        let position = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
        match text.parse() {
            Ok(index) if position => Self::Index(index),
            _ => Self::Name(text.to_owned()),
        }
    }
}
