//! Filters of lists of executions.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::clock::Timestamp;
use crate::error::{Error, Kind, Problems, Result};
use crate::http::extract::{InPath, Known};
use crate::http::paging::{MAX_LIMIT, Paging};
use crate::id::{AgentId, FlowId, KeyId, RecordId, RunId};
use crate::model::{RunState, Target};
use crate::store::RunFilter;

/// Filters of the list of all executions.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "ExecutionFilter")]
pub(super) struct Filter {
    pub(super) status: Option<RunState>,
    /// `true`: only successful executions. `false`: only executions that ended otherwise, including completed ones with failed steps.
    pub(super) success: Option<bool>,
    pub(super) flow_id: Option<String>,
    pub(super) agent_id: Option<String>,
    pub(super) record_id: Option<String>,
    /// The API key that started them.
    pub(super) key_id: Option<String>,
    /// Name of the flow or agent.
    pub(super) name: Option<String>,
    /// Only executions created at or after this time.
    pub(super) since: Option<Timestamp>,
    /// Only executions created before this time.
    pub(super) until: Option<Timestamp>,
    /// Rows per page, 1 to 200; 50 by default.
    pub(super) limit: Option<u32>,
    pub(super) cursor: Option<String>,
}

/// Filters of the executions of one agent or record.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "OwnExecutionFilter")]
pub(in crate::http::dispatch) struct OwnFilter {
    status: Option<RunState>,
    /// `true`: only successful executions. `false`: only executions that ended otherwise, including completed ones with failed steps.
    success: Option<bool>,
    /// Name of the flow or agent.
    name: Option<String>,
    /// Only executions created at or after this time.
    since: Option<Timestamp>,
    /// Only executions created before this time.
    until: Option<Timestamp>,
    /// Rows per page, 1 to 200; 50 by default.
    limit: Option<u32>,
    cursor: Option<String>,
}

impl Known for Filter {
    const NAMES: &'static [&'static str] =
        &["status", "success", "flowId", "agentId", "recordId", "keyId", "name", "since", "until", "limit", "cursor"];
}

impl Known for OwnFilter {
    const NAMES: &'static [&'static str] = &["status", "success", "name", "since", "until", "limit", "cursor"];
}

impl Filter {
    /// Returns the query for the store, and the page.
    pub fn read(self) -> Result<(RunFilter, Paging)> {
        let flow = self.flow_id.map(|id| id.parse::<FlowId>().map_err(|_| FlowId::missing())).transpose()?;
        let agent = self.agent_id.map(|id| id.parse::<AgentId>().map_err(|_| AgentId::missing())).transpose()?;
        let record = self.record_id.map(|id| id.parse::<RecordId>().map_err(|_| RecordId::missing())).transpose()?;
        let key = self.key_id.map(|id| id.parse::<KeyId>().map_err(|_| KeyId::missing())).transpose()?;
        if flow.is_some() && agent.is_some() {
            return Err(Error::new(Kind::Malformed, "invalid_query", "expected either `flowId` or `agentId`"));
        }
        let own = OwnFilter {
            status: self.status,
            success: self.success,
            name: self.name,
            since: self.since,
            until: self.until,
            limit: self.limit,
            cursor: self.cursor,
        };
        let (filter, paging) = own.read()?;
        let target = flow.map(|id| Target::Flow(Some(id))).or(agent.map(|id| Target::Agent(Some(id))));
        Ok((RunFilter { target, record, key, ..filter }, paging))
    }
}

impl OwnFilter {
    /// Returns the query for the store, and the page, for executions of anything.
    pub fn read(self) -> Result<(RunFilter, Paging)> {
        let mut problems = Problems::default();
        if self.limit.is_some_and(|limit| !(1..=MAX_LIMIT).contains(&limit)) {
            problems.add("/limit", format!("expected 1 to {MAX_LIMIT}; more rows are on the next page"));
        }
        if self.name.as_ref().is_some_and(|name| name.contains('\0')) {
            problems.add("/name", "a name cannot contain a NUL character");
        }
        if self.since.zip(self.until).is_some_and(|(since, until)| since >= until) {
            problems.add("/until", "expected a time after `since`");
        }
        problems.into_result()?;
        let filter = RunFilter {
            states: self.status.into_iter().collect(),
            success: self.success,
            flow_name: self.name,
            since: self.since,
            until: self.until,
            // Ids grow with time, so the list can end at this id instead of scanning all older rows.
            after: self.since.map(|since| RunId::first_of(since.before(SLACK))),
            ..RunFilter::default()
        };
        Ok((filter, Paging { limit: self.limit, cursor: self.cursor, search: None }))
    }
}

/// Allows for ids that are older than the execution's creation: they may be chosen before it.
const SLACK: std::time::Duration = std::time::Duration::from_secs(24 * 3_600);
