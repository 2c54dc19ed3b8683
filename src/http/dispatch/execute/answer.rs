//! A run's answer as one JSON: its events folded, once it has ended or waits for its caller.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::clock::Clock;
use crate::error::Result;
use crate::feed::Follower;
use crate::id::{RunId, TenantId};
use crate::model::EventRecord;
use crate::model::event::{Event, Rest};
use crate::store::SharedStore;

/// A run that sleeps longer than this is answered as paused.
const PATIENCE: Duration = Duration::from_secs(30);

/// The answer to a dispatch that does not stream. A superset of what readers of flows and of agents look for.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "DispatchResult")]
pub struct Outcome {
    pub success: bool,
    pub execution_id: RunId,
    /// `flow`.
    pub kind: String,
    /// `completed`, `failed`, `cancelled` or `paused`.
    pub status: String,
    /// The final output; text stays text.
    pub result: Value,
    pub final_output: Value,
    /// Each completed step's result, by the step's name.
    pub results: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Value>,
    /// What a paused run waits for: the first thing, and all of them under `waits`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_reason: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_cost: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_tokens: Option<Value>,
    /// Every event, as it would have been streamed.
    #[schemars(with = "Vec<Event>")]
    pub events: Vec<Value>,
}

/// Where to follow a run for its answer.
pub struct Follow<'a> {
    pub store: &'a SharedStore,
    pub clock: &'a Clock,
    pub tenant: TenantId,
    pub run: RunId,
}

/// Follows a run until it rests, and folds what it said.
pub async fn follow(place: Follow<'_>, mut follower: Follower) -> Result<Outcome> {
    let mut fold = Fold::new(place.run);
    loop {
        let stretch = follower.next().await?;
        stretch.events.iter().for_each(|event| fold.take(event));
        match stretch.rest {
            Rest::End | Rest::Caller => return Ok(fold.outcome),
            Rest::None => {}
            Rest::Later => {
                let run = place.store.find_run(place.tenant, place.run).await?;
                let due = run.and_then(|run| run.wake_at);
                if due.is_none_or(|due| due.since(place.clock.now()) > PATIENCE) {
                    fold.outcome.status = "paused".into();
                    fold.outcome.paused_reason =
                        Some(json!({ "type": if due.is_some() { "timer" } else { "signal" }, "executionId": place.run, "until": due }));
                    return Ok(fold.outcome);
                }
            }
        }
    }
}

struct Fold {
    outcome: Outcome,
    waits: Vec<Value>,
}

impl Fold {
    fn new(run: RunId) -> Self {
        let outcome = Outcome {
            success: false,
            execution_id: run,
            kind: "flow".into(),
            status: "paused".into(),
            result: Value::Null,
            final_output: Value::Null,
            results: Map::new(),
            error: None,
            paused_reason: None,
            total_cost: None,
            total_tokens: None,
            events: Vec::new(),
        };
        Self { outcome, waits: Vec::new() }
    }

    fn take(&mut self, record: &EventRecord) {
        let public: Value = serde_json::from_str(&record.public_json(self.outcome.execution_id)).unwrap_or_default();
        self.outcome.events.push(public);
        match record.event() {
            Some(Event::StepComplete { name, result: Some(result), success: true, .. }) => {
                let shown = result.get("response").filter(|_| result.get("model").is_some()).cloned().unwrap_or(result);
                self.outcome.results.insert(name, shown);
            }
            Some(Event::Await { tool_call_id, tool_name, parameters, .. }) => self.wait(json!({
                "type": "local_tool", "executionId": self.outcome.execution_id, "toolCallId": tool_call_id, "toolName": tool_name,
                "parameters": parameters,
            })),
            Some(Event::ApprovalStart { approval_id, tool_call_id, tool_name, parameters, digest, reason, .. }) => self.wait(json!({
                "type": "approval", "executionId": self.outcome.execution_id, "approvalId": approval_id, "toolCallId": tool_call_id,
                "toolName": tool_name, "parameters": parameters, "digest": digest, "reason": reason,
            })),
            Some(Event::Custom { name, value }) if name == "dispatch.effect_unknown" => {
                let mut wait = json!({ "type": "effect_unknown", "executionId": self.outcome.execution_id });
                if let (Some(wait), Value::Object(value)) = (wait.as_object_mut(), value) {
                    wait.extend(value);
                }
                self.wait(wait);
            }
            Some(Event::ExecutionComplete { success, final_output, total_cost, total_tokens, .. }) => {
                let output = final_output.unwrap_or_default();
                self.end("completed", success, total_cost, json!(total_tokens));
                self.outcome.result = output.clone();
                self.outcome.final_output = output;
            }
            Some(Event::ExecutionError { error, code, step_id, retryable, total_cost, total_tokens, .. }) => {
                let status = if code == "cancelled" { "cancelled" } else { "failed" };
                self.end(status, false, total_cost, json!(total_tokens));
                self.outcome.error = Some(json!({ "message": error, "code": code, "stepId": step_id, "retryable": retryable }));
            }
            _ => {}
        }
    }

    fn wait(&mut self, wait: Value) {
        self.waits.push(wait.clone());
        let mut first = self.waits.first().cloned().unwrap_or(wait);
        if let Some(map) = first.as_object_mut() {
            map.insert("waits".into(), Value::Array(self.waits.clone()));
        }
        self.outcome.paused_reason = Some(first);
    }

    fn end(&mut self, status: &str, success: bool, cost: f64, tokens: Value) {
        self.outcome.status = status.into();
        self.outcome.success = success;
        self.outcome.total_cost = Some(cost);
        self.outcome.total_tokens = Some(tokens);
        self.outcome.paused_reason = None;
    }
}
