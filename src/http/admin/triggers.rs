//! `/v1/triggers`: addresses at which webhooks of others arrive, and become jobs. A delivery is one job, however often it comes, and is in its queue before
//! it is answered.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::body::Body as Raw;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, NoContent, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::order::{OrderInput, fit};
use super::{Window, about, may_refuse, takes_anything};
use crate::auth::{hook, ticket};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, IdempotencyKey, InPath, Params, as_sent, not_deeper};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::problem::Problem;
use crate::http::scope::{JobsRead, JobsWrite, Scoped};
use crate::id::{JobId, TenantId, TriggerId};
use crate::model::job::{Job, Order, Placed};
use crate::secret::Secret;
use crate::store::{Collection, Document, Enqueued, Kept, SharedStore, StoreError};

const TAG: &str = "Triggers";
/// What addresses begin with.
const PREFIX: &str = "hook_";
const SHORTEST_SECRET: usize = 8;
const LONGEST_SECRET: usize = 1_000;
/// A sender's id of a delivery.
const LONGEST_ID: usize = 255;
/// The header by which unsigned deliveries can be told apart.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/triggers",
            get_with(list, about("listTriggers", TAG, "List triggers, newest first"))
                .post_with(create, about("createTrigger", TAG, "Make an address at which webhooks become jobs; it is shown once")),
        )
        .api_route(
            "/v1/triggers/{triggerId}",
            get_with(read, about("getTrigger", TAG, "Read a trigger"))
                .put_with(update, about("updateTrigger", TAG, "Change a trigger"))
                .delete_with(delete, about("deleteTrigger", TAG, "Delete a trigger; its jobs stay")),
        )
        .api_route(
            "/v1/triggers/{triggerId}/rotate",
            post_with(rotate, about("rotateTrigger", TAG, "Give a trigger another address, at once")),
        )
}

pub(super) fn public_routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/hooks/{hook}",
        post_with(receive, |op| {
            let op = takes_anything(about("receiveWebhook", TAG, "Take a webhook in")(op), "*/*");
            may_refuse(op, &[401, 404]).response::<200, Json<Challenge>>().response::<202, Json<Accepted>>()
        }),
    )
}

/// The last part of a trigger's address.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(inline)]
struct Address(#[schemars(regex(pattern = "^hook_[A-Za-z0-9_-]{86}$"))] String);

impl std::str::FromStr for Address {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl InPath for Address {
    const PARAM: &'static str = "hook";
    const NOUN: &'static str = "address";
}

/// A trigger as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trigger {
    name: String,
    /// How its sender signs; not at all when there is none.
    scheme: Option<String>,
    /// The sealed secret, in base64.
    sealed: Option<String>,
    /// Of the address.
    hash: String,
    enabled: bool,
    #[serde(flatten)]
    placed: Placed,
}

impl Document for Trigger {
    const KIND: &'static str = "trigger";
    const TAKEN: &'static str = "a trigger with this name";
    type Id = TriggerId;

    fn place(&self) -> Option<String> {
        Some(self.name.clone())
    }
}

/// A trigger to make, or what changes about one.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "TriggerInput")]
struct Input {
    /// Unique. Required when the trigger is new.
    #[schemars(length(min = 1, max = 255))]
    name: Option<String>,
    /// How the sender signs: `standard` (Standard Webhooks), `github`, `stripe`, `slack`, `dispatch`, or `none`: then the address alone vouches for it.
    scheme: Option<String>,
    /// The secret that is shared with the sender; 8 to 1,000 characters.
    #[schemars(length(min = 8, max = 1_000))]
    secret: Option<Secret>,
    /// Whether deliveries are taken; true when absent.
    enabled: Option<bool>,
    /// What does the jobs: the name of a saved flow; the trigger's own name when absent.
    #[schemars(length(min = 1, max = 255))]
    job_name: Option<String>,
    #[serde(flatten)]
    order: OrderInput,
}

/// A trigger.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Trigger")]
struct Row {
    id: TriggerId,
    name: String,
    scheme: String,
    has_secret: bool,
    enabled: bool,
    job_name: String,
    queue: String,
    priority: i32,
    max_retries: u32,
    timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback: Option<Value>,
    scope_app_id: String,
    scope_org_id: String,
    created_at: Timestamp,
    updated_at: Timestamp,
    /// Where the sender posts to, below this server's address. Shown when it is made only.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
}

/// What a delivery became.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WebhookAccepted")]
struct Accepted {
    job_id: JobId,
    /// It came before.
    duplicate: bool,
}

/// A text that the sender wanted to hear.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WebhookChallenge")]
struct Challenge {
    challenge: String,
}

impl Row {
    fn of(kept: Kept<Trigger>, address: Option<&Secret>) -> Self {
        let Kept { id, created_at, updated_at, body, .. } = kept;
        let Placed { queue, priority, order } = body.placed;
        Self {
            id,
            name: body.name,
            scheme: body.scheme.unwrap_or_else(|| "none".into()),
            has_secret: body.sealed.is_some(),
            enabled: body.enabled,
            job_name: order.name,
            queue,
            priority,
            max_retries: order.max_retries,
            timeout_ms: order.timeout_ms,
            callback: order.callback,
            scope_app_id: order.scope.app,
            scope_org_id: order.scope.org,
            created_at,
            updated_at,
            path: address.map(|address| format!("/hooks/{}", address.expose())),
        }
    }
}

fn all(store: &SharedStore, tenant: TenantId) -> Collection<'_, Trigger> {
    Collection::of(&**store, tenant)
}

/// What a trigger's secret is bound to.
fn context(tenant: TenantId, id: TriggerId) -> String {
    format!("trigger/{tenant}/{id}")
}

/// The trigger that an input makes of an old one, or of none.
fn checked(state: &AppState, (tenant, id): (TenantId, TriggerId), input: Input, old: Option<&Trigger>, hash: String) -> Result<Trigger> {
    let mut problems = Problems::default();
    if old.is_none() && input.name.is_none() {
        problems.add("/name", "expected when a trigger is new");
    }
    let name = input.name.or(old.map(|old| old.name.clone())).unwrap_or_else(|| "?".into());
    fit(&name, 1, "/name", &mut problems);
    let job_name = input.job_name.or(old.map(|old| old.placed.order.name.clone())).unwrap_or_else(|| name.clone());
    fit(&job_name, 1, "/job_name", &mut problems);
    let scheme = match input.scheme.as_deref() {
        None => old.and_then(|old| old.scheme.clone()),
        Some("none") => None,
        Some(name) => {
            if hook::scheme(name).is_none() {
                let known: Vec<&str> = hook::schemes().iter().map(|scheme| scheme.name.as_str()).collect();
                problems.add("/scheme", format!("expected one of {}, none", known.join(", ")));
            }
            Some(name.to_owned())
        }
    };
    let length = input.secret.as_ref().map(|secret| secret.expose().chars().count());
    if length.is_some_and(|length| !(SHORTEST_SECRET..=LONGEST_SECRET).contains(&length)) {
        problems.add("/secret", format!("expected {SHORTEST_SECRET} to {LONGEST_SECRET} characters"));
    }
    let known = scheme.as_deref().and_then(hook::scheme);
    if let (Some(scheme), Some(secret)) = (known, &input.secret)
        && !scheme.takes(secret)
    {
        problems.add("/secret", format!("this is no secret of the scheme `{}`", scheme.name));
    }
    if known.is_some() && input.secret.is_none() && old.and_then(|old| old.sealed.as_ref()).is_none() {
        problems.add("/secret", "expected, since the scheme signs");
    }
    let placed = input.order.place(&state.engine, job_name, old.map(|old| &old.placed), &mut problems);
    problems.into_result()?;
    let sealed = match &input.secret {
        Some(secret) => Some(STANDARD.encode(state.vault.seal(secret.expose().as_bytes(), &context(tenant, id))?)),
        None => old.and_then(|old| old.sealed.clone()),
    };
    let enabled = input.enabled.or(old.map(|old| old.enabled)).unwrap_or(true);
    Ok(Trigger { name, scheme, sealed, hash, enabled, placed })
}

async fn list(caller: Scoped<JobsRead>, State(store): State<SharedStore>, Params(window): Params<Window>) -> Result<Json<Vec<Row>>> {
    let most = window.limit().saturating_add(window.offset());
    let found = all(&store, caller.tenant).list(None, None, most).await?;
    Ok(Json(found.into_iter().skip(window.offset() as usize).map(|kept| Row::of(kept, None)).collect()))
}

async fn create(
    caller: Scoped<JobsWrite>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<Row>> {
    let (tenant, key_id) = (caller.tenant, caller.key_id());
    let call = Call { tenant, route: "POST /v1/triggers", key, request: fingerprint(&body.raw), secret: true };
    let input = body.value;
    receipts
        .once(call, move |seed| async move {
            let (id, now) = (TriggerId::from_u128(seed), state.clock.now());
            let (address, hash) = ticket::mint(&state.clock, PREFIX, tenant, id.as_u128());
            let mut trigger = checked(&state, (tenant, id), input, None, hash)?;
            trigger.placed.order.key_id = key_id;
            let kept = match all(&state.store, tenant).find(id).await? {
                // An earlier attempt of this call stored the trigger, but its address was never returned: replace it.
                Some(old) => all(&state.store, tenant).change(&old, trigger, now).await?.ok_or_else(changed)?,
                None => all(&state.store, tenant).create(id, trigger, now).await?,
            };
            Ok(Row::of(kept, Some(&address)))
        })
        .await
}

fn changed() -> Error {
    Error::new(Kind::Conflict, "trigger_changed", "the trigger was changed at the same time").next("repeat the change")
}

async fn find(store: &SharedStore, tenant: TenantId, id: TriggerId) -> Result<Kept<Trigger>> {
    all(store, tenant).find(id).await?.ok_or_else(TriggerId::missing)
}

async fn read(caller: Scoped<JobsRead>, State(store): State<SharedStore>, Id(id): Id<TriggerId>) -> Result<Json<Row>> {
    find(&store, caller.tenant, id).await.map(|kept| Json(Row::of(kept, None)))
}

async fn update(caller: Scoped<JobsWrite>, State(state): State<AppState>, Id(id): Id<TriggerId>, body: Body<Input>) -> Result<Json<Row>> {
    let old = find(&state.store, caller.tenant, id).await?;
    let mut next = checked(&state, (caller.tenant, id), body.value, Some(&old.body), old.body.hash.clone())?;
    next.placed.order.key_id = caller.key_id();
    let kept = all(&state.store, caller.tenant).change(&old, next, state.clock.now()).await?.ok_or_else(changed)?;
    Ok(Json(Row::of(kept, None)))
}

async fn rotate(caller: Scoped<JobsWrite>, State(state): State<AppState>, Id(id): Id<TriggerId>) -> Result<Json<Row>> {
    let old = find(&state.store, caller.tenant, id).await?;
    let (address, hash) = ticket::mint(&state.clock, PREFIX, caller.tenant, id.as_u128());
    let edit = |trigger: &mut Trigger| -> Result<(), StoreError> {
        trigger.hash.clone_from(&hash);
        Ok(())
    };
    let changed = all(&state.store, caller.tenant).amend(old, state.clock.now(), edit).await?;
    changed.map(|kept| Json(Row::of(kept, Some(&address)))).ok_or_else(TriggerId::missing)
}

async fn delete(caller: Scoped<JobsWrite>, State(store): State<SharedStore>, Id(id): Id<TriggerId>) -> Result<NoContent> {
    if !all(&store, caller.tenant).delete(id).await? {
        return Err(TriggerId::missing());
    }
    Ok(NoContent)
}

async fn receive(State(state): State<AppState>, Id(address): Id<Address>, headers: HeaderMap, body: Raw) -> Result<Response, Problem> {
    let ticket = ticket::read(&Secret::new(address.0), &[PREFIX]).ok_or_else(Address::missing)?;
    let tenant = ticket.tenant;
    let kept = all(&state.store, tenant).find(TriggerId::from_u128(ticket.id)).await?;
    let kept = kept.filter(|kept| ticket.is(&kept.body.hash) && kept.body.enabled).ok_or_else(Address::missing)?;
    // Nothing is read for an address that leads nowhere.
    let body = as_sent(&headers, body, &state).await?;
    let delivery = believed(&state, tenant, &kept, &headers, &body)?;
    if !delivery.body.is_string() {
        // Depth of the parsed value, not of the bytes: forms contain percent-encoded JSON.
        not_deeper(delivery.body.to_string().as_bytes(), state.limits.body().depth)?;
    }
    if let Some(challenge) = delivery.challenge {
        return Ok((StatusCode::OK, Json(Challenge { challenge })).into_response());
    }
    let id = delivery.id.filter(|id| id.len() <= LONGEST_ID && !id.contains(char::is_control));
    let key = id.as_ref().map(|id| format!("hook/{}/{id}", kept.id));
    let trigger = kept.body;
    let payload = json!({ "trigger": trigger.name, "delivery": id, "event": delivery.event, "body": delivery.body });
    let order = Order { payload, ..trigger.placed.order };
    let job = Job::new(JobId::new(&state.clock), tenant, Placed { order, ..trigger.placed }, state.clock.now());
    let new = job.id;
    let (job_id, duplicate) = match state.jobs.enqueue(job, key).await? {
        Enqueued::New => (new, false),
        Enqueued::Before(before) => (before, true),
    };
    Ok((StatusCode::ACCEPTED, Json(Accepted { job_id, duplicate })).into_response())
}

/// What a delivery says, once its sender is known.
fn believed(state: &AppState, tenant: TenantId, kept: &Kept<Trigger>, headers: &HeaderMap, body: &[u8]) -> Result<hook::Delivery> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(name) = &kept.body.scheme else {
        let id = header(IDEMPOTENCY_KEY).filter(|id| !id.is_empty()).map(str::to_owned);
        let unsigned = hook::unsigned(header(CONTENT_TYPE.as_str()), body).map_err(|doubt| refused(state, doubt, body))?;
        return Ok(hook::Delivery { id, ..unsigned });
    };
    let scheme = hook::scheme(name).ok_or_else(|| Error::internal("a scheme that was known is not any more"))?;
    let sealed = kept.body.sealed.as_deref().and_then(|sealed| STANDARD.decode(sealed).ok());
    let sealed = sealed.ok_or_else(|| Error::internal("a trigger without its secret"))?;
    let plain = state.vault.open(&sealed, &context(tenant, kept.id))?;
    let secret = Secret::new(String::from_utf8_lossy(&plain).into_owned());
    scheme.read(&secret, header, body, state.clock.now()).map_err(|doubt| refused(state, doubt, body))
}

fn refused(state: &AppState, doubt: hook::Doubt, body: &[u8]) -> Error {
    match doubt {
        // The parser has its own limit on nesting.
        hook::Doubt::Body(_) => not_deeper(body, state.limits.body().depth)
            .err()
            .unwrap_or_else(|| Error::new(Kind::Malformed, "invalid_json", doubt.to_string())),
        doubt => Error::new(Kind::Unauthenticated, "webhook_not_believed", format!("the delivery was refused: {doubt}")),
    }
}
