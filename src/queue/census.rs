//! Metrics of the backlog in the database. Every node reports the whole database, so aggregate over nodes with `max`, not `sum`.

use std::time::Duration;

use super::Jobs;
use crate::store::Census;

const WAITING: &str = "dispatch_runs_waiting";
const JOBS: &str = "dispatch_jobs";
const DEAD: &str = "dispatch_dead_letters";
const NOTICES: &str = "dispatch_webhook_notices";
const DELIVERIES: &str = "dispatch_webhook_deliveries_due";
const CONNECTIONS: &str = "dispatch_database_connections";

/// How often the backlog is counted.
const PAUSE: Duration = Duration::from_secs(15);

/// Describes the metrics.
pub(super) fn describe() {
    metrics::describe_gauge!(WAITING, "Unfinished executions in the database, by state: queued, running, paused");
    metrics::describe_gauge!(JOBS, "Jobs in the database, by state: ready (due), later, running");
    metrics::describe_gauge!(DEAD, "Dead letters that have not been replayed");
    metrics::describe_gauge!(NOTICES, "Executions with webhook notifications that have not been queued");
    metrics::describe_gauge!(DELIVERIES, "Webhook deliveries that are due");
    metrics::describe_gauge!(CONNECTIONS, "This node's database connections, by state: used, idle");
    tell(&Census::default());
}

/// Counts the backlog periodically.
pub async fn beat(jobs: Jobs) {
    let clock = jobs.clock().clone();
    loop {
        match jobs.store().census(clock.now()).await {
            Ok(census) => tell(&census),
            Err(error) => tracing::debug!(%error, "failed to count the backlog in the database; retrying"),
        }
        clock.sleep(PAUSE).await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
fn tell(census: &Census) {
    for (state, count) in [("queued", census.queued), ("running", census.running), ("paused", census.paused)] {
        metrics::gauge!(WAITING, "state" => state).set(count as f64);
    }
    for (state, count) in [("ready", census.jobs_ready), ("later", census.jobs_later), ("running", census.jobs_running)] {
        metrics::gauge!(JOBS, "state" => state).set(count as f64);
    }
    for (state, count) in [("used", census.connections_used), ("idle", census.connections_idle)] {
        metrics::gauge!(CONNECTIONS, "state" => state).set(count as f64);
    }
    metrics::gauge!(DEAD).set(census.dead_letters as f64);
    metrics::gauge!(NOTICES).set(census.notices as f64);
    metrics::gauge!(DELIVERIES).set(census.deliveries as f64);
}
