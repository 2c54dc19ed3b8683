//! JSON Schemas (draft 2020-12) of what callers write and read, made from the very types that read and write it.
//!
//! `schemas/` is a snapshot of them, one file each; `dispatch schema --out schemas` writes it anew. A step type is here
//! as soon as it is in [`step::ALL`].

use serde_json::{Map, Value};

use super::dispatch::{DispatchRequest, Outcome, PublicEvent};
use crate::engine::step;
use crate::error::Envelope;

/// One schema.
#[derive(Debug, Clone)]
pub struct Document {
    /// What it is called; its file is `NAME.json`. Those of step types begin with `step-`.
    pub name: String,
    /// One line for people.
    pub summary: &'static str,
    pub schema: Value,
}

impl Document {
    fn new(name: impl Into<String>, summary: &'static str, schema: schemars::Schema) -> Self {
        Self { name: name.into(), summary, schema: in_reading_order(schema.to_value()) }
    }

    /// The file's text.
    pub fn text(&self) -> String {
        pretty(&self.schema)
    }
}

/// Every schema: of requests, results, events and errors, then of each step type's `config`.
pub fn all() -> Vec<Document> {
    let whole = [
        Document::new("dispatch-request", "The body of POST /v1/dispatch.", schemars::schema_for!(DispatchRequest)),
        Document::new("dispatch-result", "The answer to a dispatch that does not stream.", schemars::schema_for!(Outcome)),
        Document::new("dispatch-event", "One event of an execution, as it is streamed.", schemars::schema_for!(PublicEvent)),
        Document::new("error", "The body of every refusal.", schemars::schema_for!(Envelope<'static>)),
    ];
    let steps = step::ALL.iter().map(|step| Document::new(format!("step-{}", step.action), step.summary, (step.schema)()));
    whole.into_iter().chain(steps).collect()
}

/// What it is first, its parts after.
fn in_reading_order(mut schema: Value) -> Value {
    if let Some(map) = schema.as_object_mut() {
        let heads = ["$schema", "title", "description"].into_iter().filter_map(|name| Some((name.to_owned(), map.shift_remove(name)?)));
        let heads: Map<String, Value> = heads.collect();
        let parts = std::mem::replace(map, heads);
        map.extend(parts);
    }
    schema
}

/// A generated document as it is kept in a file.
pub fn pretty(document: &Value) -> String {
    format!("{document:#}\n")
}
