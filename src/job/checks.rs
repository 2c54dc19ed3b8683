//! What is wrong with a case beyond its form: references, captures, actions, payloads.

use serde::Serialize;
use serde_json::{Map, Value};

use super::case::{CaseKind, CaseStep, JobCase};
use super::interpolation::{Reference, expressions, is_malformed, is_whole, parse_expression, walk};
use super::json_path::check_path;
use super::names::{parse_date, parse_duration};
use super::payload::{ActionDefaults, effective_payload};
use super::poll::PollSpec;
use crate::module::{ActionRegistry, check_payload};

/// One fault of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CaseIssue {
    pub code: &'static str,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_id: Option<String>,
    /// The place in the step, or in `http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Every fault of a case: duplicate ids first, then those of each step, then those of `http`.
pub fn semantic_issues(case: &JobCase, kind: CaseKind, registry: &ActionRegistry, defaults: &ActionDefaults) -> Vec<CaseIssue> {
    let mut checker = CaseChecker { case, kind, registry, defaults, issues: Vec::new() };
    for (index, step) in case.steps.iter().enumerate() {
        if case.steps.iter().take(index).any(|earlier| earlier.id == step.id) {
            let message = format!("the step id `{}` is used more than once", step.id);
            checker.issues.push(CaseIssue { code: "DUPLICATE_STEP_ID", message, step_id: Some(step.id.clone()), path: None });
        }
    }
    for (index, step) in case.steps.iter().enumerate() {
        checker.step(step, index);
    }
    if let Some(http) = &case.http {
        checker.expressions(&Value::Object(http.clone()), "http", None);
    }
    checker.issues
}

struct CaseChecker<'a> {
    case: &'a JobCase,
    kind: CaseKind,
    registry: &'a ActionRegistry,
    defaults: &'a ActionDefaults,
    issues: Vec<CaseIssue>,
}

impl CaseChecker<'_> {
    fn issue(&mut self, code: &'static str, step: &CaseStep, path: impl Into<String>, message: impl Into<String>) {
        self.issues.push(CaseIssue { code, message: message.into(), step_id: Some(step.id.clone()), path: Some(path.into()) });
    }

    fn step(&mut self, step: &CaseStep, index: usize) {
        let payload = effective_payload(step, self.registry, self.defaults);
        self.memory(step, &payload);
        self.captures(step);
        if step.at_relative.as_deref().is_some_and(|text| parse_duration(text).is_none()) {
            self.issue("INVALID_AT_RELATIVE", step, "atRelative", "expected a duration such as 500ms, 2s, 5m or 1h");
        }
        if step.at_absolute.as_deref().is_some_and(|text| parse_date(text).is_none()) {
            self.issue("INVALID_AT_ABSOLUTE", step, "atAbsolute", "expected a date and time such as 2026-03-25T10:00:00Z");
        }
        match self.registry.find(&step.action) {
            None => self.issue("UNKNOWN_ACTION", step, "action", format!("no loaded module offers the action `{}`", step.action)),
            Some(action) => {
                let schema = action.input_schema.clone().unwrap_or(Value::Bool(true));
                for fault in check_payload(&schema, &Value::Object(payload.clone())) {
                    if is_filled_later(&payload, &fault.path) {
                        continue;
                    }
                    let place = if fault.path.is_empty() { "<root>" } else { fault.path.as_str() };
                    let message = format!("{} {place}: {}", step.action, fault.message);
                    self.issue("MODULE_VALIDATION_ERROR", step, format!("payload.{place}"), message);
                }
            }
        }
        if step.action == "flow.poll" {
            self.poll(step, &payload);
        }
        self.expressions(&Value::Object(payload), "payload", Some((step, index)));
    }

    fn memory(&mut self, step: &CaseStep, payload: &Map<String, Value>) {
        if self.kind == CaseKind::Seed {
            return;
        }
        let mutates = |key: &str| self.registry.find(key).is_some_and(crate::module::ModuleAction::mutates_memory);
        let target = payload.get("action").and_then(Value::as_str).filter(|_| step.action == "flow.poll");
        let place = if mutates(&step.action) {
            Some(("action", step.action.clone()))
        } else {
            target.filter(|target| mutates(target)).map(|target| ("payload.action", target.to_owned()))
        };
        if let Some((path, action)) = place {
            let message = format!("`{action}` changes memory, which only a seed job (*.job.seed.json) may do");
            self.issue("DISALLOWED_MEMORY_MUTATION", step, path, message);
        }
    }

    fn captures(&mut self, step: &CaseStep) {
        for (target, source) in &step.capture {
            let shown = if target.is_empty() { "<empty>" } else { target.as_str() };
            let path = format!("capture.{shown}");
            if target.split('.').any(|segment| segment.trim().is_empty()) {
                self.issue("INVALID_CAPTURE", step, &path, "the target has an empty segment");
            }
            match source.strip_prefix("exports.") {
                None => self.issue("INVALID_CAPTURE", step, &path, "the source must be below exports."),
                Some(rest) if rest.split('.').any(|segment| segment.trim().is_empty()) => {
                    self.issue("INVALID_CAPTURE", step, &path, "the source has an empty segment");
                }
                Some(_) => {}
            }
        }
    }

    fn poll(&mut self, step: &CaseStep, payload: &Map<String, Value>) {
        for (place, message) in PollSpec::parse(payload).err().unwrap_or_default() {
            if !is_filled_later(payload, &place.replace('[', ".").replace(']', "")) {
                self.issue("FLOW_POLL_VALIDATION_ERROR", step, format!("payload.{place}"), message);
            }
        }
        if let Some(target) = payload.get("action").and_then(Value::as_str)
            && self.registry.find(target).is_none()
        {
            self.issue("FLOW_POLL_VALIDATION_ERROR", step, "payload.action", format!("no loaded module offers the action `{target}`"));
        }
    }

    /// Checks every expression of a value; `place` is the step and its position, or nothing for `http`.
    fn expressions(&mut self, value: &Value, root: &str, place: Option<(&CaseStep, usize)>) {
        let mut texts = Vec::new();
        walk(value, root, &mut |at, text| texts.push((at.to_owned(), text.to_owned())));
        for (at, text) in texts {
            if is_malformed(&text) {
                self.expression_issue("MALFORMED_INTERPOLATION", place, &at, "`${` is not followed by an expression and `}`".into());
            }
            for expression in expressions(&text) {
                if let Some((code, message)) = self.fault_of(expression, place.map(|(_, index)| index)) {
                    self.expression_issue(code, place, &at, message);
                }
            }
        }
    }

    fn expression_issue(&mut self, code: &'static str, place: Option<(&CaseStep, usize)>, at: &str, message: String) {
        let step_id = place.map(|(step, _)| step.id.clone());
        self.issues.push(CaseIssue { code, message, step_id, path: Some(at.to_owned()) });
    }

    fn fault_of(&self, expression: &str, index: Option<usize>) -> Option<(&'static str, String)> {
        let invalid = |message: String| Some(("INVALID_INTERPOLATION", message));
        match parse_expression(expression, &[]) {
            Err(fault) => invalid(fault.0),
            Ok(Reference::Input(name, _)) if !self.case.inputs.iter().any(|input| input.name == name) => {
                invalid(format!("the input `{name}` is not declared in `inputs`"))
            }
            Ok(Reference::RunPath(path)) => check_path(&path).err().and_then(|why| invalid(format!("invalid JSONPath `{path}`: {why}"))),
            Ok(Reference::StepPath { id, path }) => {
                let broken = check_path(&path).err().and_then(|why| invalid(format!("invalid JSONPath `{path}`: {why}")));
                self.step_fault(&id, index).or(broken)
            }
            Ok(Reference::Step { id, .. }) => self.step_fault(&id, index),
            Ok(_) => None,
        }
    }

    fn step_fault(&self, id: &str, index: Option<usize>) -> Option<(&'static str, String)> {
        let Some(index) = index else {
            return Some(("INVALID_INTERPOLATION", format!("`http` is resolved before the steps run; it cannot read step `{id}`")));
        };
        match self.case.steps.iter().position(|step| step.id == id) {
            None => Some(("UNKNOWN_STEP_REFERENCE", format!("there is no step `{id}`"))),
            Some(found) if found >= index => Some(("FORWARD_STEP_REFERENCE", format!("step `{id}` has not run at this point"))),
            Some(_) => None,
        }
    }
}

/// Whether the value at a dotted path is one expression, whose type is known only when the step runs.
fn is_filled_later(payload: &Map<String, Value>, path: &str) -> bool {
    let mut names = path.split('.');
    let first = names.next().and_then(|name| payload.get(name));
    let found = names.fold(first, |value, name| match value? {
        Value::Object(map) => map.get(name),
        Value::Array(items) => name.parse::<usize>().ok().and_then(|index| items.get(index)),
        _ => None,
    });
    found.and_then(Value::as_str).is_some_and(is_whole)
}
