//! `/v1/crons`: entries that put a job in its queue at certain times.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use axum::response::NoContent;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::jobs::Row as JobRow;
use super::order::{OrderInput, fit};
use super::time::AdminTime;
use super::{Window, about};
use crate::clock::Timestamp;
use crate::engine::Engine;
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, IdempotencyKey, InPath, Params};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::scope::{JobsRead, JobsWrite, Scoped};
use crate::id::{CronId, JobId, TenantId};
use crate::model::cadence::{Fault, check_steps};
use crate::model::job::{Placed, WORKFLOW_PREFIX};
use crate::queue::crons::{CatchUp, Cron, MOST_SLOTS, Overlap, fire_now};
use crate::store::{Collection, Kept, SharedStore, StoreError};

const TAG: &str = "Crons";
/// Times that a preview shows.
const PREVIEW: usize = 10;
/// How much later than its slot a job may begin.
const MOST_JITTER: u64 = 3_600_000;
/// Slots that are caught up with when nobody says.
const CAUGHT_UP: u32 = 100;
/// Entries that are read at once to be listed oldest first.
const PAGE: u32 = 500;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/crons",
            get_with(list, about("listCrons", TAG, "List cron entries, oldest first"))
                .post_with(create, about("createCron", TAG, "Put a job in its queue at certain times")),
        )
        .api_route(
            "/v1/crons/{cronId}",
            get_with(read, about("getCron", TAG, "Read a cron entry"))
                .put_with(update, about("updateCron", TAG, "Change a cron entry"))
                .delete_with(delete, about("deleteCron", TAG, "Delete a cron entry; its jobs stay")),
        )
        .api_route("/v1/crons/{cronId}/enable", post_with(enable, about("enableCron", TAG, "Fire from now on")))
        .api_route("/v1/crons/{cronId}/disable", post_with(disable, about("disableCron", TAG, "Fire no more")))
        .api_route("/v1/crons/{cronId}/fire", post_with(fire, about("fireCron", TAG, "Fire now, besides its times")))
        .api_route("/v1/crons/{cronId}/preview", get_with(preview, about("previewCron", TAG, "List the next ten times")))
}

/// An entry to keep, or what changes about one.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "CronInput")]
struct Input {
    /// Unique. Required when the entry is new.
    #[schemars(length(min = 1, max = 255))]
    name: Option<String>,
    /// Five fields, or six with seconds in front, `@daily`, `@midnight` and similar names, or `@every 90s`. `CRON_TZ=Europe/Berlin` may stand in front. Required when the entry is
    /// new.
    schedule: Option<String>,
    /// An IANA name; UTC when absent.
    timezone: Option<String>,
    /// Whether it fires; true when absent.
    enabled: Option<bool>,
    /// What does the job: the name of a saved flow; the entry's own name when absent.
    #[schemars(length(min = 1, max = 255))]
    job_name: Option<String>,
    /// What happens to times that passed while no server was running; by default the last one is done. Times that pass while the entry is disabled are
    /// skipped.
    catch_up: Option<CatchUp>,
    /// How many of them are done at most, when all are; 100 when absent.
    #[schemars(range(min = 1, max = 1_000))]
    catch_up_max: Option<u32>,
    /// What happens when the job before is not over; it begins all the same when absent.
    overlap: Option<Overlap>,
    /// Jobs begin up to so much later, in milliseconds; an hour at most.
    #[schemars(range(max = 3_600_000))]
    jitter_ms: Option<u64>,
    #[serde(flatten)]
    order: OrderInput,
}

/// A cron entry.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Cron")]
pub(in crate::http) struct Row {
    id: CronId,
    name: String,
    schedule: String,
    timezone: String,
    enabled: bool,
    job_name: String,
    queue: String,
    payload: Value,
    priority: i32,
    max_retries: u32,
    timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback: Option<Value>,
    catch_up: CatchUp,
    catch_up_max: u32,
    overlap: Overlap,
    jitter_ms: u64,
    last_fired_at: Option<AdminTime>,
    /// The same.
    last_run_at: Option<AdminTime>,
    last_job_id: Option<JobId>,
    next_run_at: Option<AdminTime>,
    scope_app_id: String,
    scope_org_id: String,
    created_at: AdminTime,
    updated_at: AdminTime,
}

/// The times to come.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CronPreview")]
struct Preview {
    next: Vec<AdminTime>,
}

impl From<Kept<Cron>> for Row {
    fn from(kept: Kept<Cron>) -> Self {
        let Kept { id, created_at, updated_at, body, .. } = kept;
        let Placed { queue, priority, order } = body.placed;
        Self {
            id,
            name: body.name,
            schedule: body.schedule,
            timezone: body.timezone,
            enabled: body.enabled,
            job_name: order.name,
            queue,
            payload: order.payload,
            priority,
            max_retries: order.max_retries,
            timeout_ms: order.timeout_ms,
            callback: order.callback,
            catch_up: body.catch_up,
            catch_up_max: body.catch_up_max,
            overlap: body.overlap,
            jitter_ms: body.jitter_ms,
            last_fired_at: body.last.map(AdminTime),
            last_run_at: body.last.map(AdminTime),
            last_job_id: body.last_job,
            next_run_at: body.next.map(AdminTime),
            scope_app_id: order.scope.app,
            scope_org_id: order.scope.org,
            created_at: created_at.into(),
            updated_at: updated_at.into(),
        }
    }
}

fn all(store: &SharedStore, tenant: TenantId) -> Collection<'_, Cron> {
    Collection::of(&**store, tenant)
}

/// The entry that an input makes of an old one, or of none.
fn checked(engine: &Engine, input: Input, old: Option<Cron>, now: Timestamp) -> Result<Cron> {
    let mut problems = Problems::default();
    for (at, given) in [("/name", input.name.is_some()), ("/schedule", input.schedule.is_some())] {
        if old.is_none() && !given {
            problems.add(at, "expected when an entry is new");
        }
    }
    let is_new_name = input.name.as_ref().is_some_and(|name| old.as_ref().is_none_or(|old| old.name != *name));
    let name = input.name.or(old.as_ref().map(|old| old.name.clone())).unwrap_or_else(|| "?".into());
    fit(&name, 1, "/name", &mut problems);
    if is_new_name && name.starts_with(WORKFLOW_PREFIX) {
        problems.add("/name", format!("names that begin with `{WORKFLOW_PREFIX}` are reserved for the entries of workflows"));
    }
    let job_name = input.job_name.or(old.as_ref().map(|old| old.placed.order.name.clone())).unwrap_or_else(|| name.clone());
    fit(&job_name, 1, "/job_name", &mut problems);
    let jitter_ms = input.jitter_ms.or(old.as_ref().map(|old| old.jitter_ms)).unwrap_or(0);
    if jitter_ms > MOST_JITTER {
        problems.add("/jitter_ms", format!("expected {MOST_JITTER} at most"));
    }
    let catch_up_max = input.catch_up_max.or(old.as_ref().map(|old| old.catch_up_max)).unwrap_or(CAUGHT_UP);
    if !(1..=MOST_SLOTS).contains(&catch_up_max) {
        problems.add("/catch_up_max", format!("expected 1 to {MOST_SLOTS}"));
    }
    let steps = input.schedule.as_deref().map_or(Ok(()), check_steps);
    let placed = input.order.place(engine, job_name, old.as_ref().map(|old| &old.placed), &mut problems);
    let differs = |new: &Option<String>, old: Option<&String>| new.as_ref().is_some_and(|new| Some(new) != old);
    let moved =
        differs(&input.schedule, old.as_ref().map(|old| &old.schedule)) || differs(&input.timezone, old.as_ref().map(|old| &old.timezone));
    let was_off = old.as_ref().is_some_and(|old| !old.enabled);
    let cron = Cron {
        name,
        schedule: input.schedule.or(old.as_ref().map(|old| old.schedule.clone())).unwrap_or_else(|| "@daily".into()),
        timezone: input.timezone.or(old.as_ref().map(|old| old.timezone.clone())).unwrap_or_else(|| "UTC".into()),
        enabled: input.enabled.or(old.as_ref().map(|old| old.enabled)).unwrap_or(true),
        placed,
        catch_up: input.catch_up.or(old.as_ref().map(|old| old.catch_up)).unwrap_or_default(),
        catch_up_max,
        overlap: input.overlap.or(old.as_ref().map(|old| old.overlap)).unwrap_or_default(),
        jitter_ms,
        next: old.as_ref().and_then(|old| old.next),
        last: old.as_ref().and_then(|old| old.last),
        last_job: old.and_then(|old| old.last_job),
    };
    let next = match steps.and_then(|()| cron.cadence()) {
        Ok(cadence) => {
            let next = cadence.next(now);
            if next.is_none() {
                problems.add("/schedule", "the pattern names no time that will ever come");
            }
            next
        }
        Err(Fault::Pattern(why)) => {
            problems.add("/schedule", why);
            // A pattern with a time zone of its own does not use the entry's.
            let zone = Some(cron.timezone.as_str()).filter(|_| !cron.schedule.contains("TZ="));
            if let Some(why) = zone.and_then(crate::model::cadence::zone_fault) {
                problems.add("/timezone", why);
            }
            None
        }
        Err(Fault::Zone(why)) => {
            problems.add(if cron.schedule.contains("TZ=") { "/schedule" } else { "/timezone" }, why);
            None
        }
    };
    problems.into_result()?;
    // Enabling an entry skips what passed while it was disabled; `catch_up` applies only to times at which no server was running.
    let anew = moved || (was_off && cron.enabled) || cron.next.is_none();
    Ok(Cron { next: if anew { next } else { cron.next }, ..cron })
}

async fn list(caller: Scoped<JobsRead>, State(store): State<SharedStore>, Params(window): Params<Window>) -> Result<Json<Vec<Row>>> {
    list_crons(&store, caller.tenant, window).await.map(Json)
}

/// Lists cron entries, oldest first.
pub(in crate::http) async fn list_crons(store: &SharedStore, tenant: TenantId, window: Window) -> Result<Vec<Row>> {
    // Documents are listed newest first, and entries are few.
    let (mut entries, mut before) = (Vec::new(), None);
    loop {
        let page = all(store, tenant).list(None, before, PAGE).await?;
        before = page.last().map(|entry| entry.id);
        let last = page.len() < PAGE as usize;
        entries.extend(page);
        if last {
            break;
        }
    }
    let rows = entries.into_iter().rev().skip(window.offset() as usize).take(window.limit() as usize);
    Ok(rows.map(Row::from).collect())
}

async fn create(
    caller: Scoped<JobsWrite>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<Row>> {
    let (tenant, key_id) = (caller.tenant, caller.key_id());
    let call = Call { tenant, route: "POST /v1/crons", key, request: fingerprint(&body.raw), secret: false };
    let input = body.value;
    receipts
        .once(call, move |seed| async move {
            let now = state.clock.now();
            let mut cron = checked(&state.engine, input, None, now)?;
            cron.placed.order.key_id = key_id;
            Ok(Row::from(all(&state.store, tenant).create_once(CronId::from_u128(seed), cron, now).await?))
        })
        .await
}

async fn find(store: &SharedStore, tenant: TenantId, id: CronId) -> Result<Kept<Cron>> {
    all(store, tenant).find(id).await?.ok_or_else(CronId::missing)
}

async fn read(caller: Scoped<JobsRead>, State(store): State<SharedStore>, Id(id): Id<CronId>) -> Result<Json<Row>> {
    find(&store, caller.tenant, id).await.map(|entry| Json(entry.into()))
}

async fn update(caller: Scoped<JobsWrite>, State(state): State<AppState>, Id(id): Id<CronId>, body: Body<Input>) -> Result<Json<Row>> {
    let old = find(&state.store, caller.tenant, id).await?;
    let now = state.clock.now();
    let mut next = checked(&state.engine, body.value, Some(old.body.clone()), now)?;
    next.placed.order.key_id = caller.key_id();
    let changed = all(&state.store, caller.tenant).change(&old, next, now).await?;
    changed.map(|kept| Json(kept.into())).ok_or_else(|| {
        Error::new(Kind::Conflict, "cron_changed", "the entry fired, or somebody else changed it, at the same time")
            .next("repeat the change")
    })
}

async fn delete(caller: Scoped<JobsWrite>, State(store): State<SharedStore>, Id(id): Id<CronId>) -> Result<NoContent> {
    if !all(&store, caller.tenant).delete(id).await? {
        return Err(CronId::missing());
    }
    Ok(NoContent)
}

/// Enables or disables an entry. Times that passed while it was disabled are skipped.
async fn turn(state: &AppState, tenant: TenantId, id: CronId, enabled: bool) -> Result<Json<Row>> {
    let entry = find(&state.store, tenant, id).await?;
    if entry.body.enabled == enabled {
        return Ok(Json(entry.into()));
    }
    let now = state.clock.now();
    let edit = |cron: &mut Cron| -> Result<(), StoreError> {
        if enabled && !cron.enabled {
            cron.next = cron.cadence().ok().and_then(|cadence| cadence.next(now));
        }
        cron.enabled = enabled;
        Ok(())
    };
    let changed = all(&state.store, tenant).amend(entry, now, edit).await?;
    changed.map(|kept| Json(kept.into())).ok_or_else(CronId::missing)
}

async fn enable(caller: Scoped<JobsWrite>, State(state): State<AppState>, Id(id): Id<CronId>) -> Result<Json<Row>> {
    turn(&state, caller.tenant, id, true).await
}

async fn disable(caller: Scoped<JobsWrite>, State(state): State<AppState>, Id(id): Id<CronId>) -> Result<Json<Row>> {
    turn(&state, caller.tenant, id, false).await
}

async fn fire(
    caller: Scoped<JobsWrite>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    Id(id): Id<CronId>,
    key: IdempotencyKey,
) -> Result<Created<JobRow>> {
    let (tenant, key_id) = (caller.tenant, caller.key_id());
    let call = Call { tenant, route: "POST /v1/crons/{cronId}/fire", key, request: fingerprint(id.to_string().as_bytes()), secret: false };
    receipts
        .once(call, move |seed| async move {
            let entry = find(&state.store, tenant, id).await?;
            let job = fire_now(&state.jobs, (tenant, key_id), &entry, JobId::from_u128(seed)).await?;
            Ok(JobRow::from(job))
        })
        .await
}

async fn preview(caller: Scoped<JobsRead>, State(state): State<AppState>, Id(id): Id<CronId>) -> Result<Json<Preview>> {
    let entry = find(&state.store, caller.tenant, id).await?;
    let cadence = entry.body.cadence().map_err(|_| Error::internal("a schedule that was understood is not any more"))?;
    Ok(Json(Preview { next: cadence.following(state.clock.now()).take(PREVIEW).map(AdminTime).collect() }))
}
