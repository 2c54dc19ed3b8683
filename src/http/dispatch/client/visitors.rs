//! Visitors: people who come back to a page, known by a text that their browser keeps.

use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TAG;
use super::door::{Door, Guest};
use super::identity::Proof;
use crate::auth::ticket;
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::extract::Params;
use crate::id::{ClientTokenId, ConversationId, TenantId, VisitorId};
use crate::secret::Secret;
use crate::store::{Collection, Document, Kept, StoreError};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/v1/client/visitor/reset",
        post_with(reset, about("resetVisitor", TAG, "Forget a visitor: the token in `X-Visitor-Token` ends at once")),
    )
}

const PREFIX: &str = "vt_";
/// The header that carries a visitor's token.
const HEADER: &str = "x-visitor-token";
/// A visitor who has not been here for so long is a new one.
const LIFE: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Somebody who comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Visitor {
    token: ClientTokenId,
    /// Empty for somebody whose identity was proven: they prove it again.
    hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_user: Option<String>,
    pub expires_at: Timestamp,
    /// Oldest first.
    pub conversations: Vec<ConversationId>,
}

impl Document for Visitor {
    const KIND: &'static str = "visitor";
    type Id = VisitorId;

    /// A proven user is the same visitor on every device.
    fn place(&self) -> Option<String> {
        self.end_user.as_ref().map(|user| place(self.token, user))
    }

    fn parent(&self) -> Option<String> {
        Some(self.token.to_string())
    }

    fn due_at(&self) -> Option<Timestamp> {
        Some(self.expires_at)
    }
}

fn place(token: ClientTokenId, user: &str) -> String {
    format!("{token}\n{user}")
}

/// A visitor was forgotten.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "VisitorReset")]
struct Reset {
    /// Always true.
    reset: bool,
}

/// Creates a visitor and the token that proves it. Errors: `rate_limited` (429).
pub(super) async fn create(door: &Door, tenant: TenantId, token: ClientTokenId) -> Result<(Kept<Visitor>, Secret)> {
    door.count_new_session(token)?;
    let id = VisitorId::new(&door.clock);
    let (text, hash) = ticket::mint(&door.clock, PREFIX, tenant, id.as_u128());
    let now = door.clock.now();
    let visitor = Visitor { token, hash, end_user: None, expires_at: now.after(LIFE), conversations: Vec::new() };
    Ok((Collection::of(&*door.store, tenant).create(id, visitor, now).await?, text))
}

/// The visitor of this token whose text this is.
pub(super) async fn find(door: &Door, tenant: TenantId, token: ClientTokenId, text: &Secret) -> Result<Option<Kept<Visitor>>> {
    let Some(ticket) = ticket::read(text, &[PREFIX]).filter(|ticket| ticket.tenant == tenant) else { return Ok(None) };
    let found = Collection::<Visitor>::of(&*door.store, tenant).find(VisitorId::from_u128(ticket.id)).await?;
    let real = |visitor: &Kept<Visitor>| {
        ticket.is(&visitor.body.hash) && visitor.body.token == token && visitor.body.expires_at > door.clock.now()
    };
    Ok(found.filter(real))
}

/// The visitor whose identity was proven, new or known.
pub(super) async fn of_user(door: &Door, tenant: TenantId, token: ClientTokenId, user: &str) -> Result<Kept<Visitor>> {
    let (all, now) = (Collection::of(&*door.store, tenant), door.clock.now());
    if let Some(known) = all.find_at(&place(token, user)).await? {
        return Ok(known);
    }
    let expires_at = now.after(LIFE);
    let visitor = Visitor { token, hash: String::new(), end_user: Some(user.to_owned()), expires_at, conversations: Vec::new() };
    match all.create(VisitorId::new(&door.clock), visitor, now).await {
        // Two of the user's devices came at once.
        Err(StoreError::Exists(_)) => all.find_at(&place(token, user)).await?.ok_or_else(required),
        made => Ok(made?),
    }
}

/// The visitor whom a request proves: by an identity proof if it carries one that is read here, by a visitor's token otherwise.
/// Errors: those of [`Proof::user`]; `visitor_token_required` (401).
pub(super) async fn proven(door: &Door, guest: &Guest, headers: &HeaderMap) -> Result<Kept<Visitor>> {
    let (tenant, token) = (guest.tenant, guest.token.id);
    if let Some(user) = Proof::of(headers).user(door, tenant, &guest.token.body.settings).await? {
        return of_user(door, tenant, token, &user).await;
    }
    let text = headers.get(HEADER).and_then(|value| value.to_str().ok()).map(Secret::new);
    let found = match &text {
        Some(text) => find(door, tenant, token, text).await?,
        None => None,
    };
    found.ok_or_else(required)
}

fn required() -> Error {
    Error::new(Kind::Unauthenticated, "visitor_token_required", "Visitor token required")
        .next("send the `visitor.token` of POST /v1/client/init in the header X-Visitor-Token")
}

/// Lets a visitor come back to a conversation.
pub(super) async fn remember(door: &Door, tenant: TenantId, visitor: &Kept<Visitor>, id: ConversationId) -> Result<()> {
    let max_conversations = door.limits.options().conversations.max_per_visitor;
    change(door, tenant, visitor, |conversations| {
        conversations.push(id);
        let surplus = conversations.len().saturating_sub(max_conversations);
        conversations.drain(..surplus);
    })
    .await
}

/// Changes what a visitor can come back to.
pub(super) async fn change(door: &Door, tenant: TenantId, visitor: &Kept<Visitor>, edit: impl Fn(&mut Vec<ConversationId>)) -> Result<()> {
    let now = door.clock.now();
    let edit = |visitor: &mut Visitor| {
        visitor.expires_at = now.after(LIFE);
        edit(&mut visitor.conversations);
        Ok::<_, Error>(())
    };
    // Whoever was forgotten meanwhile has nothing to come back to.
    Collection::of(&*door.store, tenant).amend(visitor.clone(), now, edit).await.map(drop)
}

/// What a reset is about, besides the headers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "VisitorResetQuery")]
struct ResetQuery {
    /// The page's session; with it the user whom `X-Identity-Proof` proves is forgotten, on every device.
    session_id: Option<String>,
}

async fn reset(State(door): State<Door>, Params(query): Params<ResetQuery>, headers: HeaderMap) -> Result<Json<Reset>> {
    let proof = Proof::of(&headers);
    if let Some(session) = query.session_id {
        let guest = door.guest(&Secret::new(session), &headers).await?;
        let (tenant, token) = (guest.tenant, &guest.token);
        if let Some(user) = proof.user(&door, tenant, &token.body.settings).await? {
            let all = Collection::<Visitor>::of(&*door.store, tenant);
            if let Some(visitor) = all.find_at(&place(token.id, &user)).await? {
                all.delete(visitor.id).await?;
            }
        }
    } else if proof.is_shown() {
        return Err(Error::new(Kind::Malformed, "invalid_query", "an identity proof is read for a session only")
            .next("add `sessionId` to the query"));
    }
    let text = headers.get(HEADER).and_then(|value| value.to_str().ok()).map(Secret::new);
    if let Some(ticket) = text.and_then(|text| ticket::read(&text, &[PREFIX])) {
        let all = Collection::<Visitor>::of(&*door.store, ticket.tenant);
        let found = all.find(VisitorId::from_u128(ticket.id)).await?;
        if let Some(visitor) = found.filter(|visitor| ticket.is(&visitor.body.hash)) {
            all.delete(visitor.id).await?;
        }
    }
    Ok(Json(Reset { reset: true }))
}
