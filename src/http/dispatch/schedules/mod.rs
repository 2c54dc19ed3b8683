//! Schedules: saved flows and agents that run at times of a pattern, or once.
//!
//! `routes` keeps them; `beat` fires those that are due; `stats` counts what became of them. What one is, and when it fires next, is here.

mod beat;
mod fire;
mod routes;
mod stats;

use aide::axum::ApiRouter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(super) use self::beat::tick;
use crate::clock::Timestamp;
use crate::http::AppState;
use crate::id::{AgentId, FiringId, FlowId, KeyId, RunId, ScheduleId};
use crate::model::Cadence;
use crate::model::cadence::Fault;
use crate::store::{Document, SharedStore, StoreResult, forget};

pub(super) fn routes() -> ApiRouter<AppState> {
    routes::routes().merge(stats::routes())
}

/// What a schedule runs: a saved flow, or a saved agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ScheduleTarget")]
struct Target {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    flow_id: Option<FlowId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent_id: Option<AgentId>,
    /// Run once for each record of this type, which templates read as `_record`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    record_type: Option<String>,
}

/// When a schedule fires.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[schemars(rename = "ScheduleTrigger")]
enum Trigger {
    Recurring {
        /// Five fields, or six with seconds in front, or `@daily` and its like.
        cron: String,
        /// An IANA name; UTC when absent.
        #[serde(default = "utc")]
        timezone: String,
    },
    OneTime {
        run_at: Timestamp,
    },
}

fn utc() -> String {
    "UTC".into()
}

/// Whether a schedule fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ScheduleStatus")]
enum Status {
    Active,
    Paused,
    /// It will never fire again.
    Completed,
}

/// How a schedule's executions are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ScheduleExecutionOptions")]
struct ExecutionOptions {
    /// The time of one execution in milliseconds, pauses not counted; that of the flow when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    timeout_ms: Option<u64>,
}

/// A schedule as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Schedule {
    name: Option<String>,
    target: Target,
    trigger: Trigger,
    messages: Option<Value>,
    inputs: Option<Map<String, Value>>,
    #[serde(default)]
    execution_options: Option<ExecutionOptions>,
    /// The API key of whoever made it.
    #[serde(default)]
    key_id: Option<KeyId>,
    status: Status,
    /// The next time it fires, while it is active.
    next: Option<Timestamp>,
    last: Option<Timestamp>,
}

impl Document for Schedule {
    const KIND: &'static str = "schedule";
    type Id = ScheduleId;

    fn due_at(&self) -> Option<Timestamp> {
        self.next.filter(|_| self.status == Status::Active)
    }
}

impl Trigger {
    /// The first time after `after`; none when there is none.
    fn next(&self, after: Timestamp) -> Result<Option<Timestamp>, Fault> {
        match self {
            Self::OneTime { run_at } => Ok(Some(*run_at).filter(|at| *at > after)),
            Self::Recurring { cron, timezone } => Ok(Cadence::new(cron, timezone)?.next(after)),
        }
    }

    /// The first so many times after `after`.
    fn preview(&self, after: Timestamp, count: usize) -> Result<Vec<Timestamp>, Fault> {
        match self {
            Self::OneTime { .. } => Ok(self.next(after)?.into_iter().collect()),
            Self::Recurring { cron, timezone } => Ok(Cadence::new(cron, timezone)?.following(after).take(count).collect()),
        }
    }
}

impl Schedule {
    /// The schedule as it waits for the first time after `now`.
    fn waiting(self, now: Timestamp) -> Result<Self, Fault> {
        let next = self.trigger.next(now)?;
        let status = if next.is_some() { Status::Active } else { Status::Completed };
        Ok(Self { next, status, ..self })
    }
}

/// One time that a schedule fired.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Firing {
    schedule: ScheduleId,
    /// The time that it fired for; `null` when somebody said "now".
    slot: Option<Timestamp>,
    /// The executions that it started; the first thousand of them.
    execution_ids: Vec<RunId>,
    execution_count: usize,
    /// Why nothing was started, or not everything.
    error: Option<String>,
    /// When it is forgotten: after a month. Its executions stay.
    kept_until: Timestamp,
}

impl Document for Firing {
    const KIND: &'static str = "firing";
    type Id = FiringId;

    /// A slot fires once, whichever servers see that it is due.
    fn place(&self) -> Option<String> {
        self.slot.map(|slot| format!("{}:{}", self.schedule, slot.as_millis()))
    }

    fn parent(&self) -> Option<String> {
        Some(self.schedule.to_string())
    }

    fn due_at(&self) -> Option<Timestamp> {
        Some(self.kept_until)
    }
}

/// Forgets firings of long ago; how many.
pub(super) async fn tidy(store: &SharedStore, now: Timestamp) -> StoreResult<u64> {
    forget::<Firing>(&**store, now).await
}
