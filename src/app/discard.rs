//! Ends a run that crashes its servers, for an operator.
//!
//! The write is fenced like every commit of a run: on SQLite by the file lock that a server holds while it lives, on
//! PostgreSQL by the run's lease.

use std::time::Duration;

use serde_json::Value;

use crate::clock::Clock;
use crate::config::Config;
use crate::engine::failing_commit;
use crate::error::{Error, Kind, Result};
use crate::id::{NodeId, RunId, TenantId};
use crate::model::run::Failure;
use crate::model::{JournalEntry, Outcome, Run};
use crate::store::{self, Claim, Commit, Committed, NOTICE, SharedStore};

/// How long this process holds the run.
const LEASE: Duration = Duration::from_secs(30);

/// Fails a run with the code `run_discarded`. Its parent, its job and webhooks are notified as for every end of a run.
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
    // Sealed data of a tenant is written as the tenant's own server would write it.
    let sealed = super::readable(config, clock, store.clone())?;
    let now = clock.now();
    let claim = Claim { node: NodeId::new(clock), now, until: now.after(LEASE), max: 1, only: Some(id), except: Vec::new(), after: None };
    let Some(lease) = sealed.claim_runs(claim).await?.pop() else { return Err(held(store, found.tenant, id).await?) };
    let failure = failure("run_discarded", "an operator ended the execution with `dispatch runs discard`");
    let mut commit: Commit = failing_commit(&lease.run, failure, clock);
    // Whether a webhook subscribes to this is decided when the notification is sent.
    commit.journal.push(JournalEntry { key: NOTICE.into(), outcome: Outcome::Done(Value::Null) });
    match sealed.commit_run(commit).await? {
        Committed::Done => Ok(lease.run),
        Committed::Fenced | Committed::Nudged => Err(held(store, found.tenant, id).await?),
    }
}

fn failure(code: &str, message: &str) -> Failure {
    Failure { code: code.to_owned(), message: message.to_owned(), step: None, retryable: false }
}

/// Finds a run of any tenant; its sealed data stays sealed.
async fn find(store: &SharedStore, id: RunId) -> Result<Option<Run>> {
    for tenant in store.list_tenants().await? {
        if let Some(run) = store.find_run(tenant.id, id).await? {
            return Ok(Some(run));
        }
    }
    Ok(None)
}

/// Explains why the run could not be claimed.
async fn held(store: &SharedStore, tenant: TenantId, id: RunId) -> Result<Error> {
    let wake_at = store.find_run(tenant, id).await?.and_then(|run| run.wake_at);
    let (message, next) = match wake_at {
        Some(at) => (
            format!("the execution {id} is leased by a server until {at}, or its tenant's key is not available"),
            "stop the servers, or cancel it with `POST /v1/executions/{id}/cancel`",
        ),
        None => (format!("the execution {id} is paused and waits for an answer"), "cancel it with `POST /v1/executions/{id}/cancel`"),
    };
    Ok(Error::new(Kind::Conflict, "run_held", message).next(next))
}
