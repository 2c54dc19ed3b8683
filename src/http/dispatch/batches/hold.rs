//! Holding: a server takes a batch for a while, does a little of it and lets it go, and nobody does what another does.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Status;
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::id::{RunId, TenantId};
use crate::store::{Collection, Document, Kept};

/// How long a batch is one server's, and how soon it is looked at again.
const HOLD: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_millis(300);

/// How far a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    pub status: Status,
    /// When somebody must look at it.
    next: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
}

impl Progress {
    /// Due at once.
    pub const fn begun(now: Timestamp) -> Self {
        Self { status: Status::Running, next: Some(now), completed_at: None }
    }

    /// There was nothing to do.
    pub const fn done(now: Timestamp) -> Self {
        Self { status: Status::Completed, next: None, completed_at: Some(now) }
    }

    pub fn due_at(&self) -> Option<Timestamp> {
        self.next.filter(|_| self.status == Status::Running)
    }
}

/// A document whose work is done look by look, on whichever server.
pub trait Work: Document + Clone {
    /// What people call it.
    const NOUN: &'static str;

    fn progress(&self) -> Progress;

    fn set_progress(&mut self, progress: Progress);

    /// Executions that may be under way.
    fn at_work(&self) -> Vec<RunId>;

    /// Does a little of the work. Whether all is done.
    fn go_on(&mut self, state: &AppState, tenant: TenantId, id: Self::Id) -> impl Future<Output = Result<bool>> + Send;
}

/// Does a little of what is due, unless another server has it.
pub async fn tick<W: Work>(state: &AppState, tenant: TenantId, kept: Kept<W>) -> Result<()> {
    let all = Collection::of(&*state.store, tenant);
    let now = state.clock.now();
    let mut held = kept.body.clone();
    held.set_progress(Progress { next: Some(now.after(HOLD)), ..held.progress() });
    let Some(kept) = all.change(&kept, held, now).await? else { return Ok(()) };
    let mut work = kept.body.clone();
    let done = work.go_on(state, tenant, kept.id).await?;
    let now = state.clock.now();
    work.set_progress(if done { Progress::done(now) } else { Progress { next: Some(now.after(SOON)), ..work.progress() } });
    if all.change(&kept, work.clone(), now).await?.is_some() {
        return Ok(());
    }
    // Another server that went on with it, because this one took so long, finds what was started here under the same keys. Whoever cancelled or
    // deleted it was right, and knew nothing of what was started now.
    match all.find(kept.id).await? {
        Some(stands) if stands.body.progress().status != Status::Cancelled => Ok(()),
        _ => stop(state, tenant, &work).await,
    }
}

/// Starts nothing more, and ends what is under way. `None`: there is no such thing. Error: `batch_completed` (409).
pub async fn cancel<W: Work>(state: &AppState, tenant: TenantId, id: W::Id) -> Result<Option<Kept<W>>> {
    let all = Collection::<W>::of(&*state.store, tenant);
    let Some(kept) = all.find(id).await? else { return Ok(None) };
    let now = state.clock.now();
    let end = |work: &mut W| -> Result<()> {
        let progress = work.progress();
        if progress.status == Status::Completed {
            let message = format!("the {} has completed; there is nothing to cancel", W::NOUN);
            return Err(Error::new(Kind::Conflict, "batch_completed", message));
        }
        work.set_progress(Progress { status: Status::Cancelled, next: None, completed_at: progress.completed_at.or(Some(now)) });
        Ok(())
    };
    let Some(kept) = all.amend(kept, now, end).await? else { return Ok(None) };
    stop(state, tenant, &kept.body).await?;
    Ok(Some(kept))
}

async fn stop<W: Work>(state: &AppState, tenant: TenantId, work: &W) -> Result<()> {
    for run in work.at_work() {
        state.workers.cancel(tenant, run).await?;
    }
    Ok(())
}
