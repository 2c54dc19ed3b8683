//! Waiting for the store: that it cannot serve now is no failure of a step.

use std::time::Duration;

use super::context::RunContext;
use crate::clock::Clock;
use crate::store::{StoreError, StoreResult};

const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);

/// Asks until the store answers; other errors than its absence are answers. Ask only what may be asked twice.
pub(super) async fn patiently<T, F>(clock: &Clock, mut ask: impl FnMut() -> F) -> StoreResult<T>
where
    F: Future<Output = StoreResult<T>>,
{
    let mut wait = FIRST;
    loop {
        match ask().await {
            Err(StoreError::Unavailable(error)) => {
                tracing::warn!(%error, "the store did not answer; trying again");
                clock.sleep(wait).await;
                wait = (wait * 2).min(LONGEST);
            }
            answer => return answer,
        }
    }
}

impl RunContext {
    /// [`patiently`], for as long as the run is in this node's hands: whoever waits here ends with the run, its step's
    /// time limit or its cancellation.
    pub(in crate::engine) async fn patiently<T, F>(&self, ask: impl FnMut() -> F) -> StoreResult<T>
    where
        F: Future<Output = StoreResult<T>>,
    {
        patiently(&self.parts().clock, ask).await
    }
}
