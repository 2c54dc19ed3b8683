//! `/v1/stats`: how much there is of everything.

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;

use super::about;
use super::jobs::Counts;
use super::workflows::State as RunWord;
use crate::error::Result;
use crate::http::AppState;
use crate::http::scope::{JobsRead, Scoped};
use crate::id::TenantId;
use crate::store::{DeadFilter, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route("/v1/stats", get_with(stats, about("getStats", "Stats", "Count jobs, dead letters and runs")))
}

/// How much there is.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct Stats {
    jobs: Counts,
    dlq_count: u64,
    workflows: Runs,
}

/// Executions, attempts of jobs included.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "RunCounts")]
struct Runs {
    running: u64,
    completed: u64,
    failed: u64,
}

async fn stats(caller: Scoped<JobsRead>, State(store): State<SharedStore>) -> Result<Json<Stats>> {
    count_all(&store, caller.tenant).await.map(Json)
}

/// Counts jobs, dead letters and runs.
pub(in crate::http) async fn count_all(store: &SharedStore, tenant: TenantId) -> Result<Stats> {
    let jobs = Counts::of(store.count_jobs(tenant).await?.iter());
    let dlq_count = store.count_dead(tenant, DeadFilter::default()).await?;
    let mut workflows = Runs::default();
    for (state, count) in store.count_runs(tenant).await? {
        match RunWord::of(state) {
            RunWord::Running => workflows.running += count,
            RunWord::Completed => workflows.completed += count,
            RunWord::Failed => workflows.failed += count,
        }
    }
    Ok(Stats { jobs, dlq_count, workflows })
}
