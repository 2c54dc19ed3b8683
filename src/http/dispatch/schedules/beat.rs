//! Firing what is due. A slot's executions and its firing have keys of their own, and the schedule goes on by compare-and-set, so that
//! servers that see the same slot at the same time fire it once. Slots that passed while no server was there are one slot: the last that is kept.

use super::fire::fire;
use super::{Schedule, Status};
use crate::error::Result;
use crate::failpoint;
use crate::http::AppState;
use crate::id::TenantId;
use crate::store::{Collection, Kept};

/// Fires a schedule's slot and lets it wait for the next one.
pub async fn tick(state: &AppState, tenant: TenantId, schedule: Kept<Schedule>) -> Result<()> {
    let Some(slot) = schedule.body.next else { return Ok(()) };
    fire(state, tenant, &schedule, Some(slot)).await?;
    let now = state.clock.now();
    let fired = Schedule { last: Some(slot), ..schedule.body.clone() };
    // A pattern was understood when it was kept. Should it not be any more, nothing is known of a next time.
    let next = fired.clone().waiting(now).unwrap_or(Schedule { status: Status::Completed, next: None, ..fired });
    failpoint::hit("schedule.fired");
    // Whoever changed it meanwhile has said when it fires next.
    Collection::of(&*state.store, tenant).change(&schedule, next, now).await?;
    Ok(())
}
