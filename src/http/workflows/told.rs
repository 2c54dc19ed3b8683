//! A run's log in this surface's words. Numbers are those of the log, from 1; they rise, and where the log tells what is nobody's here they skip.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::model::EventRecord;

/// An event of a run.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpRunEvent")]
pub(super) struct Told {
    /// The cursor: `?after=`.
    pub seq: u64,
    /// As `step.completed`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    pub data: Map<String, Value>,
}

/// An event's number here.
pub(super) const fn number(seq: u64) -> u64 {
    seq + 1
}

/// The event in this surface's words; `None` when it has none for it.
pub(super) fn told(record: &EventRecord) -> Option<Told> {
    let body: Value = serde_json::from_str(&record.body).ok()?;
    let Value::Object(mut body) = body else { return None };
    body.remove("type");
    let mut told = match record.kind() {
        "execution_start" => of("run.started", &mut body, &["startedAt"]),
        "execution_complete" => of("run.completed", &mut body, &["completedAt"]),
        "execution_error" if body.get("code").is_some_and(|code| code == "cancelled") => of("run.cancelled", &mut body, &["completedAt"]),
        "execution_error" => of("run.failed", &mut body, &["completedAt"]),
        "step_start" => of("step.started", &mut body, &["startedAt"]),
        "step_skip" => {
            let reason = if body.get("when").is_some_and(|when| !when.is_null()) { "when" } else { "directive" };
            Told { data: object(json!({ "reason": reason })), ..of("step.skipped", &mut body, &["skippedAt"]) }
        }
        "step_complete" => {
            let good = body.get("success") == Some(&Value::Bool(true));
            let mut told = of(if good { "step.completed" } else { "step.failed" }, &mut body, &["completedAt"]);
            let result = body.remove("result").unwrap_or_default();
            told.data = if good {
                object(json!({ "duration_ms": body.get("durationMs"), "result": result }))
            } else {
                object(json!({ "code": body.get("code"), "message": body.get("error"), "will_retry": false }))
            };
            told
        }
        "custom" => custom(&mut body)?,
        _ => return None,
    };
    told.seq = number(record.seq);
    Some(told)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    }
}

/// An event of this type, with what every event has.
fn of(kind: &str, body: &mut Map<String, Value>, times: &[&str]) -> Told {
    let at = times.iter().find_map(|name| body.remove(*name)).and_then(|at| at.as_str().map(str::to_owned));
    let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
    let step = if kind.starts_with("run.") { None } else { text(body.remove("id")) };
    let data = match kind {
        "run.completed" => object(json!({ "result": body.get("finalOutput"), "duration_ms": body.get("durationMs") })),
        "run.failed" | "run.cancelled" => {
            object(json!({ "code": body.get("code"), "message": body.get("error"), "step": body.get("stepId") }))
        }
        _ => Map::new(),
    };
    Told { seq: 0, kind: kind.to_owned(), at, step, attempt: None, data }
}

/// What the engine tells under names of its own.
fn custom(body: &mut Map<String, Value>) -> Option<Told> {
    let name = body.get("name").and_then(Value::as_str)?.to_owned();
    let Some(Value::Object(mut value)) = body.remove("value") else { return None };
    let step = value.remove("stepId").and_then(|step| step.as_str().map(str::to_owned));
    let attempt = value.remove("attempt").and_then(|attempt| attempt.as_u64());
    let kind = match name.as_str() {
        "dispatch.request" => "step.request",
        "dispatch.retrying" => "step.retrying",
        "dispatch.waiting" => "step.waiting",
        "dispatch.timeout" => "step.timeout",
        "dispatch.signal" => "signal.received",
        "dispatch.directive" => "step.directive",
        "dispatch.effect_unknown" => "step.unknown",
        "dispatch.item" if value.contains_key("error") => "item.failed",
        "dispatch.item" => "item.completed",
        "dispatch.compensates" => "compensation.of",
        "dispatch.compensation" => match value.remove("what").as_ref().and_then(Value::as_str) {
            Some("started") => "compensation.started",
            Some("step_completed") => "compensation.step_completed",
            Some("step_failed") => "compensation.step_failed",
            _ => "compensation.completed",
        },
        _ => return None,
    };
    Some(Told { seq: 0, kind: kind.to_owned(), at: None, step, attempt, data: value })
}
