//! A run's answer as one JSON: its events, folded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::sse::PublicEvent;
use crate::clock::Timestamp;
use crate::id::RunId;
use crate::model::event::{Event, Tokens};
use crate::model::run::Fault;

/// The answer to a dispatch that does not stream. A superset of what readers of flows and of agents look for.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "DispatchResult")]
pub struct Outcome {
    pub success: bool,
    pub execution_id: RunId,
    /// `flow` or `agent`.
    pub kind: String,
    /// `completed`, `failed`, `cancelled` or `paused`.
    pub status: String,
    /// The final output; text stays text.
    pub result: Value,
    pub final_output: Value,
    /// Each completed step's result, by the step's name.
    pub results: Map<String, Value>,
    /// Why it did not succeed: what ended the run, or the first step that failed in a run that went on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Fault>")]
    pub error: Option<Value>,
    /// What a paused run waits for: the first thing, and all of them under `waits`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<PausedReason>")]
    pub paused_reason: Option<Value>,
    /// US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_cost: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Tokens>")]
    pub total_tokens: Option<Value>,
    /// Every event, as it would have been streamed.
    #[schemars(with = "Vec<PublicEvent>")]
    pub events: Vec<Value>,
}

/// What a paused run waits for.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "DispatchPausedReason")]
#[expect(dead_code, reason = "describes `pausedReason`, which is put together from events")]
struct PausedReason {
    #[serde(flatten)]
    first: PausedWait,
    /// Everything that it waits for, oldest first.
    waits: Option<Vec<PausedWait>>,
    /// When it goes on by itself, of a `timer`.
    until: Option<Timestamp>,
    /// What it waits for, of a `signal` or an `event`: one name, or a list of them.
    name: Option<Value>,
}

/// One thing that a paused run waits for.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "DispatchWait")]
#[expect(dead_code, reason = "describes one of `waits`, which is put together from events")]
struct PausedWait {
    /// `approval`, `local_tool`, `elicitation`, `effect_unknown`, `timer`, `signal` or `event`.
    #[serde(rename = "type")]
    kind: String,
    execution_id: RunId,
    step_id: Option<String>,
    /// Answers a `local_tool` or an `elicitation`, as a key of `toolOutputs`.
    tool_call_id: Option<String>,
    tool_name: Option<String>,
    /// What the tool was called with.
    parameters: Option<Value>,
    /// Answers an `approval`.
    approval_id: Option<String>,
    /// What a decision about it may repeat, to be refused when it is about something else.
    digest: Option<String>,
    /// Why the model makes the call, in its words.
    reason: Option<String>,
    /// What a server asks its user, of an `elicitation`.
    elicitation: Option<Value>,
    /// Answers an `effect_unknown`.
    wait_id: Option<String>,
    /// The effect whose answer was lost, of an `effect_unknown`.
    effect: Option<String>,
    message: Option<String>,
}

/// Folds a run's events, one by one, into its answer.
#[derive(Debug, Clone)]
pub struct Fold {
    outcome: Outcome,
    /// What is still open: objects with a `type` and the ids that answer them.
    waits: Vec<Value>,
    /// The first step that failed, in the form of a failed run's error.
    failed: Option<Value>,
    ended: bool,
}

impl Fold {
    pub fn new(run: RunId) -> Self {
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
        Self { outcome, waits: Vec::new(), failed: None, ended: false }
    }

    /// What the run waits for: `approval`, `local_tool` and `effect_unknown` objects, oldest first.
    pub fn waits(&self) -> &[Value] {
        &self.waits
    }

    /// Whether the run has come to its end.
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// The answer so far.
    pub fn outcome(self) -> Outcome {
        let mut outcome = self.outcome;
        if !self.ended
            && let Some(Value::Object(mut first)) = self.waits.first().cloned()
        {
            first.insert("waits".into(), Value::Array(self.waits));
            outcome.paused_reason = Some(Value::Object(first));
        }
        outcome
    }

    /// Takes the next event, in the form that callers see.
    pub fn take(&mut self, event: Value) {
        let run = self.outcome.execution_id;
        let known = Event::deserialize(&event).ok();
        if let Some(Event::ExecutionStart { kind, .. } | Event::ExecutionComplete { kind, .. } | Event::ExecutionError { kind, .. }) =
            &known
        {
            self.outcome.kind.clone_from(kind);
        }
        self.outcome.events.push(event);
        match known {
            Some(Event::StepComplete { id, name, result: Some(result), success: true, .. }) => {
                self.leave(&id);
                let shown = result.get("response").filter(|_| result.get("model").is_some()).cloned().unwrap_or(result);
                self.outcome.results.insert(name, shown);
            }
            Some(Event::Await { tool_call_id, tool_name, parameters, step_id, elicitation, .. }) => {
                let mut wait = json!({
                    "type": "local_tool", "executionId": run, "stepId": step_id, "toolCallId": tool_call_id, "toolName": tool_name,
                    "parameters": parameters,
                });
                if let Some(elicitation) = elicitation {
                    (wait["type"], wait["elicitation"]) = ("elicitation".into(), elicitation);
                }
                self.wait(wait);
            }
            Some(Event::ApprovalStart { approval_id, tool_call_id, tool_name, parameters, digest, reason, step_id, .. }) => {
                self.wait(json!({
                    "type": "approval", "executionId": run, "stepId": step_id, "approvalId": approval_id, "toolCallId": tool_call_id,
                    "toolName": tool_name, "parameters": parameters, "digest": digest, "reason": reason,
                }))
            }
            Some(Event::ApprovalComplete { approval_id, .. }) => {
                self.waits.retain(|wait| wait.get("approvalId").and_then(Value::as_str) != Some(&approval_id));
            }
            Some(Event::ToolComplete { step_id, tool_call_id, .. }) => {
                self.settle(&json!({ "stepId": step_id, "toolCallId": tool_call_id }))
            }
            Some(Event::Custom { name, value }) if name == "dispatch.effect_unknown" => {
                let mut wait = json!({ "type": "effect_unknown", "executionId": run });
                if let (Some(wait), Value::Object(value)) = (wait.as_object_mut(), value) {
                    wait.extend(value);
                }
                self.waits.retain(|known| known.get("waitId").is_none() || known.get("waitId") != wait.get("waitId"));
                self.waits.push(wait);
            }
            Some(Event::StepComplete { id, success, error, code, retryable, .. }) => {
                self.leave(&id);
                if !success {
                    let told = || json!({ "message": error, "code": code, "stepId": id, "retryable": retryable });
                    self.failed.get_or_insert_with(told);
                }
            }
            Some(Event::ExecutionComplete { success, final_output, total_cost, total_tokens, .. }) => {
                let output = final_output.unwrap_or_default();
                self.end("completed", success, total_cost, json!(total_tokens));
                self.outcome.error = self.failed.take().filter(|_| !success);
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

    /// A step that has ended waits for nothing.
    fn leave(&mut self, step: &str) {
        self.waits.retain(|wait| wait.get("stepId").and_then(Value::as_str) != Some(step));
    }

    /// A call that is still open is announced again each time the run pauses.
    fn wait(&mut self, wait: Value) {
        self.settle(&wait);
        self.waits.push(wait);
    }

    /// Providers number their calls anew for each step, so a call is known by both.
    fn settle(&mut self, call: &Value) {
        self.waits.retain(|wait| ["stepId", "toolCallId"].iter().any(|name| wait.get(name) != call.get(name)));
    }

    fn end(&mut self, status: &str, success: bool, cost: f64, tokens: Value) {
        self.ended = true;
        self.outcome.status = status.into();
        self.outcome.success = success;
        self.outcome.total_cost = Some(cost);
        self.outcome.total_tokens = Some(tokens);
    }
}
