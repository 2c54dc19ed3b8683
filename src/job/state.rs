//! What the steps of a job have left so far: the same fold for the engine, which fills in payloads, and for the run folder.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::cookies::CookieJar;

/// What a finished step left.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StepResult {
    pub response: Value,
    pub exports: Value,
    pub detail: Option<String>,
    pub diagnostics: Value,
    /// Values that a poll stored; a dot is a part of the name.
    pub stored: Map<String, Value>,
    /// Captured values by their dotted paths below `run`.
    pub captured: Map<String, Value>,
    /// The run's cookies after the step.
    #[serde(skip_serializing_if = "CookieJar::is_empty")]
    pub cookies: CookieJar,
}

/// Everything that expressions read.
#[derive(Debug, Clone, Default)]
pub struct JobState {
    pub env: HashMap<String, String>,
    pub input: Map<String, Value>,
    pub run: Map<String, Value>,
    /// Finished steps, in order.
    pub steps: Vec<(String, StepResult)>,
}

impl JobState {
    /// The result of a finished step.
    pub fn step(&self, id: &str) -> Option<&StepResult> {
        self.steps.iter().find(|(known, _)| known == id).map(|(_, result)| result)
    }

    /// Adds a finished step, with what it stored and captured.
    pub fn finish(&mut self, id: &str, result: StepResult) {
        self.run.extend(result.stored.clone());
        for (path, value) in &result.captured {
            // A conflict fails the step before its result exists.
            let _ = capture(&mut self.run, path, value.clone());
        }
        self.steps.push((id.to_owned(), result));
    }

    /// What a step's captures come to; the error names the first that cannot be made.
    pub fn captures(&self, wanted: &[(String, String)], exports: &Value) -> Result<Map<String, Value>, String> {
        let mut run = self.run.clone();
        let mut captured = Map::new();
        for (target, source) in wanted {
            let path: Vec<String> = source.split('.').skip(1).map(str::to_owned).collect();
            let value = super::interpolation::follow(exports, &path).cloned();
            let value = value.ok_or_else(|| format!("capture run.{target}: {source} is missing"))?;
            capture(&mut run, target, value.clone())?;
            captured.insert(target.clone(), value);
        }
        Ok(captured)
    }
}

/// Sets `run.<path>`; an equal value may be there already.
fn capture(run: &mut Map<String, Value>, path: &str, value: Value) -> Result<(), String> {
    let mut place = run;
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            return match place.get(name) {
                Some(known) if *known != value => Err(format!("capture run.{path}: another value is there already")),
                _ => {
                    place.insert(name.to_owned(), value);
                    Ok(())
                }
            };
        }
        let below = place.entry(name).or_insert_with(|| Value::Object(Map::new()));
        place = below.as_object_mut().ok_or_else(|| format!("capture run.{path}: `{name}` holds a value that is not an object"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn captures_never_replace_another_value() {
        let mut state = JobState::default();
        let wanted = |target: &str| vec![(target.to_owned(), "exports.id".to_owned())];
        let exports = json!({ "id": 7 });
        let captured = state.captures(&wanted("order.id"), &exports).unwrap();
        state.finish("a", StepResult { captured, ..StepResult::default() });
        assert_eq!(state.run.get("order"), Some(&json!({ "id": 7 })));
        assert!(state.captures(&wanted("order.id"), &exports).is_ok());
        assert!(state.captures(&wanted("order.id"), &json!({ "id": 8 })).is_err());
        assert!(state.captures(&wanted("order.id.x"), &exports).is_err());
        assert!(state.captures(&wanted("other"), &json!({})).is_err());
    }
}
