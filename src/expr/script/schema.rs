//! JSON Schemas as the library has them that judges by them.

use jsonschema::Validator;
use serde_json::Value;

/// What is wrong with a value: pointers into it, and messages.
pub type Faults = Vec<(String, String)>;

/// Faults that are told of one value.
const MOST_FAULTS: usize = 20;
/// Characters of one; a message shows the value that it speaks of.
const LONGEST_FAULT: usize = 1_000;

/// Compiles a schema. The message says why it is none.
pub fn compile(schema: &Value) -> Result<Validator, String> {
    jsonschema::validator_for(schema).map_err(|error| {
        let text = error.to_string();
        if text.contains("resolve-http") || text.contains("resolve-file") || text.contains("custom resolver") {
            return "a `$ref` to another document is not followed; put that schema under `$defs` and refer to it there".into();
        }
        format!("not a JSON Schema: {}", shortened(text))
    })
}

/// Judges a value.
pub fn faults(validator: &Validator, value: &Value) -> Faults {
    let faults = validator.iter_errors(value).take(MOST_FAULTS);
    faults.map(|fault| (fault.instance_path().to_string(), shortened(fault.to_string()))).collect()
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(LONGEST_FAULT) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
