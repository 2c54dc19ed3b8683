//! Who a page is: a client token, then a session, each bound to the token's origins.

use std::time::Duration;

use axum::extract::FromRef;
use axum::http::HeaderMap;
use axum::http::header::ORIGIN;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tokens::{self, ClientToken};
use crate::auth::ticket;
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::limits::Limits;
use crate::id::{ClientTokenId, ConversationId, RunId, SessionId, TenantId, VisitorId};
use crate::model::{Caller, Who};
use crate::secret::{Secret, Vault};
use crate::store::{Collection, Document, Kept, SharedStore};

/// What every session's text begins with.
pub(super) const SESSION: &str = "sess_";

/// A page's session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Session {
    pub token: ClientTokenId,
    pub hash: String,
    /// The flow or agent that it talks to.
    pub target: String,
    pub conversation: ConversationId,
    pub visitor: Option<VisitorId>,
    /// Who the page's user was proven to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_user: Option<String>,
    pub expires_at: Timestamp,
    /// Sent so far.
    pub messages: u32,
    pub minute: Window,
    pub hour: Window,
    /// The page's tools, as they were sent last, under the fingerprint that the page gave them.
    pub client_tools: Vec<Value>,
    pub fingerprint: Option<String>,
    /// The execution that answers the last message.
    pub running: Option<RunId>,
    /// Number of feedback calls.
    #[serde(default)]
    pub feedback: u32,
}

/// How many messages came since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    pub since: Timestamp,
    pub count: u32,
}

impl Window {
    /// Counts one more. Full: how long to wait.
    fn count(&mut self, now: Timestamp, length: Duration, most: u32) -> Result<(), Duration> {
        if now.since(self.since) >= length {
            *self = Self { since: now, count: 0 };
        }
        if self.count >= most {
            return Err(length.saturating_sub(now.since(self.since)));
        }
        self.count += 1;
        Ok(())
    }
}

impl Document for Session {
    const KIND: &'static str = "client_session";
    type Id = SessionId;

    fn parent(&self) -> Option<String> {
        Some(self.token.to_string())
    }

    fn due_at(&self) -> Option<Timestamp> {
        Some(self.expires_at)
    }
}

/// Proves pages.
#[derive(Clone)]
pub(in crate::http) struct Door {
    pub(super) store: SharedStore,
    pub(super) clock: Clock,
    pub(super) vault: Vault,
    pub(super) limits: Limits,
}

impl FromRef<AppState> for Door {
    fn from_ref(state: &AppState) -> Self {
        Self { store: state.store.clone(), clock: state.clock.clone(), vault: state.vault.clone(), limits: state.limits.clone() }
    }
}

/// A page that is known by its token.
pub(super) struct Page {
    pub tenant: TenantId,
    pub token: Kept<ClientToken>,
}

/// A page with a session.
pub(super) struct Guest {
    pub tenant: TenantId,
    pub token: Kept<ClientToken>,
    pub session: Kept<Session>,
}

/// What a session's key opens: the routes for which the guard lets pages in.
const SCOPES: [&str; 3] = ["AGENTS:EXECUTE", "AGENTS:READ", "FLOWS:READ"];

impl Guest {
    pub fn caller(&self) -> Caller {
        let scopes = SCOPES.iter().map(|scope| (*scope).to_owned()).collect();
        Caller { tenant: self.tenant, who: Who::Session(self.session.id), scopes }
    }
}

fn unknown_token() -> Error {
    Error::new(Kind::Unauthenticated, "invalid_client_token", "the client token is not valid")
        .next("tokens are made at POST /v1/client-tokens; one that was deleted, replaced or made inactive is refused at once")
}

fn expired() -> Error {
    Error::new(Kind::Unauthenticated, "session_expired", "the session has expired or never was")
        .next("open another at POST /v1/client/init")
}

impl Door {
    /// The page that holds a client token. Errors: `invalid_client_token` (401), `origin_not_allowed` (403), `rate_limited` (429).
    pub(super) async fn page(&self, token: &Secret, headers: &HeaderMap) -> Result<Page> {
        let ticket = ticket::read(token, &tokens::PREFIXES).ok_or_else(unknown_token)?;
        let id = ClientTokenId::from_u128(ticket.id);
        let found = Collection::<ClientToken>::of(&*self.store, ticket.tenant).find(id).await?;
        let token = found.filter(|token| ticket.is(&token.body.hash) && token.body.settings.is_active).ok_or_else(unknown_token)?;
        self.admit(&token, headers)?;
        self.limits.count(Who::ClientToken(id)).map_err(|limited| limited.error())?;
        Ok(Page { tenant: ticket.tenant, token })
    }

    /// The page that holds a session. Errors: `session_expired` (401), `origin_not_allowed` (403), `rate_limited` (429).
    pub(super) async fn guest(&self, session: &Secret, headers: &HeaderMap) -> Result<Guest> {
        let guest = self.proven(session, headers).await?;
        self.limits.count(guest.caller().who).map_err(|limited| limited.error())?;
        Ok(guest)
    }

    async fn proven(&self, session: &Secret, headers: &HeaderMap) -> Result<Guest> {
        let ticket = ticket::read(session, &[SESSION]).ok_or_else(expired)?;
        let (tenant, id) = (ticket.tenant, SessionId::from_u128(ticket.id));
        let found = self.sessions(tenant).find(id).await?;
        let session = found.filter(|session| ticket.is(&session.body.hash)).ok_or_else(expired)?;
        if session.body.expires_at <= self.clock.now() {
            return Err(expired());
        }
        // A session lives no longer than its token, and stands still while its token is not active.
        let token = Collection::<ClientToken>::of(&*self.store, tenant).find(session.body.token).await?;
        let token = token.filter(|token| token.body.settings.is_active).ok_or_else(expired)?;
        self.admit(&token, headers)?;
        Ok(Guest { tenant, token, session })
    }

    /// The caller behind a session's text that came as a key, on a route that is open to pages. The guard counts the call.
    pub async fn caller(&self, session: &Secret, headers: &HeaderMap) -> Result<Caller> {
        self.proven(session, headers).await.map(|guest| guest.caller())
    }

    /// Whether a text that came as a key is a session's.
    pub fn is_session(key: &Secret) -> bool {
        key.expose().starts_with(SESSION)
    }

    /// Counts a new session or visitor. Errors: `rate_limited` (429).
    pub(super) fn count_new_session(&self, token: ClientTokenId) -> Result<()> {
        self.limits.count_new_session(token)
    }

    /// Refuses a message of a page whose client token stores as much as it may. Errors: `page_storage_exceeded` (429).
    pub(super) async fn check_storage(&self, guest: &Guest) -> Result<()> {
        let Some(limit) = self.limits.page_bytes() else { return Ok(()) };
        let stored = self.store.page_bytes(guest.tenant, guest.token.id).await?;
        if stored < limit {
            return Ok(());
        }
        let message = format!("the executions of this client token store {stored} bytes; {limit} are allowed");
        Err(Error::new(Kind::Limited, "page_storage_exceeded", message)
            .retry_after(Duration::from_secs(3_600))
            .next("its owner deletes executions at POST /v1/executions/bulk-delete, sets a retention at PUT /v1/retention, or raises --page-storage-mib"))
    }

    fn admit(&self, token: &Kept<ClientToken>, headers: &HeaderMap) -> Result<()> {
        if token.body.admits(headers.get(ORIGIN).and_then(|origin| origin.to_str().ok())) {
            return Ok(());
        }
        Err(Error::new(Kind::Forbidden, "origin_not_allowed", "this web origin may not use this client token")
            .next("its owner allows origins with `allowedOrigins` at PUT /v1/client-tokens/{id}"))
    }

    pub(super) fn sessions(&self, tenant: TenantId) -> Collection<'_, Session> {
        Collection::of(&*self.store, tenant)
    }

    /// Changes a session, whoever else changes it at the same time. `edit` may refuse.
    pub(super) async fn change(&self, guest: &mut Guest, edit: impl Fn(&mut Session) -> Result<()>) -> Result<()> {
        let sessions = self.sessions(guest.tenant);
        guest.session = sessions.amend(guest.session.clone(), self.clock.now(), edit).await?.ok_or_else(expired)?;
        Ok(())
    }

    /// Counts one message of a session, and lets it live on. Errors: `session_message_limit`, `rate_limited` (429).
    pub(super) async fn count_message(&self, guest: &mut Guest) -> Result<()> {
        let settings = guest.token.body.settings.clone();
        let now = self.clock.now();
        let idle = Duration::from_secs(60 * u64::from(settings.session_idle_timeout_minutes));
        self.change(guest, |session| {
            if session.messages >= settings.max_messages_per_session {
                return Err(
                    Error::new(Kind::Limited, "session_message_limit", "Session message limit reached").next("open another session")
                );
            }
            session.messages += 1;
            session.expires_at = now.after(idle);
            let minute = session.minute.count(now, Duration::from_secs(60), settings.rate_limit_per_minute);
            let hour = session.hour.count(now, Duration::from_secs(3_600), settings.rate_limit_per_hour);
            minute.and(hour).map_err(|wait| {
                Error::new(Kind::Limited, "rate_limited", "this session sent too many messages")
                    .retry_after(wait)
                    .next("wait as Retry-After says, then send it again")
            })
        })
        .await
    }
}
