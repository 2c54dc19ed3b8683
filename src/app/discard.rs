//! Ends a run that no server advances, for an operator whose servers it takes down.
//!
//! It is fenced like every advance of a run: on SQLite by the lock on the file, which a server holds as long as it
//! lives, on PostgreSQL by the run's lease.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::master_key;
use crate::clock::Clock;
use crate::config::Config;
use crate::engine::failing_commit;
use crate::error::{Error, Kind, Result};
use crate::id::{NodeId, RunId, TenantId};
use crate::model::run::Failure;
use crate::model::{JournalEntry, Outcome, Run};
use crate::secret::Vault;
use crate::store::sealing::Sealing;
use crate::store::{self, Claim, Commit, Committed, NOTICE, SharedStore};

/// How long the run is this process's own.
const LEASE: Duration = Duration::from_secs(30);

/// Fails a run with the code `run_discarded`; its parent, its job and webhooks learn of it as of every end.
pub async fn discard_run(config: &Config, clock: &Clock, id: RunId) -> Result<Run> {
    let store = store::open(&super::database(config), store::Options::new(clock.clone()).advancing()).await?;
    let done = discard(config, clock, &store, id).await;
    store.close().await;
    done
}

async fn discard(config: &Config, clock: &Clock, store: &SharedStore, id: RunId) -> Result<Run> {
    let missing = || Error::missing("execution").next("`dispatch runs list` shows the ids");
    let found = find(store, id).await?.ok_or_else(missing)?;
    if found.state.is_terminal() {
        return Err(Error::new(Kind::Conflict, "execution_ended", format!("the execution {id} has ended: {}", found.state.as_str())));
    }
    // What a tenant has sealed is written as the tenant's own server would write it. Without the server's key only those
    // tenants can be served that seal nothing: any key does.
    let mut key = [0u8; 32];
    clock.fill(&mut key);
    let key = master_key::existing(config, clock)?.unwrap_or(key);
    let vault = Vault::new(key, clock.clone());
    let sealed: SharedStore = Arc::new(Sealing::new(store.clone(), vault, clock.clone()));
    let now = clock.now();
    let claim = Claim { node: NodeId::new(clock), now, until: now.after(LEASE), max: 1, only: Some(id), except: Vec::new() };
    let Some(lease) = sealed.claim_runs(claim).await?.pop() else { return Err(held(store, found.tenant, id).await?) };
    let failure = failure("run_discarded", "an operator discarded the execution with `dispatch runs discard`");
    let mut commit: Commit = failing_commit(&lease.run, failure, clock);
    // Whether anybody wants to know is found out when it is told.
    commit.journal.push(JournalEntry { key: NOTICE.into(), outcome: Outcome::Done(Value::Null) });
    match sealed.commit_run(commit).await? {
        Committed::Done => Ok(lease.run),
        Committed::Fenced | Committed::Nudged => Err(held(store, found.tenant, id).await?),
    }
}

fn failure(code: &str, message: &str) -> Failure {
    Failure { code: code.to_owned(), message: message.to_owned(), step: None, retryable: false }
}

/// The run, whosever it is; what is sealed of it stays so.
async fn find(store: &SharedStore, id: RunId) -> Result<Option<Run>> {
    for tenant in store.list_tenants().await? {
        if let Some(run) = store.find_run(tenant.id, id).await? {
            return Ok(Some(run));
        }
    }
    Ok(None)
}

/// Why the run could not be taken.
async fn held(store: &SharedStore, tenant: TenantId, id: RunId) -> Result<Error> {
    let wake_at = store.find_run(tenant, id).await?.and_then(|run| run.wake_at);
    let (message, next) = match wake_at {
        Some(at) => (
            format!("the execution {id} is a server's until {at}, or its tenant's key is not here"),
            "stop the servers, or cancel it with `POST /v1/executions/{id}/cancel`",
        ),
        None => (format!("the execution {id} waits for an answer and harms nobody"), "cancel it with `POST /v1/executions/{id}/cancel`"),
    };
    Ok(Error::new(Kind::Conflict, "run_held", message).next(next))
}
