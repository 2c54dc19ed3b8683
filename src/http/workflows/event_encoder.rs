//! Encodes a run's log in this surface's words. Numbers are those of the log, counted from 1; they rise, and skip entries that have no event
//! here.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::clock::Timestamp;
use crate::model::{EventRecord, Flow, Run, Step};

/// An event of a run.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpRunEvent")]
pub(super) struct RunEvent {
    /// The cursor: `?after=`.
    pub seq: u64,
    /// As `step.completed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it happened. Absent only in runs that an earlier version of the server began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    pub data: Map<String, Value>,
}

/// The number that an entry of the log has on this surface.
pub(super) const fn number(seq: u64) -> u64 {
    seq + 1
}

/// Encodes the events of one run.
#[derive(Debug)]
pub(super) struct EventEncoder {
    /// How the run was triggered.
    trigger: String,
    /// Steps whose attempts are events of their own, so that their start is not one.
    called: BTreeSet<String>,
}

impl EventEncoder {
    /// Creates the encoder of a run with this flow.
    pub fn new(run: &Run, flow: &Flow) -> Self {
        let called = flow.steps.iter().filter(|step| tells_attempts(step)).map(|step| step.id.clone()).collect();
        Self { trigger: super::trigger_type(&run.input).to_owned(), called }
    }

    /// Returns the event of a log entry; `None` when the entry has none on this surface.
    pub fn encode(&self, record: &EventRecord) -> Option<RunEvent> {
        let Ok(Value::Object(mut body)) = serde_json::from_str(&record.body) else { return None };
        body.remove("type");
        let event = match record.kind() {
            "execution_start" => {
                RunEvent { data: object(json!({ "trigger": self.trigger })), ..event("run.created", &mut body, "startedAt") }
            }
            "execution_complete" => event("run.completed", &mut body, "completedAt"),
            "execution_error" if body.get("code").is_some_and(|code| code == "cancelled") => {
                event("run.cancelled", &mut body, "completedAt")
            }
            "execution_error" => event("run.failed", &mut body, "completedAt"),
            "step_start" => Some(event("step.started", &mut body, "startedAt")).filter(|event| !self.tells_attempts_of(event))?,
            "step_skip" => {
                let reason = if body.get("when").is_some_and(|when| !when.is_null()) { "when" } else { "directive" };
                RunEvent { data: object(json!({ "reason": reason })), ..event("step.skipped", &mut body, "skippedAt") }
            }
            "step_complete" => settled(&mut body),
            "custom" => custom(&mut body)?,
            _ => return None,
        };
        Some(RunEvent { seq: number(record.seq), ..event })
    }

    fn tells_attempts_of(&self, event: &RunEvent) -> bool {
        event.step.as_ref().is_some_and(|step| self.called.contains(step))
    }
}

/// Returns whether each attempt of the step's calls is in the log: calls of lists and chunks are not.
fn tells_attempts(step: &Step) -> bool {
    match step.config.get("strategy") {
        None | Some(Value::Null) => step.config.get("request").is_some_and(|request| !request.is_null()),
        Some(strategy) => strategy.get("type").is_some_and(|kind| kind == "race"),
    }
}

/// The members that are not null.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    }
}

fn text(value: Option<Value>) -> Option<String> {
    value.and_then(|value| value.as_str().map(str::to_owned))
}

/// An event of this type, with what every event has. `time`: the member of the entry that says when it happened.
fn event(kind: &str, body: &mut Map<String, Value>, time: &str) -> RunEvent {
    let at = text(body.remove(time));
    let step = if kind.starts_with("run.") { None } else { text(body.remove("id")) };
    let data = match kind {
        "run.completed" => {
            object(json!({ "result": body.get("result").or(body.get("finalOutput")), "duration_ms": body.get("durationMs") }))
        }
        "run.failed" | "run.cancelled" => {
            object(json!({ "code": body.get("code"), "message": body.get("error"), "step": body.get("stepId") }))
        }
        _ => Map::new(),
    };
    RunEvent { seq: 0, kind: kind.to_owned(), at, step, attempt: None, data }
}

/// The event of a step that completed or failed. What a completed step came to stands in `data`, and the parts of its reply beside it.
fn settled(body: &mut Map<String, Value>) -> RunEvent {
    let succeeded = body.get("success") == Some(&Value::Bool(true));
    if !succeeded {
        let data = json!({
            "code": body.get("code"), "message": body.get("error"), "will_retry": false, "duration_ms": body.get("durationMs"),
        });
        return RunEvent { data: object(data), ..event("step.failed", body, "completedAt") };
    }
    let mut data = object(json!({ "duration_ms": body.get("durationMs") }));
    if let Some(Value::Object(mut result)) = body.remove("result") {
        if let Some(Value::Object(reply)) = result.remove("response") {
            data.extend(reply);
        }
        for (name, value) in result {
            data.entry(name).or_insert(value);
        }
    }
    RunEvent { data, ..event("step.completed", body, "completedAt") }
}

/// The event of an entry that the engine wrote under a name of its own.
fn custom(body: &mut Map<String, Value>) -> Option<RunEvent> {
    let name = text(body.remove("name"))?;
    let Some(Value::Object(mut value)) = body.remove("value") else { return None };
    let (at, step) = (text(value.remove("at")), text(value.remove("stepId")));
    let attempt = value.remove("attempt").and_then(|attempt| attempt.as_u64());
    let undoes = value.remove("undo").is_some();
    let kind = match name.as_str() {
        "dispatch.started" => "run.started",
        "dispatch.request" if undoes => "compensation.request",
        "dispatch.request" => "step.started",
        "dispatch.attempt_failed" => {
            value.retain(|_, value| !value.is_null());
            value.insert("will_retry".into(), true.into());
            if undoes { "compensation.step_failed" } else { "step.failed" }
        }
        "dispatch.retrying" => {
            value = retry(value, at.as_deref(), attempt);
            if undoes { "compensation.retrying" } else { "step.retrying" }
        }
        "dispatch.waiting" => "step.waiting",
        "dispatch.timeout" => "step.timeout",
        "dispatch.signal" => "signal.received",
        "dispatch.directive" => "step.directive",
        "dispatch.effect_unknown" => {
            if let Some(wait) = value.remove("waitId") {
                value.insert("wait_id".into(), wait);
            }
            "step.unknown"
        }
        "dispatch.item" if value.contains_key("error") => "item.failed",
        "dispatch.item" => "item.completed",
        "dispatch.compensates" => "compensation.of",
        "dispatch.compensation" => match text(value.remove("what")).as_deref() {
            Some("started") => "compensation.started",
            Some("step_completed") => "compensation.step_completed",
            Some("step_failed") => {
                value.insert("will_retry".into(), false.into());
                "compensation.step_failed"
            }
            _ => "compensation.completed",
        },
        _ => return None,
    };
    Some(RunEvent { seq: 0, kind: kind.to_owned(), at, step, attempt, data: value })
}

/// What is said of an attempt that is made again.
fn retry(mut value: Map<String, Value>, at: Option<&str>, attempt: Option<u64>) -> Map<String, Value> {
    let due = value.remove("retryAt");
    let time = |text: &Value| serde_json::from_value::<Timestamp>(text.clone()).ok();
    let delay = due.as_ref().and_then(time).zip(at.and_then(|at| time(&at.into())));
    let delay_ms = delay.and_then(|(due, at)| u64::try_from(due.since(at).as_millis()).ok());
    let mut data = object(json!({ "delay_ms": delay_ms, "next_attempt": attempt.map(|attempt| attempt + 1), "retry_at": due }));
    data.extend(value);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(body: Value) -> Option<RunEvent> {
        let encoder = EventEncoder { trigger: "http".into(), called: BTreeSet::from(["a".to_owned()]) };
        encoder.encode(&EventRecord { seq: 4, body: body.to_string().into(), since: None })
    }

    #[test]
    fn an_attempt_stands_in_the_place_of_its_step_s_start() {
        assert!(encode(json!({ "type": "step_start", "id": "a", "startedAt": "2026-01-01T00:00:00.000Z" })).is_none());
        let waits = encode(json!({ "type": "step_start", "id": "b", "startedAt": "2026-01-01T00:00:00.000Z" })).unwrap();
        assert_eq!((waits.kind.as_str(), waits.seq, waits.step.as_deref()), ("step.started", 5, Some("b")));
        let value = json!({ "stepId": "a", "attempt": 2, "at": "2026-01-01T00:00:00.000Z", "method": "GET" });
        let attempt = encode(json!({ "type": "custom", "name": "dispatch.request", "value": value })).unwrap();
        assert_eq!((attempt.kind.as_str(), attempt.attempt, attempt.at.is_some()), ("step.started", Some(2), true));
        assert_eq!(Value::Object(attempt.data), json!({ "method": "GET" }));
    }

    #[test]
    fn a_retry_says_how_long_it_waits() {
        let value =
            json!({ "stepId": "a", "attempt": 1, "at": "2026-01-01T00:00:00.000Z", "retryAt": "2026-01-01T00:00:01.500Z", "of": 3 });
        let retried = encode(json!({ "type": "custom", "name": "dispatch.retrying", "value": value })).unwrap();
        let wanted = json!({ "delay_ms": 1_500, "next_attempt": 2, "retry_at": "2026-01-01T00:00:01.500Z", "of": 3 });
        assert_eq!(Value::Object(retried.data), wanted);
    }

    #[test]
    fn a_reply_stands_beside_what_its_step_came_to() {
        let result = json!({ "response": { "status": 200, "headers": {}, "body": [1] }, "attempts": 1 });
        let done = json!({ "type": "step_complete", "id": "a", "success": true, "durationMs": 7, "result": result });
        let wanted = json!({ "duration_ms": 7, "status": 200, "headers": {}, "body": [1], "attempts": 1 });
        assert_eq!(encode(done).map(|event| Value::Object(event.data)), Some(wanted));
    }
}
