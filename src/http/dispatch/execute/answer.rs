//! Follows a run until it has ended or waits for its caller, and answers with what it said as one JSON.

use std::time::Duration;

use serde_json::{Value, json};

use super::outcome::{Fold, Outcome, paused_reason};
use crate::clock::Clock;
use crate::error::Result;
use crate::feed::Follower;
use crate::id::{RunId, TenantId};
use crate::model::event::Rest;
use crate::model::{EventRecord, RunState, Wait, WaitKind};
use crate::store::SharedStore;

/// A run that sleeps longer than this is answered as paused.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where to follow a run for its answer.
pub struct Follow<'a> {
    pub store: &'a SharedStore,
    pub clock: &'a Clock,
    pub tenant: TenantId,
    pub run: RunId,
}

/// How often the children of a run that waits for them are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Follows a run until it rests, and folds what it said. `tell` hears each event as it comes.
pub async fn follow(place: Follow<'_>, mut follower: Follower, mut tell: impl FnMut(&EventRecord)) -> Result<Outcome> {
    let mut fold = Fold::new(place.run);
    let mut resting = false;
    loop {
        let stretch = tokio::select! {
            stretch = follower.next() => stretch?,
            () = place.clock.sleep(LOOK), if resting => {
                if let Some(reason) = place.rests().await? {
                    return Ok(Outcome { paused_reason: Some(reason), ..fold.outcome() });
                }
                continue;
            }
        };
        for event in &stretch.events {
            tell(event);
            fold.take(serde_json::from_str(&event.public_json(place.run)).unwrap_or_default());
        }
        resting = false;
        match stretch.rest {
            Rest::End => return Ok(fold.outcome()),
            Rest::Caller => {
                // The middle of a log does not say what it is the log of.
                let run = place.store.find_run(place.tenant, place.run).await?;
                fold.set_kind(run.map(|run| run.target.kind()).unwrap_or_default());
                return Ok(fold.outcome());
            }
            Rest::None => {}
            Rest::Later => {
                resting = true;
                if let Some(reason) = place.rests().await? {
                    return Ok(Outcome { paused_reason: Some(reason), ..fold.outcome() });
                }
            }
        }
    }
}

impl Follow<'_> {
    /// Why the run rests for longer than a caller waits; nothing when it will go on soon, or when its children are at work.
    async fn rests(&self) -> Result<Option<Value>> {
        let run = self.store.find_run(self.tenant, self.run).await?;
        // One that went on, or ended, since it was read has news for its follower.
        let Some(run) = run.filter(|run| run.state == RunState::Paused) else { return Ok(None) };
        let due = run.wake_at;
        let soon = due.is_some_and(|due| due.since(self.clock.now()) <= PATIENCE);
        if soon || self.children_work(self.run).await? {
            return Ok(None);
        }
        let waits = self.store.run_waits(self.tenant, self.run).await?;
        let open = waits.iter().filter(|wait| wait.resolution.is_none() && wait.kind != WaitKind::Child);
        let first = open.min_by_key(|wait| wait.created_at);
        let mut reason = json!({ "type": "timer", "executionId": self.run, "until": due });
        if let Some(wait) = first.filter(|wait| wait.kind == WaitKind::Signal) {
            // A wait for events shows their names; no signal is called like it.
            let of_event = wait.shown.get("event").or_else(|| wait.shown.get("events"));
            reason["type"] = if of_event.is_some() { "event" } else { "signal" }.into();
            reason["name"] = of_event.cloned().unwrap_or_else(|| wait.name.clone().into());
        }
        Ok(reason.as_object().cloned().map(|reason| paused_reason(reason, None)))
    }

    /// Whether a run waits for nothing but children, and these do not wait for anybody themselves.
    async fn children_work(&self, run: RunId) -> Result<bool> {
        let waits = self.store.run_waits(self.tenant, run).await?;
        let open: Vec<Wait> = waits.into_iter().filter(|wait| wait.resolution.is_none()).collect();
        if open.is_empty() {
            // What it waited for has come since it was read; it goes on.
            return Ok(true);
        }
        for wait in open {
            let Some(child) = wait.name.parse().ok().filter(|_| wait.kind == WaitKind::Child) else { return Ok(false) };
            let paused = self.store.find_run(self.tenant, child).await?.is_some_and(|child| child.state == RunState::Paused);
            if paused && !Box::pin(self.children_work(child)).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
