//! Follows a run until it has ended or waits for its caller, and answers with what it said as one JSON.

use std::time::Duration;

use serde_json::json;

use super::outcome::{Fold, Outcome};
use crate::clock::Clock;
use crate::error::Result;
use crate::feed::Follower;
use crate::id::{RunId, TenantId};
use crate::model::event::Rest;
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

/// Follows a run until it rests, and folds what it said.
pub async fn follow(place: Follow<'_>, mut follower: Follower) -> Result<Outcome> {
    let mut fold = Fold::new(place.run);
    loop {
        let stretch = follower.next().await?;
        stretch.events.iter().for_each(|event| fold.take(serde_json::from_str(&event.public_json(place.run)).unwrap_or_default()));
        match stretch.rest {
            Rest::End => return Ok(fold.outcome()),
            Rest::Caller => {
                // The middle of a log does not say what it is the log of.
                let run = place.store.find_run(place.tenant, place.run).await?;
                let kind = run.map(|run| run.target.kind()).unwrap_or_default().as_str().into();
                return Ok(Outcome { kind, ..fold.outcome() });
            }
            Rest::None => {}
            Rest::Later => {
                let run = place.store.find_run(place.tenant, place.run).await?;
                let due = run.and_then(|run| run.wake_at);
                if due.is_none_or(|due| due.since(place.clock.now()) > PATIENCE) {
                    let reason = json!({ "type": if due.is_some() { "timer" } else { "signal" }, "executionId": place.run, "until": due });
                    return Ok(Outcome { paused_reason: Some(reason), ..fold.outcome() });
                }
            }
        }
    }
}
