//! `/v1/schedules`: kept, paused, fired by hand, and what became of them.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::unavailable;
use super::fire::{fire, request};
use super::{ExecutionOptions, Firing, Schedule, Status, Target, Trigger};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Problem, Problems, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::dispatch::deletion::Deletion;
use crate::http::dispatch::execute::Lookup;
use crate::http::extract::{Body, Id, IdempotencyKey, InPath, Params};
use crate::http::idempotency::{Call, Created, Receipts, Repeatable, fingerprint};
use crate::http::paging::{Page, Paging};
use crate::http::scope::{SchedulesRead, SchedulesWrite, Scoped};
use crate::id::{AgentId, FiringId, FlowId, ScheduleId, TenantId};
use crate::model::cadence::{Fault, check_steps};
use crate::store::{Collection, Kept, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/schedules",
            get_with(list, about("listSchedules", "Schedules", "List schedules, newest first"))
                .post_with(create, about("createSchedule", "Schedules", "Let a saved flow or agent run at certain times")),
        )
        .api_route(
            "/v1/schedules/{scheduleId}",
            get_with(read, about("getSchedule", "Schedules", "Read a schedule"))
                .put_with(update, about("updateSchedule", "Schedules", "Change a schedule"))
                .delete_with(delete, about("deleteSchedule", "Schedules", "Delete a schedule; its executions stay")),
        )
        .api_route(
            "/v1/schedules/{scheduleId}/pause",
            post_with(pause, about("pauseSchedule", "Schedules", "Fire no more until it is resumed")),
        )
        .api_route("/v1/schedules/{scheduleId}/resume", post_with(resume, about("resumeSchedule", "Schedules", "Fire again, from now on")))
        .api_route("/v1/schedules/{scheduleId}/run", post_with(run, about("runSchedule", "Schedules", "Fire now, besides its times")))
        .api_route(
            "/v1/schedules/{scheduleId}/run-now",
            post_with(run, about("runScheduleNow", "Schedules", "Fire now, besides its times")),
        )
        .api_route(
            "/v1/schedules/{scheduleId}/runs",
            get_with(runs, about("listScheduleRuns", "Schedules", "List when it fired, newest first")),
        )
        .api_route(
            "/v1/schedules/{scheduleId}/preview",
            get_with(preview, about("previewSchedule", "Schedules", "List the next ten times")),
        )
}

/// A schedule to keep, or what changes about one.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "ScheduleInput")]
struct Input {
    #[schemars(length(min = 1, max = 255))]
    name: Option<String>,
    /// `{flowId, recordType?}` or `{agentId}`. Required when the schedule is new.
    #[schemars(with = "Option<Target>")]
    target: Option<Value>,
    /// `{type: "recurring", cron, timezone?}` or `{type: "one_time", runAt}`. Required when the schedule is new.
    #[schemars(with = "Option<Trigger>")]
    trigger: Option<Value>,
    /// What the target is asked; an agent needs at least one message.
    messages: Option<Value>,
    /// Variables at the root of templates, beside `_schedule`.
    inputs: Option<Map<String, Value>>,
    /// How its executions are made. Other members are refused.
    #[schemars(with = "Option<ExecutionOptions>")]
    execution_options: Option<Value>,
}

/// A schedule.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Schedule")]
struct Row {
    id: ScheduleId,
    /// The tenant, which owns it.
    user_id: TenantId,
    name: Option<String>,
    target: Target,
    /// Same as in `target`.
    flow_id: Option<FlowId>,
    /// Same as in `target`.
    agent_id: Option<AgentId>,
    /// Same as in `target`.
    record_type: Option<String>,
    trigger: Trigger,
    /// `recurring` or `one_time`: the type of `trigger`.
    trigger_type: &'static str,
    /// Same as in `trigger`.
    cron: Option<String>,
    /// Same as in `trigger`.
    timezone: Option<String>,
    /// Same as in `trigger`.
    run_at: Option<Timestamp>,
    messages: Option<Value>,
    inputs: Option<Map<String, Value>>,
    execution_options: ExecutionOptions,
    status: Status,
    /// Whether it fires: its status is `active`.
    enabled: bool,
    next_run_at: Option<Timestamp>,
    last_run_at: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// One time that a schedule fired.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ScheduleRun")]
struct FiringRow {
    id: FiringId,
    fired_at: Timestamp,
    /// Same as `firedAt`.
    created_at: Timestamp,
    /// Same as `schedule`.
    schedule_id: ScheduleId,
    #[serde(flatten)]
    firing: Firing,
}

/// What came of firing now.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ScheduleFired")]
struct ManualFiring {
    #[serde(flatten)]
    row: FiringRow,
    /// Same as `id`.
    run_id: FiringId,
    /// `queued`, or `failed` when not all executions were started.
    status: &'static str,
}

/// The times to come.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "SchedulePreview")]
struct Preview {
    data: Vec<Timestamp>,
}

impl Row {
    fn new(tenant: TenantId, kept: Kept<Schedule>) -> Self {
        let Kept { id, created_at, updated_at, body, .. } = kept;
        let Schedule { name, target, trigger, messages, inputs, execution_options, status, next, last, .. } = body;
        let (trigger_type, cron, timezone, run_at) = match &trigger {
            Trigger::Recurring { cron, timezone } => ("recurring", Some(cron.clone()), Some(timezone.clone()), None),
            Trigger::OneTime { run_at } => ("one_time", None, None, Some(*run_at)),
        };
        Self {
            id,
            user_id: tenant,
            name,
            flow_id: target.flow_id,
            agent_id: target.agent_id,
            record_type: target.record_type.clone(),
            target,
            trigger,
            trigger_type,
            cron,
            timezone,
            run_at,
            messages,
            inputs,
            execution_options: execution_options.unwrap_or_default(),
            status,
            enabled: status == Status::Active,
            next_run_at: next.filter(|_| status == Status::Active),
            last_run_at: last,
            created_at,
            updated_at,
        }
    }
}

impl From<Kept<Firing>> for FiringRow {
    fn from(kept: Kept<Firing>) -> Self {
        Self { id: kept.id, fired_at: kept.created_at, created_at: kept.created_at, schedule_id: kept.body.schedule, firing: kept.body }
    }
}

/// How many times a preview shows.
const PREVIEW: usize = 10;
const LONGEST_NAME: usize = 255;

pub(super) fn all(store: &SharedStore, tenant: TenantId) -> Collection<'_, Schedule> {
    Collection::of(&**store, tenant)
}

fn part<T: serde::de::DeserializeOwned>(given: Option<Value>, at: &str, problems: &mut Problems) -> Option<T> {
    serde_path_to_error::deserialize(given?).map_err(|error| problems.0.push(Problem::misfit(&error).under(at))).ok()
}

/// The schedule that an input makes of an old one, or of none. What it would run is resolved as it will be, so that faults are told now.
async fn checked(state: &AppState, tenant: TenantId, id: ScheduleId, input: Input, old: Option<Schedule>) -> Result<Schedule> {
    let mut problems = Problems::default();
    let new = old.is_none();
    for (at, given) in [("/target", input.target.is_some()), ("/trigger", input.trigger.is_some())] {
        if new && !given {
            problems.add(at, "expected when a schedule is new");
        }
    }
    let target = part::<Target>(input.target, "/target", &mut problems).or(old.as_ref().map(|old| old.target.clone()));
    let trigger = part::<Trigger>(input.trigger, "/trigger", &mut problems);
    if let Some(name) = &input.name
        && (name.trim().is_empty() || name.chars().count() > LONGEST_NAME || name.contains(char::is_control))
    {
        problems.add("/name", format!("expected 1 to {LONGEST_NAME} characters, none of them a control character"));
    }
    let given = input.execution_options.filter(|options| !options.is_null());
    if let Some(Value::Object(options)) = &given {
        let others: Vec<&str> = options.keys().map(String::as_str).filter(|name| *name != "timeoutMs").collect();
        unavailable::refuse(options, &others, "/executionOptions", &mut problems);
    }
    let execution_options = part::<ExecutionOptions>(given, "/executionOptions", &mut problems);
    if execution_options.is_some_and(|options| options.timeout_ms == Some(0)) {
        problems.add("/executionOptions/timeoutMs", "expected at least 1");
    }
    if let Some(target) = &target {
        if target.flow_id.is_some() == target.agent_id.is_some() {
            problems.add("/target", "expected either `flowId` or `agentId`");
        }
        if target.record_type.as_ref().is_some_and(|kind| kind.is_empty() || kind.chars().count() > 255 || kind.contains('\0')) {
            problems.add("/target/recordType", "expected 1 to 255 characters");
        }
    }
    let now = state.clock.now();
    if let Some(trigger) = &trigger {
        let steps = if let Trigger::Recurring { cron, .. } = trigger { check_steps(cron) } else { Ok(()) };
        match (trigger, steps.and_then(|()| trigger.next(now))) {
            (Trigger::Recurring { timezone, .. }, Err(Fault::Pattern(why))) => {
                problems.add("/trigger/cron", why);
                if let Some(why) = crate::model::cadence::zone_fault(timezone) {
                    problems.add("/trigger/timezone", why);
                }
            }
            (_, Err(fault)) => misfit(fault, &mut problems),
            (Trigger::OneTime { .. }, Ok(None)) => problems.add("/trigger/runAt", "expected a time in the future"),
            (Trigger::Recurring { .. }, Ok(None)) => problems.add("/trigger/cron", "the pattern names no time that will ever come"),
            (_, Ok(Some(_))) => {}
        }
    }
    let changed = trigger.is_some();
    let trigger = trigger.or(old.as_ref().map(|old| old.trigger.clone()));
    problems.into_result()?;
    let (Some(target), Some(trigger)) = (target, trigger) else { return Err(Error::invalid_at("", "expected a target and a trigger")) };
    let (status, next, last) = old.as_ref().map_or((Status::Active, None, None), |old| (old.status, old.next, old.last));
    let schedule = Schedule {
        name: input.name.or(old.as_ref().and_then(|old| old.name.clone())),
        target,
        trigger,
        messages: input.messages.or(old.as_ref().and_then(|old| old.messages.clone())),
        inputs: input.inputs.or(old.as_ref().and_then(|old| old.inputs.clone())),
        key_id: old.as_ref().and_then(|old| old.key_id),
        execution_options: execution_options.or(old.and_then(|old| old.execution_options)),
        status,
        next,
        last,
    };
    let sample = Kept { id, version: 1, created_at: now, updated_at: now, body: schedule };
    Lookup::of(state, tenant).resolve(request(&sample, None)).await.map_err(placed)?;
    let schedule = sample.body;
    match changed && status != Status::Paused {
        true => schedule.waiting(now).map_err(refused),
        false => Ok(schedule),
    }
}

fn misfit(fault: Fault, problems: &mut Problems) {
    match fault {
        Fault::Pattern(why) => problems.add("/trigger/cron", why),
        Fault::Zone(why) => problems.add("/trigger/timezone", why),
    }
}

fn refused(fault: Fault) -> Error {
    let mut problems = Problems::default();
    misfit(fault, &mut problems);
    problems.into()
}

/// Faults of the dispatch at their place in the schedule.
fn placed(error: Error) -> Error {
    if error.problems().is_empty() {
        return error;
    }
    let place = |pointer: &str| {
        [("/flow/id", "/target/flowId"), ("/agent/agentId", "/target/agentId"), ("/flow", "/target/flowId"), ("/agent", "/target/agentId")]
            .iter()
            .find(|(from, _)| pointer.starts_with(from))
            .map_or_else(|| pointer.to_owned(), |(_, to)| (*to).to_owned())
    };
    let moved = error.problems().iter().map(|problem| Problem { pointer: place(&problem.pointer), message: problem.message.clone() });
    Problems(moved.collect()).into()
}

async fn list(caller: Scoped<SchedulesRead>, State(store): State<SharedStore>, Params(paging): Params<Paging>) -> Result<Json<Page<Row>>> {
    let (trail, limit) = (paging.trail::<ScheduleId>()?, paging.limit());
    let found = all(&store, caller.tenant).list(None, trail.after(), limit + 1).await?;
    let page = trail.page(found, limit, false, |schedule| schedule.id);
    let data = page.data.into_iter().map(|schedule| Row::new(caller.tenant, schedule)).collect();
    Ok(Json(Page { data, pagination: page.pagination }))
}

async fn create(
    caller: Scoped<SchedulesWrite>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<Row>> {
    let (tenant, key_id) = (caller.tenant, caller.key_id());
    let call = Call { tenant, route: "POST /v1/schedules", key, request: fingerprint(&body.raw), secret: false };
    let input = body.value;
    receipts
        .once(call, move |seed| async move {
            let id = ScheduleId::from_u128(seed);
            if let Some(made) = all(&state.store, tenant).find(id).await? {
                return Ok(Row::new(tenant, made));
            }
            let schedule = Schedule { key_id, ..checked(&state, tenant, id, input, None).await? };
            Ok(Row::new(tenant, all(&state.store, tenant).create(id, schedule, state.clock.now()).await?))
        })
        .await
}

pub(super) async fn find(store: &SharedStore, tenant: TenantId, id: ScheduleId) -> Result<Kept<Schedule>> {
    all(store, tenant).find(id).await?.ok_or_else(ScheduleId::missing)
}

async fn read(caller: Scoped<SchedulesRead>, State(store): State<SharedStore>, Id(id): Id<ScheduleId>) -> Result<Json<Row>> {
    find(&store, caller.tenant, id).await.map(|schedule| Json(Row::new(caller.tenant, schedule)))
}

async fn change(state: &AppState, tenant: TenantId, old: &Kept<Schedule>, next: Schedule) -> Result<Json<Row>> {
    let changed = all(&state.store, tenant).change(old, next, state.clock.now()).await?;
    changed.map(|kept| Json(Row::new(tenant, kept))).ok_or_else(|| {
        Error::new(Kind::Conflict, "schedule_changed", "the schedule fired, or somebody else changed it, at the same time")
            .next("repeat the change")
    })
}

async fn update(
    caller: Scoped<SchedulesWrite>,
    State(state): State<AppState>,
    Id(id): Id<ScheduleId>,
    body: Body<Input>,
) -> Result<Json<Row>> {
    let old = find(&state.store, caller.tenant, id).await?;
    let next = Schedule { key_id: caller.key_id(), ..checked(&state, caller.tenant, id, body.value, Some(old.body.clone())).await? };
    change(&state, caller.tenant, &old, next).await
}

async fn delete(
    caller: Scoped<SchedulesWrite>,
    State(store): State<SharedStore>,
    Id(id): Id<ScheduleId>,
) -> Result<Json<Deletion<ScheduleId>>> {
    if !all(&store, caller.tenant).delete(id).await? {
        return Err(ScheduleId::missing());
    }
    Ok(Json(Deletion::of(id)))
}

async fn pause(caller: Scoped<SchedulesWrite>, State(state): State<AppState>, Id(id): Id<ScheduleId>) -> Result<Json<Row>> {
    let old = find(&state.store, caller.tenant, id).await?;
    if old.body.status != Status::Active {
        return Ok(Json(Row::new(caller.tenant, old)));
    }
    let next = Schedule { status: Status::Paused, ..old.body.clone() };
    change(&state, caller.tenant, &old, next).await
}

async fn resume(caller: Scoped<SchedulesWrite>, State(state): State<AppState>, Id(id): Id<ScheduleId>) -> Result<Json<Row>> {
    let old = find(&state.store, caller.tenant, id).await?;
    if old.body.status != Status::Paused {
        return Ok(Json(Row::new(caller.tenant, old)));
    }
    // What passed while it was paused is passed.
    let next = old.body.clone().waiting(state.clock.now()).map_err(refused)?;
    change(&state, caller.tenant, &old, next).await
}

async fn run(
    caller: Scoped<SchedulesWrite>,
    State(state): State<AppState>,
    State(receipts): State<Receipts>,
    Id(id): Id<ScheduleId>,
    key: IdempotencyKey,
) -> Result<Repeatable<ManualFiring>> {
    let (tenant, key_id) = (caller.tenant, caller.key_id());
    let request = fingerprint(id.to_string().as_bytes());
    let call = Call { tenant, route: "POST /v1/schedules/{scheduleId}/run", key, request, secret: false };
    receipts
        .once_for_all(call, move |_| async move {
            let mut schedule = find(&state.store, tenant, id).await?;
            // The caller of this route pays for the execution.
            schedule.body.key_id = key_id;
            let firing = fire(&state, tenant, &schedule, None).await?;
            let status = if firing.body.error.is_some() { "failed" } else { "queued" };
            Ok(ManualFiring { run_id: firing.id, row: firing.into(), status })
        })
        .await
}

async fn runs(
    caller: Scoped<SchedulesRead>,
    State(store): State<SharedStore>,
    Id(id): Id<ScheduleId>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<FiringRow>>> {
    find(&store, caller.tenant, id).await?;
    let (trail, limit) = (paging.trail::<FiringId>()?, paging.limit());
    let found = Collection::<Firing>::of(&*store, caller.tenant).list(Some(&id.to_string()), trail.after(), limit + 1).await?;
    let page = trail.page(found, limit, false, |firing| firing.id);
    Ok(Json(Page { data: page.data.into_iter().map(FiringRow::from).collect(), pagination: page.pagination }))
}

async fn preview(caller: Scoped<SchedulesRead>, State(state): State<AppState>, Id(id): Id<ScheduleId>) -> Result<Json<Preview>> {
    let schedule = find(&state.store, caller.tenant, id).await?;
    let data = schedule.body.trigger.preview(state.clock.now(), PREVIEW).map_err(refused)?;
    Ok(Json(Preview { data }))
}
