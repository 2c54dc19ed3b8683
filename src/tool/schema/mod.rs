//! JSON Schemas of strangers, within bounds: a chain of references goes as deep on the stack as it is long.
//!
//! A schema that is harmless by its [`cost`] is compiled and judged by where it is met, every other one in a worker that can be killed.

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
const LONGEST: usize = 256 * 1024;
/// References in one schema.
const MOST_REFERENCES: usize = 200;
/// What one value may cost by a schema that is compiled here, and a whole instance by one that judges here: some ten milliseconds.
const MOST_COST: u64 = 20_000;
const MOST_WORK: u64 = 1_000_000;
/// Longest schema from elsewhere that is compiled only to see that it is one.
const LONGEST_GUEST: usize = 32 * 1024;

/// A schema.
pub struct Schema {
    value: Value,
    cost: u64,
    /// Compiled when it is first needed here; `None`: it is no schema.
    validator: OnceLock<Option<Validator>>,
}

/// Reads a schema. The message says why it is none that is taken.
pub fn compile(schema: &Value) -> std::result::Result<Schema, String> {
    let text = within_bounds(schema)?;
    let cost = cost::of(schema);
    check(Lang::Schema, &text, cost <= MOST_COST, || schema::compile(schema).map(drop).map_err(ParseError::new))
        .map_err(|fault| fault.message)?;
    Ok(Schema { value: schema.clone(), cost, validator: OnceLock::new() })
}

/// Whether a schema that somebody else wrote can be used; one whose judging costs much is believed.
pub fn is_usable(schema: &Value) -> bool {
    let Ok(text) = within_bounds(schema) else { return false };
    text.len() > LONGEST_GUEST || cost::of(schema) > MOST_COST || schema::compile(schema).is_ok()
}

impl Schema {
    /// What is wrong with a value: pointers into it, and messages.
    pub async fn judge(&self, value: &Value, sandbox: &Sandbox) -> Result<Faults> {
        if self.cost <= MOST_COST
            && self.cost.saturating_mul(cost::size(value)) <= MOST_WORK
            && let Some(validator) = self.validator.get_or_init(|| schema::compile(&self.value).ok())
        {
            return Ok(schema::faults(validator, value));
        }
        // In a box: few schemas need it.
        Box::pin(sandbox.judge(&self.value, value)).await
    }
}

/// The schema as text, if it is not too large.
fn within_bounds(schema: &Value) -> std::result::Result<String, String> {
    let text = schema.to_string();
    if text.len() > LONGEST {
        return Err(format!("the schema has {} bytes; {LONGEST} are possible", text.len()));
    }
    let references = references(schema);
    if references > MOST_REFERENCES {
        return Err(format!("the schema has {references} references; {MOST_REFERENCES} are possible"));
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
    async fn a_chain_of_references_has_an_end() {
        let sandbox = Sandbox::new(Limits::default(), Clock::system());
        let schema = compile(&chain(MOST_REFERENCES - 1)).unwrap();
        assert!(schema.judge(&json!({}), &sandbox).await.unwrap().is_empty());
        assert_eq!(schema.judge(&json!(1), &sandbox).await.unwrap().len(), 1);
        let refused = |schema: Value| compile(&schema).err().unwrap_or_default();
        assert!(refused(chain(MOST_REFERENCES)).contains("references"));
        assert!(refused(json!({ "const": "x".repeat(LONGEST) })).contains("bytes"));
        assert!(refused(json!({ "type": "nothing" })).contains("not a JSON Schema"));
    }

    #[tokio::test]
    async fn here_and_elsewhere_a_schema_says_the_same() {
        let sandbox = Sandbox::new(Limits::default(), Clock::system());
        let here = json!({ "type": "object", "properties": { "a": { "type": "string" } }, "required": ["b"] });
        // What is harmless as it is needs a worker for an instance that is large.
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
