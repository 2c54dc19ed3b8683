//! A workflow's document: JSON or YAML in, a flow out.

use axum::http::HeaderName;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::definitions::MOST_CRONS;
use super::is_name;
use crate::engine::is_lua;
use crate::error::{Error, Kind, Problem, Problems, Result, pointer_token};
use crate::model::cadence::{Cadence, Fault, check_steps};
use crate::model::flow::{FORMAT, Flow, OnError, Retry, Step, Workflow};

/// A workflow, as callers write it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WorkflowDocument")]
pub(super) struct Document {
    /// For editors.
    #[serde(default, rename = "$schema", skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Lower-case words with hyphens between them.
    #[schemars(length(min = 1, max = 100), regex(pattern = "^[a-z][a-z0-9]*(-[a-z0-9]+)*$"))]
    pub name: String,
    /// 1 or more; never lower than the one that is kept.
    #[schemars(range(min = 1))]
    pub version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON Schemas by name, for triggers and replies.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub schemas: Map<String, Value>,
    /// Values that are computed once, when a run begins; texts see them as `vars.NAME`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub vars: Map<String, Value>,
    /// How runs begin, besides by a call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<Trigger>,
    /// By their ids: a letter, then letters, digits and `_`.
    pub steps: IndexMap<String, StepDocument>,
    /// What a call that waits for the run is answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Reply>,
}

/// How runs begin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
#[schemars(rename = "WorkflowTrigger")]
pub(super) enum Trigger {
    /// By a call of `POST /workflows/{workflow}`.
    Http {
        /// The schema of the body: a name of `schemas`, or the schema itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        schema: Option<Value>,
    },
    /// At times. Those that were missed collapse into one.
    Cron {
        /// Five fields.
        schedule: String,
        /// An IANA name; UTC when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timezone: Option<String>,
        /// What `trigger.body` is.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        body: Value,
    },
    /// By an event that is published.
    Event {
        event: String,
        /// Members that the event's body must have, with these values.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        filter: Map<String, Value>,
    },
}

/// A step. What its members mean is the schema `RequestConfig`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "WorkflowStep")]
pub(super) struct StepDocument {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Steps that must be settled first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// A condition: a path expression, Lua that begins with `return`, or `{expr, lang}`. False means that the step is passed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Value>,
    /// A request that undoes the step when a later one fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compensate: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Value>,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "WorkflowCondition")]
pub(super) enum When {
    Text(String),
    Block {
        expr: String,
        /// `path`, `jsonpath` or `lua`; a path when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lang: Option<String>,
    },
}

/// What a call that waits is answered with; everything in it is a template over the whole run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "WorkflowReply")]
pub(super) struct Reply {
    /// 200 when absent.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub status: Value,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub headers: Map<String, Value>,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub body: Value,
}

impl Reply {
    /// What can be told before there is anything to fill in.
    fn check(&self, problems: &mut Problems) {
        if !self.status.is_null() && is_fixed(&self.status) && super::reply::status_of(&self.status).is_none() {
            problems.add("/response/status", "expected a status from 200 to 599");
        }
        for name in self.headers.keys().filter(|name| HeaderName::try_from(name.as_str()).is_err()) {
            problems.add(format!("/response/headers/{}", pointer_token(name)), "this is no header's name");
        }
    }
}

/// Whether nothing in a value is filled in.
fn is_fixed(value: &Value) -> bool {
    value.is_number() || value.as_str().is_some_and(|text| !text.contains("{{"))
}

/// Steps of one workflow that run at once.
const AT_ONCE: usize = 50;
/// A run's time without its pauses.
const LONGEST_RUN_MS: u64 = 24 * 3_600_000;
/// A step's: its calls, with their attempts.
const LONGEST_STEP_MS: u64 = 12 * 3_600_000;

/// Longest YAML aliases may make a document: nodes in all, and how deep.
const MOST_NODES: usize = 20_000;
const DEEPEST: usize = 64;

/// Reads YAML as JSON. Error `invalid_yaml` (400): it is none, or its aliases make it too large.
pub(super) fn yaml(text: &[u8]) -> Result<Value> {
    let wrong = |why: String| Error::new(Kind::Malformed, "invalid_yaml", format!("the request body is not valid YAML: {why}"));
    let text = std::str::from_utf8(text).map_err(|error| wrong(error.to_string()))?;
    let budget = serde_saphyr::budget! { max_nodes: MOST_NODES, max_aliases: 1_000, max_depth: DEEPEST, max_documents: 1 };
    // `0755` is 493 in one version of YAML and 755 in another, so it stays a string.
    let options = serde_saphyr::options! { strict_booleans: true, leading_zero_numbers_as_strings: true, budget: budget };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| wrong(error.to_string()))
}

/// Reads a document in its type; each fault with its place.
pub(super) fn read(value: Value) -> Result<Document> {
    let mut problems = Problems::default();
    objects(&value, &mut problems);
    problems.into_result()?;
    serde_path_to_error::deserialize(&value).map_err(|error| Problems::from(Problem::misfit(&error)).into())
}

/// Where a list would be read as an object's members in their order, an object is asked for.
fn objects(document: &Value, problems: &mut Problems) {
    if !document.is_object() {
        return problems.add("", "expected an object");
    }
    let mut wanted = members(document, "", &["steps", "response", "vars", "schemas"]);
    wanted.extend(elements(document.get("triggers"), "/triggers"));
    for (at, step) in elements(document.get("steps"), "/steps") {
        wanted.extend(members(step, &at, &["request", "response", "retry", "compensate", "wait", "strategy"]));
        wanted.extend(elements(step.pointer("/strategy/requests"), &format!("{at}/strategy/requests")));
        wanted.push((at, step));
    }
    let wrong = wanted.into_iter().filter(|(_, value)| !value.is_object() && !value.is_null());
    wrong.for_each(|(at, _)| problems.add(at, "expected an object"));
}

/// The members of these names, with their places.
fn members<'v>(of: &'v Value, at: &str, names: &[&str]) -> Vec<(String, &'v Value)> {
    names.iter().filter_map(|name| Some((format!("{at}/{name}"), of.get(*name)?))).collect()
}

/// The members of a list or of an object, with their places.
fn elements<'v>(of: Option<&'v Value>, at: &str) -> Vec<(String, &'v Value)> {
    match of {
        Some(Value::Array(items)) => items.iter().enumerate().map(|(index, item)| (format!("{at}/{index}"), item)).collect(),
        Some(Value::Object(map)) => map.iter().map(|(name, item)| (format!("{at}/{}", pointer_token(name)), item)).collect(),
        _ => Vec::new(),
    }
}

impl Document {
    /// The flow that it means. What the engine judges of it is not judged here.
    pub fn compile(&self) -> Result<Flow> {
        self.compile_after(Problems::default())
    }

    /// Like [`Document::compile`], with the rules for documents that are saved now. Documents that were saved before these rules still run.
    pub fn compile_new(&self) -> Result<Flow> {
        let mut problems = Problems::default();
        for name in self.response.iter().flat_map(|reply| reply.headers.keys()) {
            if HeaderName::try_from(name.as_str()).is_ok_and(|name| super::reply::is_reserved(&name)) {
                problems.add(format!("/response/headers/{}", pointer_token(name)), "only the server may set this header; remove it");
            }
        }
        for (index, trigger) in self.triggers.iter().enumerate() {
            if let Trigger::Cron { schedule, .. } = trigger
                && let Err(Fault::Pattern(why) | Fault::Zone(why)) = check_steps(schedule)
            {
                problems.add(format!("/triggers/{index}/schedule"), why);
            }
        }
        self.compile_after(problems)
    }

    fn compile_after(&self, mut problems: Problems) -> Result<Flow> {
        self.check(&mut problems);
        let mut steps = Vec::with_capacity(self.steps.len());
        for (id, step) in &self.steps {
            steps.push(self.step(id, step, &mut problems));
        }
        problems.into_result()?;
        let output = self.response.as_ref().map(|reply| json!({ "status": reply.status, "headers": reply.headers, "body": reply.body }));
        let workflow = Some(Workflow { vars: self.vars.clone(), output });
        let (name, on_step_error) = (self.name.clone(), OnError::Stop);
        Ok(Flow { format: FORMAT, name, steps, max_parallel: AT_ONCE, on_step_error, timeout_ms: LONGEST_RUN_MS, workflow })
    }

    fn check(&self, problems: &mut Problems) {
        if !is_name(&self.name) {
            problems.add("/name", "expected lower-case words with hyphens between them, 100 characters at most");
        }
        if self.version == 0 {
            problems.add("/version", "expected 1 or more");
        }
        if self.steps.is_empty() {
            problems.add("/steps", "expected at least one step");
        }
        let crons = self.triggers.iter().filter(|trigger| matches!(trigger, Trigger::Cron { .. })).count();
        if crons > MOST_CRONS {
            problems.add("/triggers", format!("expected {MOST_CRONS} cron triggers at most"));
        }
        for (name, schema) in &self.schemas {
            check_schema(schema, &format!("/schemas/{}", pointer_token(name)), problems);
        }
        if let Some(reply) = &self.response {
            reply.check(problems);
        }
        for (index, trigger) in self.triggers.iter().enumerate() {
            let at = format!("/triggers/{index}");
            match trigger {
                Trigger::Http { schema: Some(schema) } => drop(self.schema(schema, &format!("{at}/schema"), problems)),
                Trigger::Http { schema: None } => {}
                Trigger::Cron { schedule, timezone, .. } => match Cadence::new(schedule.trim(), timezone.as_deref().unwrap_or("UTC")) {
                    Ok(cadence) if cadence.next(crate::clock::Timestamp::from_millis(0)).is_none() => {
                        problems.add(format!("{at}/schedule"), "the pattern names no time that will ever come");
                    }
                    Ok(_) => {}
                    Err(Fault::Pattern(why)) => {
                        problems.add(format!("{at}/schedule"), why);
                        if let Some(why) = timezone.as_deref().and_then(crate::model::cadence::zone_fault) {
                            problems.add(format!("{at}/timezone"), why);
                        }
                    }
                    Err(Fault::Zone(why)) => problems.add(format!("{at}/timezone"), why),
                },
                Trigger::Event { event, .. } if event.is_empty() || event.len() > 200 => {
                    problems.add(format!("{at}/event"), "expected 1 to 200 characters");
                }
                Trigger::Event { .. } => {}
            }
        }
    }

    /// A schema by its name, or itself.
    pub fn schema(&self, given: &Value, at: &str, problems: &mut Problems) -> Option<Value> {
        match given {
            Value::String(name) => {
                let found = self.schemas.get(name).cloned();
                if found.is_none() {
                    problems.add(at, format!("`{name}` is not one of this document's `schemas`"));
                }
                found
            }
            schema => {
                check_schema(schema, at, problems);
                Some(schema.clone())
            }
        }
    }

    fn step(&self, id: &str, step: &StepDocument, problems: &mut Problems) -> Step {
        let at = format!("/steps/{}", pointer_token(id));
        if !is_step_id(id) {
            problems.add(&at, "a step's id begins with a letter and has letters, digits, `_` and `-`, 100 characters at most");
        }
        let mut config = Map::new();
        let members = [("request", &step.request), ("retry", &step.retry), ("wait", &step.wait), ("strategy", &step.strategy)];
        for (name, member) in members {
            if let Some(member) = member {
                config.insert(name.to_owned(), member.clone());
            }
        }
        let response = step.response.clone().map(|mut response| {
            let named = response.get("schema").cloned();
            if let (Some(Value::String(_)), Some(members)) = (&named, response.as_object_mut())
                && let Some(schema) = self.schema(named.as_ref().unwrap_or(&Value::Null), &format!("{at}/response/schema"), problems)
            {
                members.insert("schema".into(), schema);
            }
            response
        });
        if let Some(response) = &response {
            config.insert("response".into(), response.clone());
        }
        let undo = step.compensate.as_ref().map(|request| {
            let mut config = Map::new();
            config.insert("request".into(), request.clone());
            config.insert("undoes".into(), id.into());
            if let Some(retry) = &step.retry {
                config.insert("retry".into(), retry.clone());
            }
            Value::Object(config)
        });
        let (when, when_in) = match &step.when {
            None => (None, None),
            Some(When::Text(text)) => (Some(text.clone()), is_lua(text).then(|| "lua".to_owned())),
            Some(When::Block { expr, lang }) => (Some(expr.clone()), lang.clone()),
        };
        Step {
            id: id.to_owned(),
            name: id.to_owned(),
            action: "request".into(),
            config: Value::Object(config),
            after: step.after.clone(),
            guard: None,
            when,
            when_in,
            retry: Retry::default(),
            timeout_ms: LONGEST_STEP_MS,
            on_error: None,
            undo,
            output: None,
            stream: true,
            pointer: at,
        }
    }
}

/// Hyphens are those of older documents.
fn is_step_id(id: &str) -> bool {
    id.len() <= 100
        && id.starts_with(|first: char| first.is_ascii_alphabetic())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn check_schema(schema: &Value, at: &str, problems: &mut Problems) {
    if let Err(fault) = crate::tool::schema::compile(schema) {
        problems.add(at, fault);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids() {
        for name in ["a", "process-order", "a1-2b"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "a--b", "A", "1a", "a_b", &"a".repeat(101)] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_step_id("charge_2") && is_step_id("old-style") && !is_step_id("_a") && !is_step_id("a/b") && !is_step_id(""));
    }

    #[test]
    fn yaml_is_read_as_json_and_bombs_are_not() {
        let value = yaml(b"name: a\nversion: 2\nsteps:\n  b: {wait: {signal: no}}\n").unwrap();
        assert_eq!(value, json!({ "name": "a", "version": 2, "steps": { "b": { "wait": { "signal": "no" } } } }));
        let zeros = yaml(b"zip: 01234\nmode: 0755\nbelow: -08\nplus: +007\nzero: 0\nhalf: 0.5\nten: 10\noctal: 0o17\n").unwrap();
        let kept =
            json!({ "zip": "01234", "mode": "0755", "below": "-08", "plus": "+007", "zero": 0, "half": 0.5, "ten": 10, "octal": 15 });
        assert_eq!(zeros, kept);
        let bomb = (1..9).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, level| {
            let before = format!("*a{}", level - 1);
            text + &format!("a{level}: &a{level} [{}]\n", [before.as_str(); 10].join(","))
        });
        for wrong in [bomb.as_bytes(), b"a: [", b"a: 1\na: 2\n", b"\xff"] {
            assert_eq!(yaml(wrong).map_err(|error| error.code().to_owned()), Err("invalid_yaml".into()));
        }
    }
}
