//! `/v1/api-keys`: the tenant's own keys.

use std::collections::HashMap;

use aide::axum::ApiRouter;
use aide::axum::routing::{delete_with, get_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{about, limits};
use crate::auth::{Auth, KeyRequest};
use crate::clock::Timestamp;
use crate::engine::Engine;
use crate::error::Result;
use crate::http::AppState;
use crate::http::extract::{Body, Id, IdempotencyKey, InPath};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::scope::{ApiKeysRead, ApiKeysWrite, Scoped};
use crate::id::KeyId;
use crate::model::UsageLimits;
use crate::model::object::from_object;
use crate::model::quota::{PeriodBudget, RateLimit};
use crate::store::{ApiKey, SharedStore};

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
    /// Caps on what may be spent with it, at most one for each period; none when absent.
    #[serde(default)]
    budgets: Vec<PeriodBudget>,
    /// How often it may call; no limit when absent.
    #[serde(default, deserialize_with = "from_object")]
    rate_limit: RateLimit,
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
    /// Caps on what may be spent with it; `GET /v1/api-keys/{keyId}/limits` tells how much is used.
    budgets: Vec<PeriodBudget>,
    rate_limit: RateLimit,
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

impl Row {
    fn new(key: ApiKey, limits: UsageLimits) -> Self {
        let ApiKey { id, name, hint, scopes, created_at, expires_at, revoked_at, .. } = key;
        let UsageLimits { budgets, rate_limit } = limits;
        Self { id, name, hint, scopes, created_at, expires_at, revoked_at, budgets, rate_limit }
    }
}

async fn list(caller: Scoped<ApiKeysRead>, State(auth): State<Auth>, State(store): State<SharedStore>) -> Result<Json<Rows>> {
    let keys = auth.list_keys(caller.tenant).await?;
    let mut limited: HashMap<KeyId, UsageLimits> =
        store.list_limits(caller.tenant).await?.into_iter().filter_map(|row| Some((row.key?, row.limits))).collect();
    let rows = keys.into_iter().map(|key| {
        let limits = limited.remove(&key.id).unwrap_or_default();
        Row::new(key, limits)
    });
    Ok(Json(Rows { data: rows.collect() }))
}

async fn create(
    caller: Scoped<ApiKeysWrite>,
    State(auth): State<Auth>,
    State(engine): State<Engine>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<NewRow>> {
    let call = Call { tenant: caller.tenant, route: "POST /v1/api-keys", key, request: fingerprint(&body.raw), secret: true };
    let Input { name, scopes, expires_at, budgets, rate_limit } = body.value;
    let limits = UsageLimits { budgets, rate_limit };
    receipts
        .once(call, move |seed| async move {
            limits::check(&limits)?;
            limits::may_limit(&engine, &caller).await?;
            let made = auth.create_key(&caller, KeyRequest { id: KeyId::from_u128(seed), name, scopes, expires_at }).await?;
            if !limits.is_empty() {
                // The key is shown only after this, so nobody can use it without its limits.
                engine.quotas().put(caller.tenant, Some(made.row.id), limits.clone()).await?;
            }
            Ok(NewRow { row: Row::new(made.row, limits), key: made.key.expose().to_owned() })
        })
        .await
}

async fn revoke(caller: Scoped<ApiKeysWrite>, State(auth): State<Auth>, Id(id): Id<KeyId>) -> Result<Json<Revoked>> {
    if !auth.revoke_key(caller.tenant, id).await? {
        return Err(KeyId::missing());
    }
    Ok(Json(Revoked { id, revoked: true }))
}
