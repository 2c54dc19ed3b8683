//! Credentials of steps: which are bound, whether they can be, and their values from the environment.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::case::{CaseStep, JobCase};
use crate::module::{ActionRegistry, ModuleAction, check_payload};

/// One fault of a step's credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialIssue {
    pub code: &'static str,
    pub step_id: String,
    pub path: String,
    pub message: String,
}

/// The action that a step's credential is for: of a poll, its target.
pub fn credential_action<'r>(step: &CaseStep, registry: &'r ActionRegistry) -> Option<&'r ModuleAction> {
    let target = step.payload.get("action").and_then(Value::as_str).filter(|_| step.action == "flow.poll");
    registry.find(target.unwrap_or(&step.action))
}

/// Every credential fault; values are looked at only with an environment.
pub fn credential_issues(case: &JobCase, registry: &ActionRegistry, env: Option<&HashMap<String, String>>) -> Vec<CredentialIssue> {
    let mut issues = Vec::new();
    for step in &case.steps {
        let Some(action) = credential_action(step, registry) else { continue };
        let mut issue =
            |code, path: String, message: String| issues.push(CredentialIssue { code, step_id: step.id.clone(), path, message });
        let (schema, bound) = match (&action.credential_schema, &step.credential) {
            (None, None) => continue,
            (Some(_), None) => {
                let message = format!("{} needs a credential; bind a profile of `credentials` with `credential`", action.key);
                issue("ACTION_REQUIRES_CREDENTIAL", "credential".into(), message);
                continue;
            }
            (None, Some(_)) => {
                issue("UNEXPECTED_CREDENTIAL_BINDING", "credential".into(), format!("{} takes no credential", action.key));
                continue;
            }
            (Some(schema), Some(bound)) => (schema, bound.trim()),
        };
        let Some(profile) = case.profile(bound) else {
            issue("MISSING_CREDENTIAL_PROFILE", "credential".into(), format!("`credentials` has no profile `{bound}`"));
            continue;
        };
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        for field in required.filter(|field| !profile.from_env.iter().any(|(known, _)| known == field)) {
            issue("INVALID_CREDENTIAL_BINDING", format!("credentials.{bound}.fromEnv"), format!("the field `{field}` is not mapped"));
        }
        let Some(env) = env else { continue };
        let mut is_complete = true;
        for (field, variable) in &profile.from_env {
            if env.get(variable).is_none_or(String::is_empty) {
                is_complete = false;
                let path = format!("credentials.{bound}.fromEnv.{field}");
                issue("MISSING_CREDENTIAL_ENV", path, format!("the environment variable {variable} is not set"));
            }
        }
        if is_complete {
            for fault in check_payload(schema, &credential_value(&profile.from_env, env)) {
                // The validator's message may quote the value.
                let message = format!("the value of `{}` does not fit the action's credential schema", fault.path);
                issue("INVALID_CREDENTIAL_BINDING", format!("credentials.{bound}"), message);
            }
        }
    }
    issues
}

/// The value of a profile.
pub fn credential_value(from_env: &[(String, String)], env: &HashMap<String, String>) -> Value {
    let fields = from_env.iter().filter_map(|(field, variable)| Some((field.clone(), Value::String(env.get(variable)?.clone()))));
    Value::Object(fields.collect::<Map<_, _>>())
}
