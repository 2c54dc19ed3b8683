//! The dispatch surface: the shape of Runtype's API, for unchanged clients.
//!
//! `document` and `agent_document` turn its words into a flow; the other files are handlers, one per noun. To add a noun: a file with
//! `routes()`, one line below.

pub mod agent_document;
mod agent_hash;
mod agent_versions;
mod agents;
mod api_keys;
mod assets;
mod batches;
mod beat;
mod bounds;
mod client;
mod credentials;
mod deletion;
pub mod document;
mod embed;
mod ensure;
mod evals;
mod execute;
mod executions;
mod flow_steps;
mod flow_versions;
mod flows;
mod forget;
mod handling;
mod limits;
mod mcp;
mod named;
mod prompt_tools;
mod provenance;
mod records;
mod releases;
mod retention;
mod saved;
mod schedules;
mod secrets;
mod step_results;
mod tools;
mod unavailable;
mod usage;
mod validate;

use aide::axum::ApiRouter;

pub use self::beat::beat;
pub(super) use self::client::{Door, TAG as PAGES, is_of_pages, takes_sessions};
pub(super) use self::execute::{DispatchRequest, PublicEvent};
pub use self::execute::{Fold, Outcome};
pub(super) use self::mcp::routes as mcp_routes;
pub use self::named::SavedFlows;
use super::{AppState, about, body_optional};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::store::SharedStore;

/// Every route of this surface that needs a secret key.
pub fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .merge(execute::routes())
        .merge(executions::routes())
        .merge(agents::routes())
        .merge(agent_versions::routes())
        .merge(flows::routes())
        .merge(ensure::routes())
        .merge(flow_steps::routes())
        .merge(flow_versions::routes())
        .merge(records::routes())
        .merge(api_keys::routes())
        .merge(credentials::routes())
        .merge(secrets::routes())
        .merge(client::routes())
        .merge(tools::routes())
        .merge(schedules::routes())
        .merge(assets::routes())
        .merge(batches::routes())
        .merge(evals::routes())
        .merge(releases::routes())
        .merge(step_results::routes())
        .merge(forget::routes())
        .merge(limits::routes())
        .merge(usage::routes())
        .merge(retention::routes())
        .merge(validate::routes())
}

/// Every route of this surface that pages call without a key.
pub fn public_routes() -> ApiRouter<AppState> {
    client::public_routes().merge(assets::public_routes())
}

/// Forgets what has expired; how many things.
pub async fn tidy(store: &SharedStore, now: Timestamp) -> Result<u64> {
    Ok(client::tidy(store, now).await? + schedules::tidy(store, now).await? + store.purge_quotas(now).await?)
}
