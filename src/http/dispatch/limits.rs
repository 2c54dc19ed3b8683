//! `/v1/limits` and `/v1/api-keys/{keyId}/limits`: budgets and rates of the tenant and of its keys.

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;

use super::about;
use crate::auth::Auth;
use crate::clock::Timestamp;
use crate::engine::{BudgetUse, Engine};
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, InPath};
use crate::http::scope::{ApiKeysRead, ApiKeysWrite, Scoped};
use crate::id::{KeyId, TenantId};
use crate::model::quota::{BudgetPeriod, RateLimit};
use crate::model::{Caller, UsageLimits};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/limits",
            get_with(read_of_tenant, about("getLimits", "Limits", "Read the tenant's budgets and rates, and how much is used"))
                .put_with(put_of_tenant, about("putLimits", "Limits", "Replace the tenant's budgets and rates")),
        )
        .api_route(
            "/v1/api-keys/{keyId}/limits",
            get_with(read_of_key, about("getApiKeyLimits", "Limits", "Read an API key's budgets and rates, and how much is used"))
                .put_with(put_of_key, about("putApiKeyLimits", "Limits", "Replace an API key's budgets and rates")),
        )
}

/// Limits, and how much of the budgets is used.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "LimitsStatus")]
struct Status {
    /// The key whose limits these are; null: the tenant's.
    key_id: Option<KeyId>,
    budgets: Vec<BudgetStatus>,
    rate_limit: RateLimit,
}

/// A budget, and how much of it is used.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct BudgetStatus {
    period: BudgetPeriod,
    /// US dollars; null: no cap.
    max_cost: Option<f64>,
    max_tokens: Option<u64>,
    /// US dollars of this period, those set aside for model calls under way included.
    used_cost: f64,
    used_tokens: u64,
    /// When the next period begins; null: never.
    resets_at: Option<Timestamp>,
}

impl From<BudgetUse> for BudgetStatus {
    #[expect(clippy::cast_precision_loss, reason = "shown to people; the exact figure stays in nano-dollars")]
    fn from(used: BudgetUse) -> Self {
        Self {
            period: used.budget.period,
            max_cost: used.budget.max_cost,
            max_tokens: used.budget.max_tokens,
            used_cost: used.cost as f64 / 1e9,
            used_tokens: used.tokens,
            resets_at: used.resets_at,
        }
    }
}

async fn status(engine: &Engine, tenant: TenantId, key: Option<KeyId>) -> Result<Json<Status>> {
    let limits = engine.quotas().own_limits(tenant, key).await?;
    let used = engine.quotas().used(tenant, key, &limits).await?;
    Ok(Json(Status { key_id: key, budgets: used.into_iter().map(BudgetStatus::from).collect(), rate_limit: limits.rate_limit }))
}

/// Refuses limits that cannot be, with a pointer to each fault.
pub(super) fn check(limits: &UsageLimits) -> Result<()> {
    let mut problems = Problems::default();
    limits.check("", &mut problems);
    problems.into_result()
}

/// A key that is limited itself must not get around its limits: neither by changing any nor through a key of its making.
pub(super) async fn may_limit(engine: &Engine, caller: &Caller) -> Result<()> {
    let Some(key) = caller.key_id() else { return Ok(()) };
    if engine.quotas().own_limits(caller.tenant, Some(key)).await?.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Forbidden, "key_is_limited", "your key has limits itself, so it can neither change limits nor make keys")
        .next("use a key without limits, or `dispatch keys` beside the database"))
}

/// A key of the tenant.
async fn known(auth: &Auth, tenant: TenantId, id: KeyId) -> Result<KeyId> {
    let keys = auth.list_keys(tenant).await?;
    keys.iter().any(|key| key.id == id).then_some(id).ok_or_else(KeyId::missing)
}

async fn put(engine: &Engine, caller: &Caller, key: Option<KeyId>, limits: UsageLimits) -> Result<Json<Status>> {
    check(&limits)?;
    may_limit(engine, caller).await?;
    engine.quotas().put(caller.tenant, key, limits).await?;
    status(engine, caller.tenant, key).await
}

async fn read_of_tenant(caller: Scoped<ApiKeysRead>, State(engine): State<Engine>) -> Result<Json<Status>> {
    status(&engine, caller.tenant, None).await
}

async fn put_of_tenant(caller: Scoped<ApiKeysWrite>, State(engine): State<Engine>, body: Body<UsageLimits>) -> Result<Json<Status>> {
    put(&engine, &caller, None, body.value).await
}

async fn read_of_key(
    caller: Scoped<ApiKeysRead>,
    State(engine): State<Engine>,
    State(auth): State<Auth>,
    Id(id): Id<KeyId>,
) -> Result<Json<Status>> {
    let id = known(&auth, caller.tenant, id).await?;
    status(&engine, caller.tenant, Some(id)).await
}

async fn put_of_key(
    caller: Scoped<ApiKeysWrite>,
    State(engine): State<Engine>,
    State(auth): State<Auth>,
    Id(id): Id<KeyId>,
    body: Body<UsageLimits>,
) -> Result<Json<Status>> {
    let id = known(&auth, caller.tenant, id).await?;
    put(&engine, &caller, Some(id), body.value).await
}
