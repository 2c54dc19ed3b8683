//! Firing: the executions of one slot, each made once however often it is tried.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Firing, Schedule, Trigger};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::http::AppState;
use crate::http::dispatch::execute::{DispatchRequest, start_unattended};
use crate::http::dispatch::records::Pages;
use crate::id::{FiringId, TenantId};
use crate::model::Record;
use crate::model::filter::Filter;
use crate::queue::crons;
use crate::store::{Collection, Document, Kept, StoreError};

/// Records that one firing runs for.
const MOST_RECORDS: usize = 10_000;
/// Executions that a firing names.
const NAMED: usize = 1_000;
/// How long a firing is kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Fires a schedule, for a slot or now, and keeps that it did. What cannot be started is told in the firing; only a store that is away is an error.
pub(super) async fn fire(state: &AppState, tenant: TenantId, schedule: &Kept<Schedule>, slot: Option<Timestamp>) -> Result<Kept<Firing>> {
    let kept_until = state.clock.now().after(KEPT);
    let mut firing = Firing { schedule: schedule.id, slot, execution_ids: Vec::new(), execution_count: 0, error: None, kept_until };
    match start(state, tenant, schedule, slot, &mut firing).await {
        Ok(()) => {}
        Err(error) if error.kind() == Kind::Unavailable => return Err(error),
        Err(error) => {
            tracing::warn!(schedule = %schedule.id, code = error.code(), "a schedule fired, but failed to start all its executions");
            firing.error = Some(error.message().to_owned());
        }
    }
    crons::fired("schedule");
    let first = firing.execution_ids.first().map(tracing::field::display);
    tracing::info!(schedule = %schedule.id, slot = slot.map(tracing::field::display), first, executions = firing.execution_count, "a schedule fired");
    failpoint::hit("schedule.started");
    let id = FiringId::new(&state.clock);
    let firings = Collection::<Firing>::of(&*state.store, tenant);
    match firings.create(id, firing.clone(), state.clock.now()).await {
        Ok(kept) => Ok(kept),
        // Another server fired the slot, or this one before its answer was lost.
        Err(StoreError::Exists(_)) => {
            let place = firing.place().unwrap_or_default();
            firings.find_at(&place).await?.ok_or_else(|| Error::internal("a firing is there and is not"))
        }
        Err(error) => Err(error.into()),
    }
}

/// What one schedule asks for, as a caller would.
pub(super) fn request(schedule: &Kept<Schedule>, record: Option<&Record>) -> DispatchRequest {
    let Schedule { name, target, trigger, messages, inputs, next, last, execution_options, .. } = &schedule.body;
    let (cron, timezone) = match trigger {
        Trigger::Recurring { cron, timezone } => (Some(cron), Some(timezone)),
        Trigger::OneTime { .. } => (None, None),
    };
    let about = json!({ "id": schedule.id, "name": name, "cron": cron, "timezone": timezone, "lastRunAt": last, "nextRunAt": next });
    let mut inputs = inputs.clone().unwrap_or_default();
    inputs.insert("_schedule".into(), about);
    let limit = execution_options.and_then(|options| options.timeout_ms);
    let options = limit.map(|limit| [("budget".to_owned(), json!({ "maxDurationMs": limit }))].into_iter().collect::<Map<String, Value>>());
    DispatchRequest {
        options: options.into(),
        flow: target.flow_id.map(|id| json!({ "id": id })),
        agent: target.agent_id.map(|id| json!({ "agentId": id })),
        messages: messages.clone(),
        inputs: Some(inputs).into(),
        record: record.map(|record| [("id".to_owned(), json!(record.id))].into_iter().collect::<Map<String, Value>>()).into(),
        ..DispatchRequest::default()
    }
}

async fn start(state: &AppState, tenant: TenantId, schedule: &Kept<Schedule>, slot: Option<Timestamp>, firing: &mut Firing) -> Result<()> {
    let Some(kind) = &schedule.body.target.record_type else {
        return one(state, tenant, schedule, slot, None, firing).await;
    };
    let mut pages = Pages::of(kind.clone(), Filter::everything());
    while let Some(page) = pages.next(&state.store, tenant).await? {
        for record in &page {
            if firing.execution_count >= MOST_RECORDS {
                return Err(Error::new(Kind::Conflict, "too_many_records", format!("a schedule runs for {MOST_RECORDS} records at most")));
            }
            one(state, tenant, schedule, slot, Some(record), firing).await?;
        }
    }
    Ok(())
}

/// One execution of a slot. Its key is the slot's own, so that it is made once.
async fn one(
    state: &AppState,
    tenant: TenantId,
    schedule: &Kept<Schedule>,
    slot: Option<Timestamp>,
    record: Option<&Record>,
    firing: &mut Firing,
) -> Result<()> {
    let record_id = record.map_or_else(String::new, |record| record.id.to_string());
    let key = slot.map(|slot| format!("{}:{}:{record_id}", schedule.id, slot.as_millis()));
    let run = start_unattended(state, (tenant, schedule.body.key_id), "schedule", key, request(schedule, record)).await?;
    firing.execution_count += 1;
    if firing.execution_ids.len() < NAMED {
        firing.execution_ids.push(run);
    }
    Ok(())
}
