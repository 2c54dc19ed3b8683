//! `/v1/client/…`: what pages call, without a secret key.
//!
//! A page holds a client token, which names the flows and agents that it may run and the web origins that may use it. With it the page opens a
//! session; the session's text proves the page in every later call. What runs is always saved, never sent along; what may be answered is only
//! what the session's own executions ask of their end user.
//!
//! `tokens` is the owner's side, `token_rows` how it is shown; `door` authenticates sessions; `bounds` limits what pages can store; `history` and `turns` store conversations. The other
//! files are handlers, one per noun.

mod bounds;
mod chat;
mod conversations;
mod door;
mod feedback;
mod history;
mod identity;
mod init;
mod owned;
mod token_rows;
mod tokens;
mod turns;
mod visitors;

use aide::axum::ApiRouter;

pub(in crate::http) use self::door::Door;
use crate::clock::Timestamp;
use crate::http::AppState;
use crate::store::{SharedStore, StoreResult, forget};

/// The owner's routes.
pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().merge(tokens::routes()).merge(owned::routes())
}

/// The pages' routes.
pub(super) fn public_routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .merge(init::routes())
        .merge(chat::routes())
        .merge(feedback::routes())
        .merge(conversations::routes())
        .merge(visitors::routes())
}

/// Deletes expired sessions, visitors, conversations and feedback; returns how many.
pub(super) async fn tidy(store: &SharedStore, now: Timestamp) -> StoreResult<u64> {
    let sessions = forget::<door::Session>(&**store, now).await?;
    let visitors = forget::<visitors::Visitor>(&**store, now).await?;
    let feedback = forget::<feedback::Feedback>(&**store, now).await?;
    Ok(sessions + visitors + feedback + conversations::forget(store, now).await?)
}

/// Routes of keys on which a session may stand in a key's place. Each looks whose the execution is.
const OPEN_TO_SESSIONS: [&str; 3] =
    ["/v1/agents/{agentId}/approve", "/v1/agents/{agentId}/executions/{executionId}/events", "/v1/executions/{executionId}/events"];

/// Whether the guard takes a session for a key on this route.
pub(in crate::http) fn takes_sessions(route: &str) -> bool {
    OPEN_TO_SESSIONS.contains(&route)
}

/// Whether pages call this route: what may be done there is bound to a client token's origins, not to the operator's list.
pub(in crate::http) fn is_of_pages(route: &str) -> bool {
    route.starts_with("/v1/client/") || takes_sessions(route)
}

/// Tells the pages' operations from the owner's.
pub(in crate::http) const TAG: &str = "Pages";
