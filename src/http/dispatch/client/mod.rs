//! `/v1/client/…`: what pages call, without a secret key.
//!
//! A page holds a client token, which names the flows and agents that it may run and the web origins that may use it. With it the page opens a
//! session; the session's text proves the page in every later call. What runs is always saved, never sent along; what may be answered is only
//! what the session's own executions ask of their end user.
//!
//! `tokens` is the owner's side; `door` proves sessions; the other files are handlers, one per noun.

mod chat;
mod conversations;
mod door;
mod feedback;
mod init;
mod tokens;
mod visitors;

use aide::axum::ApiRouter;

pub(in crate::http) use self::door::{Door, sweep};
use crate::http::AppState;

/// The owner's routes.
pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().merge(tokens::routes())
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

/// Tells the pages' operations from the owner's.
pub(in crate::http) const TAG: &str = "Pages";
