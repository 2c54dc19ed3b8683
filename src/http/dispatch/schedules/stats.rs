//! `/v1/schedules/{scheduleId}/stats`: what became of a schedule's latest executions.

use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;

use super::routes::find;
use super::{Firing, Status};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::extract::Id;
use crate::http::scope::{SchedulesRead, Scoped};
use crate::id::ScheduleId;
use crate::model::{Run, RunState};
use crate::store::Collection;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/v1/schedules/{scheduleId}/stats",
        get_with(stats, about("getScheduleStats", "Schedules", "Count what became of its latest executions")),
    )
}

/// Firings, and executions of theirs, that statistics look at.
const COUNTED: u32 = 200;
const LOOKED_AT: usize = 1_000;
/// Days that are listed.
const DAYS: u32 = 7;
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// What became of a schedule's latest executions.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ScheduleStats")]
struct Stats {
    /// Firings of the last month; the latest two hundred.
    runs: u64,
    /// Firings that could not start all they should.
    failed_runs: u64,
    /// Executions that they started.
    executions: u64,
    /// How many of these were looked at: the latest thousand. The figures below are theirs.
    total: u64,
    /// How many succeeded.
    completed: u64,
    /// How many failed, or completed with failed steps.
    failed: u64,
    cancelled: u64,
    running: u64,
    /// Of those that have ended, 0 to 1; `null` before any has.
    success_rate: Option<f64>,
    /// Milliseconds, of those that have ended, pauses included.
    avg_duration_ms: Option<f64>,
    /// US dollars, of those that have ended.
    avg_cost_usd: Option<f64>,
    /// Executions that asked models without a known price.
    unpriced_executions: u64,
    /// The last seven days in UTC, the earliest first.
    #[serde(rename = "last7Days")]
    last_days: Vec<ScheduleDay>,
    last_run_at: Option<Timestamp>,
    next_run_at: Option<Timestamp>,
}

/// The executions that began on one day.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ScheduleDay")]
struct ScheduleDay {
    /// As `2026-03-31`.
    date: String,
    runs: u64,
    failed: u64,
}

/// A time's day in UTC.
fn date(time: Timestamp) -> String {
    time.to_string().chars().take("2026-03-31".len()).collect()
}

/// What is added up to be divided.
#[derive(Default)]
struct RunSums {
    ended: u64,
    took: Duration,
    cost: f64,
}

fn mean(sum: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| sum / count as f64)
}

impl Stats {
    fn add(&mut self, run: &Run, sums: &mut RunSums) {
        self.total += 1;
        // A failed execution that completed had failed steps.
        let failed = run.state == RunState::Failed || run.state == RunState::Completed && run.did_well() == Some(false);
        let count = match run.state {
            _ if failed => &mut self.failed,
            RunState::Completed => &mut self.completed,
            RunState::Cancelled => &mut self.cancelled,
            _ => &mut self.running,
        };
        *count += 1;
        self.unpriced_executions += u64::from(run.spent.estimated && run.spent.cost == 0 && run.spent.calls > 0);
        let began = date(run.created_at);
        if let Some(day) = self.last_days.iter_mut().find(|day| day.date == began) {
            day.runs += 1;
            day.failed += u64::from(failed);
        }
        if let Some(end) = run.finished_at.filter(|_| run.state.is_terminal()) {
            sums.ended += 1;
            sums.took += end.since(run.created_at);
            sums.cost += run.spent.dollars();
        }
    }
}

async fn stats(caller: Scoped<SchedulesRead>, State(state): State<AppState>, Id(id): Id<ScheduleId>) -> Result<Json<Stats>> {
    let schedule = find(&state.store, caller.tenant, id).await?;
    let firings = Collection::<Firing>::of(&*state.store, caller.tenant).list(Some(&id.to_string()), None, COUNTED).await?;
    let now = state.clock.now();
    let days = (0..DAYS).rev().map(|ago| date(now.before(DAY * ago)));
    let mut stats = Stats {
        last_run_at: schedule.body.last,
        next_run_at: schedule.body.next.filter(|_| schedule.body.status == Status::Active),
        last_days: days.map(|date| ScheduleDay { date, runs: 0, failed: 0 }).collect(),
        ..Stats::default()
    };
    for firing in &firings {
        stats.runs += 1;
        stats.failed_runs += u64::from(firing.body.error.is_some());
        stats.executions += firing.body.execution_count as u64;
    }
    let mut sums = RunSums::default();
    for run in firings.iter().flat_map(|firing| &firing.body.execution_ids).take(LOOKED_AT) {
        if let Some(run) = state.store.find_run(caller.tenant, *run).await? {
            stats.add(&run, &mut sums);
        }
    }
    stats.success_rate = mean(stats.completed as f64, sums.ended);
    stats.avg_duration_ms = mean(sums.took.as_secs_f64() * 1_000.0, sums.ended);
    stats.avg_cost_usd = mean(sums.cost, sums.ended);
    Ok(Json(stats))
}
