//! A run's answer as one JSON: its events, folded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::sse::PublicEvent;
use crate::clock::Timestamp;
use crate::id::RunId;
use crate::model::TargetKind;
use crate::model::event::{Event, Tokens, output_of};
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
    /// The final output as it is. Of an agent that has not ended it is an empty text.
    pub result: Value,
    /// The final output. Only the event `execution_complete` has it as text.
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
    /// What was decided, in the answer to an approval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<&'static str>,
    /// US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_cost: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Tokens>")]
    pub total_tokens: Option<Value>,
    /// Every event, as it would have been streamed.
    #[schemars(with = "Vec<PublicEvent>")]
    pub events: Vec<Value>,
    /// The number of them.
    pub total_events: usize,
}

/// What a paused run waits for.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "DispatchPausedReason")]
#[expect(dead_code, reason = "describes `pausedReason`, which is put together from events")]
struct PausedReason {
    /// `local_action` where its caller has to answer, `durable_poll` where it goes on by itself or by somebody else's word.
    #[serde(rename = "type")]
    kind: String,
    /// The `type` of the first of `waits`; `timer`, `signal` or `event` where nothing is asked.
    wait_type: String,
    execution_id: RunId,
    step_id: Option<String>,
    /// The tool that is called, of a `local_action`.
    tool_id: Option<String>,
    /// Answers a `local_tool` or an `elicitation`, as a key of `toolOutputs`.
    tool_call_id: Option<String>,
    tool_name: Option<String>,
    /// What the tool was called with.
    parameters: Option<Value>,
    /// Answers an `approval`.
    approval_id: Option<String>,
    digest: Option<String>,
    reason: Option<String>,
    /// `approval` or `elicitation`; absent where a tool runs in the caller.
    await_reason: Option<String>,
    elicitation: Option<Value>,
    wait_id: Option<String>,
    effect: Option<String>,
    message: Option<String>,
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
    /// `approval`, `local_tool`, `elicitation` or `effect_unknown`.
    #[serde(rename = "type")]
    kind: String,
    execution_id: RunId,
    step_id: Option<String>,
    tool_id: Option<String>,
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

/// Tells the first thing that a run waits for in the words of clients: whether they have to act, or to look again.
pub(super) fn paused_reason(mut first: Map<String, Value>, waits: Option<Vec<Value>>) -> Value {
    let own = first.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_asked = ["local_tool", "elicitation", "approval"].contains(&own.as_str());
    first.insert("type".into(), if is_asked { "local_action" } else { "durable_poll" }.into());
    if is_asked && own != "local_tool" {
        first.insert("awaitReason".into(), own.clone().into());
    }
    first.insert("waitType".into(), own.into());
    if let Some(waits) = waits {
        first.insert("waits".into(), Value::Array(waits));
    }
    Value::Object(first)
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
            decision: None,
            total_cost: None,
            total_tokens: None,
            events: Vec::new(),
            total_events: 0,
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
            && let Some(Value::Object(first)) = self.waits.first().cloned()
        {
            outcome.paused_reason = Some(paused_reason(first, Some(self.waits)));
        }
        if outcome.kind == TargetKind::Agent.as_str() && outcome.result.is_null() {
            outcome.result = Value::String(String::new());
        }
        outcome.total_events = outcome.events.len();
        outcome
    }

    /// Says what the log is of, where its beginning was not read.
    pub fn set_kind(&mut self, kind: TargetKind) {
        self.outcome.kind = kind.as_str().into();
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
        let has_result = event.get("result").is_some();
        self.outcome.events.push(event);
        match known {
            Some(Event::StepComplete { id, name, result, success: true, .. }) if has_result => {
                self.leave(&id);
                let result = result.unwrap_or_default();
                let shown = result.get("response").filter(|_| result.get("model").is_some()).cloned().unwrap_or(result);
                self.outcome.results.insert(name, shown);
            }
            Some(Event::Await { tool_id, tool_call_id, tool_name, parameters, step_id, elicitation, .. }) => {
                let mut wait = json!({
                    "type": "local_tool", "executionId": run, "stepId": step_id, "toolId": tool_id, "toolCallId": tool_call_id,
                    "toolName": tool_name, "parameters": parameters,
                });
                if let Some(elicitation) = elicitation {
                    (wait["type"], wait["elicitation"]) = ("elicitation".into(), elicitation);
                }
                self.wait(wait);
            }
            Some(Event::ApprovalStart { approval_id, tool_call_id, tool_name, parameters, digest, reason, step_id, .. }) => {
                self.wait(json!({
                    "type": "approval", "executionId": run, "stepId": step_id, "approvalId": approval_id, "toolId": tool_name,
                    "toolCallId": tool_call_id, "toolName": tool_name, "parameters": parameters, "digest": digest, "reason": reason,
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
            Some(Event::ExecutionComplete { success, final_output, result, total_cost, total_tokens, .. }) => {
                self.end("completed", success, total_cost, json!(total_tokens));
                self.outcome.error = self.failed.take().filter(|_| !success);
                let output = output_of(final_output, result).unwrap_or_default();
                self.outcome.result.clone_from(&output);
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
