//! Finds data in a database that is sealed under a server's master key.

use crate::error::Result;
use crate::id::TenantId;
use crate::model::RunState;
use crate::store::sealing::is_managed;
use crate::store::{DocumentQuery, RunFilter, Store, StoreResult};

/// Kinds of documents that have a member `sealed`, and their names for people.
const DOCUMENTS: [(&str, &str); 3] = [("webhook", "webhooks"), ("trigger", "triggers with secrets"), ("client_token", "client tokens")];
/// Documents of a kind that are looked at.
const MAX_DOCUMENTS: u32 = 1_000;

/// Returns what kind of sealed data there is, the first one found. Without the key an unfinished run may be unable to go on, whether or not it has
/// secrets.
pub(super) async fn find(store: &dyn Store) -> Result<Option<&'static str>> {
    for tenant in store.list_tenants().await? {
        if let Some(what) = find_of(store, tenant.id).await? {
            return Ok(Some(what));
        }
    }
    Ok(None)
}

async fn find_of(store: &dyn Store, tenant: TenantId) -> StoreResult<Option<&'static str>> {
    if is_managed(store, tenant).await? {
        return Ok(Some("encrypted data of tenants"));
    }
    if !store.list_credentials(tenant).await?.is_empty() {
        return Ok(Some("credentials of providers"));
    }
    if store.list_secrets(tenant).await?.iter().any(|secret| secret.sealed.is_some()) {
        return Ok(Some("secrets"));
    }
    for (kind, name) in DOCUMENTS {
        let query = DocumentQuery { limit: MAX_DOCUMENTS, ..DocumentQuery::default() };
        if store.list_documents(tenant, kind, query).await?.iter().any(|row| is_sealed(&row.body)) {
            return Ok(Some(name));
        }
    }
    let states = RunState::ALL.into_iter().filter(|state| !state.is_terminal()).collect();
    let unfinished = store.list_runs(tenant, RunFilter { states, limit: 1, ..RunFilter::default() }).await?;
    Ok((!unfinished.is_empty()).then_some("unfinished executions"))
}

/// Whether a member `sealed` of a document in JSON has a value.
fn is_sealed(body: &str) -> bool {
    ["\"sealed\":\"", "\"sealed\":["].iter().any(|start| body.contains(start))
}
