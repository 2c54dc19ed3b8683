//! `/api/session`: sessions, begun by a Diffie-Hellman handshake (X25519) with an API key.
//!
//! 1. The client sends its tenant, its key, a temporary public key and a nonce; the server answers with its own temporary public key and nonce.
//! 2. Both derive `HKDF-SHA256(X25519, client nonce || server nonce, "dispatched/session/v1" || tenant)`.
//! 3. The client proves that it has that key by sealing its wrapping key under it (AES-256-GCM, bound to the handshake's id).
//!
//! A tenant's first wrapping key is the one that counts: a known text sealed under it is kept, and another key is refused. The key itself is not.

use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use axum::response::NoContent;
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
use crate::http::scope::{FlowsRead, Scoped};
use crate::id::{ApiSessionId, HandshakeId, KeyId, TenantId};
use crate::model::Who;
use crate::secret::{Secret, Vault};
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

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/api/session",
        get_with(read, about("getSession", TAG, "Read the session of this call"))
            .delete_with(end, about("endSession", TAG, "End the session of this call")),
    )
}

pub(super) fn public_routes() -> ApiRouter<AppState> {
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

/// The server's part of the handshake.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "SessionHandshake")]
struct Begun {
    handshake_id: HandshakeId,
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
    handshake_id: HandshakeId,
    tenant_id: TenantId,
    sealed_key: Sealed,
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
        handshake_id: id,
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
    let Confirm { handshake_id, tenant_id, sealed_key } = body.value;
    let mut problems = Problems::default();
    let nonce: [u8; NONCE] = bytes(&sealed_key.nonce, "/sealed_key/nonce", &mut problems);
    let text: [u8; 48] = bytes(&sealed_key.ciphertext, "/sealed_key/ciphertext", &mut problems);
    problems.into_result()?;
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
    let opened = Vault::new(*session_key, state.clock.clone()).open(&[nonce.as_slice(), &text].concat(), &handshake_id.to_string());
    let wrapping = opened.map_err(|_| refused())?;
    let wrapping: Zeroizing<[u8; 32]> = Zeroizing::new(wrapping.as_slice().try_into().map_err(Error::internal)?);
    known(&state, tenant_id, &wrapping).await?;
    let id = ApiSessionId::new(&state.clock);
    let (token, hash) = ticket::mint(&state.clock, SESSION, tenant_id, id.as_u128());
    let expires_at = now.after(LIFE);
    sessions(&state.store, tenant_id).create(id, Session { hash, key: handshake.body.key, expires_at }, now).await?;
    Ok(Json(Started { session: token.expose().to_owned(), expires_at }))
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

async fn read(caller: Scoped<FlowsRead>) -> Json<Info> {
    Json(Info { tenant_id: caller.tenant, scopes: caller.scopes.clone() })
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
    sessions(&state.store, ticket.tenant).delete(ApiSessionId::from_u128(ticket.id)).await?;
    Ok(NoContent)
}
