//! Flow documents of this surface into compiled flows.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::error::{Problems, Result};
use crate::model::flow::{FORMAT, OnError, Retry};
use crate::model::{Flow, Step};

/// A flow's time budget in milliseconds.
const FLOW_TIMEOUT_MS: u64 = 15 * 60 * 1_000;
/// A step's time budget in milliseconds.
const STEP_TIMEOUT_MS: u64 = 5 * 60 * 1_000;
/// Most steps of a flow.
const MAX_STEPS: usize = 500;

/// Compiles `{name, steps | flowSteps}`. Steps run one after another, in list order; disabled ones are left out.
/// Error: `validation_failed` with a pointer to every fault.
pub fn compile(document: &Value) -> Result<Flow> {
    let mut problems = Problems::default();
    let Some(map) = document.as_object() else {
        problems.add("", "expected an object {name, steps}");
        return Err(problems.into());
    };
    let name = map.get("name").and_then(Value::as_str).map(str::trim).unwrap_or_default();
    if name.is_empty() {
        problems.add("/name", "expected a text that is not empty");
    }
    let steps = steps(map, &mut problems);
    problems.into_result()?;
    Ok(Flow {
        format: FORMAT,
        name: name.to_owned(),
        steps,
        max_parallel: 1,
        on_step_error: OnError::Continue,
        timeout_ms: FLOW_TIMEOUT_MS,
    })
}

fn steps(map: &Map<String, Value>, problems: &mut Problems) -> Vec<Step> {
    let field = if map.contains_key("steps") { "steps" } else { "flowSteps" };
    let items = match map.get(field) {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Array(items)) => items,
        Some(_) => {
            problems.add(format!("/{field}"), "expected a list of steps");
            return Vec::new();
        }
    };
    if items.len() > MAX_STEPS {
        problems.add(format!("/{field}"), format!("a flow may have {MAX_STEPS} steps"));
        return Vec::new();
    }
    let mut steps: Vec<Step> = Vec::new();
    let mut seen = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let at = format!("/{field}/{index}");
        let Some(mut step) = step(item, index, &at, problems) else { continue };
        if !seen.insert(step.id.clone()) {
            problems.add(format!("{at}/id"), format!("two steps have the id `{}`", step.id));
        }
        if item.get("enabled").and_then(Value::as_bool) == Some(false) {
            continue;
        }
        step.after = steps.last().map(|before| before.id.clone()).into_iter().collect();
        steps.push(step);
    }
    steps
}

fn step(item: &Value, index: usize, at: &str, problems: &mut Problems) -> Option<Step> {
    let Some(map) = item.as_object() else {
        problems.add(at, "expected a step {name, type, config}");
        return None;
    };
    let Some(action) = map.get("type").and_then(Value::as_str).filter(|action| !action.is_empty()) else {
        problems.add(format!("{at}/type"), "expected the name of a step type");
        return None;
    };
    let text = |key: &str| map.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let config = map.get("config").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    if !config.is_object() {
        problems.add(format!("{at}/config"), "expected an object");
    }
    let id = text("id").unwrap_or_else(|| format!("step_{}", index + 1));
    let output = config.get("outputVariable").and_then(Value::as_str).map(str::to_owned).or_else(|| text("outputVariable"));
    Some(Step {
        name: text("name").unwrap_or_else(|| id.clone()),
        id,
        action: action.to_owned(),
        config,
        after: Vec::new(),
        guard: None,
        when: text("when"),
        retry: Retry::default(),
        timeout_ms: STEP_TIMEOUT_MS,
        on_error: None,
        output,
        stream: map.get("streamOutput").and_then(Value::as_bool).unwrap_or(true),
    })
}
