//! `/api/session`: sessions, begun by a Diffie-Hellman handshake (X25519) with an API key.
//!
//! 1. The client sends its tenant, its key, a temporary public key and a nonce; the server answers with its own temporary public key and nonce.
//! 2. Both derive `HKDF-SHA256(X25519, client nonce || server nonce, "dispatched/session/v1" || tenant)`.
//! 3. The client proves that it has that key by sealing its wrapping key under it (AES-256-GCM, bound to the handshake's id).
//!
//! A tenant's first wrapping key is the one that counts: a known text sealed under it is kept, and another key is refused. The key itself is in memory
//! only, and only for tenants whose data are sealed under it ([`crate::store::sealing`]). So that a session outlives the server, it is kept sealed under
//! a key that is derived from the session's token, which is not kept.

use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::{NoContent, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::door::SESSION;
use super::{about, may_refuse};
use crate::auth::{Credentials, ticket};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::extract::Body;
use crate::http::scope::{ApiKeysWrite, FlowsRead, Scope, Scoped, require};
use crate::id::{ApiSessionId, HandshakeId, KeyId, TenantId};
use crate::model::Who;
use crate::secret::{Secret, Vault};
use crate::store::sealing::Encryption;
use crate::store::{Collection, Document, SharedStore, StoreError, forget};

const TAG: &str = "Sessions";
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// How long a session is good.
const LIFE: Duration = Duration::from_secs(3_600);
const SESSION_INFO: &[u8] = b"dispatched/session/v1";
/// What is sealed under a tenant's wrapping key to know it again.
const KNOWN: &[u8] = b"dispatched/check/v1";
const NONCE: usize = 12;
/// What a key is derived of a token for.
const TOKEN_INFO: &[u8] = b"dispatch/session-key/v1";

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/api/session",
        get_with(read, about("getSession", TAG, "Read the session of this call"))
            .delete_with(end, about("endSession", TAG, "End the session of this call")),
    )
}

pub(super) fn public_routes() -> ApiRouter<AppState> {
    handshake_routes().route_layer(map_response(invalid_is_bad))
}

/// The handshake has one status for input that is wrong.
async fn invalid_is_bad(mut response: Response) -> Response {
    if response.status() == StatusCode::UNPROCESSABLE_ENTITY {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    response
}

fn handshake_routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/api/session",
            post_with(begin, |op| {
                may_refuse(about("beginSession", TAG, "Begin a session: the first half of the handshake")(op), &[401, 429])
            }),
        )
        .api_route(
            "/api/session/confirm",
            post_with(confirm, |op| may_refuse(about("confirmSession", TAG, "Begin a session: the second half")(op), &[401, 429])),
        )
}

/// A session as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Session {
    /// Of the token.
    pub hash: String,
    /// The key that began it.
    pub key: KeyId,
    pub expires_at: Timestamp,
    /// The tenant's wrapping key, sealed under the token; of tenants that have a key of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed_key: Option<String>,
}

impl Document for Session {
    const KIND: &'static str = "api_session";
    const TAKEN: &'static str = "the session";
    type Id = ApiSessionId;

    fn due_at(&self) -> Option<Timestamp> {
        Some(self.expires_at)
    }
}

/// A handshake that waits for its second half.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Handshake {
    key: KeyId,
    expires_at: Timestamp,
    /// The session key, sealed by the server.
    sealed: String,
}

impl Document for Handshake {
    const KIND: &'static str = "handshake";
    const TAKEN: &'static str = "the handshake";
    type Id = HandshakeId;

    fn due_at(&self) -> Option<Timestamp> {
        Some(self.expires_at)
    }
}

/// What a tenant's wrapping key is known by: one document of each tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Check {
    sealed: String,
}

impl Document for Check {
    const KIND: &'static str = "wrapping_check";
    const TAKEN: &'static str = "the wrapping key's check";
    type Id = HandshakeId;
}

pub(super) fn sessions(store: &SharedStore, tenant: TenantId) -> Collection<'_, Session> {
    Collection::of(&**store, tenant)
}

/// Forgets sessions and handshakes whose time is over.
pub async fn tidy(store: &SharedStore, now: Timestamp) -> Result<(), StoreError> {
    forget::<Session>(&**store, now).await?;
    forget::<Handshake>(&**store, now).await?;
    Ok(())
}

/// The first half.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "SessionBegin")]
struct Begin {
    tenant_id: TenantId,
    api_key: Secret,
    /// A temporary X25519 key: 32 bytes in base64.
    client_public_key: String,
    /// 16 random bytes in base64.
    nonce: String,
}

/// A handshake as its client names it: its id, and the tenant whose it is, so that the second half can be sought there.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
struct HandshakeName(#[schemars(regex(pattern = "^hs_[0-7][0-9a-hjkmnp-tv-z]{25}(\\.[0-7][0-9a-hjkmnp-tv-z]{25})?$"))] String);

impl HandshakeName {
    fn new(tenant: TenantId, id: HandshakeId) -> Self {
        Self(format!("{id}.{}", tenant.suffix()))
    }

    /// The handshake, and its tenant unless an earlier version of the server gave the name.
    fn parts(&self) -> Option<(HandshakeId, Option<TenantId>)> {
        match self.0.split_once('.') {
            None => Some((self.0.parse().ok()?, None)),
            Some((id, tenant)) => Some((id.parse().ok()?, Some(TenantId::from_suffix(tenant).ok()?))),
        }
    }
}

/// The server's part of the handshake.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "SessionHandshake")]
struct Begun {
    /// To be sent back as it is; it is also the associated data of what the client seals.
    handshake_id: HandshakeName,
    /// 32 bytes in base64.
    server_public_key: String,
    /// 16 bytes in base64.
    nonce: String,
    /// Seconds.
    expires_in: u64,
}

/// The second half.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "SessionConfirm")]
struct Confirm {
    handshake_id: HandshakeName,
    /// The tenant, as in the first half. It may be left out.
    #[serde(default)]
    tenant_id: Option<TenantId>,
    sealed_key: Sealed,
    /// Another wrapping key that shall take this one's place, sealed likewise; its associated data are the handshake's id and `/next`. Takes the scope
    /// `API_KEYS:WRITE`.
    #[serde(default)]
    next_key: Option<Sealed>,
}

/// The wrapping key, sealed under the session key with AES-256-GCM; the handshake's id is the associated data.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "SealedKey")]
struct Sealed {
    /// 12 bytes in base64.
    nonce: String,
    /// 48 bytes in base64: 32 of the key and 16 of the tag.
    ciphertext: String,
}

/// A session that has begun.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SessionStarted")]
struct Started {
    /// The token for the header `Dispatched-Session`; shown once.
    session: String,
    expires_at: Timestamp,
}

/// The session of a call.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "SessionInfo")]
struct Info {
    tenant_id: TenantId,
    scopes: Vec<String>,
    /// Who can read what the tenant keeps.
    encryption: Encryption,
}

/// Bytes of this length from base64.
fn bytes<const N: usize>(text: &str, at: &str, problems: &mut Problems) -> [u8; N] {
    let read = STANDARD.decode(text).ok().and_then(|bytes| <[u8; N]>::try_from(bytes).ok());
    read.unwrap_or_else(|| {
        problems.add(at, format!("expected {N} bytes in base64"));
        [0; N]
    })
}

fn refused() -> Error {
    Error::new(Kind::Unauthenticated, "handshake_failed", "the handshake is not known, was used, or does not prove what it should")
        .next("begin anew at POST /api/session")
}

fn context(tenant: TenantId, id: HandshakeId) -> String {
    format!("handshake/{tenant}/{id}")
}

async fn begin(State(state): State<AppState>, body: Body<Begin>) -> Result<Json<Begun>> {
    let Begin { tenant_id, api_key, client_public_key, nonce } = body.value;
    let mut problems = Problems::default();
    let theirs: [u8; 32] = bytes(&client_public_key, "/client_public_key", &mut problems);
    let their_nonce: [u8; 16] = bytes(&nonce, "/nonce", &mut problems);
    problems.into_result()?;
    let caller = state.auth.authenticate(&Credentials { authorization: None, api_key: Some(api_key) }).await?;
    let Who::Key(key) = caller.who else { return Err(refused()) };
    state.limits.count(caller.who).map_err(|limited| limited.error())?;
    if caller.tenant != tenant_id {
        return Err(refused());
    }
    let (mut secret, mut nonce) = (Zeroizing::new([0u8; 32]), [0u8; 16]);
    state.clock.fill(secret.as_mut_slice());
    state.clock.fill(&mut nonce);
    let ours = StaticSecret::from(*secret);
    let shared = ours.diffie_hellman(&PublicKey::from(theirs));
    if !shared.was_contributory() {
        return Err(Error::invalid_at("/client_public_key", "this key gives no shared secret"));
    }
    let salt = [their_nonce, nonce].concat();
    let info = [SESSION_INFO, tenant_id.to_string().as_bytes()].concat();
    let session_key = derive(shared.as_bytes(), &salt, &info)?;
    let id = HandshakeId::new(&state.clock);
    let sealed = STANDARD.encode(state.vault.seal(session_key.as_slice(), &context(tenant_id, id))?);
    let now = state.clock.now();
    let handshake = Handshake { key, expires_at: now.after(HANDSHAKE), sealed };
    Collection::of(&*state.store, tenant_id).create(id, handshake, now).await?;
    Ok(Json(Begun {
        handshake_id: HandshakeName::new(tenant_id, id),
        server_public_key: STANDARD.encode(PublicKey::from(&ours).as_bytes()),
        nonce: STANDARD.encode(nonce),
        expires_in: HANDSHAKE.as_secs(),
    }))
}

fn derive(secret: &[u8], salt: &[u8], info: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0u8; 32]);
    Hkdf::<Sha256>::new(Some(salt), secret).expand(info, key.as_mut_slice()).map_err(Error::internal)?;
    Ok(key)
}

async fn confirm(State(state): State<AppState>, body: Body<Confirm>) -> Result<Json<Started>> {
    let Confirm { handshake_id: name, tenant_id: given, sealed_key, next_key } = body.value;
    let mut problems = Problems::default();
    let parts = name.parts();
    if parts.is_none() {
        problems.add("/handshake_id", "expected the `handshake_id` that POST /api/session answered");
    }
    let sealed_key = sealed_key.bytes("/sealed_key", &mut problems);
    let next_key = next_key.map(|next| next.bytes("/next_key", &mut problems));
    problems.into_result()?;
    let (handshake_id, named) = parts.ok_or_else(refused)?;
    let tenant_id = match (named, given) {
        (Some(named), Some(given)) if named != given => return Err(refused()),
        (named, given) => named.or(given).ok_or_else(refused)?,
    };
    let handshakes: Collection<'_, Handshake> = Collection::of(&*state.store, tenant_id);
    let handshake = handshakes.find(handshake_id).await?.ok_or_else(refused)?;
    // Whoever deletes it uses it; nobody else does.
    if !handshakes.delete(handshake_id).await? {
        return Err(refused());
    }
    let now = state.clock.now();
    if handshake.body.expires_at <= now {
        return Err(refused());
    }
    let sealed = STANDARD.decode(&handshake.body.sealed).map_err(Error::internal)?;
    let session_key = state.vault.open(&sealed, &context(tenant_id, handshake_id))?;
    let session_key: Zeroizing<[u8; 32]> = Zeroizing::new(session_key.as_slice().try_into().map_err(Error::internal)?);
    let session_key = Vault::new(*session_key, state.clock.clone());
    let open = |sealed: Vec<u8>, bound_to: &str| -> Result<Zeroizing<[u8; 32]>> {
        let opened = session_key.open(&sealed, bound_to).map_err(|_| refused())?;
        Ok(Zeroizing::new(opened.as_slice().try_into().map_err(|_| refused())?))
    };
    let mut wrapping = strong(open(sealed_key, &name.0)?, "/sealed_key")?;
    let next_key = next_key.map(|next| strong(open(next, &format!("{}/next", name.0))?, "/next_key")).transpose()?;
    let own = state.sealing.encryption(tenant_id).await? == Encryption::ZeroKnowledge;
    if !own {
        known(&state, tenant_id, &wrapping).await?;
    }
    if let Some(next) = next_key {
        let holder = state.auth.holder(tenant_id, handshake.body.key).await?.ok_or_else(refused)?;
        require(&holder, ApiKeysWrite::NAME)?;
        let replaced = if own {
            state.sealing.rewrap(tenant_id, &wrapping, &next).await?
        } else {
            replace(&state, tenant_id, &wrapping, &next).await?
        };
        if !replaced {
            return Err(refused());
        }
        wrapping = next;
    }
    let id = ApiSessionId::new(&state.clock);
    let (token, hash) = ticket::mint(&state.clock, SESSION, tenant_id, id.as_u128());
    let expires_at = now.after(LIFE);
    let mut session = Session { hash, key: handshake.body.key, expires_at, sealed_key: None };
    if own {
        // Who listens is sealed as well; until it is read, everything is noted.
        state.engine.parts().listeners.always(tenant_id);
        if !state.sealing.unlock(tenant_id, id, &wrapping, expires_at).await? {
            return Err(refused());
        }
        let sealed = under_token(&state, tenant_id, &token)?.seal(wrapping.as_slice(), &key_context(tenant_id, id))?;
        session.sealed_key = Some(STANDARD.encode(sealed));
    }
    sessions(&state.store, tenant_id).create(id, session, now).await?;
    Ok(Json(Started { session: token.expose().to_owned(), expires_at }))
}

fn key_context(tenant: TenantId, id: ApiSessionId) -> String {
    format!("session-key/{tenant}/{id}")
}

/// What a session's token seals.
fn under_token(state: &AppState, tenant: TenantId, token: &Secret) -> Result<Vault> {
    let key = derive(token.expose().as_bytes(), tenant.to_string().as_bytes(), TOKEN_INFO)?;
    Ok(Vault::new(*key, state.clock.clone()))
}

impl Session {
    /// Has the tenant's keys in memory for as long as the session lives, also when another server began it or this one was restarted.
    /// `false`: the tenant has another wrapping key now.
    pub(super) async fn unlock(&self, state: &AppState, tenant: TenantId, id: ApiSessionId, token: &Secret) -> Result<bool> {
        let Some(sealed) = self.sealed_key.as_ref().filter(|_| !state.sealing.holds(tenant, id)) else { return Ok(true) };
        let sealed = STANDARD.decode(sealed).map_err(Error::internal)?;
        let Ok(wrapping) = under_token(state, tenant, token)?.open(&sealed, &key_context(tenant, id)) else { return Ok(false) };
        let wrapping: Zeroizing<[u8; 32]> = Zeroizing::new(wrapping.as_slice().try_into().map_err(Error::internal)?);
        state.engine.parts().listeners.always(tenant);
        Ok(state.sealing.unlock(tenant, id, &wrapping, self.expires_at).await?)
    }
}

impl Sealed {
    /// The nonce and the ciphertext, as one.
    fn bytes(&self, at: &str, problems: &mut Problems) -> Vec<u8> {
        let nonce: [u8; NONCE] = bytes(&self.nonce, &format!("{at}/nonce"), problems);
        let text: [u8; 48] = bytes(&self.ciphertext, &format!("{at}/ciphertext"), problems);
        [nonce.as_slice(), &text].concat()
    }
}

/// A wrapping key, unless it is that of a buffer which was never filled.
fn strong(key: Zeroizing<[u8; 32]>, at: &str) -> Result<Zeroizing<[u8; 32]>> {
    if key.iter().all(|byte| *byte == 0) {
        return Err(Error::invalid_at(at, "the key consists of zeros; draw 32 random bytes"));
    }
    Ok(key)
}

/// Another wrapping key takes the place of the one that a tenant is known by. `false`: others did the same meanwhile.
async fn replace(state: &AppState, tenant: TenantId, old: &[u8; 32], new: &[u8; 32]) -> Result<bool> {
    known(state, tenant, old).await?;
    let checks: Collection<'_, Check> = Collection::of(&*state.store, tenant);
    let check = checks.find(HandshakeId::from_u128(tenant.as_u128())).await?.ok_or_else(refused)?;
    let sealed = STANDARD.encode(Vault::new(*new, state.clock.clone()).seal(KNOWN, &tenant.to_string())?);
    Ok(checks.change(&check, Check { sealed }, state.clock.now()).await?.is_some())
}

/// Whether this is the tenant's wrapping key; the first one becomes it.
async fn known(state: &AppState, tenant: TenantId, wrapping: &[u8; 32]) -> Result<()> {
    let checks: Collection<'_, Check> = Collection::of(&*state.store, tenant);
    // The one of its tenant.
    let id = HandshakeId::from_u128(tenant.as_u128());
    let (vault, bound_to) = (Vault::new(*wrapping, state.clock.clone()), tenant.to_string());
    if checks.find(id).await?.is_none() {
        let sealed = STANDARD.encode(vault.seal(KNOWN, &bound_to)?);
        match checks.create(id, Check { sealed }, state.clock.now()).await {
            Ok(_) | Err(StoreError::Exists(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let check = checks.find(id).await?.ok_or_else(refused)?;
    let sealed = STANDARD.decode(&check.body.sealed).map_err(Error::internal)?;
    let same = vault.open(&sealed, &bound_to).is_ok_and(|text| text.as_slice() == KNOWN);
    if same { Ok(()) } else { Err(refused()) }
}

async fn read(caller: Scoped<FlowsRead>, State(state): State<AppState>) -> Result<Json<Info>> {
    let encryption = state.sealing.encryption(caller.tenant).await?;
    Ok(Json(Info { tenant_id: caller.tenant, scopes: caller.scopes.clone(), encryption }))
}

async fn end(
    _caller: Scoped<FlowsRead>,
    State(state): State<AppState>,
    headers: axum::http::HeaderMap,
    uri: axum::http::Uri,
) -> Result<NoContent> {
    let token = super::door::session_of("/api/session", &headers, &uri)?;
    let none =
        || Error::new(Kind::Malformed, "no_session", "this call has no session to end").next("send the session in `Dispatched-Session`");
    let ticket = ticket::read(&token.ok_or_else(none)?, &[SESSION]).ok_or_else(none)?;
    let id = ApiSessionId::from_u128(ticket.id);
    sessions(&state.store, ticket.tenant).delete(id).await?;
    state.sealing.let_go(ticket.tenant, id);
    Ok(NoContent)
}
