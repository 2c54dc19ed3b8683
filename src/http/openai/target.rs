//! What the `model` of a request names: a model, or a saved agent or flow.

use std::collections::BTreeMap;

use super::answer::AnswerFacts;
use super::error::placed;
use super::request::ChatRequest;
use super::settings;
use super::tools::{self, OfferedTools};
use crate::engine::{StartRun, unpriced_message};
use crate::error::{Error, Kind, Problem, Problems, Result};
use crate::http::AppState;
use crate::http::saved::SavedTarget;
use crate::id::TenantId;
use crate::model::run::{RunInput, RunOptions};
use crate::model::{Target, TargetKind};

/// How names of saved agents and flows begin.
pub const PREFIXES: [(TargetKind, &str); 2] = [(TargetKind::Agent, "agent:"), (TargetKind::Flow, "flow:")];

/// The kind and the name of a saved one, if that is what is named.
pub fn saved_name(model: &str) -> Option<(TargetKind, &str)> {
    PREFIXES.iter().find_map(|(kind, prefix)| Some((*kind, model.strip_prefix(prefix)?)))
}

/// Nobody knows the model.
pub fn no_such_model(message: impl Into<String>) -> Error {
    let message = message.into();
    let problems = [Problem { pointer: "/model".into(), message: message.clone() }];
    Error::new(Kind::Missing, "model_not_found", message)
        .details(serde_json::json!({ "problems": problems }))
        .next("GET /v1/models lists those that can be asked")
}

/// An execution that answers the request.
pub struct Prepared {
    pub start: StartRun,
    pub facts: AnswerFacts,
}

impl Prepared {
    fn new(request: &ChatRequest, start: StartRun, model: String, is_one_prompt: bool) -> Self {
        let last = start.plan.flow.steps.last().filter(|step| step.action == "prompt");
        let facts = AnswerFacts {
            model,
            step: last.map(|step| step.id.clone()),
            is_one_prompt,
            is_saved: saved_name(&request.model).is_some(),
            one_call: request.parallel_tool_calls == Some(false),
        };
        Self { start, facts }
    }
}

/// Prepares the execution, which lists of executions show as `title` unless it is a saved agent or flow. Every fault of the request is
/// reported at once.
pub async fn prepare(state: &AppState, tenant: TenantId, request: &ChatRequest, title: &str) -> Result<Prepared> {
    let mut problems = Problems::default();
    request.check(&mut problems);
    let given = request.dispatch.as_ref().and_then(|options| options.budget);
    let budget = given.map(|budget| budget.read("/dispatch/budget", &mut problems)).unwrap_or_default();
    let offered = OfferedTools::read(&state.engine, tenant, request, &mut problems).await?;
    let mut prepared = match saved_name(&request.model) {
        Some((kind, name)) => {
            settings::refuse_settings(request, kind == TargetKind::Agent, &mut problems);
            problems.into_result()?;
            saved(state, tenant, request, (kind, name), offered).await?
        }
        None => {
            let model = state.engine.parts().models.resolve(&request.model).map_err(|error| no_such_model(error.message()))?;
            problems.into_result()?;
            let flow = settings::flow(request, title, &offered);
            let plan = state.engine.admit(&flow, tenant).await.map_err(|error| placed(error, settings::place))?;
            let input = RunInput {
                messages: request.messages.clone(),
                client_tools: offered.definitions,
                options: RunOptions { source: "openai".into(), ..RunOptions::default() },
                ..RunInput::default()
            };
            let start =
                StartRun { id: None, tenant, plan, target: Target::Flow(None), input, secrets: BTreeMap::new(), key: None, parent: None };
            Prepared::new(request, start, model.to_string(), true)
        }
    };
    if let Some(model) = state.engine.unpriced_model(&prepared.start.plan, &budget, tenant).await? {
        return Err(Error::invalid_at("/dispatch/budget/maxCost", unpriced_message(&model)));
    }
    let input = &mut prepared.start.input;
    input.metadata = request.metadata.clone().map(serde_json::Value::Object);
    input.options.budget = budget;
    input.options.as_completion = true;
    Ok(prepared)
}

async fn saved(
    state: &AppState,
    tenant: TenantId,
    request: &ChatRequest,
    (kind, name): (TargetKind, &str),
    offered: OfferedTools,
) -> Result<Prepared> {
    let target = SavedTarget { kind, name: name.to_owned(), messages: request.messages.clone(), client_tools: offered.definitions };
    let found = state.saved.start_of(tenant, target).await.map_err(|error| placed(error, place_of_saved))?;
    let start = found.ok_or_else(|| no_such_model(format!("there is no saved {} of the name or id `{name}`", kind.as_str())))?;
    Ok(Prepared::new(request, start, request.model.clone(), kind == TargetKind::Agent))
}

/// What is wrong with a saved document is the fault of the model that was asked for.
fn place_of_saved(pointer: &str) -> String {
    if pointer.starts_with("/messages") {
        return pointer.to_owned();
    }
    let tool = pointer.strip_prefix("/clientTools/").map(|rest| rest.split_once('/').unwrap_or((rest, "")));
    match tool.and_then(|(index, rest)| Some((index.parse().ok()?, rest))) {
        Some((index, "")) => tools::place(index, ""),
        Some((index, rest)) => tools::place(index, &format!("/{rest}")),
        None => "/model".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_saved_ones_have_a_prefix() {
        assert_eq!(saved_name("agent:Support desk"), Some((TargetKind::Agent, "Support desk")));
        assert_eq!(saved_name("flow:flow_01h455vb4pex5vsknk084sn02q"), Some((TargetKind::Flow, "flow_01h455vb4pex5vsknk084sn02q")));
        assert_eq!(saved_name("openai/gpt-5.4"), None);
    }

    #[test]
    fn problems_of_saved_ones_stand_at_the_callers_words() {
        assert_eq!(place_of_saved("/agent/agentId/config/model"), "/model");
        assert_eq!(place_of_saved("/messages/1/content"), "/messages/1/content");
        assert_eq!(place_of_saved("/clientTools/2/parametersSchema/type"), "/tools/2/function/parameters/type");
    }
}
