//! `/v1/validate` and `/v1/public/flows/validate`: what is wrong with a template, a script or a flow, without saving it.

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::about;
use super::document;
use super::embed::Embed;
use crate::engine::Engine;
use crate::error::{Problem, Result};
use crate::http::AppState;
use crate::http::extract::Body;
use crate::http::scope::{FlowsRead, Scoped};
use crate::id::TenantId;
use crate::model::TargetKind;
use crate::store::SharedStore;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/validate/liquid-template",
            post_with(template, about("validateTemplate", "Flows", "Say what is wrong with a Liquid template")),
        )
        .api_route("/v1/validate/liquid", post_with(template, about("validateLiquid", "Flows", "Say what is wrong with a Liquid template")))
        .api_route(
            "/v1/validate/transform-code",
            post_with(script, about("validateScript", "Flows", "Say what is wrong with a script of a `transform-data` step")),
        )
        .api_route(
            "/v1/public/flows/validate",
            post_with(flow, about("validateFlow", "Flows", "Say what is wrong with a flow, without saving it")),
        )
}

/// A template to check.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "TemplateCheck")]
struct TemplateInput {
    template: String,
}

/// A script to check.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ScriptCheck")]
struct ScriptInput {
    code: String,
    /// `javascript`, or absent.
    #[serde(default)]
    language: Option<String>,
}

/// A flow to check: `{name, steps}`. Any object is taken: what is wrong with it is the answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
struct FlowInput(Map<String, Value>);

/// Something that is wrong.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ValidationIssue")]
struct ValidationIssue {
    /// Always `validation_failed`.
    code: &'static str,
    message: String,
    /// Always `error`.
    severity: &'static str,
    /// Where in the document, as a JSON pointer; empty when it is the whole.
    pointer: String,
    /// The step that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<StepPlace>,
}

/// A step of a flow.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "StepPlace")]
struct StepPlace {
    /// From 0.
    index: usize,
    name: String,
    #[serde(rename = "type")]
    kind: String,
}

/// What is wrong with a template or a script.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CodeVerdict")]
struct CodeVerdict {
    valid: bool,
    issues: Vec<ValidationIssue>,
}

/// What is wrong with a flow.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "FlowVerdict")]
struct FlowVerdict {
    valid: bool,
    errors: Vec<ValidationIssue>,
    /// Always empty: what could be wrong and is not is no fault here.
    warnings: Vec<ValidationIssue>,
    /// Always empty.
    recommendations: Vec<ValidationIssue>,
    context: VerdictContext,
}

/// What was looked at.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FlowVerdictContext")]
struct VerdictContext {
    /// Always true.
    authenticated: bool,
    /// Always true: models, tools, flows and agents that it names were looked up.
    account_checks_performed: bool,
    /// Always false.
    account_checks_skipped: bool,
}

/// The faults of a document that was refused; other refusals stay refusals.
fn faults(checked: Result<()>) -> Result<Vec<Problem>> {
    match checked {
        Ok(()) => Ok(Vec::new()),
        Err(error) if error.problems().is_empty() => Err(error),
        Err(error) => Ok(error.problems().to_vec()),
    }
}

fn issue(problem: Problem, pointer: String, step: Option<StepPlace>) -> ValidationIssue {
    ValidationIssue { code: "validation_failed", message: problem.message, severity: "error", pointer, step }
}

/// What is wrong with the one step of a flow. `fields`: members of its configuration, and what they are called here.
async fn verdict(engine: &Engine, tenant: TenantId, step: Value, fields: &[(&str, &str)]) -> Result<Json<CodeVerdict>> {
    let flow = json!({ "name": "validation", "steps": [step] });
    let checked = engine.accept(tenant, || document::compile(&flow)).await.map(drop);
    let place = |pointer: &str| {
        let config = pointer.strip_prefix("/steps/0/config").unwrap_or(pointer);
        let known = fields.iter().find_map(|(from, to)| config.strip_prefix(from).map(|rest| format!("{to}{rest}")));
        known.unwrap_or_else(|| config.to_owned())
    };
    let issues: Vec<ValidationIssue> = faults(checked)?
        .into_iter()
        .map(|problem| {
            let pointer = place(&problem.pointer);
            issue(problem, pointer, None)
        })
        .collect();
    Ok(Json(CodeVerdict { valid: issues.is_empty(), issues }))
}

async fn template(caller: Scoped<FlowsRead>, State(engine): State<Engine>, body: Body<TemplateInput>) -> Result<Json<CodeVerdict>> {
    let config = json!({ "template": body.value.template, "outputFormat": "text" });
    let step = json!({ "id": "step", "type": "template", "config": config });
    verdict(&engine, caller.tenant, step, &[]).await
}

async fn script(caller: Scoped<FlowsRead>, State(engine): State<Engine>, body: Body<ScriptInput>) -> Result<Json<CodeVerdict>> {
    let mut config = json!({ "script": body.value.code });
    if let Some(language) = body.value.language {
        config["language"] = language.into();
    }
    let step = json!({ "id": "step", "type": "transform-data", "config": config });
    verdict(&engine, caller.tenant, step, &[("/script", "/code")]).await
}

async fn flow(
    caller: Scoped<FlowsRead>,
    State(store): State<SharedStore>,
    State(engine): State<Engine>,
    body: Body<FlowInput>,
) -> Result<Json<FlowVerdict>> {
    let flow = Value::Object(body.value.0);
    let checked = match Embed::whole(&store, caller.tenant, TargetKind::Flow, flow.clone()).await {
        Ok(whole) => engine.accept(caller.tenant, || document::compile(&whole)).await.map(drop),
        Err(error) => Err(error),
    };
    let errors: Vec<ValidationIssue> = faults(checked)?
        .into_iter()
        .map(|problem| {
            let (pointer, step) = (problem.pointer.clone(), step_at(&flow, &problem.pointer));
            issue(problem, pointer, step)
        })
        .collect();
    let context = VerdictContext { authenticated: true, account_checks_performed: true, account_checks_skipped: false };
    Ok(Json(FlowVerdict { valid: errors.is_empty(), errors, warnings: Vec::new(), recommendations: Vec::new(), context }))
}

/// The step of a flow that a pointer leads into.
fn step_at(flow: &Value, pointer: &str) -> Option<StepPlace> {
    let mut names = pointer.split('/').skip(1);
    let list = names.next().filter(|name| ["steps", "flowSteps"].contains(name))?;
    let index: usize = names.next()?.parse().ok()?;
    let step = flow.get(list)?.get(index)?;
    let text = |name: &str| step.get(name).and_then(Value::as_str).map(str::to_owned);
    let name = text("name").or_else(|| text("id")).unwrap_or_else(|| format!("step_{}", index + 1));
    Some(StepPlace { index, name, kind: text("type").unwrap_or_default() })
}
