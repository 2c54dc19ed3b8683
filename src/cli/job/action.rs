//! `dispatch run <module.action>`: one action, without a case.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::execute::{JobExecutor, RunPlan, RunReport, RunStop, local_egress, remove_engine_folder};
use super::host::{JobHost, ServerOptions};
use super::prepare::{LoadedCase, registry_warnings};
use crate::cli::kit::{FaultCode, KitContext, KitFault, KitResult, NextCommand};
use crate::clock::Clock;
use crate::job::coerce::coerce;
use crate::job::credentials::credential_value;
use crate::job::inputs::{InputIssue, split_pairs};
use crate::job::names::is_env_name;
use crate::job::payload::{ActionDefaults, with_defaults};
use crate::job::record::RunEnd;
use crate::module::{ActionRegistry, ModuleAction, check_payload};

/// What is run, and with what.
pub struct ActionRequest<'a> {
    pub action: &'a str,
    pub inputs: &'a [String],
    pub base_url: Option<&'a str>,
    pub headers: &'a [String],
    pub credentials: &'a [String],
    pub server: ServerOptions,
}

/// A checked request.
struct CheckedAction {
    payload: Map<String, Value>,
    headers: Vec<(String, String)>,
    credentials: Vec<(String, String)>,
    warnings: Vec<String>,
}

/// Runs an action and prints its outcome.
pub async fn run(request: ActionRequest<'_>, context: &KitContext) -> KitResult<ExitCode> {
    let registry = ActionRegistry::load(&context.paths.registry_options(None)).await;
    let Some(action) = registry.find(request.action) else {
        return Err(KitFault::not_found(format!("no loaded module offers the action `{}`", request.action))
            .details(json!({ "action": request.action, "warnings": registry_warnings(&registry) }))
            .next("dispatch module list", "see the modules and their actions"));
    };
    let checked = check(&request, action, &registry, context)?;
    let (document, input) = document(&request, &checked);
    let warnings = checked.warnings.clone();
    // A seed: single actions may change memory.
    let path = context.paths.cwd.join("action.job.seed.json");
    let loaded = LoadedCase::of_document(document, path, &context.paths).await?;
    let clock = Clock::system();
    let new = RunPlan::new(&clock, &context.paths, "action-run", input, Map::new());
    let plan = RunPlan { is_job: false, is_resumable: false, ..new };
    let (id, folder, data) = (plan.id.clone(), plan.folder.clone(), plan.data());
    let host = JobHost::open(&request.server, &data, &clock).await?;
    let egress = local_egress(&clock)?;
    let executor = JobExecutor { host: &host, loaded: &loaded, paths: &context.paths, egress: &egress, output: context.output };
    let stopped = executor.start(plan, false).await;
    host.close().await?;
    remove_engine_folder(&folder);
    match stopped? {
        RunStop::Ended(report) => report_end(&request, &report, &warnings, context),
        RunStop::Unknown(unknown) => Err(KitFault::runtime(unknown.message).details(json!({ "action": request.action, "runId": id }))),
    }
}

fn check(request: &ActionRequest<'_>, action: &ModuleAction, registry: &ActionRegistry, context: &KitContext) -> KitResult<CheckedAction> {
    let mut warnings = registry_warnings(registry);
    let (pairs, mut issues) = split_pairs(request.inputs, "inputs");
    let (headers, header_issues) = split_pairs(request.headers, "header");
    let (mut credentials, credential_issues) = split_pairs(request.credentials, "credential");
    issues.extend(header_issues.into_iter().chain(credential_issues));
    let given = coerce(&pairs, action.input_schema.as_ref()).unwrap_or_else(|faults| {
        issues.extend(faults);
        Map::new()
    });
    let payload = with_defaults(&action.key, &given, registry, &ActionDefaults::read(&context.paths.home));
    if let Some(schema) = action.input_schema.as_ref().filter(|_| issues.is_empty()) {
        let faults = check_payload(schema, &Value::Object(payload.clone()));
        issues.extend(faults.into_iter().map(|fault| InputIssue::new(format!("inputs.{}", fault.path), fault.message)));
    }
    let env = std::env::vars().collect();
    match &action.credential_schema {
        None if credentials.is_empty() => {}
        None => {
            warnings.push(format!("{} takes no credential; --credential is ignored", action.key));
            credentials.clear();
        }
        Some(_) if credentials.is_empty() => {
            issues.push(InputIssue::new("credential", format!("{} needs a credential: --credential field=ENV_NAME", action.key)));
        }
        Some(schema) => {
            let value = credential_value(&credentials, &env);
            for (field, variable) in &credentials {
                if !is_env_name(variable) || value.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
                    issues.push(InputIssue::new(format!("credential.{field}"), format!("the environment variable {variable} is not set")));
                }
            }
            if !issues.iter().any(|issue| issue.path.starts_with("credential")) {
                let faults = check_payload(schema, &value);
                let issue = |path: &str| InputIssue::new(format!("credential.{path}"), "does not fit the action's credential schema");
                issues.extend(faults.iter().map(|fault| issue(&fault.path)));
            }
        }
    }
    if issues.is_empty() {
        let headers = headers.into_iter().map(|(name, value)| (name, value.trim().to_owned())).collect();
        return Ok(CheckedAction { payload, headers, credentials, warnings });
    }
    Err(KitFault::usage("action input preflight failed")
        .details(json!({ "action": action.key, "issues": issues, "warnings": warnings }))
        .next(format!("dispatch schema action --name {} --print", action.key), "see the action's input schema"))
}

/// The case of one step. Values are inputs of it, because expressions in them are only text.
fn document(request: &ActionRequest<'_>, checked: &CheckedAction) -> (Value, Map<String, Value>) {
    let (mut declared, mut input) = (Map::new(), Map::new());
    let mut bind = |value: &Value| {
        if !has_expression(value) {
            return value.clone();
        }
        let name = format!("value_{}", input.len() + 1);
        declared.insert(name.clone(), json!({ "type": "string" }));
        input.insert(name.clone(), value.clone());
        Value::String(format!("${{input.{name}}}"))
    };
    let payload: Map<String, Value> = checked.payload.iter().map(|(name, value)| (name.clone(), bind(value))).collect();
    let headers: Map<String, Value> =
        checked.headers.iter().map(|(name, value)| (name.clone(), bind(&Value::String(value.clone())))).collect();
    let mut http = Map::new();
    if let Some(base) = request.base_url {
        http.insert("baseUrl".into(), bind(&Value::String(base.to_owned())));
    }
    if !headers.is_empty() {
        http.insert("defaultHeaders".into(), Value::Object(headers));
    }
    let mut step = json!({ "id": "action", "action": request.action, "payload": payload });
    let mut credentials = Map::new();
    if !checked.credentials.is_empty() {
        let fields: Map<String, Value> =
            checked.credentials.iter().map(|(field, variable)| (field.clone(), variable.as_str().into())).collect();
        credentials.insert("cli".into(), json!({ "fromEnv": fields }));
        if let Some(step) = step.as_object_mut() {
            step.insert("credential".into(), "cli".into());
        }
    }
    let document = json!({
        "schemaVersion": 1, "jobType": format!("action-run:{}", request.action), "inputs": declared, "http": http,
        "credentials": credentials, "scenario": { "steps": [step] },
    });
    (document, input)
}

fn has_expression(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("${"),
        Value::Array(items) => items.iter().any(has_expression),
        Value::Object(map) => map.values().any(has_expression),
        _ => false,
    }
}

fn report_end(request: &ActionRequest<'_>, report: &RunReport, warnings: &[String], context: &KitContext) -> KitResult<ExitCode> {
    let id = &report.plan.id;
    let next = NextCommand::new(format!("dispatch job readable --run-id {id}"), "full request/response trace");
    let folder = report.plan.folder.display().to_string();
    if let RunEnd::Failed(failure) = &report.end {
        let code = if failure.retryable { FaultCode::Transient } else { FaultCode::Runtime };
        let message = report.summary.get("error").and_then(Value::as_str).unwrap_or("the action failed");
        return Err(KitFault::new(code, message)
            .details(json!({ "action": request.action, "runId": id, "runDir": folder, "warnings": warnings }))
            .next(next.command, next.description));
    }
    let result = report.results.first().cloned().unwrap_or_default();
    let member = |name: &str| result.get(name).cloned().unwrap_or_default();
    let detail = member("detail");
    context.say(format_args!("✓ {}  {}", request.action, super::progress::printable(detail.as_str().unwrap_or_default())));
    for warning in warnings {
        context.say(format_args!("! {warning}"));
    }
    context.say(format_args!("{:#}", member("response")));
    let next = [next];
    context.next(&next);
    context.result(json!({
        "cliVersion": env!("CARGO_PKG_VERSION"), "action": request.action, "runId": id, "runDir": folder, "status": "SUCCESS",
        "response": member("response"), "exports": member("exports"), "detail": detail, "warnings": warnings, "next": next,
    }));
    Ok(ExitCode::SUCCESS)
}
