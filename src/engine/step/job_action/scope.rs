//! What the `${...}` of a job's step reads, from the variables of its run.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::JobStep;
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::expr::script::worker::Lang;
use crate::job::cookies::CookieJar;
use crate::job::http::HttpDefaults;
use crate::job::interpolation::{Interpolation, PathQuery, path_queries};
use crate::job::json_path::{PathPick, pick_plain, standard};
use crate::job::state::{JobState, StepResult as JobStepResult};

/// The scope of one step.
pub(super) struct JobScope {
    pub state: JobState,
    pub http: HttpDefaults,
    pub credential: Option<Value>,
    /// As the last step left it.
    pub cookies: CookieJar,
}

impl JobScope {
    pub(super) fn new(context: &StepContext<'_>, step: &JobStep) -> StepResult<Self> {
        let job = context.variable(crate::job::compile::JOB_INPUT).cloned().unwrap_or_default();
        let member = |name: &str| job.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        let mut state = JobState { input: member("input"), run: member("run"), ..JobState::default() };
        for (name, value) in member("env") {
            state.env.extend(value.as_str().map(|value| (name, value.to_owned())));
        }
        state.env.extend(context.run.secrets.iter().map(|(name, secret)| (name.clone(), secret.expose().to_owned())));
        let mut cookies = CookieJar::default();
        for earlier in &step.earlier {
            let Some(output) = context.variable(&earlier.variable) else { continue };
            let mut result: JobStepResult = serde_json::from_value(output.clone())
                .map_err(|error| StepFailure::new("journal_unreadable", format!("the output of step {}: {error}", earlier.id)))?;
            cookies = std::mem::take(&mut result.cookies);
            state.finish(&earlier.id, result);
        }
        let credential = step.credential.as_ref().map(|fields| {
            let value = |name: &String| state.env.get(name).map_or(Value::Null, |value| Value::String(value.clone()));
            Value::Object(fields.iter().map(|(field, name)| (field.clone(), value(name))).collect())
        });
        Ok(Self { state, http: HttpDefaults::default(), credential, cookies })
    }

    /// A value with its expressions filled in. JSONPath beyond plain paths is evaluated in a process that can be killed.
    pub(super) async fn fill(&self, context: &StepContext<'_>, value: &Value) -> StepResult<Value> {
        let mut paths = HashMap::<PathQuery, Value>::new();
        for query in path_queries(value) {
            let root = match &query.step {
                None => Value::Object(self.state.run.clone()),
                Some(id) => self.state.step(id).map(|result| result.response.clone()).unwrap_or_default(),
            };
            if let Some(found) = pick(context, &query.path, root).await? {
                paths.insert(query, found);
            }
        }
        Ok(Interpolation { state: &self.state, own: &Map::new(), paths: &paths }.fill(value))
    }

    /// The roots that the definition of an HTTP action reads.
    pub(super) fn roots(&self, payload: &Value) -> Value {
        let steps = self.state.steps.iter();
        let steps: Map<String, Value> =
            steps.map(|(id, result)| (id.clone(), json!({ "response": result.response, "exports": result.exports }))).collect();
        json!({
            "payload": payload, "credential": self.credential, "run": self.state.run, "input": self.state.input, "step": steps,
            "env": self.state.env,
        })
    }
}

/// What a path picks; a path to one place gives the value, others a list. Nothing when it leads nowhere.
pub(super) async fn pick(context: &StepContext<'_>, path: &str, root: Value) -> StepResult<Option<Value>> {
    if let PathPick::Found(found) = pick_plain(path, &root) {
        return Ok(found);
    }
    // The worker's data are an object, so the root is a member of it.
    let path = standard(path);
    let inside = format!("$.root{}", path.strip_prefix('$').unwrap_or(&path));
    let data = Map::from_iter([("root".to_owned(), root)]);
    let found = context.sandbox().outside(Lang::JsonPath, &inside, data).await.map_err(crate::error::Error::from)?;
    let is_empty = found.is_null() || found.as_array().is_some_and(Vec::is_empty);
    Ok((!is_empty).then_some(found))
}
