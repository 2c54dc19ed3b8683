//! A case as the one flow that runs it: the body of `POST /v1/dispatch`.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use super::case::{CaseStep, JobCase};
use super::credentials::credential_action;
use super::interpolation::{Reference, expressions, parse_expression, walk};
use super::names::{is_secret_name, parse_date, parse_duration};
use super::payload::{ActionDefaults, effective_payload};
use crate::module::{ActionHandler, ActionRegistry, ModuleAction};

/// The step type that performs an action.
pub const STEP_TYPE: &str = "job-action";
/// The input that carries the job's scope.
pub const JOB_INPUT: &str = "job";
/// Longest time of one step, waits of a poll included.
const STEP_TIMEOUT_MS: u64 = 10 * 60 * 1_000;

/// What one run of a case is made of.
pub struct CompileOptions<'a> {
    pub case: &'a JobCase,
    pub registry: &'a ActionRegistry,
    pub defaults: &'a ActionDefaults,
    pub env: &'a HashMap<String, String>,
    pub input: &'a Map<String, Value>,
    /// The run scope at the start: `startedAt`, `cliVersion` and, in a batch, the place in it.
    pub run: &'a Map<String, Value>,
    /// Unix time of the start, in milliseconds.
    pub started_at_ms: i64,
}

/// Compiles a case. Every action is known, and every payload was checked.
pub fn compile(options: &CompileOptions<'_>) -> Value {
    let case = options.case;
    let mut earlier = Vec::new();
    let mut steps = Vec::with_capacity(case.steps.len());
    for (index, step) in case.steps.iter().enumerate() {
        let variable = format!("job_step_{}", index + 1);
        steps.push(json!({
            "id": flow_id(index), "name": step.id, "type": STEP_TYPE, "config": config(options, step, &earlier), "outputVariable": variable,
            "timeoutMs": STEP_TIMEOUT_MS, "onError": "fail",
        }));
        earlier.push(json!({ "id": step.id, "variable": variable }));
    }
    let (plain, secret) = environment(options);
    json!({
        "flow": { "name": case.job_type.replace(char::is_control, " "), "steps": steps, "maxParallel": 1, "onStepError": "stop" },
        "inputs": { JOB_INPUT: { "input": options.input, "env": plain, "run": options.run } },
        "secrets": secret,
        "options": { "streamResponse": true },
    })
}

/// The id of a step in the flow: ids of cases may hold any character.
pub fn flow_id(index: usize) -> String {
    format!("step_{}", index + 1)
}

fn config(options: &CompileOptions<'_>, step: &CaseStep, earlier: &[Value]) -> Value {
    let action = options.registry.find(&step.action);
    let payload = effective_payload(step, options.registry, options.defaults);
    let mut config = action.map(action_config).unwrap_or_default();
    config.insert("stepId".into(), step.id.as_str().into());
    if step.action == "flow.poll" {
        let target = payload.get("action").and_then(Value::as_str).and_then(|key| options.registry.find(key));
        config.insert("target".into(), Value::Object(target.map(action_config).unwrap_or_default()));
    }
    config.insert("payload".into(), Value::Object(payload));
    let capture: Map<String, Value> = step.capture.iter().map(|(target, source)| (target.clone(), source.as_str().into())).collect();
    config.insert("capture".into(), Value::Object(capture));
    config.insert("earlier".into(), earlier.into());
    let due = match (&step.at_relative, &step.at_absolute) {
        (Some(text), _) => parse_duration(text).and_then(|wait| options.started_at_ms.checked_add(i64::try_from(wait).ok()?)),
        (None, Some(text)) => parse_date(text),
        (None, None) => None,
    };
    config.insert("dueAtMs".into(), due.map_or(Value::Null, Value::from));
    // Its expressions are filled in by the engine, so that no secret stands in the flow.
    config.insert("http".into(), options.case.http.clone().map_or(Value::Null, Value::Object));
    let needs = credential_action(step, options.registry).is_some_and(|action| action.credential_schema.is_some());
    let profile = step.credential.as_deref().filter(|_| needs).and_then(|name| options.case.profile(name));
    let fields = profile.map(|profile| profile.from_env.iter().map(|(field, name)| (field.clone(), name.as_str().into())).collect());
    config.insert("credential".into(), fields.map_or(Value::Null, Value::Object));
    Value::Object(config)
}

/// How an action is performed, for the engine.
fn action_config(action: &ModuleAction) -> Map<String, Value> {
    let (handler, request) = match &action.handler {
        ActionHandler::Sleep => ("sleep", Value::Null),
        ActionHandler::Poll => ("poll", Value::Null),
        ActionHandler::Http(definition) => ("http", serde_json::to_value(definition).unwrap_or_default()),
        ActionHandler::Memory(_) | ActionHandler::Script(_) => ("local", Value::Null),
    };
    let members = [
        ("action", Value::from(action.key.as_str())),
        ("handler", handler.into()),
        ("request", request),
        ("inputSchema", action.input_schema.clone().unwrap_or_default()),
        ("exportsSchema", action.exports_schema.clone().unwrap_or_default()),
    ];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The variables that a case reads: those that are not secret, and those that are.
fn environment(options: &CompileOptions<'_>) -> (Map<String, Value>, Map<String, Value>) {
    let mapped: BTreeSet<String> =
        options.case.credentials.iter().flat_map(|profile| profile.from_env.iter().map(|(_, name)| name.clone())).collect();
    let mut names = read_variables(&options.case.document);
    for step in &options.case.steps {
        names.extend(read_variables(&Value::Object(effective_payload(step, options.registry, options.defaults))));
    }
    names.extend(mapped.iter().cloned());
    let (mut plain, mut secret) = (Map::new(), Map::new());
    for name in names {
        let Some(value) = options.env.get(&name).filter(|value| !value.is_empty()) else { continue };
        let into = if mapped.contains(&name) || is_secret_name(&name) { &mut secret } else { &mut plain };
        into.insert(name, value.as_str().into());
    }
    (plain, secret)
}

/// The environment variables that a value's expressions read.
pub fn read_variables(value: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    walk(value, "", &mut |_, text| {
        for expression in expressions(text) {
            if let Ok(Reference::Env(name)) = parse_expression(expression, &[]) {
                names.insert(name);
            }
        }
    });
    names
}
