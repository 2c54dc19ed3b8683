//! Flow documents of this surface into compiled flows.
//!
//! Ordered steps become a chain; a step's own `after` replaces its place in it. The two lists of a `conditional`
//! become steps of the flow that are guarded by the branch; whatever follows waits for both lists to be settled.

use std::collections::{BTreeSet, HashMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::bounds::{FLOW_TIMEOUT_MS, LONGEST_FLOW_MS, NO_CONTROLS};
use super::{agent_document, handling, prompt_tools};
use crate::engine::step;
use crate::error::{Problems, Result};
use crate::model::flow::{Backoff, FORMAT, Guard, MAX_ATTEMPTS, OnError, Retry};
use crate::model::{Flow, Step};

/// A step's time budget in milliseconds, unless it says otherwise.
pub const STEP_TIMEOUT_MS: u64 = 5 * 60 * 1_000;
/// Steps that run at once, unless the flow says otherwise.
const MAX_PARALLEL: usize = 16;
/// Steps that may run at once.
const MOST_PARALLEL: usize = 100;
/// Most steps of a flow, those of branches included.
const MAX_STEPS: usize = 500;
/// How deep conditionals may be nested.
const MAX_DEPTH: usize = 10;

/// A flow as callers write it, for the API document.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowDocument {
    /// A saved flow; then nothing else is needed.
    pub id: Option<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub steps: Option<Vec<StepDocument>>,
    /// Steps that may run at once.
    pub max_parallel: Option<u32>,
    /// Milliseconds the flow may run, pauses not counted.
    pub timeout_ms: Option<u64>,
    /// `continue` (the default) or `stop` when a step fails.
    pub on_step_error: Option<String>,
}

/// A step as callers write it, for the API document.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepDocument {
    /// Unique in the flow.
    pub id: Option<String>,
    pub name: Option<String>,
    /// What kind of step it is.
    #[serde(rename = "type")]
    #[schemars(transform = name_step_types)]
    pub action: String,
    pub order: Option<i64>,
    pub enabled: Option<bool>,
    /// What the step does; docs/steps.md and `schemas/` have the members of each type.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// A JavaScript expression; falsy skips the step.
    pub when: Option<String>,
    /// Steps that must be settled first, instead of the one before; `[]` starts at once.
    pub after: Option<StepIds>,
    /// The variable that later steps read the output as. It may stand in `config`, too.
    pub output_variable: Option<String>,
    /// Whether text is streamed as it comes; it is when absent.
    pub stream_output: Option<bool>,
    /// Milliseconds that one attempt may take, pauses not counted; five minutes when absent.
    pub timeout_ms: Option<u64>,
    /// How often it is tried again when it fails.
    pub retry: Option<RetryDocument>,
    /// `continue`, or `fail` to end the flow when the step fails; the flow's `onStepError` when absent.
    pub on_error: Option<String>,
}

/// One step's id, or a list of them.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum StepIds {
    One(String),
    Many(Vec<String>),
}

/// How often a step is tried, and how long is waited in between.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryDocument {
    /// The first attempt included.
    #[schemars(range(min = 1, max = MAX_ATTEMPTS))]
    pub max_attempts: Option<u32>,
    /// Milliseconds before the second attempt.
    pub delay_ms: Option<u64>,
    /// `exponential` (the default), `linear` or `constant`: how the wait grows.
    pub backoff: Option<String>,
    /// Milliseconds of the longest wait.
    pub max_delay_ms: Option<u64>,
}

/// Names every step type in the description of `type`.
fn name_step_types(schema: &mut schemars::Schema) {
    let names: Vec<String> = step::ALL.iter().map(|step| format!("`{}`", step.action)).collect();
    schema.insert("description".into(), format!("What kind of step it is: {}.", names.join(", ")).into());
}

/// Compiles `{name, steps | flowSteps}`. Error: `validation_failed` with a pointer to every fault.
pub fn compile(document: &Value) -> Result<Flow> {
    compile_with(document, STEP_TIMEOUT_MS)
}

/// [`compile`] with the time budget of steps that name none.
pub fn compile_with(document: &Value, step_timeout_ms: u64) -> Result<Flow> {
    let mut compiler =
        Compiler { steps: Vec::new(), problems: Problems::default(), ids: HashSet::new(), disabled: HashMap::new(), step_timeout_ms };
    let Some(map) = document.as_object() else {
        compiler.problems.add("", "expected an object {name, steps}");
        return Err(compiler.problems.into());
    };
    let name = map.get("name").and_then(Value::as_str).map(str::trim).unwrap_or_default();
    if name.is_empty() {
        compiler.problems.add("/name", "expected a text that is not empty");
    }
    if name.contains(char::is_control) {
        compiler.problems.add("/name", NO_CONTROLS);
    }
    if map.get("description").is_some_and(|text| !text.is_string() && !text.is_null()) {
        compiler.problems.add("/description", "expected a text");
    }
    let given = |field: &str| map.get(field).filter(|steps| !steps.is_null());
    let field = if given("steps").is_none() && given("flowSteps").is_some() { "flowSteps" } else { "steps" };
    if let (Some(steps), Some(again)) = (given("steps"), given("flowSteps"))
        && steps != again
    {
        compiler.problems.add("/flowSteps", "`steps` says something else; give the steps once, under either name");
    }
    if map.get(field).is_none_or(Value::is_null) {
        compiler.problems.add(format!("/{field}"), "expected a list of steps");
    }
    compiler.list(map.get(field), &format!("/{field}"), &[], None, 0);
    let max_parallel = compiler
        .number(map, "maxParallel", "", 1, MOST_PARALLEL as u64)
        .map_or(MAX_PARALLEL, |most| usize::try_from(most).unwrap_or(MAX_PARALLEL));
    let timeout_ms = compiler.number(map, "timeoutMs", "", 1, LONGEST_FLOW_MS).unwrap_or(FLOW_TIMEOUT_MS);
    let policy = compiler.text(map, "onStepError", "").or_else(|| compiler.text(map, "onError", ""));
    let on_step_error = match policy.as_deref() {
        None | Some("continue") => OnError::Continue,
        Some("stop" | "fail") => OnError::Stop,
        Some(other) => {
            compiler.problems.add("/onStepError", format!("unknown policy `{other}`; one of continue, stop"));
            OnError::Continue
        }
    };
    let steps = compiler.finish()?;
    Ok(Flow { format: FORMAT, name: name.to_owned(), steps, max_parallel, on_step_error, timeout_ms, workflow: None })
}

struct Compiler {
    steps: Vec<Step>,
    problems: Problems,
    /// Of every step so far, disabled ones included: `after` may name those too.
    ids: HashSet<String>,
    /// Disabled steps, and what comes after them must wait for instead.
    disabled: HashMap<String, Vec<String>>,
    step_timeout_ms: u64,
}

impl Compiler {
    /// Compiles a list; gives what must be settled before whatever follows it.
    fn list(&mut self, items: Option<&Value>, at: &str, before: &[String], guard: Option<&Guard>, depth: usize) -> Vec<String> {
        let items = match items {
            None | Some(Value::Null) => return before.to_vec(),
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.problems.add(at, "expected a list of steps");
                return before.to_vec();
            }
        };
        if depth > MAX_DEPTH {
            self.problems.add(at, format!("conditionals may be nested {MAX_DEPTH} deep"));
            return before.to_vec();
        }
        let mut order: Vec<(i64, usize)> = items
            .iter()
            .enumerate()
            .map(|(index, item)| (item.get("order").and_then(Value::as_i64).unwrap_or(i64::try_from(index).unwrap_or(i64::MAX)), index))
            .collect();
        order.sort_unstable();
        let mut last = before.to_vec();
        for (_, index) in order {
            let Some(item) = items.get(index) else { continue };
            if self.steps.len() >= MAX_STEPS {
                self.problems.add(at, format!("a flow may have {MAX_STEPS} steps"));
                return last;
            }
            last = self.step(item, &format!("{at}/{index}"), last, guard, depth);
        }
        last
    }

    fn step(&mut self, item: &Value, at: &str, before: Vec<String>, guard: Option<&Guard>, depth: usize) -> Vec<String> {
        let Some(map) = item.as_object() else {
            self.problems.add(at, "expected a step {name, type, config}");
            return before;
        };
        let id = self.text(map, "id", at).unwrap_or_else(|| self.free_id());
        if id.len() > 200 || id.contains('/') {
            self.problems.add(format!("{at}/id"), "expected at most 200 characters without `/`");
        }
        if id.contains(char::is_control) {
            self.problems.add(format!("{at}/id"), NO_CONTROLS);
        }
        if !self.ids.insert(id.clone()) {
            self.problems.add(format!("{at}/id"), format!("the id `{id}` is used by more than one step"));
        }
        if map.get("order").is_some_and(|order| !order.is_null() && order.as_i64().is_none()) {
            self.problems.add(format!("{at}/order"), "expected a whole number");
        }
        if self.flag(map, "enabled", at) == Some(false) {
            self.check_disabled(map, &id, at);
            let after = self.after(map, at).unwrap_or_else(|| before.clone());
            self.disabled.insert(id, after);
            return before;
        }
        if map.get("type").is_none_or(Value::is_null) {
            self.problems.add(format!("{at}/type"), format!("step `{id}` has no type"));
            return before;
        }
        let Some(action) = self.text(map, "type", at) else { return before };
        let mut config = map.get("config").cloned().unwrap_or_else(|| Value::Object(Map::new()));
        if !config.is_object() {
            self.problems.add(format!("{at}/config"), "expected an object");
        }
        let after = self.after(map, at).unwrap_or(before);
        let config_at = format!("{at}/config");
        let handling = handling::read(config.get("errorHandling"), &config_at, &mut self.problems);
        let named = config.as_object().and_then(|config| self.text(config, "outputVariable", &format!("{at}/config")));
        let output = named.or_else(|| self.text(map, "outputVariable", at));
        if output.as_deref().is_some_and(|name| name.starts_with('_')) {
            self.problems.add(format!("{at}/config/outputVariable"), "names that begin with `_` are the system's");
        }
        let timeout_ms = self.number(map, "timeoutMs", at, 1, LONGEST_FLOW_MS).unwrap_or(self.step_timeout_ms);
        let given = |map: &Map<String, Value>| map.get("retry").filter(|retry| !retry.is_null()).cloned();
        let handled = given(&handling).map(|retry| self.retry(&retry, &format!("{at}/config/errorHandling/retry")));
        let (retried, replaced) = match config.as_object_mut().filter(|_| action == "prompt") {
            Some(config) => {
                handling::put_into_prompt(config, &handling, &config_at, &mut self.problems);
                prompt_tools::normalize(config, &config_at, &mut self.problems);
                (None, None)
            }
            None => handling::of_other_steps(&handling, &config_at, &mut self.problems),
        };
        let retry = given(map).map(|retry| self.retry(&retry, &format!("{at}/retry"))).or(handled).or(retried).unwrap_or_default();
        let shown_in_config = config.as_object().and_then(|config| self.flag(config, "streamOutput", &config_at));
        let step = Step {
            name: self.text(map, "name", at).unwrap_or_else(|| id.clone()),
            action: action.clone(),
            after,
            guard: guard.cloned(),
            when: self.text(map, "when", at),
            when_in: None,
            undo: None,
            retry,
            timeout_ms,
            on_error: replaced.or_else(|| self.on_error(map, &handling, at)),
            output,
            stream: self.flag(map, "streamOutput", at).or(shown_in_config).unwrap_or(true),
            config: self.with_child(config, &action, at),
            pointer: at.to_owned(),
            id: id.clone(),
        };
        let branches = (action == "conditional").then(|| (step.config.get("trueSteps").cloned(), step.config.get("falseSteps").cloned()));
        self.steps.push(step);
        let Some((yes, no)) = branches else { return vec![id] };
        let mut tails = vec![id.clone()];
        for (list, branch, name) in [(yes, true, "trueSteps"), (no, false, "falseSteps")] {
            let guard = Guard { step: id.clone(), branch };
            let ends = self.list(list.as_ref(), &format!("{at}/config/{name}"), std::slice::from_ref(&id), Some(&guard), depth + 1);
            tails.extend(ends.into_iter().filter(|end| *end != id));
        }
        tails
    }

    /// A disabled step does nothing, but it is one that can be enabled: its members are held to the same forms.
    fn check_disabled(&mut self, map: &Map<String, Value>, id: &str, at: &str) {
        if map.get("type").is_none_or(Value::is_null) {
            self.problems.add(format!("{at}/type"), format!("step `{id}` has no type"));
        }
        for key in ["type", "name", "when", "outputVariable"] {
            self.text(map, key, at);
        }
        self.flag(map, "streamOutput", at);
        self.number(map, "timeoutMs", at, 1, LONGEST_FLOW_MS);
        let config = map.get("config").cloned().unwrap_or_else(|| Value::Object(Map::new()));
        if !config.is_object() {
            self.problems.add(format!("{at}/config"), "expected an object");
        }
        let handling = handling::read(config.get("errorHandling"), &format!("{at}/config"), &mut self.problems);
        for (map, at) in [(&handling, format!("{at}/config/errorHandling/retry")), (map, format!("{at}/retry"))] {
            if let Some(retry) = map.get("retry").filter(|retry| !retry.is_null()) {
                self.retry(retry, &at);
            }
        }
        self.on_error(map, &handling, at);
    }

    /// What runs something of its own carries it compiled: a `run-flow` step its flow, a `loop` its steps, an `execute-agent` step its agent, tools theirs.
    fn with_child(&mut self, mut config: Value, action: &str, at: &str) -> Value {
        if let Some(child) = child_field(action) {
            compile_child(&mut config, child, self.step_timeout_ms, &format!("{at}/config"), &mut self.problems);
        }
        match action {
            "prompt" => compile_tools(&mut config, self.step_timeout_ms, &format!("{at}/config"), &mut self.problems),
            "tool-call" => {
                if let Some(tool) = config.get_mut("tool") {
                    compile_tool(tool, self.step_timeout_ms, &format!("{at}/config/tool"), &mut self.problems);
                }
            }
            _ => {}
        }
        config
    }

    fn free_id(&self) -> String {
        let mut number = self.steps.len() + self.disabled.len() + 1;
        loop {
            let id = format!("step_{number}");
            if !self.ids.contains(&id) {
                return id;
            }
            number += 1;
        }
    }

    fn after(&mut self, map: &Map<String, Value>, at: &str) -> Option<Vec<String>> {
        let given = map.get("after").filter(|after| !after.is_null())?;
        let names: Option<Vec<String>> = match given {
            Value::String(name) => Some(vec![name.clone()]),
            Value::Array(names) => names.iter().map(|name| name.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        if names.is_none() {
            self.problems.add(format!("{at}/after"), "expected a list of step ids");
        }
        names
    }

    /// A text that is not empty; blank ones count as absent.
    fn text(&mut self, map: &Map<String, Value>, key: &str, at: &str) -> Option<String> {
        let value = map.get(key).filter(|value| !value.is_null())?;
        if !value.is_string() {
            self.problems.add(format!("{at}/{key}"), "expected a text");
        }
        value.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    fn flag(&mut self, map: &Map<String, Value>, key: &str, at: &str) -> Option<bool> {
        let value = map.get(key).filter(|value| !value.is_null())?;
        if !value.is_boolean() {
            self.problems.add(format!("{at}/{key}"), "expected true or false");
        }
        value.as_bool()
    }

    fn number(&mut self, map: &Map<String, Value>, key: &str, at: &str, least: u64, most: u64) -> Option<u64> {
        let value = map.get(key).filter(|value| !value.is_null())?;
        let number = value.as_u64().filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.problems.add(format!("{at}/{key}"), format!("expected a whole number from {least} to {most}"));
        }
        number
    }

    fn retry(&mut self, given: &Value, at: &str) -> Retry {
        let mut retry = Retry::default();
        let Some(map) = given.as_object() else {
            self.problems.add(at, "expected an object {maxAttempts, delayMs, backoff, maxDelayMs}");
            return retry;
        };
        let most = u64::from(MAX_ATTEMPTS);
        let attempts = ["maxAttempts", "max"].iter().find_map(|name| self.number(map, name, at, 1, most));
        let attempts = attempts.or_else(|| self.number(map, "maxRetries", at, 0, most - 1).map(|retries| retries + 1));
        retry.max_attempts = attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(retry.max_attempts);
        let delay = ["delayMs", "delay"].iter().find_map(|name| self.number(map, name, at, 0, LONGEST_FLOW_MS));
        retry.delay_ms = delay.unwrap_or(retry.delay_ms);
        retry.max_delay_ms = self.number(map, "maxDelayMs", at, 0, LONGEST_FLOW_MS).unwrap_or(retry.max_delay_ms);
        match self.text(map, "backoff", at).as_deref() {
            None | Some("exponential") => {}
            Some("constant" | "fixed") => retry.backoff = Backoff::Constant,
            Some("linear") => retry.backoff = Backoff::Linear,
            Some(other) => {
                self.problems.add(format!("{at}/backoff"), format!("unknown `{other}`; one of constant, linear, exponential"));
            }
        }
        retry
    }

    fn on_error(&mut self, map: &Map<String, Value>, handling: &Map<String, Value>, at: &str) -> Option<OnError> {
        let default = handling.get("defaultValue").cloned();
        let (map, at) =
            if handling.contains_key("onError") { (handling, format!("{at}/config/errorHandling")) } else { (map, at.to_owned()) };
        match self.text(map, "onError", &at).as_deref() {
            None => default.map(|value| OnError::Default { value }),
            Some("fail" | "stop") => Some(OnError::Stop),
            Some("continue" | "default") => Some(default.map_or(OnError::Continue, |value| OnError::Default { value })),
            // When the fallbacks have failed, too, the flow's own policy decides.
            Some("fallback") => default.map(|value| OnError::Default { value }),
            Some(other) => {
                self.problems.add(format!("{at}/onError"), format!("unknown policy `{other}`; one of continue, fail, fallback"));
                None
            }
        }
    }

    fn finish(mut self) -> Result<Vec<Step>> {
        // What comes after a disabled step waits for what that one would have waited for.
        for step in &mut self.steps {
            step.after = through(&step.after, &self.disabled);
        }
        self.problems.into_result()?;
        Ok(self.steps)
    }
}

/// Predecessors, with the disabled ones replaced by their own.
fn through(after: &[String], disabled: &HashMap<String, Vec<String>>) -> Vec<String> {
    let (mut found, mut seen) = (Vec::with_capacity(after.len()), BTreeSet::new());
    let mut left: Vec<&String> = after.iter().rev().collect();
    while let Some(name) = left.pop() {
        match disabled.get(name) {
            Some(before) if seen.insert(name) => left.extend(before.iter().rev()),
            Some(_) => {}
            None => found.push(name.clone()),
        }
    }
    found
}

/// The field in which a step, or a tool, of this type has the document that it runs.
pub fn child_field(kind: &str) -> Option<&'static str> {
    match kind {
        "run-flow" | "flow" => Some("flow"),
        "execute-agent" | "subagent" => Some("agent"),
        "loop" => Some(BODY),
        _ => None,
    }
}

/// The field of a loop's steps.
const BODY: &str = "steps";

/// Puts the compiled document beside the one that a configuration runs, with the places of its steps.
fn compile_child(config: &mut Value, child: &str, step_timeout_ms: u64, at: &str, problems: &mut Problems) {
    let Some(map) = config.as_object_mut() else { return };
    // These are the compiler's to give.
    map.retain(|key, _| !["compiled", "places"].contains(&key.as_str()));
    let document = match child {
        // The steps of a loop stand in it as they are.
        BODY => map.get(BODY).filter(|steps| !steps.is_null()).map(|steps| serde_json::json!({ "name": "loop", "steps": steps })),
        _ => map.get(child).filter(|document| document.is_object()).cloned(),
    };
    let at = if child == BODY { at.to_owned() } else { format!("{at}/{child}") };
    let compiled = match &document {
        Some(document) if child == "agent" => agent_document::compile(document),
        Some(document) => compile_with(document, step_timeout_ms),
        None => return,
    };
    match compiled {
        Ok(flow) => {
            let places = flow.steps.iter().map(|step| (step.id.clone(), Value::from(step.pointer.clone()))).collect();
            map.insert("places".into(), Value::Object(places));
            map.insert("compiled".into(), serde_json::to_value(flow).unwrap_or_default());
        }
        Err(error) => problems.0.extend(error.under(&at).problems().iter().cloned()),
    }
}

/// [`compile_child`] for every tool of a prompt that runs something.
pub fn compile_tools(config: &mut Value, step_timeout_ms: u64, at: &str, problems: &mut Problems) {
    let tools = config.pointer_mut("/tools/runtimeTools").and_then(Value::as_array_mut);
    for (index, tool) in tools.into_iter().flatten().enumerate() {
        compile_tool(tool, step_timeout_ms, &format!("{at}/tools/runtimeTools/{index}"), problems);
    }
}

fn compile_tool(tool: &mut Value, step_timeout_ms: u64, at: &str, problems: &mut Problems) {
    let Some(child) = tool.get("toolType").and_then(Value::as_str).and_then(child_field) else { return };
    if let Some(config) = tool.get_mut("config") {
        compile_child(config, child, step_timeout_ms, &format!("{at}/config"), problems);
    }
}

/// Where the steps of a document have their configuration, as JSON pointers, each with its step's type.
pub fn configs(document: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for field in ["steps", "flowSteps"] {
        collect(document.get(field), &format!("/{field}"), &mut found);
    }
    found
}

fn collect(steps: Option<&Value>, at: &str, found: &mut Vec<(String, String)>) {
    for (index, step) in steps.and_then(Value::as_array).into_iter().flatten().enumerate() {
        let config = format!("{at}/{index}/config");
        let Some(action) = step.get("type").and_then(Value::as_str) else { continue };
        let lists: &[&str] = match action {
            "conditional" => &["trueSteps", "falseSteps"],
            "loop" => &[BODY],
            _ => &[],
        };
        if !lists.is_empty() {
            for list in lists {
                collect(step.pointer(&format!("/config/{list}")), &format!("{config}/{list}"), found);
            }
        }
        found.push((config, action.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A step's id, its predecessors and its guard.
    type Place = (String, Vec<String>, Option<(String, bool)>);

    fn after(document: Value) -> Vec<Place> {
        let flow = compile(&document).unwrap();
        flow.steps.into_iter().map(|step| (step.id, step.after, step.guard.map(|guard| (guard.step, guard.branch)))).collect()
    }

    #[test]
    fn ordered_steps_become_a_chain_and_after_a_graph() {
        let step = |id: &str, order: i64| json!({"id": id, "order": order, "type": "prompt", "config": {}});
        let chain = after(json!({"name": "x", "steps": [step("b", 2), step("a", 1), step("c", 3)]}));
        assert_eq!(chain, [("a".into(), vec![], None), ("b".into(), vec!["a".into()], None), ("c".into(), vec!["b".into()], None)]);
        let graph = after(json!({"name": "x", "steps": [
            {"id": "a", "type": "prompt"}, {"id": "b", "type": "prompt", "after": []}, {"id": "c", "type": "prompt", "after": ["a", "b"]}]}));
        assert_eq!(graph[1].1, Vec::<String>::new());
        assert_eq!(graph[2].1, ["a", "b"]);
    }

    #[test]
    fn branches_become_guards_and_what_follows_waits_for_both() {
        let steps = after(json!({"name": "x", "steps": [
            {"id": "c", "type": "conditional", "config": {"condition": "a", "trueSteps": [{"id": "t1", "type": "prompt"}, {"id": "t2", "type": "prompt"}], "falseSteps": [{"id": "f", "type": "prompt"}]}},
            {"id": "end", "type": "prompt"}]}));
        assert_eq!(steps[1], ("t1".into(), vec!["c".into()], Some(("c".into(), true))));
        assert_eq!(steps[2], ("t2".into(), vec!["t1".into()], Some(("c".into(), true))));
        assert_eq!(steps[3], ("f".into(), vec!["c".into()], Some(("c".into(), false))));
        assert_eq!(steps[4].1, ["c", "t2", "f"]);
    }

    #[test]
    fn disabled_steps_are_left_out_and_waited_through() {
        let steps = after(
            json!({"name": "x", "steps": [{"id": "a", "type": "prompt"}, {"id": "b", "type": "prompt", "enabled": false}, {"id": "c", "type": "prompt"}, {"id": "d", "type": "prompt", "after": ["b"]}]}),
        );
        assert_eq!(steps.iter().map(|(id, ..)| id.as_str()).collect::<Vec<_>>(), ["a", "c", "d"]);
        assert_eq!(steps[1].1, ["a"]);
        assert_eq!(steps[2].1, ["a"], "d waits for what b would have waited for");
    }

    #[test]
    fn an_id_used_twice_is_named_wherever_it_stands() {
        let branch = json!([{"id": "a", "type": "prompt"}, {"id": "b", "type": "prompt"}]);
        let error = compile(&json!({"name": "x", "steps": [
            {"id": "a", "type": "prompt"}, {"type": "prompt"},
            {"id": "c", "type": "conditional", "config": {"condition": "a", "trueSteps": branch}},
            {"id": "b", "type": "prompt", "enabled": false}, {"id": "a", "type": "prompt", "order": -1}, {"type": "prompt"}]}))
        .unwrap_err();
        let pointers: Vec<&str> = error.problems().iter().map(|problem| problem.pointer.as_str()).collect();
        // Steps are read in their order, so the one with the lowest number is the first of its name.
        assert_eq!(pointers, ["/steps/0/id", "/steps/2/config/trueSteps/0/id", "/steps/3/id"]);
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let error = compile(&json!({"name": " ", "maxParallel": 0, "steps": [{"config": 3, "type": "prompt", "retry": {"maxAttempts": 6}}, 7, {"id": "x"}]})).unwrap_err();
        let pointers: Vec<&str> = error.problems().iter().map(|problem| problem.pointer.as_str()).collect();
        assert_eq!(pointers, ["/name", "/steps/0/config", "/steps/0/retry/maxAttempts", "/steps/1", "/steps/2/type", "/maxParallel"]);
    }
}
