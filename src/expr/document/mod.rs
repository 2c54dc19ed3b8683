//! Liquid: the language of the `template` step.
//!
//! Its own small interpreter rather than a translation, because Liquid means other things than the template engines it
//! resembles: only `nil` and `false` are false, `assign` inside a loop is seen after it, `and`/`or` group from the
//! right. It also lets every byte copied cost fuel, which bounds memory and time together.
//!
//! - `lexer`: text, outputs and tags, with whitespace control and line numbers
//! - `parse`: the tree of tags; what is not supported is refused here, with its line
//! - `operand`: values, paths, filters and tests
//! - `render`: one pass over the tree
//! - `filters`, `lists`, `numbers`, `dates`: what stands after a `|`
//!
//! To add a filter: one function and one line in the table of `filters`.

mod dates;
mod filters;
mod lexer;
mod lists;
mod lookup;
mod numbers;
mod operand;
mod parse;
mod render;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{ParseError, Rendered, Scope, limits};
use crate::clock::Clock;
use crate::error::Result;

/// Whether outputs are made safe for the place they land in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Escape {
    /// Outputs are written as they are.
    #[default]
    None,
    /// Outputs are escaped for HTML, except after `escape`, `escape_once`, `newline_to_br` or `raw`.
    Html,
}

/// A compiled Liquid document. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Document(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    nodes: Vec<parse::Node>,
    escape: Escape,
    roots: BTreeSet<String>,
}

impl Document {
    /// Compiles a source. Tags and filters that are not supported are refused here.
    pub fn parse(source: &str, escape: Escape) -> Result<Self, ParseError> {
        if source.len() > limits::SOURCE {
            return Err(ParseError::new(format!("the template is longer than {} bytes", limits::SOURCE)));
        }
        let parsed = parse::parse(source, escape)?;
        Ok(Self(Arc::new(Compiled { nodes: parsed.nodes, escape, roots: parsed.roots })))
    }

    /// Renders to text. `clock` is what `"now"` means to the `date` filter.
    pub fn render(&self, scope: &Scope, clock: &Clock) -> Result<Rendered> {
        render::render(&self.0.nodes, self.0.escape, scope, clock)
    }

    /// The variables it starts from, without those it assigns itself.
    pub fn roots(&self) -> &BTreeSet<String> {
        &self.0.roots
    }
}
