//! Compiles and evaluates JSON Schemas with the validation library.

use jsonschema::Validator;
use serde_json::Value;

/// The faults of a value: JSON pointers and messages.
pub type Faults = Vec<(String, String)>;

/// Maximum number of faults that are reported for one value.
const MAX_FAULTS: usize = 20;
/// Maximum number of characters of a message, which may quote the value.
const MAX_FAULT_CHARS: usize = 1_000;

/// Compiles a schema. The error says why it is not valid.
pub fn compile(schema: &Value) -> Result<Validator, String> {
    jsonschema::validator_for(schema).map_err(|error| {
        let text = error.to_string();
        if text.contains("resolve-http") || text.contains("resolve-file") || text.contains("custom resolver") {
            return "a `$ref` to another document is not followed; put that schema under `$defs` and refer to it there".into();
        }
        format!("not a JSON Schema: {}", shortened(text))
    })
}

/// Validates a value.
pub fn faults(validator: &Validator, value: &Value) -> Faults {
    let faults = validator.iter_errors(value).take(MAX_FAULTS);
    faults.map(|fault| (fault.instance_path().to_string(), shortened(fault.to_string()))).collect()
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(MAX_FAULT_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
