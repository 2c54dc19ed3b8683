//! JSON Schemas from outside, within bounds: the validator recurses along chains of references.
//!
//! A schema with a low [`cost`] is compiled and evaluated in place, every other one in a worker that can be killed.

mod cost;

use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::Value;

use crate::error::Result;
use crate::expr::ParseError;
use crate::expr::script::schema::{self, Faults};
use crate::expr::script::worker::Lang;
use crate::expr::script::{Sandbox, check};

/// Longest schema, as JSON in bytes.
const MAX_BYTES: usize = 256 * 1024;
/// Maximum number of references in one schema.
const MAX_REFERENCES: usize = 200;
/// Maximum cost for one value of a schema that is compiled in place, and for a whole instance that is validated in place: about ten milliseconds.
const MAX_COST: u64 = 20_000;
const MAX_WORK: u64 = 1_000_000;
/// Longest schema from another party that is compiled just to check that it is valid.
const MAX_PROBED_BYTES: usize = 32 * 1024;

/// A schema.
pub struct Schema {
    value: Value,
    cost: u64,
    /// Compiled on first use; `None`: a pattern of it backtracks, so a worker validates.
    validator: OnceLock<Option<Validator>>,
}

/// Reads a schema. The error says why it is refused.
pub fn compile(schema: &Value) -> std::result::Result<Schema, String> {
    let text = within_bounds(schema)?;
    let cost = cost::of(schema);
    check(Lang::Schema, &text, cost <= MAX_COST, || schema::compile(schema).map(drop).map_err(ParseError::new))
        .map_err(|fault| fault.message)?;
    Ok(Schema { value: schema.clone(), cost, validator: OnceLock::new() })
}

/// Returns whether a schema from another party can be used; an expensive one is assumed to be valid.
pub fn is_usable(schema: &Value) -> bool {
    let Ok(text) = within_bounds(schema) else { return false };
    text.len() > MAX_PROBED_BYTES || cost::of(schema) > MAX_COST || schema::compile(schema).is_ok()
}

impl Schema {
    /// Validates a value; returns pointers and messages.
    pub async fn judge(&self, value: &Value, sandbox: &Sandbox) -> Result<Faults> {
        if self.cost <= MAX_COST
            && self.cost.saturating_mul(cost::size(value)) <= MAX_WORK
            && let Some(validator) = self.validator.get_or_init(|| schema::compile_linear(&self.value))
        {
            return Ok(schema::faults(validator, value));
        }
        // Boxed, because few schemas need it.
        Box::pin(sandbox.judge(&self.value, value)).await
    }
}

/// Returns the schema as text, if it is not too large.
fn within_bounds(schema: &Value) -> std::result::Result<String, String> {
    let text = schema.to_string();
    if text.len() > MAX_BYTES {
        return Err(format!("the schema has {} bytes; the maximum is {MAX_BYTES}", text.len()));
    }
    let references = references(schema);
    if references > MAX_REFERENCES {
        return Err(format!("the schema has {references} references; the maximum is {MAX_REFERENCES}"));
    }
    Ok(text)
}

fn references(schema: &Value) -> usize {
    match schema {
        Value::Object(map) => {
            map.iter().map(|(name, value)| usize::from(name.ends_with("$ref") || name.ends_with("Ref")) + references(value)).sum()
        }
        Value::Array(items) => items.iter().map(references).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::expr::script::Limits;
    use serde_json::json;

    fn chain(length: usize) -> Value {
        let mut links: serde_json::Map<String, Value> =
            (0..length).map(|link| (format!("a{link}"), json!({ "$ref": format!("#/$defs/a{}", link + 1) }))).collect();
        links.insert(format!("a{length}"), json!({ "type": "object" }));
        json!({ "$ref": "#/$defs/a0", "$defs": links })
    }

    #[tokio::test]
    async fn chains_of_references_are_limited() {
        let sandbox = Sandbox::new(Limits::default(), Clock::system());
        let schema = compile(&chain(MAX_REFERENCES - 1)).unwrap();
        assert!(schema.judge(&json!({}), &sandbox).await.unwrap().is_empty());
        assert_eq!(schema.judge(&json!(1), &sandbox).await.unwrap().len(), 1);
        let refused = |schema: Value| compile(&schema).err().unwrap_or_default();
        assert!(refused(chain(MAX_REFERENCES)).contains("references"));
        assert!(refused(json!({ "const": "x".repeat(MAX_BYTES) })).contains("bytes"));
        assert!(refused(json!({ "type": "nothing" })).contains("not a JSON Schema"));
    }

    #[tokio::test]
    async fn validation_in_place_and_in_a_worker_agree() {
        let sandbox = Sandbox::new(Limits::default(), Clock::system());
        let here = json!({ "type": "object", "properties": { "a": { "type": "string" } }, "required": ["b"] });
        // An inexpensive schema needs a worker for a large instance.
        let schema = compile(&here).unwrap();
        let value = json!({ "a": 1, "c": vec![1; 200_000] });
        let faults = schema.judge(&value, &sandbox).await.unwrap();
        assert!(schema.validator.get().is_none(), "it was not judged here");
        let small = schema.judge(&json!({ "a": 1 }), &sandbox).await.unwrap();
        assert!(schema.validator.get().is_some());
        let places = |faults: &Faults| faults.iter().map(|(place, _)| place.clone()).collect::<Vec<_>>();
        assert_eq!(places(&faults), places(&small));
    }
}
