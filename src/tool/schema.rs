//! JSON Schemas of strangers, compiled within bounds: a chain of references goes as deep on the stack as it is long.

use jsonschema::Validator;
use serde_json::Value;

use super::schema_fault;

/// Longest schema, as JSON in bytes.
const LONGEST: usize = 256 * 1024;
/// References in one schema.
const MOST_REFERENCES: usize = 200;

/// Compiles a schema. The message says why it is none that is taken.
pub fn compile(schema: &Value) -> Result<Validator, String> {
    let length = schema.to_string().len();
    if length > LONGEST {
        return Err(format!("the schema has {length} bytes; {LONGEST} are possible"));
    }
    let references = references(schema);
    if references > MOST_REFERENCES {
        return Err(format!("the schema has {references} references; {MOST_REFERENCES} are possible"));
    }
    jsonschema::validator_for(schema).map_err(|error| schema_fault(&error))
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
    use serde_json::json;

    fn chain(length: usize) -> Value {
        let mut links: serde_json::Map<String, Value> =
            (0..length).map(|link| (format!("a{link}"), json!({ "$ref": format!("#/$defs/a{}", link + 1) }))).collect();
        links.insert(format!("a{length}"), json!({ "type": "object" }));
        json!({ "$ref": "#/$defs/a0", "$defs": links })
    }

    #[test]
    fn a_chain_of_references_has_an_end() {
        let schema = compile(&chain(MOST_REFERENCES - 1)).unwrap();
        assert!(schema.is_valid(&json!({})) && !schema.is_valid(&json!(1)));
        assert!(compile(&chain(MOST_REFERENCES)).unwrap_err().contains("references"));
        assert!(compile(&json!({ "const": "x".repeat(LONGEST) })).is_err());
        assert!(compile(&json!({ "type": "nothing" })).is_err());
    }
}
