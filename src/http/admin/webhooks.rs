//! `/v1/webhooks`: addresses that are told what becomes of runs and jobs, and what they were told.

use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use axum::response::NoContent;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::about;
use super::answer::Made;
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, IdempotencyKey, Ids, InPath, Params};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::paging::{Page, Paging};
use crate::http::scope::{JobsRead, JobsWrite, Scoped};
use crate::id::{DeliveryId, TenantId, WebhookId};
use crate::queue::webhooks::{self, Attempt, Delivery, Kind as Event, SigningSecret, State as DeliveryState, Webhook};
use crate::secret::Secret;
use crate::store::{Kept, SharedStore};

const TAG: &str = "Webhooks";
const LONGEST_URL: usize = 2_000;
const LONGEST_DESCRIPTION: usize = 500;
/// How long an old secret signs beside the new one, at most and when nobody says.
const LONGEST_OVERLAP: u64 = 7 * 24;
const OVERLAP: u64 = 24;
/// Secrets that sign at once.
const MOST_SECRETS: usize = 5;
/// Webhooks of a tenant.
const MOST: usize = 100;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/webhooks",
            get_with(list, about("listWebhooks", TAG, "List webhooks, newest first"))
                .post_with(create, about("createWebhook", TAG, "Have an address told what happens; the secret is shown once")),
        )
        .api_route(
            "/v1/webhooks/{webhookId}",
            get_with(read, about("getWebhook", TAG, "Read a webhook"))
                .put_with(update, about("updateWebhook", TAG, "Change a webhook; what is absent stays"))
                .delete_with(delete, about("deleteWebhook", TAG, "Delete a webhook and its deliveries")),
        )
        .api_route(
            "/v1/webhooks/{webhookId}/rotate",
            post_with(rotate, |op| {
                super::body_optional(about(
                    "rotateWebhookSecret",
                    TAG,
                    "Give a webhook another secret; the old one signs beside it for a while",
                )(op))
            }),
        )
        .api_route("/v1/webhooks/{webhookId}/test", post_with(test, about("testWebhook", TAG, "Send a webhook a delivery to try it")))
        .api_route(
            "/v1/webhooks/{webhookId}/deliveries",
            get_with(told, about("listWebhookDeliveries", TAG, "List what a webhook was told, newest first")),
        )
        .api_route(
            "/v1/webhooks/{webhookId}/deliveries/{deliveryId}",
            get_with(delivery, about("getWebhookDelivery", TAG, "Read a delivery")),
        )
        .api_route(
            "/v1/webhooks/{webhookId}/deliveries/{deliveryId}/redeliver",
            post_with(redeliver, about("redeliverWebhook", TAG, "Send a delivery again, from now on, under the same id")),
        )
}

/// A webhook to make, or what changes about one.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "WebhookInput")]
struct Input {
    /// Where deliveries are posted to, over HTTP. Required when the webhook is new.
    #[schemars(length(min = 1, max = 2_000))]
    url: Option<String>,
    /// What it is told; everything when there is nothing.
    events: Option<Vec<Event>>,
    #[schemars(length(max = 500))]
    description: Option<String>,
    /// Whether it is told anything; true when absent.
    enabled: Option<bool>,
}

/// How a secret is replaced.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "WebhookRotation")]
struct Rotation {
    /// For how many hours the old secret signs, too; 24 when absent, 168 at most.
    #[schemars(range(max = 168))]
    overlap_hours: Option<u64>,
}

/// A webhook.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Webhook")]
struct Row {
    id: WebhookId,
    url: String,
    description: String,
    events: Vec<Event>,
    enabled: bool,
    /// Why it is not, when it was not its owner who said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_because: Option<String>,
    /// How many secrets sign now: more than one while one is being replaced.
    secrets: usize,
    created_at: Timestamp,
    updated_at: Timestamp,
    /// What verifies deliveries. Shown when it is made only.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// Something that a webhook was told, or will be.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WebhookDelivery")]
struct Told {
    id: DeliveryId,
    event: Event,
    state: DeliveryState,
    happened_at: Timestamp,
    /// Since it was last asked for; eight at most.
    attempts: Vec<Attempt>,
    /// When it is sent next.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_at: Option<Timestamp>,
    data: Value,
}

impl Row {
    fn of(kept: Kept<Webhook>, now: Timestamp, secret: Option<&Secret>) -> Self {
        let Kept { id, created_at, updated_at, body, .. } = kept;
        Self {
            id,
            url: body.url,
            description: body.description,
            events: body.events,
            enabled: body.enabled,
            disabled_because: body.disabled_because,
            secrets: body.secrets.iter().filter(|secret| secret.until.is_none_or(|until| until > now)).count(),
            created_at,
            updated_at,
            secret: secret.map(|secret| secret.expose().to_owned()),
        }
    }
}

impl From<Kept<Delivery>> for Told {
    fn from(kept: Kept<Delivery>) -> Self {
        let Kept { id, body, .. } = kept;
        Self {
            id,
            event: body.event,
            state: body.state,
            happened_at: body.happened_at,
            attempts: body.attempts,
            next_at: (body.state == DeliveryState::Pending).then_some(body.next_at),
            data: body.data,
        }
    }
}

async fn find(store: &SharedStore, tenant: TenantId, id: WebhookId) -> Result<Kept<Webhook>> {
    webhooks::webhooks(store, tenant).find(id).await?.ok_or_else(<WebhookId as InPath>::missing)
}

async fn find_delivery(store: &SharedStore, tenant: TenantId, id: WebhookId, delivery: DeliveryId) -> Result<Kept<Delivery>> {
    find(store, tenant, id).await?;
    let found = webhooks::deliveries(store, tenant).find(delivery).await?;
    found.filter(|found| found.body.webhook == id).ok_or_else(|| Error::not_found("delivery"))
}

/// The webhook that an input makes of an old one, or of none.
fn checked(state: &AppState, input: Input, old: Option<&Webhook>, secrets: Vec<SigningSecret>) -> Result<Webhook> {
    let mut problems = Problems::default();
    let url = input.url.map(|url| url.trim().to_owned()).or(old.map(|old| old.url.clone())).unwrap_or_default();
    if url.is_empty() || url.len() > LONGEST_URL {
        problems.add("/url", format!("expected an address that begins with http:// or https://, of {LONGEST_URL} bytes at most"));
    } else if let Err(refused) = webhooks::would_reach(state.engine.parts(), &url) {
        problems.add("/url", refused);
    }
    let description = input.description.or(old.map(|old| old.description.clone())).unwrap_or_default();
    if description.chars().count() > LONGEST_DESCRIPTION {
        problems.add("/description", format!("expected {LONGEST_DESCRIPTION} characters at most"));
    }
    let mut events = input.events.or(old.map(|old| old.events.clone())).unwrap_or_default();
    if events.contains(&Event::Test) {
        problems.add("/events", "`webhook.test` is sent on demand only");
    }
    events.sort_unstable();
    events.dedup();
    problems.into_result()?;
    let enabled = input.enabled.or(old.map(|old| old.enabled)).unwrap_or(true);
    let disabled_because = old.and_then(|old| old.disabled_because.clone()).filter(|_| !enabled);
    Ok(Webhook { url, description, events, enabled, disabled_because, secrets })
}

fn sealed(state: &AppState, tenant: TenantId, id: WebhookId) -> Result<(Secret, SigningSecret)> {
    let secret = webhooks::secret(&state.clock);
    let sealed = STANDARD.encode(state.vault.seal(secret.expose().as_bytes(), &webhooks::context(tenant, id))?);
    Ok((secret, SigningSecret { sealed, until: None }))
}

fn changed() -> Error {
    Error::new(Kind::Conflict, "webhook_changed", "somebody else changed the webhook at the same time").next("repeat the change")
}

async fn list(caller: Scoped<JobsRead>, State(state): State<AppState>) -> Result<Json<Vec<Row>>> {
    let now = state.clock.now();
    let found = webhooks::webhooks(&state.store, caller.tenant).list(None, None, MOST as u32).await?;
    Ok(Json(found.into_iter().map(|kept| Row::of(kept, now, None)).collect()))
}

async fn create(
    caller: Scoped<JobsWrite>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<Row>> {
    let tenant = caller.tenant;
    let call = Call { tenant, route: "POST /v1/webhooks", key, request: fingerprint(&body.raw), secret: true };
    let input = body.value;
    receipts
        .once(call, move |seed| async move {
            let (id, now) = (WebhookId::from_u128(seed), state.clock.now());
            let all = webhooks::webhooks(&state.store, tenant);
            let (secret, sealed) = sealed(&state, tenant, id)?;
            let webhook = checked(&state, input, None, vec![sealed])?;
            let kept = if let Some(old) = all.find(id).await? {
                // An earlier attempt of this call stored the webhook, but its secret was never returned: replace it.
                all.change(&old, webhook, now).await?.ok_or_else(changed)?
            } else {
                if all.list(None, None, MOST as u32).await?.len() >= MOST {
                    let message = format!("a tenant may have {MOST} webhooks");
                    return Err(Error::new(Kind::Conflict, "too_many_webhooks", message).next("delete one"));
                }
                all.create(id, webhook, now).await?
            };
            // Other servers notice it within a second.
            state.engine.parts().listeners.add(tenant);
            Ok(Row::of(kept, now, Some(&secret)))
        })
        .await
}

async fn read(caller: Scoped<JobsRead>, State(state): State<AppState>, Id(id): Id<WebhookId>) -> Result<Json<Row>> {
    find(&state.store, caller.tenant, id).await.map(|kept| Json(Row::of(kept, state.clock.now(), None)))
}

async fn update(caller: Scoped<JobsWrite>, State(state): State<AppState>, Id(id): Id<WebhookId>, body: Body<Input>) -> Result<Json<Row>> {
    let (tenant, now) = (caller.tenant, state.clock.now());
    let old = find(&state.store, tenant, id).await?;
    let next = checked(&state, body.value, Some(&old.body), old.body.secrets.clone())?;
    let kept = webhooks::webhooks(&state.store, tenant).change(&old, next, now).await?.ok_or_else(changed)?;
    if kept.body.enabled {
        state.engine.parts().listeners.add(tenant);
    }
    Ok(Json(Row::of(kept, now, None)))
}

async fn rotate(
    caller: Scoped<JobsWrite>,
    State(state): State<AppState>,
    Id(id): Id<WebhookId>,
    body: Option<Body<Rotation>>,
) -> Result<Json<Row>> {
    let (tenant, now) = (caller.tenant, state.clock.now());
    let hours = body.map(|body| body.value).unwrap_or_default().overlap_hours.unwrap_or(OVERLAP);
    if hours > LONGEST_OVERLAP {
        return Err(Error::invalid_at("/overlap_hours", format!("expected {LONGEST_OVERLAP} at most")));
    }
    let old = find(&state.store, tenant, id).await?;
    let (secret, newest) = sealed(&state, tenant, id)?;
    let until = now.after(Duration::from_secs(hours * 3_600));
    let ends = |mut secret: SigningSecret| {
        secret.until = Some(secret.until.map_or(until, |before| before.min(until)));
        secret
    };
    let older = old.body.secrets.iter().cloned().map(ends).filter(|secret| secret.until.is_some_and(|until| until > now));
    let secrets = std::iter::once(newest).chain(older).take(MOST_SECRETS).collect();
    let next = Webhook { secrets, ..old.body.clone() };
    let kept = webhooks::webhooks(&state.store, tenant).change(&old, next, now).await?.ok_or_else(changed)?;
    Ok(Json(Row::of(kept, now, Some(&secret))))
}

async fn delete(caller: Scoped<JobsWrite>, State(state): State<AppState>, Id(id): Id<WebhookId>) -> Result<NoContent> {
    if !webhooks::webhooks(&state.store, caller.tenant).delete(id).await? {
        return Err(<WebhookId as InPath>::missing());
    }
    webhooks::deliveries(&state.store, caller.tenant).delete_of(&id.to_string()).await?;
    Ok(NoContent)
}

async fn test(caller: Scoped<JobsWrite>, State(state): State<AppState>, Id(id): Id<WebhookId>) -> Result<Made<Told>> {
    let tenant = caller.tenant;
    if !find(&state.store, tenant, id).await?.body.enabled {
        return Err(
            Error::new(Kind::Conflict, "webhook_disabled", "the webhook is disabled").next("enable it with PUT /v1/webhooks/{webhookId}")
        );
    }
    let of = format!("test/{}", DeliveryId::new(&state.clock));
    let begun = webhooks::begin(&state.jobs, tenant, id, Event::Test, json!({ "webhook": id }), of, state.clock.now())
        .await?
        .ok_or_else(changed)?;
    Ok(Made(find_delivery(&state.store, tenant, id, begun).await?.into()))
}

async fn told(
    caller: Scoped<JobsRead>,
    State(store): State<SharedStore>,
    Id(id): Id<WebhookId>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<Told>>> {
    find(&store, caller.tenant, id).await?;
    let (trail, limit) = (paging.trail::<DeliveryId>()?, paging.limit());
    let found = webhooks::deliveries(&store, caller.tenant).list(Some(&id.to_string()), trail.after(), limit + 1).await?;
    let page = trail.page(found, limit, false, |kept| kept.id);
    Ok(Json(Page { data: page.data.into_iter().map(Told::from).collect(), pagination: page.pagination }))
}

async fn delivery(
    caller: Scoped<JobsRead>,
    State(store): State<SharedStore>,
    Ids(id, delivery): Ids<WebhookId, DeliveryId>,
) -> Result<Json<Told>> {
    find_delivery(&store, caller.tenant, id, delivery).await.map(|kept| Json(kept.into()))
}

async fn redeliver(
    caller: Scoped<JobsWrite>,
    State(state): State<AppState>,
    Ids(id, delivery): Ids<WebhookId, DeliveryId>,
) -> Result<Json<Told>> {
    let (tenant, now) = (caller.tenant, state.clock.now());
    let old = find_delivery(&state.store, tenant, id, delivery).await?;
    let again = |delivery: &mut Delivery| -> Result<()> {
        delivery.state = DeliveryState::Pending;
        delivery.attempts.clear();
        delivery.next_at = now;
        Ok(())
    };
    let kept = webhooks::deliveries(&state.store, tenant).amend(old, now, again).await?;
    kept.map(|kept| Json(kept.into())).ok_or_else(|| Error::not_found("delivery"))
}
