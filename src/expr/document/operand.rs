//! Values, filters and tests, as they are written inside `{{ }}` and `{% %}`.

use serde_json::Value;

use super::filters::{self, Filter};
use crate::expr::native::Key;
use crate::expr::{ParseError, limits, scope};

#[derive(Debug, Clone)]
pub enum Operand {
    Literal(Value),
    /// Equal to everything without content: nothing, `false`, white space, empty containers.
    Blank,
    /// Equal to empty text and empty containers.
    Empty,
    Range(Box<(Operand, Operand)>),
    Path(Path),
}

#[derive(Debug, Clone)]
pub struct Path {
    pub root: String,
    pub keys: Vec<Step>,
    pub text: String,
}

#[derive(Debug, Clone)]
pub enum Step {
    Key(Key),
    Computed(Operand),
}

/// A value and what is done to it.
#[derive(Debug, Clone)]
pub struct Filtered {
    pub operand: Operand,
    pub filters: Vec<(&'static Filter, Vec<Operand>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    Unequal,
    Less,
    LessEqual,
    More,
    MoreEqual,
    Contains,
}

#[derive(Debug, Clone)]
pub enum Test {
    Holds(Operand),
    Compare(Comparison, Operand, Operand),
    /// Groups from the right, as Liquid does.
    Both(Box<(Test, Test)>),
    Either(Box<(Test, Test)>),
}

type Parsed<T> = Result<T, ParseError>;

/// Reads operands from the inside of one output or tag.
pub struct Reader<'s> {
    rest: &'s str,
    nodes: usize,
    depth: usize,
    /// Roots met, for the document's list.
    pub roots: Vec<String>,
}

impl<'s> Reader<'s> {
    pub fn new(text: &'s str) -> Self {
        Self { rest: text, nodes: 0, depth: 0, roots: Vec::new() }
    }

    pub fn is_done(&mut self) -> bool {
        self.rest = self.rest.trim_start();
        self.rest.is_empty()
    }

    pub fn end(&mut self) -> Parsed<()> {
        if self.is_done() { Ok(()) } else { Err(self.unexpected()) }
    }

    fn unexpected(&self) -> ParseError {
        let shown: String = self.rest.chars().take(20).collect();
        ParseError::new(if shown.is_empty() { "it ends too early".to_owned() } else { format!("unexpected `{shown}`") })
    }

    pub fn eat(&mut self, text: &str) -> bool {
        self.rest = self.rest.trim_start();
        self.rest.strip_prefix(text).map(|rest| self.rest = rest).is_some()
    }

    /// Takes a word if it is the next one.
    pub fn word(&mut self, word: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(word) {
            Some(rest) if !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_' || next == ':') => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// Takes `word:` if it comes next.
    pub fn named(&mut self, word: &str) -> bool {
        self.rest = self.rest.trim_start();
        let after = self.rest.strip_prefix(word).map(str::trim_start).and_then(|rest| rest.strip_prefix(':'));
        after.map(|rest| self.rest = rest).is_some()
    }

    pub fn identifier(&mut self) -> Parsed<&'s str> {
        self.rest = self.rest.trim_start();
        let mut end = self.rest.find(|next: char| !(next.is_alphanumeric() || matches!(next, '_' | '-'))).unwrap_or(self.rest.len());
        // A hyphen at the end belongs to what follows.
        end = self.rest[..end].trim_end_matches('-').len();
        let (name, rest) = self.rest.split_at(end);
        if name.is_empty() {
            return Err(self.unexpected());
        }
        self.rest = rest.strip_prefix('?').unwrap_or(rest);
        Ok(name)
    }

    fn enter(&mut self) -> Parsed<()> {
        self.nodes += 1;
        self.depth += 1;
        if self.nodes > limits::NODES || self.depth > limits::DEPTH {
            return Err(ParseError::new(format!(
                "the expression has more than {} parts or nests deeper than {}",
                limits::NODES,
                limits::DEPTH
            )));
        }
        Ok(())
    }

    pub fn operand(&mut self) -> Parsed<Operand> {
        self.enter()?;
        self.rest = self.rest.trim_start();
        let operand = match self.rest.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let inside = &self.rest[1..];
                let end = inside.find(quote).ok_or_else(|| ParseError::new("a text is never closed"))?;
                self.rest = &inside[end + 1..];
                Operand::Literal(inside[..end].into())
            }
            Some('(') => self.range()?,
            Some('0'..='9' | '-') => self.number()?,
            _ => self.path()?,
        };
        self.depth -= 1;
        Ok(operand)
    }

    fn range(&mut self) -> Parsed<Operand> {
        self.rest = &self.rest[1..];
        let from = self.operand()?;
        if !self.eat("..") {
            return Err(ParseError::new("parentheses hold a range, as in `(1..5)`; tests are not grouped in Liquid"));
        }
        let to = self.operand()?;
        if !self.eat(")") {
            return Err(self.unexpected());
        }
        Ok(Operand::Range(Box::new((from, to))))
    }

    fn number(&mut self) -> Parsed<Operand> {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let sign = usize::from(self.rest.starts_with('-'));
        let mut end = sign + digits(&self.rest[sign..]);
        if self.rest[end..].starts_with('.') && digits(&self.rest[end + 1..]) > 0 {
            end += 1 + digits(&self.rest[end + 1..]);
        }
        let (text, rest) = self.rest.split_at(end);
        let value = serde_json::from_str(text).map_err(|_| self.unexpected())?;
        self.rest = rest;
        Ok(Operand::Literal(value))
    }

    fn path(&mut self) -> Parsed<Operand> {
        let start = self.rest;
        let root = self.identifier()?;
        let literal = match root {
            "true" => Some(Operand::Literal(true.into())),
            "false" => Some(Operand::Literal(false.into())),
            "nil" | "null" => Some(Operand::Literal(Value::Null)),
            "blank" => Some(Operand::Blank),
            "empty" => Some(Operand::Empty),
            _ => None,
        };
        if let Some(literal) = literal {
            return Ok(literal);
        }
        if root == scope::SECRETS || root == "secret" && self.rest.starts_with(':') {
            return Err(ParseError::new("secrets cannot be read here; name them in an HTTP step"));
        }
        let mut keys = Vec::new();
        loop {
            if self.rest.starts_with("..") {
                break;
            } else if let Some(rest) = self.rest.strip_prefix('.') {
                self.rest = rest;
                keys.push(Step::Key(Key::from_text(self.identifier()?)));
            } else if let Some(rest) = self.rest.strip_prefix('[') {
                self.rest = rest;
                let key = self.operand()?;
                if !self.eat("]") {
                    return Err(self.unexpected());
                }
                keys.push(match key {
                    Operand::Literal(Value::String(name)) => Step::Key(Key::from_text(&name)),
                    other => Step::Computed(other),
                });
            } else {
                break;
            }
        }
        self.roots.push(root.to_owned());
        let text = start[..start.len() - self.rest.len()].to_owned();
        Ok(Operand::Path(Path { root: root.to_owned(), keys, text }))
    }

    pub fn filtered(&mut self) -> Parsed<Filtered> {
        let operand = self.operand()?;
        let mut filters = Vec::new();
        while self.eat("|") {
            self.nodes += 1;
            if self.nodes > limits::NODES {
                return Err(ParseError::new(format!("the expression has more than {} parts", limits::NODES)));
            }
            let name = self.identifier()?;
            let filter = filters::find(name)?;
            let mut arguments = Vec::new();
            if self.eat(":") {
                arguments.push(self.argument()?);
                while self.eat(",") {
                    arguments.push(self.argument()?);
                }
            }
            if arguments.len() < filter.least || arguments.len() > filter.most {
                return Err(ParseError::new(format!("the filter `{name}` takes {}", filter.arity())));
            }
            filters.push((filter, arguments));
        }
        Ok(Filtered { operand, filters })
    }

    fn argument(&mut self) -> Parsed<Operand> {
        self.named("allow_false");
        self.operand()
    }

    pub fn test(&mut self) -> Parsed<Test> {
        let left = self.operand()?;
        let test = match self.comparison() {
            Some(comparison) => Test::Compare(comparison, left, self.operand()?),
            None => Test::Holds(left),
        };
        if self.word("and") {
            Ok(Test::Both(Box::new((test, self.test()?))))
        } else if self.word("or") {
            Ok(Test::Either(Box::new((test, self.test()?))))
        } else {
            Ok(test)
        }
    }

    fn comparison(&mut self) -> Option<Comparison> {
        const SPELLINGS: &[(&str, Comparison)] = &[
            ("==", Comparison::Equal),
            ("!=", Comparison::Unequal),
            ("<>", Comparison::Unequal),
            ("<=", Comparison::LessEqual),
            (">=", Comparison::MoreEqual),
            ("<", Comparison::Less),
            (">", Comparison::More),
        ];
        if self.word("contains") {
            return Some(Comparison::Contains);
        }
        SPELLINGS.iter().find(|(text, _)| self.eat(text)).map(|(_, comparison)| *comparison)
    }
}
