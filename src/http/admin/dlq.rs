//! `/v1/dlq`: jobs that failed for the last time.

use std::time::Duration;

use aide::OperationOutput;
use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use aide::generate::GenContext;
use aide::openapi::{Operation, Response as Documented, StatusCode as Code};
use axum::Json;
use axum::extract::State;
use axum::http::header::HeaderName;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::jobs::Row as JobRow;
use super::time::AdminTime;
use super::{Window, about, body_optional, given};
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, InPath, Params};
use crate::http::scope::{JobsRead, JobsWrite, Scoped};
use crate::id::{DeadLetterId, JobId, TenantId};
use crate::model::job::DeadLetter;
use crate::model::{Caller, span};
use crate::store::{DeadFilter, SharedStore};

const TAG: &str = "Dead letters";
/// How old letters are that are purged when nobody says.
const OLD: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Letters that one call replays.
const MOST_AT_ONCE: u32 = 1_000;
/// Names the job that a letter was made into before.
const EARLIER: HeaderName = HeaderName::from_static("dispatch-earlier-job");

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/dlq", get_with(list, about("listDeadLetters", TAG, "List dead letters, the one that failed first at the head")))
        .api_route("/v1/dlq/count", get_with(count, about("countDeadLetters", TAG, "Count dead letters")))
        .api_route("/v1/dlq/purge", post_with(purge, |op| body_optional(about("purgeDeadLetters", TAG, "Delete old dead letters")(op))))
        .api_route(
            "/v1/dlq/replay-all",
            post_with(replay_all, |op| body_optional(about("replayDeadLetters", TAG, "Make jobs of all dead letters that are open")(op))),
        )
        .api_route("/v1/dlq/{entryId}", get_with(read, about("getDeadLetter", TAG, "Read a dead letter")))
        .api_route("/v1/dlq/{entryId}/replay", post_with(replay, about("replayDeadLetter", TAG, "Make a new job of a dead letter")))
}

/// A job that failed for the last time, as it was.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeadLetter")]
pub(in crate::http) struct Row {
    id: DeadLetterId,
    job_id: JobId,
    job_name: String,
    queue: String,
    error: String,
    payload: Value,
    retry_count: u32,
    max_retries: u32,
    scope_app_id: String,
    scope_org_id: String,
    failed_at: AdminTime,
    /// When it was made a job again, the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed_at: Option<AdminTime>,
    /// That job.
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed_as: Option<JobId>,
    created_at: AdminTime,
}

impl From<DeadLetter> for Row {
    fn from(letter: DeadLetter) -> Self {
        let order = letter.order;
        Self {
            id: letter.id,
            job_id: letter.job,
            job_name: order.name,
            queue: letter.queue,
            error: letter.error,
            payload: order.payload,
            retry_count: letter.retry_count,
            max_retries: order.max_retries,
            scope_app_id: order.scope.app,
            scope_org_id: order.scope.org,
            failed_at: letter.failed_at.into(),
            replayed_at: letter.replayed_at.map(AdminTime),
            replayed_as: letter.replayed_as,
            created_at: letter.failed_at.into(),
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::http) struct Query {
    queue: Option<String>,
    /// Only letters behind this one: the last of the page before.
    after: Option<DeadLetterId>,
    /// 50 when absent or below 1; 1,000 at most.
    limit: Option<i64>,
    /// Rows to leave out; past the end there are none.
    offset: Option<i64>,
}

/// How many there are.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeadLetterCount")]
struct Count {
    count: u64,
}

/// Which letters to delete.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "DeadLetterPurge")]
struct Purge {
    /// How old they must be at least, as `720h`, `30d` or `0s`; 30 days when absent.
    older_than: Option<String>,
    queue: Option<String>,
    /// Only count.
    dry_run: bool,
}

/// How many were deleted, or would be.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeadLettersPurged")]
struct Purged {
    purged: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

/// Which letters to replay.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "DeadLetterReplay")]
struct ReplayAll {
    queue: Option<String>,
    /// Only count.
    dry_run: bool,
}

/// How many became jobs again, and how many did not.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "DeadLettersReplayed")]
struct Replayed {
    replayed: u64,
    errors: u64,
}

/// The new job, and the one that the letter was made into before.
struct Again {
    job: JobRow,
    earlier: Option<JobId>,
}

impl IntoResponse for Again {
    fn into_response(self) -> Response {
        let mut response = (StatusCode::CREATED, Json(self.job)).into_response();
        if let Some(earlier) = self.earlier.and_then(|job| HeaderValue::from_str(&job.to_string()).ok()) {
            response.headers_mut().insert(EARLIER, earlier);
        }
        response
    }
}

impl OperationOutput for Again {
    type Inner = JobRow;

    fn operation_response(context: &mut GenContext, operation: &mut Operation) -> Option<Documented> {
        Json::<JobRow>::operation_response(context, operation)
    }

    fn inferred_responses(context: &mut GenContext, operation: &mut Operation) -> Vec<(Option<Code>, Documented)> {
        Self::operation_response(context, operation).map(|response| (Some(Code::Code(201)), response)).into_iter().collect()
    }
}

async fn find(store: &SharedStore, tenant: TenantId, id: DeadLetterId) -> Result<DeadLetter> {
    store.find_dead(tenant, id).await?.ok_or_else(DeadLetterId::missing)
}

async fn list(caller: Scoped<JobsRead>, State(store): State<SharedStore>, Params(query): Params<Query>) -> Result<Json<Vec<Row>>> {
    list_letters(&store, caller.tenant, query).await.map(Json)
}

/// Lists dead letters, the one that failed first at the head.
pub(in crate::http) async fn list_letters(store: &SharedStore, tenant: TenantId, query: Query) -> Result<Vec<Row>> {
    let after = match query.after {
        Some(id) => Some(find(store, tenant, id).await?),
        None => None,
    };
    let window = Window::of(query.limit, query.offset);
    let filter = DeadFilter {
        queue: given(query.queue),
        after: after.map(|letter| (letter.failed_at, letter.id)),
        offset: window.offset(),
        limit: window.limit(),
        ..DeadFilter::default()
    };
    Ok(store.list_dead(tenant, filter).await?.into_iter().map(Row::from).collect())
}

async fn count(caller: Scoped<JobsRead>, State(store): State<SharedStore>) -> Result<Json<Count>> {
    Ok(Json(Count { count: store.count_dead(caller.tenant, DeadFilter::default()).await? }))
}

async fn read(caller: Scoped<JobsRead>, State(store): State<SharedStore>, Id(id): Id<DeadLetterId>) -> Result<Json<Row>> {
    find(&store, caller.tenant, id).await.map(|letter| Json(letter.into()))
}

async fn replay(caller: Scoped<JobsWrite>, State(state): State<AppState>, Id(id): Id<DeadLetterId>) -> Result<Again> {
    let (job, earlier) = replay_letter(&state, &caller, id).await?;
    Ok(Again { job, earlier })
}

/// Makes a new job of a dead letter; that job, and the one that the letter was made into before.
pub(in crate::http) async fn replay_letter(state: &AppState, caller: &Caller, id: DeadLetterId) -> Result<(JobRow, Option<JobId>)> {
    let letter = find(&state.store, caller.tenant, id).await?;
    let job = state.jobs.replay(&letter, caller.key_id(), JobId::new(&state.clock)).await?;
    Ok((job.into(), letter.replayed_as))
}

async fn replay_all(caller: Scoped<JobsWrite>, State(state): State<AppState>, body: Option<Body<ReplayAll>>) -> Result<Json<Replayed>> {
    let ReplayAll { queue, dry_run } = body.map(|body| body.value).unwrap_or_default();
    let filter = DeadFilter { queue: given(queue), open: true, limit: MOST_AT_ONCE, ..DeadFilter::default() };
    let mut all = Replayed::default();
    for letter in state.store.list_dead(caller.tenant, filter).await? {
        let replayed = if dry_run { Ok(()) } else { state.jobs.replay(&letter, caller.key_id(), JobId::new(&state.clock)).await.map(drop) };
        match replayed {
            Ok(()) => all.replayed += 1,
            Err(error) => {
                tracing::warn!(letter = %letter.id, ?error, "a dead letter was not replayed");
                all.errors += 1;
            }
        }
    }
    Ok(Json(all))
}

async fn purge(caller: Scoped<JobsWrite>, State(state): State<AppState>, body: Option<Body<Purge>>) -> Result<Json<Purged>> {
    let Purge { older_than, queue, dry_run } = body.map(|body| body.value).unwrap_or_default();
    let old = match older_than {
        Some(text) => {
            span::parse(&text).ok_or_else(|| Error::invalid_at("/older_than", "expected a length of time as `720h`, `30d` or `90m`"))?
        }
        None => OLD,
    };
    let filter = DeadFilter { queue: given(queue), before: Some(state.clock.now().before(old)), ..DeadFilter::default() };
    let purged = match dry_run {
        true => state.store.count_dead(caller.tenant, filter).await?,
        false => state.store.purge_dead(caller.tenant, filter).await?,
    };
    Ok(Json(Purged { purged, dry_run }))
}
