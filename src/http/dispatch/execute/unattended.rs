//! Executions that nobody waits for: those of schedules, batches and evals.

use std::time::Duration;

use super::{DispatchRequest, Lookup};
use crate::error::Result;
use crate::http::AppState;
use crate::id::{KeyId, RunId, TenantId};
use crate::store::{Created, RunKey};

/// How long it is remembered that an execution was made: longer than any outage after which it would be tried again.
const KEY_LIFE: Duration = Duration::from_secs(90 * 24 * 3_600);

/// Starts an execution; once, if it has a key among those of its source. `key_id`: the API key of whoever asked for it, whose limits hold for
/// its model calls.
pub async fn start_unattended(
    state: &AppState,
    (tenant, key_id): (TenantId, Option<KeyId>),
    source: &str,
    key: Option<String>,
    request: DispatchRequest,
) -> Result<RunId> {
    let resolved = Lookup::of(state, tenant).resolve(request).await?;
    let expires_at = state.clock.now().after(KEY_LIFE);
    let mut start = resolved.start(tenant, key.map(|key| RunKey { route: source.into(), key, request_hash: String::new(), expires_at }));
    start.input.options.source = source.into();
    start.input.key_id = key_id;
    match state.engine.enqueue(start).await? {
        (run, Created::New) => {
            state.workers.nudge(run).await;
            Ok(run)
        }
        (_, Created::Duplicate { run, .. }) => Ok(run),
    }
}
