//! The error handling of a step or an agent, in the forms in which clients write it.
//!
//! `{onError, defaultValue?, retry?, fallbacks?, triggers?}`, or one word. What of it is a prompt's goes into the prompt's configuration; what is any
//! step's is read by the compiler of flows.

use serde_json::{Map, Value, json};

use crate::error::Problems;
use crate::model::flow::{Backoff, MAX_ATTEMPTS, OnError, Retry};

/// Reads the error handling of a configuration. `at` is the place of the configuration.
pub(super) fn read(given: Option<&Value>, at: &str, problems: &mut Problems) -> Map<String, Value> {
    let at = format!("{at}/errorHandling");
    let handling = match given {
        None | Some(Value::Null) => return Map::new(),
        Some(Value::Object(handling)) => handling.clone(),
        Some(Value::String(word)) if word == "retry" => {
            let retry = json!({ "onError": "fallback", "fallbacks": [{ "type": "retry" }] });
            return retry.as_object().cloned().unwrap_or_default();
        }
        Some(Value::String(word)) if ["fail", "continue"].contains(&word.as_str()) => {
            return [("onError".to_owned(), word.clone().into())].into_iter().collect();
        }
        Some(_) => {
            problems.add(at, "expected an object {onError, defaultValue, retry, fallbacks}, or fail, continue or retry");
            return Map::new();
        }
    };
    for (name, wanted) in [("fallbacks", "expected a list of {model}"), ("triggers", "expected a list of {type}")] {
        if handling.get(name).is_some_and(|list| !list.is_null() && !list.is_array()) {
            problems.add(format!("{at}/{name}"), wanted);
        }
    }
    handling
}

fn list<'h>(handling: &'h Map<String, Value>, name: &str) -> &'h [Value] {
    handling.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Puts the fallbacks into the configuration of a prompt, which has them under the same name.
pub(super) fn put_into_prompt(config: &mut Map<String, Value>, handling: &Map<String, Value>, at: &str, problems: &mut Problems) {
    let at = format!("{at}/errorHandling");
    let (fallbacks, triggers) = (list(handling, "fallbacks"), list(handling, "triggers"));
    if !fallbacks.is_empty() {
        let own = ["fallbacks", "fallbackModels"].iter().find_map(|name| config.get(*name)).and_then(Value::as_array);
        if own.is_some_and(|own| !own.is_empty() && own != fallbacks) {
            problems.add(format!("{at}/fallbacks"), "`fallbacks` of the prompt says something else; give them once");
        } else {
            config.shift_remove("fallbackModels");
            config.insert("fallbacks".into(), fallbacks.into());
        }
    }
    let mut names = Vec::with_capacity(triggers.len());
    for (index, trigger) in triggers.iter().enumerate() {
        match trigger.get("type").and_then(Value::as_str) {
            Some(name @ ("error" | "empty-output")) => names.push(Value::from(name)),
            _ => problems.add(format!("{at}/triggers/{index}/type"), "expected error or empty-output"),
        }
    }
    // These are the compiler's to give.
    config.shift_remove("fallbackTriggers");
    if !names.is_empty() {
        config.insert("fallbackTriggers".into(), Value::Array(names));
    }
}

/// What a step that asks no model does instead: how often it is tried again, and the text that takes the place of its output.
pub(super) fn of_other_steps(handling: &Map<String, Value>, at: &str, problems: &mut Problems) -> (Option<Retry>, Option<OnError>) {
    let at = format!("{at}/errorHandling");
    let (mut retries, mut delay, mut message) = (0u32, None, None);
    for (index, fallback) in list(handling, "fallbacks").iter().enumerate() {
        match fallback.get("type").and_then(Value::as_str) {
            Some("retry") => {
                retries += 1;
                delay = delay.or_else(|| fallback.get("delay").and_then(Value::as_u64));
            }
            Some("message") if fallback.get("message").is_some_and(Value::is_string) => message = fallback.get("message").cloned(),
            _ => problems.add(
                format!("{at}/fallbacks/{index}"),
                "expected {type: \"retry\"} or {type: \"message\", message}: the step asks no model",
            ),
        }
    }
    if list(handling, "triggers").iter().any(|trigger| trigger.get("type").and_then(Value::as_str) != Some("error")) {
        problems.add(format!("{at}/triggers"), "expected `error` alone: the step asks no model");
    }
    if retries >= MAX_ATTEMPTS {
        problems.add(format!("{at}/fallbacks"), format!("a step is tried {MAX_ATTEMPTS} times at most"));
    }
    let retry = (retries > 0).then(|| {
        let delay_ms = delay.unwrap_or(Retry::default().delay_ms);
        Retry { max_attempts: retries + 1, delay_ms, backoff: Backoff::Constant, ..Retry::default() }
    });
    (retry, message.map(|value| OnError::Default { value }))
}
