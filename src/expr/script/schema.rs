//! Compiles and evaluates JSON Schemas with the validation library.

use jsonschema::{PatternOptions, Validator};
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

/// Compiles a schema whose patterns all run in linear time; `None` if one needs backtracking, or the schema is not valid.
pub fn compile_linear(schema: &Value) -> Option<Validator> {
    jsonschema::options().with_pattern_options(PatternOptions::regex()).build(schema).ok()
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_run_in_linear_time_in_process() {
        for pattern in ["(a)\\1", "a(?=b)", "(?<!a)b"] {
            assert!(compile_linear(&json!({ "pattern": pattern })).is_none(), "{pattern}");
        }
        // An engine that backtracks would try each of these texts for a second.
        let texts: Vec<String> = vec![format!("{}b", "a".repeat(24)); 2_000];
        for pattern in ["^(a|a|x++)*y$", "^(a|a|x*+)*y$", "^(a|a|\\b)*y$", "^(a+)+y$"] {
            let validator = compile_linear(&json!({ "items": { "not": { "pattern": pattern } } })).unwrap();
            assert_eq!(faults(&validator, &json!(texts)), Faults::new(), "{pattern}");
        }
    }
}
