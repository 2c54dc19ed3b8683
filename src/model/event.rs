//! The event log's vocabulary: what a run tells the outside.
//!
//! The public names and fields are the unified vocabulary of the dispatch surface; other surfaces rename and
//! filter. An event that tells of state is shown only after the commit that carries that state;
//! deltas are shown at once ([`Event::is_delta`]).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::id::RunId;

/// One event, without its envelope (`executionId`, `seq`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[schemars(rename = "DispatchEvent")]
pub enum Event {
    /// The first event of every run.
    ExecutionStart {
        kind: String,
        started_at: Timestamp,
        /// `flow*` and `totalSteps` of a flow, `agent*` and `maxTurns` of an agent.
        #[serde(skip_serializing_if = "Option::is_none")]
        flow_id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        flow_name: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        total_steps: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        agent_id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        agent_name: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        max_turns: Option<u32>,
        source: String,
    },
    /// Terminal: the run came to its end. `success` is false when a step that stops the flow failed or a step failed and the flow went on.
    ExecutionComplete {
        kind: String,
        success: bool,
        completed_at: Timestamp,
        duration_ms: u64,
        /// The output as a text: of a value that is none, its JSON.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Option<String>")]
        final_output: Option<Value>,
        /// The output itself, where it is no text.
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<Value>,
        stop_reason: String,
        /// Turns, of an agent.
        #[serde(skip_serializing_if = "Option::is_none")]
        iterations: Option<u32>,
        /// US dollars.
        total_cost: f64,
        total_tokens: Tokens,
        #[serde(skip_serializing_if = "Option::is_none")]
        total_steps: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        successful_steps: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        failed_steps: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        step_error_count: Option<u32>,
        /// Some figure of the cost is an estimate, or a model has no known price.
        #[serde(skip_serializing_if = "std::ops::Not::not", default)]
        cost_estimated: bool,
    },
    /// Terminal: the run failed or was cancelled.
    ExecutionError {
        kind: String,
        error: String,
        code: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        step_id: Option<String>,
        retryable: bool,
        completed_at: Timestamp,
        total_cost: f64,
        total_tokens: Tokens,
    },
    /// An agent's turn begins: model calls and the tool calls that they ask for.
    TurnStart {
        id: String,
        role: String,
        iteration: u32,
        started_at: Timestamp,
    },
    /// A turn that was not interrupted by a pause ends.
    TurnComplete {
        id: String,
        role: String,
        iteration: u32,
        stop_reason: String,
        tokens: Tokens,
        /// US dollars.
        cost: f64,
        completed_at: Timestamp,
    },
    StepStart {
        id: String,
        name: String,
        step_type: String,
        index: u32,
        total_steps: u32,
        started_at: Timestamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        output_variable: Option<String>,
    },
    StepComplete {
        id: String,
        name: String,
        step_type: String,
        success: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<String>,
        /// For a failed step: whether it may succeed if it is run again.
        #[serde(skip_serializing_if = "std::ops::Not::not", default)]
        retryable: bool,
        duration_ms: u64,
        completed_at: Timestamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        stop_reason: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tokens_used: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cost: Option<f64>,
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        unresolved_variables: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        fallback: Option<Value>,
    },
    StepSkip {
        id: String,
        name: String,
        step_type: String,
        index: u32,
        total_steps: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        when: Option<String>,
        skipped_at: Timestamp,
    },
    TextStart {
        id: String,
        role: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        step_id: Option<String>,
    },
    TextDelta {
        id: String,
        delta: String,
    },
    TextComplete {
        id: String,
        text: String,
    },
    ReasoningStart {
        id: String,
        scope: String,
    },
    ReasoningDelta {
        id: String,
        delta: String,
    },
    ReasoningComplete {
        id: String,
        text: String,
        scope: String,
    },
    /// Content of its own, beside the conversation.
    ArtifactStart {
        id: String,
        /// `markdown` or `component`.
        artifact_type: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        component: Option<String>,
    },
    ArtifactDelta {
        id: String,
        delta: String,
    },
    ArtifactUpdate {
        id: String,
        component: String,
        props: Value,
    },
    ArtifactComplete {
        id: String,
    },
    /// A picture or a sound that a tool gave.
    MediaStart {
        id: String,
        /// As `image/png`.
        media_type: String,
        role: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        tool_call_id: Option<String>,
    },
    MediaComplete {
        id: String,
        media_type: String,
        /// The content, in base64.
        data: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        tool_call_id: Option<String>,
    },
    /// What an agent and its reader share, whole.
    StateSnapshot {
        state: Value,
        iteration: u32,
    },
    /// What changed of it: a JSON Patch (RFC 6902).
    StateDelta {
        patch: Value,
        iteration: u32,
    },
    /// Where something comes from.
    Source {
        id: String,
        url: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        source_type: String,
    },
    ToolStart {
        tool_call_id: String,
        tool_name: String,
        tool_type: String,
        parameters: Value,
        step_id: String,
        iteration: u32,
        started_at: Timestamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        origin: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        hidden_parameter_names: Vec<String>,
    },
    ToolInputDelta {
        tool_call_id: String,
        delta: String,
    },
    ToolInputComplete {
        tool_call_id: String,
        tool_name: String,
        parameters: Value,
    },
    ToolComplete {
        tool_call_id: String,
        tool_name: String,
        success: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// Milliseconds.
        execution_time: u64,
        iteration: u32,
        step_id: String,
    },
    ApprovalStart {
        approval_id: String,
        tool_name: String,
        tool_call_id: String,
        tool_type: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Exactly what will run when approved.
        parameters: Value,
        /// What the approval is bound to: SHA-256 over tool, parameters and flow version.
        digest: String,
        /// Milliseconds until the request expires.
        timeout: u64,
        step_id: String,
        started_at: Timestamp,
    },
    ApprovalComplete {
        approval_id: String,
        decision: String,
        resolved_by: String,
        completed_at: Timestamp,
    },
    Await {
        tool_id: String,
        tool_call_id: String,
        tool_name: String,
        parameters: Value,
        awaited_at: Timestamp,
        step_id: String,
        /// `elicitation` when a tool's server asks for something first; absent when the tool itself runs in the caller.
        #[serde(skip_serializing_if = "Option::is_none")]
        await_reason: Option<String>,
        /// `{mode, message, requestedSchema?, url?, serverName, requests}`.
        #[serde(skip_serializing_if = "Option::is_none")]
        elicitation: Option<Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        origin: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        page_origin: Option<String>,
    },
    /// A notice; not terminal.
    Error {
        error: String,
        recoverable: bool,
    },
    Ping {
        timestamp: Timestamp,
    },
    /// Everything else, by name: `dispatch.attempt_discarded`, `dispatch.reset`, `runtype.fallback`, ...
    Custom {
        name: String,
        value: Value,
    },
}

/// Tokens in and out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "TokenCounts")]
pub struct Tokens {
    pub input: u64,
    pub output: u64,
}

/// The text and the value by which [`Event::ExecutionComplete`] tells an output.
pub fn told_output(output: Option<Value>) -> (Option<Value>, Option<Value>) {
    match output {
        None | Some(Value::Null) => (None, None),
        Some(text @ Value::String(_)) => (Some(text), None),
        Some(value) => (Some(value.to_string().into()), Some(value)),
    }
}

/// The output that [`told_output`] told. Logs of earlier versions have values in the place of the text.
pub fn output_of(final_output: Option<Value>, result: Option<Value>) -> Option<Value> {
    result.or(final_output)
}

impl Event {
    /// The value of `type`, also the SSE event name.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::ExecutionStart { .. } => "execution_start",
            Self::ExecutionComplete { .. } => "execution_complete",
            Self::ExecutionError { .. } => "execution_error",
            Self::TurnStart { .. } => "turn_start",
            Self::TurnComplete { .. } => "turn_complete",
            Self::StepStart { .. } => "step_start",
            Self::StepComplete { .. } => "step_complete",
            Self::StepSkip { .. } => "step_skip",
            Self::TextStart { .. } => "text_start",
            Self::TextDelta { .. } => "text_delta",
            Self::TextComplete { .. } => "text_complete",
            Self::ReasoningStart { .. } => "reasoning_start",
            Self::ReasoningDelta { .. } => "reasoning_delta",
            Self::ReasoningComplete { .. } => "reasoning_complete",
            Self::ArtifactStart { .. } => "artifact_start",
            Self::ArtifactDelta { .. } => "artifact_delta",
            Self::ArtifactUpdate { .. } => "artifact_update",
            Self::ArtifactComplete { .. } => "artifact_complete",
            Self::MediaStart { .. } => "media_start",
            Self::MediaComplete { .. } => "media_complete",
            Self::StateSnapshot { .. } => "state_snapshot",
            Self::StateDelta { .. } => "state_delta",
            Self::Source { .. } => "source",
            Self::ToolStart { .. } => "tool_start",
            Self::ToolInputDelta { .. } => "tool_input_delta",
            Self::ToolInputComplete { .. } => "tool_input_complete",
            Self::ToolComplete { .. } => "tool_complete",
            Self::ApprovalStart { .. } => "approval_start",
            Self::ApprovalComplete { .. } => "approval_complete",
            Self::Await { .. } => "await",
            Self::Error { .. } => "error",
            Self::Ping { .. } => "ping",
            Self::Custom { .. } => "custom",
        }
    }

    /// Shown before it is committed: losing it loses nothing that anyone may rely on.
    pub const fn is_delta(&self) -> bool {
        matches!(
            self,
            Self::TextStart { .. }
                | Self::TextDelta { .. }
                | Self::ReasoningStart { .. }
                | Self::ReasoningDelta { .. }
                | Self::ToolInputDelta { .. }
        )
    }
}

/// An event with its place in the log. `body` is the event's JSON object, encoded once and shared by all readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    pub seq: u64,
    pub body: Arc<str>,
    /// It stands for the events from this number on, which were joined; see [`super::compact`].
    pub since: Option<u64>,
}

/// What every body begins with; the type's name follows.
const TYPE: &str = "{\"type\":\"";

impl EventRecord {
    /// Encodes an event.
    pub fn new(seq: u64, event: &Event) -> Self {
        // An event holds only strings, numbers and JSON values: writing it cannot fail.
        let body = serde_json::to_string(event).unwrap_or_else(|_| format!("{TYPE}{}\"}}", event.kind()));
        Self { seq, body: body.into(), since: None }
    }

    /// The value of `type`.
    pub fn kind(&self) -> &str {
        let name = self.body.get(TYPE.len()..).unwrap_or_default();
        name.split('"').next().unwrap_or_default()
    }

    /// The event as callers see it: `{"type", "executionId", "seq", ...}`.
    pub fn public_json(&self, run: RunId) -> String {
        let mut text = String::with_capacity(self.body.len() + 80);
        self.write_public(run, &mut text);
        text
    }

    /// Appends [`EventRecord::public_json`] to `out`.
    pub fn write_public(&self, run: RunId, out: &mut String) {
        let head = TYPE.len() + self.kind().len() + 1;
        let (head, rest) = self.body.split_at_checked(head).unwrap_or((&self.body, ""));
        out.push_str(head);
        let _ = std::fmt::Write::write_fmt(out, format_args!(",\"executionId\":\"{run}\",\"seq\":{}", self.seq));
        out.push_str(rest);
    }

    /// The event itself; `None` when a newer version wrote a kind that this one does not know.
    pub fn event(&self) -> Option<Event> {
        serde_json::from_str(&self.body).ok()
    }
}

/// Where a run rests after a stretch of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Rest {
    /// It goes on.
    #[default]
    None,
    /// It waits for its caller or a person: streams end here.
    Caller,
    /// It waits for a time, a signal or a child: streams stay open.
    Later,
    /// It has ended.
    End,
}

impl Rest {
    pub const fn as_i64(self) -> i64 {
        match self {
            Self::None => 0,
            Self::Caller => 1,
            Self::Later => 2,
            Self::End => 3,
        }
    }

    pub const fn from_i64(value: i64) -> Self {
        match value {
            1 => Self::Caller,
            2 => Self::Later,
            3 => Self::End,
            _ => Self::None,
        }
    }
}

/// A stretch of the log that was committed at once: one row, however many events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub events: Vec<EventRecord>,
    pub rest: Rest,
}

impl Segment {
    pub fn first(&self) -> u64 {
        self.events.first().map_or(0, |event| event.seq)
    }

    pub fn last(&self) -> u64 {
        self.events.last().map_or(0, |event| event.seq)
    }

    /// The row's text: a JSON array of `[seq, {event}]`, or `[seq, {event}, since]` for joined ones.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(self.events.iter().map(|event| event.body.len() + 16).sum::<usize>() + 2);
        text.push('[');
        for (index, event) in self.events.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = match event.since {
                None => std::fmt::Write::write_fmt(&mut text, format_args!("{comma}[{},{}]", event.seq, event.body)),
                Some(since) => std::fmt::Write::write_fmt(&mut text, format_args!("{comma}[{},{},{since}]", event.seq, event.body)),
            };
        }
        text.push(']');
        text
    }

    /// Reads what [`Segment::encode`] wrote.
    pub fn decode(text: &str, rest: Rest) -> Result<Self, serde_json::Error> {
        /// An event in a row.
        #[derive(Deserialize)]
        struct Row(u64, Box<serde_json::value::RawValue>, #[serde(default)] Option<u64>);

        let rows: Vec<Row> = serde_json::from_str(text)?;
        let events = rows.into_iter().map(|Row(seq, body, since)| EventRecord { seq, body: body.get().into(), since }).collect();
        Ok(Self { events, rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta() -> EventRecord {
        EventRecord::new(7, &Event::TextDelta { id: "text_1".into(), delta: "Hel\"lo".into() })
    }

    #[test]
    fn an_end_without_estimates_is_read_back() {
        let end = Event::ExecutionComplete {
            kind: "flow".into(),
            success: true,
            completed_at: Timestamp::from_millis(0),
            duration_ms: 1,
            final_output: None,
            result: None,
            stop_reason: "complete".into(),
            total_cost: 0.5,
            total_tokens: Tokens::default(),
            iterations: None,
            total_steps: Some(1),
            successful_steps: Some(1),
            failed_steps: Some(0),
            step_error_count: Some(0),
            cost_estimated: false,
        };
        assert_eq!(EventRecord::new(0, &end).event(), Some(end));
    }

    #[test]
    fn the_envelope_is_spliced_in_after_the_type() {
        let run = RunId::from_u128(0);
        assert_eq!(
            delta().public_json(run),
            r#"{"type":"text_delta","executionId":"exec_00000000000000000000000000","seq":7,"id":"text_1","delta":"Hel\"lo"}"#
        );
        let bare = EventRecord { seq: 1, body: "{\"type\":\"ping\"}".into(), since: None };
        assert_eq!(bare.public_json(run), r#"{"type":"ping","executionId":"exec_00000000000000000000000000","seq":1}"#);
    }

    #[test]
    fn a_segment_survives_its_row() {
        let segment = Segment {
            events: vec![
                delta(),
                EventRecord { since: Some(3), ..delta() },
                EventRecord::new(9, &Event::Error { error: "x".into(), recoverable: true }),
            ],
            rest: Rest::Caller,
        };
        assert_eq!(Segment::decode(&segment.encode(), Rest::Caller).ok(), Some(segment));
    }

    #[test]
    fn every_kind_is_the_serialised_type() {
        assert_eq!(delta().kind(), "text_delta");
        assert_eq!(delta().event().map(|event| event.kind()), Some("text_delta"));
    }
}
