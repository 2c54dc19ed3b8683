//! `/v1/api-keys`: the tenant's own keys.

use aide::axum::ApiRouter;
use aide::axum::routing::{delete_with, get_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::about;
use crate::auth::{Auth, KeyRequest};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::http::AppState;
use crate::http::extract::{Body, Id, IdempotencyKey, InPath};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::scope::{ApiKeysRead, ApiKeysWrite, Scoped};
use crate::id::KeyId;
use crate::store::ApiKey;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/api-keys",
            get_with(list, about("listApiKeys", "API keys", "List API keys, oldest first"))
                .post_with(create, about("createApiKey", "API keys", "Make an API key; it is shown once")),
        )
        .api_route("/v1/api-keys/{keyId}", delete_with(revoke, about("revokeApiKey", "API keys", "Revoke an API key at once")))
}

/// A key to make.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ApiKeyInput")]
struct Input {
    /// 1 to 100 characters.
    #[schemars(length(min = 1, max = 100))]
    name: String,
    /// What it may do: `FLOWS:READ`, `FLOWS:*`, `*`. Never more than the key that makes it.
    #[schemars(length(min = 1))]
    scopes: Vec<String>,
    /// When it stops working; never when absent.
    expires_at: Option<Timestamp>,
}

/// An API key, without its text.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ApiKey")]
struct Row {
    id: KeyId,
    name: String,
    /// How the key begins.
    hint: String,
    scopes: Vec<String>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
}

/// A new API key.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "NewApiKey")]
struct NewRow {
    #[serde(flatten)]
    row: Row,
    /// The key. It is not stored and cannot be shown again.
    key: String,
}

/// The tenant's keys.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ApiKeyList")]
struct Rows {
    data: Vec<Row>,
}

/// What was revoked.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "RevokedApiKey")]
struct Revoked {
    id: KeyId,
    /// Always true.
    revoked: bool,
}

impl From<ApiKey> for Row {
    fn from(key: ApiKey) -> Self {
        let ApiKey { id, name, hint, scopes, created_at, expires_at, revoked_at, .. } = key;
        Self { id, name, hint, scopes, created_at, expires_at, revoked_at }
    }
}

async fn list(caller: Scoped<ApiKeysRead>, State(auth): State<Auth>) -> Result<Json<Rows>> {
    let keys = auth.list_keys(caller.tenant).await?;
    Ok(Json(Rows { data: keys.into_iter().map(Row::from).collect() }))
}

async fn create(
    caller: Scoped<ApiKeysWrite>,
    State(auth): State<Auth>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<NewRow>> {
    let call = Call { tenant: caller.tenant, route: "POST /v1/api-keys", key, request: fingerprint(&body.raw), secret: true };
    let Input { name, scopes, expires_at } = body.value;
    receipts
        .once(call, move |seed| async move {
            let made = auth.create_key(&caller, KeyRequest { id: KeyId::from_u128(seed), name, scopes, expires_at }).await?;
            Ok(NewRow { row: made.row.into(), key: made.key.expose().to_owned() })
        })
        .await
}

async fn revoke(caller: Scoped<ApiKeysWrite>, State(auth): State<Auth>, Id(id): Id<KeyId>) -> Result<Json<Revoked>> {
    if !auth.revoke_key(caller.tenant, id).await? {
        return Err(KeyId::missing());
    }
    Ok(Json(Revoked { id, revoked: true }))
}
