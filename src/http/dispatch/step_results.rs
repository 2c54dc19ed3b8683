//! `GET /v1/flows/{flowId}/step-results`, and the same of a record: what the steps of its latest executions came to, newest execution first.

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::about;
use super::executions::{StepRow, steps_of, with_inquiries};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::extract::{Filters, Id, InPath, Known};
use crate::http::scope::{FlowsRead, RecordsRead, Scoped};
use crate::id::{FlowId, RecordId, RunId, TenantId};
use crate::model::{Target, TargetKind};
use crate::store::{RunFilter, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/flows/{flowId}/step-results",
            get_with(list, about("listStepResults", "Flows", "List what the steps of a flow's latest executions came to")),
        )
        .api_route(
            "/v1/records/{recordId}/step-results",
            get_with(
                list_of_record,
                about("listRecordStepResults", "Records", "List what the steps of a record's latest executions came to"),
            ),
        )
}

/// Which rows.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "StepResultQuery")]
struct Query {
    /// 1 to 200; 50 when absent.
    limit: Option<usize>,
    /// Rows to pass over.
    offset: Option<usize>,
}

impl Known for Query {
    const NAMES: &'static [&'static str] = &["limit", "offset"];
}

/// A step of an execution.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "StepResult")]
struct Row {
    execution_session_id: RunId,
    /// The tenant, which owns it.
    user_id: TenantId,
    /// Id of the saved flow.
    flow_id: Option<FlowId>,
    /// When the step began, or the execution of a step that did not.
    created_at: Timestamp,
    /// Id of the saved record that the execution is about.
    record_id: Option<RecordId>,
    #[serde(flatten)]
    step: StepRow,
}

/// Where in the rows these are.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "StepResultPagination")]
struct Place {
    limit: usize,
    offset: usize,
    returned: usize,
    has_more: bool,
}

/// Rows, and where they stand.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "StepResultList")]
struct Rows {
    data: Vec<Row>,
    pagination: Place,
}

const LIMIT: usize = 50;
const MOST: usize = 200;
/// Rows that may be passed over: every one of them is read.
const DEEPEST: usize = 5_000;
const RUNS: u32 = 50;
/// Executions that are looked at for one page.
const MOST_RUNS: usize = 6_000;

async fn list(
    caller: Scoped<FlowsRead>,
    State(store): State<SharedStore>,
    Id(flow): Id<FlowId>,
    Filters(query): Filters<Query>,
) -> Result<Json<Rows>> {
    if store.find_flow(caller.tenant, TargetKind::Flow, flow).await?.is_none() {
        return Err(FlowId::missing());
    }
    rows(&store, caller.tenant, RunFilter { target: Some(Target::Flow(Some(flow))), ..RunFilter::default() }, query).await
}

async fn list_of_record(
    caller: Scoped<RecordsRead>,
    State(store): State<SharedStore>,
    Id(record): Id<RecordId>,
    Filters(query): Filters<Query>,
) -> Result<Json<Rows>> {
    if store.find_record(caller.tenant, record).await?.is_none() {
        return Err(RecordId::missing());
    }
    rows(&store, caller.tenant, RunFilter { record: Some(record), ..RunFilter::default() }, query).await
}

/// The steps of the executions that a filter names, newest executions first.
async fn rows(store: &SharedStore, tenant: TenantId, of: RunFilter, query: Query) -> Result<Json<Rows>> {
    let (limit, offset) = (query.limit.unwrap_or(LIMIT), query.offset.unwrap_or(0));
    if !(1..=MOST).contains(&limit) || offset > DEEPEST {
        let message = format!("expected a `limit` of 1 to {MOST} and an `offset` of at most {DEEPEST}");
        return Err(Error::new(Kind::Malformed, "invalid_query", message));
    }
    let (mut data, mut passed, mut looked_at, mut before) = (Vec::new(), 0, 0, None);
    let mut has_more = false;
    while !has_more && looked_at < MOST_RUNS {
        let filter = RunFilter { before, limit: RUNS, ..of.clone() };
        let runs = store.list_runs(tenant, filter).await?;
        let Some(last) = runs.last() else { break };
        before = Some(last.id);
        for run in &runs {
            looked_at += 1;
            // Of what is passed over nothing is kept.
            let mut shown = Vec::new();
            for step in steps_of(store, tenant, run.id, run.state, run.target.kind()).await? {
                if passed < offset {
                    passed += 1;
                } else if data.len() + shown.len() < limit {
                    shown.push(step);
                } else {
                    has_more = true;
                }
            }
            if !shown.is_empty() {
                with_inquiries(store, tenant, run.id, &mut shown).await?;
                let record_id = record_of(store, tenant, run.id, of.record).await?;
                let row = |step: StepRow| Row {
                    execution_session_id: run.id,
                    user_id: tenant,
                    flow_id: run.target.flow_id(),
                    created_at: step.began().unwrap_or(run.created_at),
                    record_id,
                    step,
                };
                data.extend(shown.into_iter().map(row));
            }
            if has_more {
                break;
            }
        }
    }
    let pagination = Place { limit, offset, returned: data.len(), has_more };
    Ok(Json(Rows { data, pagination }))
}

/// Returns the saved record of an execution, if the list is not limited to one record.
async fn record_of(store: &SharedStore, tenant: TenantId, run: RunId, known: Option<RecordId>) -> Result<Option<RecordId>> {
    if known.is_some() {
        return Ok(known);
    }
    Ok(store.find_run(tenant, run).await?.and_then(|run| run.input.record_id()))
}
