//! Starting and watching the executions of batches.

use std::time::Duration;

use serde_json::Value;

use super::{Ended, Item};
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::dispatch::execute::{DispatchRequest, Fold, Outcome, start_unattended};
use crate::id::{KeyId, RunId, TenantId};
use crate::model::Run;

/// Executions at work at once, and started in one look.
const AT_WORK: usize = 50;

/// Does a little of the work: starts what may be started and notes what has ended. `request` gives an item's request by its place. Whether all is done.
pub async fn advance(
    state: &AppState,
    (tenant, key_id): (TenantId, Option<KeyId>),
    batch: &str,
    items: &mut [Item],
    request: impl Fn(usize, &Item) -> DispatchRequest,
) -> Result<bool> {
    for item in items.iter_mut().filter(|item| item.ended.is_none()) {
        let Some(id) = item.run else { continue };
        item.ended = ended(state, tenant, id).await?;
    }
    let at_work = items.iter().filter(|item| item.run.is_some() && item.ended.is_none()).count();
    let mut room = AT_WORK.saturating_sub(at_work);
    for (place, item) in items.iter_mut().enumerate() {
        if item.run.is_some() || item.ended.is_some() {
            continue;
        }
        if room == 0 {
            break;
        }
        room -= 1;
        match start_one(state, (tenant, key_id), format!("{batch}:{place}"), request(place, item)).await {
            Ok(run) => item.run = Some(run),
            Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Limited) => return Err(error),
            // What cannot be started has ended: the others go on.
            Err(error) => {
                let told = serde_json::to_value(error.envelope()).ok();
                item.ended = Some(Ended { error: told, ..Ended::default() });
            }
        }
    }
    Ok(items.iter().all(|item| item.ended.is_some()))
}

/// Starts an execution, once for each key.
pub async fn start_one(state: &AppState, whose: (TenantId, Option<KeyId>), key: String, request: DispatchRequest) -> Result<RunId> {
    start_unattended(state, whose, "batch", Some(key), request).await
}

/// What an execution came to, if it has ended.
async fn ended(state: &AppState, tenant: TenantId, id: RunId) -> Result<Option<Ended>> {
    let Some((run, outcome)) = outcome_of(state, tenant, id).await? else {
        // An execution that was deleted tells nothing any more; whoever waits for it must not wait for ever.
        let is_there = state.store.find_run(tenant, id).await?.is_some();
        return Ok((!is_there).then(deleted));
    };
    let took = run.finished_at.map_or(Duration::ZERO, |end| end.since(run.created_at));
    #[expect(clippy::cast_precision_loss, reason = "for people; budgets are kept in integers")]
    let cost = run.spent.cost as f64 / 1e9;
    let steps = || outcome.events.iter().filter(|event| event["type"] == "step_complete");
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let prompts = number(steps().filter(|event| event["stepType"] == "prompt").count());
    let (all, failed) = (number(steps().count()), number(steps().filter(|event| event["success"] == false).count()));
    Ok(Some(Ended {
        success: outcome.success,
        error: outcome.error,
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        cost,
        tokens: run.spent.tokens(),
        prompts,
        steps: all,
        failed_steps: failed,
        input_tokens: run.spent.input_tokens,
        output_tokens: run.spent.output_tokens,
        unpriced: run.spent.estimated && run.spent.cost == 0 && run.spent.calls > 0,
    }))
}

/// The end of an execution that was deleted before it was looked at.
fn deleted() -> Ended {
    let error = Error::new(Kind::Missing, "execution_deleted", "the execution was deleted before its result was read");
    Ended { error: serde_json::to_value(error.envelope()).ok(), ..Ended::default() }
}

/// A run that has ended, and what it said. One that is gone has ended in nothing.
pub async fn outcome_of(state: &AppState, tenant: TenantId, id: RunId) -> Result<Option<(Run, Outcome)>> {
    let Some(run) = state.store.find_run(tenant, id).await?.filter(|run| run.state.is_terminal()) else { return Ok(None) };
    let mut fold = Fold::new(id);
    for record in state.store.read_log(tenant, id, None, u32::MAX).await?.iter().flat_map(|segment| &segment.events) {
        fold.take(serde_json::from_str(&record.public_json(id)).unwrap_or(Value::Null));
    }
    Ok(Some((run, fold.outcome())))
}
