//! Reads what runs do from their logs and publishes it, while anybody listens.

use std::collections::BTreeSet;

use moka::sync::Cache;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::StreamEvent;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{RunId, TenantId};
use crate::model::job::Job;
use crate::model::{Event, Run};
use crate::queue::Jobs;
use crate::store::StoreError;

/// Runs whose place in the log is remembered.
const MAX_RUNS: u64 = 10_000;
/// Segments of a log that are read at once.
const PAGE: u32 = 64;

/// How far each run's log has been read: the number after the last event.
type Cursors = Cache<(TenantId, RunId), u64>;

/// Publishes what runs do, until the workers stop. Nothing is watched before somebody listens.
pub(in crate::queue) async fn watch(jobs: Jobs) {
    let stop = jobs.stopping();
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = watch_runs(&jobs) => {}
    }
    // Nobody shall wait for what does not come.
    jobs.broker().set_watching();
}

async fn watch_runs(jobs: &Jobs) {
    jobs.broker().until_subscribed().await;
    // The bell tells of other nodes' runs, the feed of this node's.
    let (mut bell, mut activity) = (jobs.store().bell(), jobs.parts().feed.activity());
    jobs.broker().set_watching();
    let cursors = Cursors::new(MAX_RUNS);
    loop {
        let grown = tokio::select! {
            biased;
            grown = activity.recv() => grown,
            rung = bell.recv() => rung.map(|rung| rung.run),
        };
        let mut runs = match grown {
            Ok(run) => BTreeSet::from([run]),
            // What was missed is read with the run's next event.
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        while let Ok(run) = activity.try_recv() {
            runs.insert(run);
        }
        while let Ok(rung) = bell.try_recv() {
            runs.insert(rung.run);
        }
        let tenants = jobs.broker().tenants();
        for run in runs {
            for tenant in &tenants {
                if let Err(error) = publish_run(jobs, &cursors, *tenant, run).await {
                    tracing::debug!(%run, ?error, "failed to read a run's events for subscribers; its next event shows them");
                }
            }
        }
    }
}

/// Publishes what a run did since the last time.
async fn publish_run(jobs: &Jobs, cursors: &Cursors, tenant: TenantId, id: RunId) -> Result<()> {
    let run = match jobs.store().find_run(tenant, id).await {
        Ok(Some(run)) => run,
        // Another tenant's, or sealed and therefore nobody's to read now.
        Ok(None) | Err(StoreError::Locked) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut next = cursors.get(&(tenant, id)).unwrap_or(0);
    loop {
        let first = next;
        let segments = jobs.store().read_log(tenant, id, next.checked_sub(1), PAGE).await?;
        for record in segments.into_iter().flat_map(|segment| segment.events) {
            if record.seq < next {
                continue;
            }
            next = record.seq + 1;
            // Rather an event that is lost than one that comes twice.
            cursors.insert((tenant, id), next);
            if let Some(event) = record.event() {
                publish_event(jobs, &run, event).await?;
            }
        }
        if next == first {
            return Ok(());
        }
    }
}

async fn publish_event(jobs: &Jobs, run: &Run, event: Event) -> Result<()> {
    let of_run = |kind, at, more| StreamEvent::of_run(kind, run.id, &run.flow_name, at, more);
    let (told, end) = match event {
        Event::ExecutionStart { started_at, .. } => {
            let attempt = run.input.job.map(|attempt| attempt.number);
            if let Some(job) = job_of(jobs, run).await? {
                let event = StreamEvent::of_job("job.started", &job, started_at, json!({ "attempt": attempt }));
                jobs.broker().publish(run.tenant, event);
            }
            (of_run("workflow.started", started_at, json!({})), None)
        }
        Event::StepComplete { name, success, error, duration_ms, completed_at, .. } => {
            let kind = if success { "workflow.step_completed" } else { "workflow.step_failed" };
            (of_run(kind, completed_at, json!({ "step_name": name, "elapsed_ms": duration_ms, "error": error })), None)
        }
        Event::ExecutionComplete { completed_at, .. } => {
            let elapsed = elapsed_ms(run, completed_at);
            (of_run("workflow.completed", completed_at, json!({ "elapsed_ms": elapsed })), Some((completed_at, None)))
        }
        Event::ExecutionError { error, code, completed_at, .. } => {
            let more = json!({ "elapsed_ms": elapsed_ms(run, completed_at), "error": error });
            (of_run("workflow.failed", completed_at, more), Some((completed_at, Some((code, error)))))
        }
        _ => return Ok(()),
    };
    jobs.broker().publish(run.tenant, told);
    match end {
        Some((at, failure)) => publish_attempt(jobs, run, at, failure).await,
        None => Ok(()),
    }
}

/// Publishes what the end of an attempt made of its job.
async fn publish_attempt(jobs: &Jobs, run: &Run, at: Timestamp, failure: Option<(String, String)>) -> Result<()> {
    let (Some(attempt), Some(job)) = (run.input.job, job_of(jobs, run).await?) else { return Ok(()) };
    let publish = |kind, more| jobs.broker().publish(run.tenant, StreamEvent::of_job(kind, &job, at, more));
    let elapsed = elapsed_ms(run, at);
    let Some((code, error)) = failure else {
        publish("job.completed", json!({ "elapsed_ms": elapsed, "attempt": attempt.number }));
        return Ok(());
    };
    if code == "cancelled" {
        publish("job.cancelled", json!({ "attempt": attempt.number }));
    } else if attempt.failures < attempt.max_retries {
        let next_run_at = (job.attempt == attempt.number).then_some(job.run_at);
        publish("job.retrying", json!({ "attempt": attempt.number, "error": error, "next_run_at": next_run_at }));
    } else {
        for kind in ["job.failed", "job.dlq"] {
            publish(kind, json!({ "attempt": attempt.number, "error": error, "elapsed_ms": elapsed }));
        }
    }
    Ok(())
}

/// The job whose attempt a run is.
async fn job_of(jobs: &Jobs, run: &Run) -> Result<Option<Job>> {
    match run.input.job {
        Some(attempt) => Ok(jobs.store().find_job(run.tenant, attempt.job).await?),
        None => Ok(None),
    }
}

fn elapsed_ms(run: &Run, at: Timestamp) -> u64 {
    u64::try_from(at.since(run.created_at).as_millis()).unwrap_or(u64::MAX)
}
