//! Jobs that an HTTP call does: the call as a flow of one step.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::inputs;
use crate::engine::{Engine, StartRun};
use crate::error::{Error, Problems, Result};
use crate::id::TenantId;
use crate::model::job::Job;
use crate::model::{Flow, RunInput, Target};
use crate::tool::Effect;

/// Where a callback's step stands in its flow.
const STEP: &str = "callback";
/// The time of a call of a job that has no limit of its own, in milliseconds.
const LONGEST_CALL: u64 = 3_600_000;

/// The call that does a job: it says so with a status below 300.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "JobCallback")]
pub struct Callback {
    /// Where the job is sent; a template, which may name managed secrets.
    pub url: String,
    /// `POST` unless said otherwise; `PUT` and `PATCH` are possible too.
    #[serde(default = "post")]
    pub method: String,
    /// Texts; templates, which may name managed secrets.
    #[serde(default)]
    pub headers: Map<String, Value>,
    /// What may happen when the answer is lost: `idempotent` calls are made again with the same `Idempotency-Key`, which is the job's id; after one
    /// that is `once` somebody must say what became of it.
    #[serde(default = "idempotent")]
    pub effect: Effect,
}

fn post() -> String {
    "POST".into()
}

const fn idempotent() -> Effect {
    Effect::Idempotent
}

impl Callback {
    /// Reads what [`Callback`] wrote.
    pub(super) fn read(value: &Value) -> Result<Self> {
        Callback::deserialize(value).map_err(Error::internal)
    }

    /// Every fault in it, with its place.
    pub fn check(&self, engine: &Engine) -> Result<()> {
        if !["POST", "PUT", "PATCH"].contains(&self.method.to_uppercase().as_str()) {
            return Err(Error::invalid_at("/method", "expected POST, PUT or PATCH"));
        }
        // What is filled in later is judged then.
        if !self.url.contains("{{")
            && let Err(refused) = engine.parts().egress.would_reach(self.url.trim())
        {
            return Err(Error::invalid_at("/url", refused.to_string()));
        }
        engine.check(&self.flow("callback", LONGEST_CALL)).map(drop).map_err(|error| {
            let mut problems = Problems::default();
            for problem in error.problems() {
                problems.add(problem.pointer.trim_start_matches("/config").to_owned(), problem.message.clone());
            }
            if problems.0.is_empty() { error } else { problems.into() }
        })
    }

    pub(super) fn start(&self, engine: &Engine, job: &Job) -> Result<StartRun> {
        let plan = engine.check(&self.flow(&job.order.name, job.order.timeout_ms.unwrap_or(LONGEST_CALL)))?;
        let tenant: TenantId = job.tenant;
        let input = RunInput { inputs: inputs(job), ..RunInput::default() };
        Ok(StartRun { id: None, tenant, plan, target: Target::default(), input, secrets: BTreeMap::new(), key: None, parent: None })
    }

    fn flow(&self, name: &str, timeout_ms: u64) -> Flow {
        let mut headers: Map<String, Value> =
            [("Idempotency-Key", "{{_job.id}}"), ("Dispatch-Job", "{{_job.id}}"), ("Dispatch-Attempt", "{{_job.attempt}}")]
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect();
        let own = self.headers.iter().map(|(name, value)| (name.clone(), value.clone()));
        headers.retain(|name, _| !self.headers.keys().any(|own| own.eq_ignore_ascii_case(name)));
        headers.extend(own);
        let config = json!({ "url": self.url, "method": self.method, "headers": headers, "body": "{{_job}}", "effect": self.effect });
        Flow::of_step(STEP, name, "fetch-url", config, timeout_ms)
    }
}
