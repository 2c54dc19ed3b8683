//! From what was noted of runs to what addresses are told.

use serde_json::{Value, json};

use super::{Kind, Webhook, begin, webhooks};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::failpoint;
use crate::id::TenantId;
use crate::model::job::{Attempt, Job};
use crate::model::run::Fault;
use crate::model::{JobState, Run, RunState};
use crate::queue::Jobs;
use crate::store::{Kept, StoreResult};

/// Runs of one look.
const MOST: u32 = 100;
/// Addresses of a tenant that are read at once.
const PAGE: u32 = 200;
/// Longer outputs, in bytes, are left out: whoever wants one reads the run.
const LONGEST_OUTPUT: usize = 64 * 1024;

pub(super) async fn look(jobs: &Jobs) -> Result<()> {
    look_at_runs(jobs).await?;
    look_at_jobs(jobs).await
}

/// Jobs that ended without a run: nothing does them, or they were cancelled while they waited.
async fn look_at_jobs(jobs: &Jobs) -> Result<()> {
    loop {
        let untold = jobs.store().untold_jobs(&[], MOST).await?;
        for job in &untold {
            let kind = match job.state {
                JobState::Failed => Some(Kind::JobFailed),
                JobState::Cancelled => Some(Kind::JobCancelled),
                _ => None,
            };
            if let Some(kind) = kind {
                let of = format!("{}/{}", job.id, job.attempt);
                let data = json!({ "job": shown_job(job, job.attempt, job.last_error.as_deref(), None) });
                tell_all(jobs, job.tenant, &[(kind, data)], &of, job.updated_at).await?;
            }
            failpoint::hit("webhook.told");
            jobs.store().job_told(job.tenant, job.id).await?;
        }
        if untold.len() < MOST as usize {
            return Ok(());
        }
    }
}

async fn look_at_runs(jobs: &Jobs) -> Result<()> {
    loop {
        let noticed = jobs.store().noticed_runs(&[], MOST).await?;
        for (tenant, run) in &noticed {
            let Some(run) = jobs.store().find_run(*tenant, *run).await? else { continue };
            tell(jobs, &run).await?;
            failpoint::hit("webhook.told");
            jobs.store().notice_told(*tenant, run.id, run.commit).await?;
        }
        if noticed.len() < MOST as usize {
            return Ok(());
        }
    }
}

async fn tell(jobs: &Jobs, run: &Run) -> Result<()> {
    let mut events = vec![];
    if let Some(kind) = of_run(run) {
        events.push((kind, json!({ "run": shown(run) })));
    }
    if let Some(attempt) = run.input.job
        && let Some(job) = jobs.store().find_job(run.tenant, attempt.job).await?
        && let Some(kind) = of_job(run.state, &job, attempt)
    {
        let again = (run.state == RunState::Failed && attempt.failures < attempt.max_retries).then_some(job.run_at);
        let error = run.failure.as_ref().map(|failure| failure.message.as_str());
        events.push((kind, json!({ "job": shown_job(&job, attempt.number, error, again) })));
    }
    let happened = run.finished_at.unwrap_or_else(|| jobs.clock().now());
    tell_all(jobs, run.tenant, &events, &format!("{}/{}", run.id, run.commit), happened).await
}

/// Everybody who wants to know. `of`: what it is about; the same and the same kind is told once.
async fn tell_all(jobs: &Jobs, tenant: TenantId, events: &[(Kind, Value)], of: &str, happened: Timestamp) -> Result<()> {
    let all = addresses(jobs, tenant).await?;
    for (kind, data) in events {
        for address in all.iter().filter(|address| address.body.wants(*kind)) {
            begin(jobs, tenant, address.id, *kind, data.clone(), format!("{of}/{}", kind.as_str()), happened).await?;
        }
    }
    Ok(())
}

async fn addresses(jobs: &Jobs, tenant: TenantId) -> StoreResult<Vec<Kept<Webhook>>> {
    let (mut all, mut before) = (Vec::new(), None);
    loop {
        let page = webhooks(jobs.store(), tenant).list(None, before, PAGE).await?;
        before = page.last().map(|kept| kept.id);
        let whole = page.len() < PAGE as usize;
        all.extend(page);
        if whole {
            return Ok(all);
        }
    }
}

fn of_run(run: &Run) -> Option<Kind> {
    match run.state {
        RunState::Paused => Some(Kind::RunPaused),
        // It completed with failed steps, so subscribers to failures are notified.
        RunState::Completed if run.did_well() == Some(false) => Some(Kind::RunFailed),
        RunState::Completed => Some(Kind::RunCompleted),
        RunState::Failed => Some(Kind::RunFailed),
        RunState::Cancelled => Some(Kind::RunCancelled),
        RunState::Queued | RunState::Running | RunState::Compensating => None,
    }
}

fn of_job(state: RunState, job: &Job, attempt: Attempt) -> Option<Kind> {
    match state {
        // Somebody wanted no other attempt.
        RunState::Failed if job.state == JobState::Cancelled && job.attempt == attempt.number => Some(Kind::JobCancelled),
        RunState::Completed => Some(Kind::JobCompleted),
        RunState::Cancelled => Some(Kind::JobCancelled),
        RunState::Failed if attempt.failures < attempt.max_retries => Some(Kind::JobRetrying),
        RunState::Failed => Some(Kind::JobFailed),
        RunState::Queued | RunState::Running | RunState::Paused | RunState::Compensating => None,
    }
}

fn shown(run: &Run) -> Value {
    let output = run.output.as_ref().filter(|output| output.to_string().len() <= LONGEST_OUTPUT);
    json!({
        "id": run.id, "name": run.flow_name, "kind": run.target.kind(), "flowId": run.target.flow_id(), "agentId": run.target.agent_id(),
        "scheduleId": run.input.schedule_id(), "recordId": run.input.record_id(), "status": run.state, "success": run.did_well(),
        "createdAt": run.created_at, "finishedAt": run.finished_at, "error": run.failure.as_ref().map(Fault::of), "cost": run.spent.dollars(),
        "usage": {
            "inputTokens": run.spent.input_tokens, "outputTokens": run.spent.output_tokens, "modelCalls": run.spent.calls,
            "durationMs": run.spent.duration_ms, "estimated": run.spent.estimated,
        },
        "output": output, "outputLeftOut": run.output.is_some() && output.is_none(),
    })
}

fn shown_job(job: &Job, attempt: u32, error: Option<&str>, again: Option<Timestamp>) -> Value {
    json!({
        "job_id": job.id, "job_name": job.order.name, "queue": job.queue, "attempt": attempt,
        "scope_app_id": job.order.scope.app, "scope_org_id": job.order.scope.org, "error": error, "next_run_at": again,
    })
}
