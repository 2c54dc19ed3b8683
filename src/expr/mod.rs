//! Templates, conditions, documents and scripts: every place where a flow's text meets a run's data.
//!
//! - [`Template`] and [`TemplateTree`]: the `{{ }}` of ordinary fields.
//! - [`Condition`]: the JavaScript subset of `when` and `condition`.
//! - [`Block`]: an expression of a workflow that says its language: a path, JSONPath, or Lua.
//! - [`Document`]: the Liquid of the `template` step.
//! - [`script::Sandbox`]: JavaScript of `transform-data`, without access to the host, in a subprocess that can be killed.
//!
//! Three rules hold for all of them. Source is parsed once, when a flow is compiled; rendering is one pass, so data that
//! holds `{{` is only text. A missing name is empty and reported, never an error here; whoever renders
//! secrets makes one of it. Work is bounded by counting it (fuel,
//! nodes, bytes written), so that a limit strikes at the same place on every machine; only scripts also watch the clock.
//!
//! Must not know: steps, runs, storage, who asked. Secrets stay [`Secret`](crate::secret::Secret)s until a template names one.

mod block;
pub mod bounds;
mod condition;
mod core;
mod document;
mod native;
mod scope;
pub mod script;
mod template;
mod tree;
mod value;

use crate::error::{Error, Kind};

pub use block::{Block, is_lua};
pub use condition::Condition;
pub use document::{Document, Escape};
pub use native::Reads;
pub use scope::{RUN_SESSION, Scope, secret_named};
pub use template::{Insert, Missing, Piece, Rendered, Template};
pub use tree::TemplateTree;
pub use value::{text_of, truthy};

/// The language that a flow's texts are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Language {
    /// Fields of flows: paths, fallbacks, and what lies beyond them in the larger template language.
    #[default]
    Fields,
    /// Workflows: paths and comparisons, and blocks that say their language.
    Paths,
}

/// Bounds of this module; each is tested at the limit and one above.
pub mod limits {
    /// Longest source of one template or document, in bytes.
    pub const SOURCE: usize = 1 << 20;
    /// Longest text one template or document may produce, in bytes.
    pub const OUTPUT: usize = 1 << 20;
    /// Most data one template (tree) may take over as typed values, in bytes of JSON, roughly.
    pub const COPIED: usize = 16 << 20;
    /// Longest source of one expression, in bytes.
    pub const EXPRESSION: usize = 16 << 10;
    /// Deepest nesting of parentheses, brackets, tags or template trees.
    pub const DEPTH: usize = 32;
    /// Steps one rendering may take.
    pub const FUEL: u64 = 100_000;
    /// Most operands and operators of one expression.
    pub const NODES: usize = 500;
}

/// Why a source text cannot be compiled. Shown to whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{message}{}", .line.map(|line| format!(" (line {line})")).unwrap_or_default())]
pub struct ParseError {
    /// What is wrong and what would be right.
    pub message: String,
    /// The line it is on, counted from one, when known.
    pub line: Option<usize>,
}

impl ParseError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), line: None }
    }

    /// Places the fault at a byte offset of `source`.
    pub(crate) fn at(mut self, source: &str, offset: usize) -> Self {
        let before = source.as_bytes().get(..offset).unwrap_or(source.as_bytes());
        self.line = Some(1 + before.iter().filter(|byte| **byte == b'\n').count());
        self
    }
}

impl From<ParseError> for Error {
    fn from(fault: ParseError) -> Self {
        Self::invalid_at("", fault.to_string())
    }
}

/// A rendering that went over a bound.
pub(crate) fn too_large(what: &str, limit: usize) -> Error {
    Error::new(Kind::Invalid, "expression_limit", format!("{what} is larger than {limit} bytes"))
        .next("pass large data by reference (a whole `{{ value }}`), or write less of it")
}

/// A rendering that took too many steps.
pub(crate) fn out_of_fuel() -> Error {
    Error::new(Kind::Invalid, "expression_limit", format!("the expression takes more than {} steps", limits::FUEL))
        .next("do the work in a transform-data step")
}

/// A rendering that failed on its data.
pub(crate) fn failed(message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, "expression_failed", message)
}
