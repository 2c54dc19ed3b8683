//! A JSON document whose strings are templates.

use serde_json::{Map, Value};

use super::native::Reads;
use super::value::weight;
use super::{Insert, Missing, Rendered, Scope, Template, limits, too_large};
use crate::error::{Problems, Result};

/// A compiled document. Object keys stay as they are; strings without a placeholder cost nothing to render.
#[derive(Debug, Clone)]
pub struct TemplateTree {
    root: Node,
    reads: Reads,
}

#[derive(Debug, Clone)]
enum Node {
    Fixed(Value),
    Text(Template),
    List(Vec<Node>),
    Fields(Vec<(String, Node)>),
}

/// JSON of a request is at most this deep; the tree takes all of it.
const DEPTH: usize = 64;

impl TemplateTree {
    /// Compiles every string of `value`; each fault is reported with the JSON pointer to it.
    pub fn parse(value: &Value) -> Result<Self, Problems> {
        let mut compiler = Compiler { problems: Problems::default(), reads: Reads::default(), pointer: String::new() };
        let root = compiler.node(value, 0);
        if compiler.problems.0.is_empty() { Ok(Self { root, reads: compiler.reads }) } else { Err(compiler.problems) }
    }

    /// Fills every placeholder in. What it copies is bounded over the whole document.
    pub fn render(&self, scope: &Scope) -> Result<Rendered> {
        let mut filler = Filler { scope, left: limits::COPIED, unresolved: Vec::new() };
        let value = filler.node(&self.root)?;
        let mut seen = std::collections::BTreeSet::new();
        filler.unresolved.retain(|name| seen.insert(name.clone()));
        Ok(Rendered { value, unresolved: filler.unresolved })
    }

    /// Whether there is nothing to fill in.
    pub fn is_literal(&self) -> bool {
        matches!(self.root, Node::Fixed(_))
    }

    /// Whether it reads any secret, managed or of the request.
    pub fn uses_secrets(&self) -> bool {
        !self.reads.secrets.is_empty() || !self.reads.managed.is_empty()
    }

    /// The managed secrets it names as `{{secret:NAME}}`.
    pub fn managed_secrets(&self) -> impl Iterator<Item = &str> {
        self.reads.managed.iter().map(String::as_str)
    }

    /// The variables it starts from.
    pub fn roots(&self) -> &std::collections::BTreeSet<String> {
        &self.reads.roots
    }
}

struct Compiler {
    problems: Problems,
    reads: Reads,
    pointer: String,
}

impl Compiler {
    fn node(&mut self, value: &Value, depth: usize) -> Node {
        if depth > DEPTH {
            self.problems.add(self.pointer.clone(), format!("the document nests deeper than {DEPTH}"));
            return Node::Fixed(Value::Null);
        }
        match value {
            Value::String(text) if text.contains("{{") => match Template::parse(text) {
                Ok(template) if template.is_literal() => Node::Fixed(value.clone()),
                Ok(template) => {
                    self.reads.add(template.reads());
                    Node::Text(template)
                }
                Err(fault) => {
                    self.problems.add(self.pointer.clone(), fault.to_string());
                    Node::Fixed(Value::Null)
                }
            },
            Value::Array(items) => {
                let items: Vec<Node> = items.iter().enumerate().map(|(index, item)| self.child(&index.to_string(), item, depth)).collect();
                if items.iter().all(Node::is_fixed) { Node::Fixed(value.clone()) } else { Node::List(items) }
            }
            Value::Object(fields) => {
                let fields: Vec<(String, Node)> = fields
                    .iter()
                    .map(|(name, item)| (name.clone(), self.child(&name.replace('~', "~0").replace('/', "~1"), item, depth)))
                    .collect();
                if fields.iter().all(|(_, item)| item.is_fixed()) { Node::Fixed(value.clone()) } else { Node::Fields(fields) }
            }
            _ => Node::Fixed(value.clone()),
        }
    }

    fn child(&mut self, step: &str, value: &Value, depth: usize) -> Node {
        let length = self.pointer.len();
        self.pointer.push('/');
        self.pointer.push_str(step);
        let node = self.node(value, depth + 1);
        self.pointer.truncate(length);
        node
    }
}

impl Node {
    fn is_fixed(&self) -> bool {
        matches!(self, Self::Fixed(_))
    }
}

struct Filler<'s, 'a> {
    scope: &'s Scope<'a>,
    left: usize,
    unresolved: Vec<String>,
}

impl Filler<'_, '_> {
    fn node(&mut self, node: &Node) -> Result<Value> {
        match node {
            Node::Fixed(value) => Ok(value.clone()),
            Node::Text(template) => {
                let rendered = template.render_with(self.scope, Missing::Empty, Insert::Text)?;
                let size = weight(&rendered.value, self.left);
                self.left = self.left.saturating_sub(size);
                if self.left == 0 {
                    return Err(too_large("the rendered document", limits::COPIED));
                }
                self.unresolved.extend(rendered.unresolved);
                Ok(rendered.value)
            }
            Node::List(items) => items.iter().map(|item| self.node(item)).collect::<Result<_>>().map(Value::Array),
            Node::Fields(fields) => {
                fields.iter().map(|(name, item)| Ok((name.clone(), self.node(item)?))).collect::<Result<Map<_, _>>>().map(Value::Object)
            }
        }
    }
}
