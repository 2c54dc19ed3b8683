//! A JSON document whose strings are templates.

use serde_json::{Map, Value};

use super::native::Reads;
use super::script::Sandbox;
use super::value::weight;
use super::{Block, Insert, Language, Missing, Rendered, Scope, Template, limits, too_large};
use crate::error::{Problems, Result};

/// A compiled document. Object keys stay as they are; strings without a placeholder cost nothing to render.
#[derive(Debug, Clone)]
pub struct TemplateTree {
    root: Node,
    blocks: Vec<Block>,
    reads: Reads,
}

#[derive(Debug, Clone)]
enum Node {
    Fixed(Value),
    Text(Template),
    /// A position in [`TemplateTree::blocks`].
    Block(usize),
    List(Vec<Node>),
    Fields(Vec<(String, Node)>),
}

/// JSON of a request is at most this deep; the tree takes all of it.
const DEPTH: usize = 64;

impl TemplateTree {
    /// Compiles every string of `value`; each fault is reported with the JSON pointer to it.
    pub fn parse(value: &Value) -> Result<Self, Problems> {
        Self::parse_in(value, Language::Fields)
    }

    /// [`TemplateTree::parse`] in a language. In that of workflows, objects `{expr}` and `{expr, lang}` are blocks.
    pub fn parse_in(value: &Value, language: Language) -> Result<Self, Problems> {
        let mut compiler =
            Compiler { language, problems: Problems::default(), reads: Reads::default(), blocks: Vec::new(), pointer: String::new() };
        let root = compiler.node(value, 0);
        if compiler.problems.0.is_empty() {
            Ok(Self { root, blocks: compiler.blocks, reads: compiler.reads })
        } else {
            Err(compiler.problems)
        }
    }

    /// Fills every placeholder in. What it copies is bounded over the whole document.
    pub fn render(&self, scope: &Scope) -> Result<Rendered> {
        self.render_around(scope, &[])
    }

    /// [`TemplateTree::render`], blocks and all.
    pub async fn fill(&self, scope: &Scope<'_>, sandbox: &Sandbox) -> Result<Rendered> {
        self.render_around(scope, &self.blocks(scope, sandbox).await?)
    }

    /// What its blocks come to, in their order.
    pub async fn blocks(&self, scope: &Scope<'_>, sandbox: &Sandbox) -> Result<Vec<Value>> {
        let mut values = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            values.push(block.eval(scope, sandbox).await?);
        }
        Ok(values)
    }

    /// [`TemplateTree::render`] with what the blocks came to.
    pub fn render_around(&self, scope: &Scope, blocks: &[Value]) -> Result<Rendered> {
        let mut filler = Filler { scope, blocks, left: limits::COPIED, unresolved: Vec::new() };
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

    /// Everything it reads.
    pub const fn reads(&self) -> &Reads {
        &self.reads
    }

    /// The variables it starts from.
    pub fn roots(&self) -> &std::collections::BTreeSet<String> {
        &self.reads.roots
    }
}

struct Compiler {
    language: Language,
    blocks: Vec<Block>,
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
        if self.language == Language::Paths
            && let Some(block) = Block::of(value)
        {
            return match block {
                Ok(block) => {
                    self.reads.add(block.reads());
                    self.blocks.push(block);
                    Node::Block(self.blocks.len() - 1)
                }
                Err(fault) => {
                    self.problems.add(format!("{}/expr", self.pointer), fault.to_string());
                    Node::Fixed(Value::Null)
                }
            };
        }
        match value {
            Value::String(text) if text.contains("{{") => match Template::parse_in(text, self.language) {
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
                let fields: Vec<(String, Node)> =
                    fields.iter().map(|(name, item)| (name.clone(), self.child(&crate::error::pointer_token(name), item, depth))).collect();
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
    blocks: &'s [Value],
    scope: &'s Scope<'a>,
    left: usize,
    unresolved: Vec<String>,
}

impl Filler<'_, '_> {
    fn weighed(&mut self, value: Value) -> Result<Value> {
        self.left = self.left.saturating_sub(weight(&value, self.left));
        if self.left == 0 {
            return Err(too_large("the rendered document", limits::COPIED));
        }
        Ok(value)
    }

    fn node(&mut self, node: &Node) -> Result<Value> {
        match node {
            Node::Fixed(value) => Ok(value.clone()),
            Node::Text(template) => {
                let rendered = template.render_with(self.scope, Missing::Empty, Insert::Text)?;
                self.unresolved.extend(rendered.unresolved);
                self.weighed(rendered.value)
            }
            Node::Block(place) => self.weighed(self.blocks.get(*place).cloned().unwrap_or_default()),
            Node::List(items) => items.iter().map(|item| self.node(item)).collect::<Result<_>>().map(Value::Array),
            Node::Fields(fields) => {
                fields.iter().map(|(name, item)| Ok((name.clone(), self.node(item)?))).collect::<Result<Map<_, _>>>().map(Value::Object)
            }
        }
    }
}
