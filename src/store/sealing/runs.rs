//! Runs, their logs and their waits.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::keys::{SEALED, sealed_in};
use super::{Keys, Lock, Place, Sealing};
use crate::clock::Timestamp;
use crate::id::{NodeId, RunId, TenantId, WaitId};
use crate::model::event::{EventRecord, Segment};
use crate::model::run::Failure;
use crate::model::wait::{Resolution, Wait};
use crate::model::{Epoch, JournalEntry, Run, RunInput, RunState, journal::Outcome};
use crate::store::{
    Blob, Census, Censuses, Claim, Commit, Committed, Created, Lease, Logs, NewRun, Notices, Renewed, Resolve, Resolved, RunFilter,
    RunSummary, Runs, Signal, SignalKey, SmallLog, StoreError, StoreResult, Waits,
};

/// What a list shows of an error that cannot be read here.
const UNREADABLE: &str = "the text is sealed, and the tenant's key is not here";

impl Keys {
    /// Only what the engine's owner steers by stays: options, and whose the run is.
    fn hide_input(&self, input: &mut RunInput, run: &str) -> StoreResult<()> {
        let sealed = self.seal(&crate::store::batch::json(input), &Place::new("runs", run, "input"))?;
        *input = RunInput {
            inputs: [(SEALED.to_owned(), Value::String(sealed))].into_iter().collect(),
            record: input.record_id().map(|id| json!({ "id": id })),
            session: input.session,
            key_id: input.key_id,
            job: input.job,
            options: input.options.clone(),
            ..RunInput::default()
        };
        Ok(())
    }

    fn show_input(&self, input: &mut RunInput, run: &str) -> StoreResult<()> {
        let place = Place::new("runs", run, "input");
        if let Some(sealed) = sealed_in(&input.inputs) {
            *input = serde_json::from_str(&self.open_text(sealed, &place)?).map_err(|why| place.broken(why))?;
        }
        Ok(())
    }

    fn hide_journal(&self, journal: &mut [JournalEntry], run: &str) -> StoreResult<()> {
        journal.iter_mut().try_for_each(|entry| match &mut entry.outcome {
            Outcome::Begun => Ok(()),
            Outcome::Done(value) | Outcome::Failed(value) => {
                self.hide_value(value, &Place::new("journal", &format!("{run}/{}", entry.key), "outcome"))
            }
        })
    }

    fn show_journal(&self, journal: &mut [JournalEntry], run: &str) -> StoreResult<()> {
        journal.iter_mut().try_for_each(|entry| match &mut entry.outcome {
            Outcome::Begun => Ok(()),
            Outcome::Done(value) | Outcome::Failed(value) => {
                self.show_value(value, &Place::new("journal", &format!("{run}/{}", entry.key), "outcome"))
            }
        })
    }

    fn hide_segment(&self, segment: &mut Segment, run: &str) -> StoreResult<()> {
        self.events(segment, run, |body, place| self.seal_json(body, place))
    }

    fn show_segment(&self, segment: &mut Segment, run: &str) -> StoreResult<()> {
        self.events(segment, run, |body, place| self.open_json(body, place))
    }

    fn events(&self, segment: &mut Segment, run: &str, turn: impl Fn(&str, &Place<'_>) -> StoreResult<String>) -> StoreResult<()> {
        segment.events.iter_mut().try_for_each(|event: &mut EventRecord| {
            event.body = turn(&event.body, &Place::new("events", &format!("{run}/{}", event.seq), "body"))?.into();
            Ok(())
        })
    }

    fn hide_failure(&self, failure: &mut Failure, run: &str) -> StoreResult<()> {
        self.hide(&mut failure.message, &Place::new("runs", run, "failure"))
    }

    fn show_failure(&self, failure: &mut Failure, run: &str) -> StoreResult<()> {
        self.show(&mut failure.message, &Place::new("runs", run, "failure"))
    }

    fn hide_resolution(&self, resolution: &mut Resolution, wait: WaitId) -> StoreResult<()> {
        self.hide_value(&mut resolution.answer, &Place::new("waits", &wait.to_string(), "resolution"))
    }

    fn show_resolution(&self, resolution: &mut Resolution, wait: WaitId) -> StoreResult<()> {
        self.show_value(&mut resolution.answer, &Place::new("waits", &wait.to_string(), "resolution"))
    }

    fn hide_wait(&self, wait: &mut Wait) -> StoreResult<()> {
        self.hide_value(&mut wait.shown, &Place::new("waits", &wait.id.to_string(), "shown"))?;
        wait.resolution.as_mut().map_or(Ok(()), |resolution| self.hide_resolution(resolution, wait.id))
    }

    fn show_wait(&self, wait: &mut Wait) -> StoreResult<()> {
        self.show_value(&mut wait.shown, &Place::new("waits", &wait.id.to_string(), "shown"))?;
        wait.resolution.as_mut().map_or(Ok(()), |resolution| self.show_resolution(resolution, wait.id))
    }

    fn show_run(&self, run: &mut Run) -> StoreResult<()> {
        let id = run.id.to_string();
        self.show_input(&mut run.input, &id)?;
        if let Some(sealed) = &mut run.sealed {
            *sealed = self.open_bytes(sealed, &Place::new("runs", &id, "sealed"))?.to_vec();
        }
        if let Some(output) = &mut run.output {
            self.show_value(output, &Place::new("runs", &id, "output"))?;
        }
        run.failure.as_mut().map_or(Ok(()), |failure| self.show_failure(failure, &id))
    }

    fn show_lease(&self, lease: &mut Lease) -> StoreResult<()> {
        let run = lease.run.id.to_string();
        self.show_run(&mut lease.run)?;
        lease.flow = self.open_json(&lease.flow, &Place::new("blobs", &lease.run.flow_hash, "body"))?;
        self.show_journal(&mut lease.journal, &run)?;
        lease.waits.iter_mut().try_for_each(|wait| self.show_wait(wait))?;
        lease.tail.iter_mut().try_for_each(|segment| self.show_segment(segment, &run))
    }

    fn hide_new(&self, new: &mut NewRun) -> StoreResult<()> {
        let run = new.id.to_string();
        let hash = self.hash(&new.flow.hash)?;
        new.flow = Blob { body: self.seal_json(&new.flow.body, &Place::new("blobs", &hash, "body"))?, hash };
        self.hide_input(&mut new.input, &run)?;
        if let Some(sealed) = &mut new.sealed {
            *sealed = self.seal_bytes(sealed, &Place::new("runs", &run, "sealed"))?;
        }
        self.hide_journal(&mut new.journal, &run)?;
        new.segment.as_mut().map_or(Ok(()), |segment| self.hide_segment(segment, &run))
    }

    fn hide_commit(&self, commit: &mut Commit) -> StoreResult<()> {
        let run = commit.run.to_string();
        if let Some(output) = &mut commit.output {
            self.hide_value(output, &Place::new("runs", &run, "output"))?;
        }
        if let Some(failure) = &mut commit.failure {
            self.hide_failure(failure, &run)?;
        }
        self.hide_journal(&mut commit.journal, &run)?;
        if let Some(segment) = &mut commit.segment {
            self.hide_segment(segment, &run)?;
        }
        commit.waits.iter_mut().try_for_each(|wait| self.hide_wait(wait))?;
        if let Some(end) = &mut commit.child_end {
            self.hide_resolution(&mut end.resolution, end.parent.wait)?;
        }
        commit.job_end.as_mut().map_or(Ok(()), |end| self.hide_job_end(end))
    }

    fn hide_signal(&self, signal: &mut Signal, run: RunId) -> StoreResult<()> {
        let row = format!("{run}/{}/{}", signal.name, signal.id);
        self.hide_value(&mut signal.payload, &Place::new("signals", &row, "payload"))
    }

    fn show_signal(&self, signal: &mut Signal, run: RunId) -> StoreResult<()> {
        let row = format!("{run}/{}/{}", signal.name, signal.id);
        self.show_value(&mut signal.payload, &Place::new("signals", &row, "payload"))
    }
}

impl Sealing {
    /// Lays a run down again that was claimed before anybody knew that its key is not here.
    async fn lay_down(&self, lease: &Lease, claim: &Claim) -> StoreResult<()> {
        let run = &lease.run;
        // What is being undone keeps its state, and its lease until that ends.
        let state = if run.state == RunState::Compensating { RunState::Compensating } else { RunState::Queued };
        let commit = Commit {
            tenant: run.tenant,
            run: run.id,
            epoch: run.epoch,
            number: run.commit + 1,
            seen_nudges: None,
            state,
            advances: false,
            wake_at: Some(claim.now),
            reserved: run.reserved,
            spent: run.spent,
            output: None,
            failure: None,
            finished_at: None,
            journal: Vec::new(),
            segment: None,
            waits: Vec::new(),
            usage: Vec::new(),
            child_end: None,
            job_end: None,
            now: claim.now,
        };
        self.inner.commit_run(commit).await.map(drop)
    }
}

#[async_trait]
impl Runs for Sealing {
    async fn create_run(&self, mut new: NewRun) -> StoreResult<Created> {
        let (tenant, run) = (new.tenant, new.id);
        if let Some(keys) = self.keys(tenant).await? {
            keys.hide_new(&mut new)?;
            self.ring.run_begins(tenant, run, self.clock.now());
        }
        self.inner.create_run(new).await
    }

    async fn commit_run(&self, mut commit: Commit) -> StoreResult<Committed> {
        let (tenant, run, ends) = (commit.tenant, commit.run, commit.state.is_terminal());
        if let Some(keys) = self.keys(tenant).await? {
            keys.hide_commit(&mut commit)?;
        }
        let done = self.inner.commit_run(commit).await?;
        if ends && done == Committed::Done {
            self.ring.run_ends(tenant, run);
        }
        Ok(done)
    }

    async fn claim_runs(&self, mut claim: Claim) -> StoreResult<Vec<Lease>> {
        claim.except = self.without(&claim.except);
        let mut leases = Vec::new();
        for mut lease in self.inner.claim_runs(claim.clone()).await? {
            let (tenant, run) = (lease.run.tenant, lease.run.id);
            let opened = match self.lock(tenant).await? {
                Lock::None => Ok(()),
                Lock::Open(keys) => keys.show_lease(&mut lease),
                Lock::Shut => Err(StoreError::Locked),
            };
            let locked = matches!(opened, Err(StoreError::Locked));
            if self.is_readable(tenant, opened) {
                self.ring.run_begins(tenant, run, self.clock.now());
                leases.push(lease);
            } else if locked {
                self.lay_down(&lease, &claim).await?;
            }
        }
        Ok(leases)
    }

    async fn renew_runs(&self, node: NodeId, held: &[(RunId, Epoch)], until: Timestamp) -> StoreResult<Vec<Renewed>> {
        self.inner.renew_runs(node, held, until).await
    }

    async fn next_wake(&self, except: &[TenantId]) -> StoreResult<Option<Timestamp>> {
        self.inner.next_wake(&self.without(except)).await
    }

    async fn request_cancel(&self, tenant: TenantId, run: RunId, now: Timestamp) -> StoreResult<Option<RunState>> {
        self.inner.request_cancel(tenant, run, now).await
    }

    async fn find_run(&self, tenant: TenantId, run: RunId) -> StoreResult<Option<Run>> {
        let found = self.inner.find_run(tenant, run).await?.into_iter().collect();
        Ok(self.show_all(tenant, found, |keys, run| keys.show_run(run)).await?.pop())
    }

    async fn list_runs(&self, tenant: TenantId, filter: RunFilter) -> StoreResult<Vec<RunSummary>> {
        let mut runs = self.inner.list_runs(tenant, filter).await?;
        let lock = self.lock(tenant).await?;
        for summary in &mut runs {
            let Some(failure) = &mut summary.failure else { continue };
            match &lock {
                Lock::None => {}
                Lock::Open(keys) => keys.show_failure(failure, &summary.id.to_string())?,
                // States and times are there for everybody.
                Lock::Shut => UNREADABLE.clone_into(&mut failure.message),
            }
        }
        Ok(runs)
    }

    async fn flow_of_run(&self, tenant: TenantId, run: RunId) -> StoreResult<Option<String>> {
        let Some(flow) = self.inner.flow_of_run(tenant, run).await? else { return Ok(None) };
        let Some(keys) = self.keys(tenant).await? else { return Ok(Some(flow)) };
        let Some(found) = self.inner.find_run(tenant, run).await? else { return Ok(None) };
        keys.open_json(&flow, &Place::new("blobs", &found.flow_hash, "body")).map(Some)
    }

    async fn count_runs(&self, tenant: TenantId) -> StoreResult<Vec<(RunState, u64)>> {
        self.inner.count_runs(tenant).await
    }

    async fn read_log(&self, tenant: TenantId, run: RunId, after: Option<u64>, limit: u32) -> StoreResult<Vec<Segment>> {
        let log = self.inner.read_log(tenant, run, after, limit).await?;
        let id = run.to_string();
        self.show_all(tenant, log, |keys, segment| keys.show_segment(segment, &id)).await
    }

    async fn read_journal(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<JournalEntry>> {
        let journal = self.inner.read_journal(tenant, run).await?;
        let id = run.to_string();
        self.show_all(tenant, journal, |keys, entry| keys.show_journal(std::slice::from_mut(entry), &id)).await
    }

    async fn stuck_runs(&self, limit: u32) -> StoreResult<Vec<(TenantId, RunId)>> {
        self.inner.stuck_runs(limit).await
    }

    async fn wake_run(&self, tenant: TenantId, run: RunId, now: Timestamp) -> StoreResult<()> {
        self.inner.wake_run(tenant, run, now).await
    }
}

#[async_trait]
impl Notices for Sealing {
    async fn noticed_runs(&self, except: &[TenantId], limit: u32) -> StoreResult<Vec<(TenantId, RunId)>> {
        let mut readable = Vec::new();
        for (tenant, run) in self.inner.noticed_runs(&self.without(except), limit).await? {
            if !matches!(self.lock(tenant).await?, Lock::Shut) {
                readable.push((tenant, run));
            }
        }
        Ok(readable)
    }

    async fn notice_told(&self, tenant: TenantId, run: RunId, commit: i64) -> StoreResult<bool> {
        self.inner.notice_told(tenant, run, commit).await
    }
}

#[async_trait]
impl Censuses for Sealing {
    async fn census(&self, now: Timestamp) -> StoreResult<Census> {
        self.inner.census(now).await
    }
}

#[async_trait]
impl Logs for Sealing {
    async fn bulky_logs(&self, before: Timestamp, except: &[TenantId], limit: u32) -> StoreResult<Vec<(TenantId, RunId)>> {
        let mut readable = Vec::new();
        for (tenant, run) in self.inner.bulky_logs(before, &self.without(except), limit).await? {
            if !matches!(self.lock(tenant).await?, Lock::Shut) {
                readable.push((tenant, run));
            }
        }
        Ok(readable)
    }

    async fn shrink_logs(&self, mut logs: Vec<SmallLog>) -> StoreResult<u64> {
        for small in &mut logs {
            if let (Some(log), Some(keys)) = (&mut small.log, self.keys(small.tenant).await?) {
                let run = small.run.to_string();
                log.iter_mut().try_for_each(|segment| keys.hide_segment(segment, &run))?;
            }
        }
        self.inner.shrink_logs(logs).await
    }
}

#[async_trait]
impl Waits for Sealing {
    async fn resolve_waits(&self, mut answers: Vec<Resolve>) -> StoreResult<Vec<Resolved>> {
        let mut of = Vec::with_capacity(answers.len());
        for answer in &mut answers {
            let keys = self.keys(answer.tenant).await?;
            if let Some(keys) = &keys {
                keys.hide_resolution(&mut answer.resolution, answer.wait)?;
            }
            of.push((keys, answer.wait));
        }
        let mut resolved = self.inner.resolve_waits(answers).await?;
        for (resolved, (keys, wait)) in resolved.iter_mut().zip(of) {
            if let (Resolved::Before(resolution), Some(keys)) = (resolved, keys) {
                keys.show_resolution(resolution, wait)?;
            }
        }
        Ok(resolved)
    }

    async fn run_waits(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<Wait>> {
        let waits = self.inner.run_waits(tenant, run).await?;
        self.show_all(tenant, waits, Keys::show_wait).await
    }

    async fn find_wait(&self, tenant: TenantId, wait: WaitId) -> StoreResult<Option<Wait>> {
        let found = self.inner.find_wait(tenant, wait).await?.into_iter().collect();
        Ok(self.show_all(tenant, found, Keys::show_wait).await?.pop())
    }

    async fn open_waits(&self, tenant: TenantId, after: Option<WaitId>, limit: u32) -> StoreResult<Vec<Wait>> {
        let waits = self.inner.open_waits(tenant, after, limit).await?;
        self.show_all(tenant, waits, Keys::show_wait).await
    }

    async fn send_signal(&self, tenant: TenantId, run: RunId, mut signal: Signal, now: Timestamp) -> StoreResult<bool> {
        if let Some(keys) = self.keys(tenant).await? {
            keys.hide_signal(&mut signal, run)?;
        }
        self.inner.send_signal(tenant, run, signal, now).await
    }

    async fn list_signals(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<SignalKey>> {
        self.inner.list_signals(tenant, run).await
    }

    async fn find_signal(&self, tenant: TenantId, run: RunId, key: &SignalKey) -> StoreResult<Option<Signal>> {
        let found = self.inner.find_signal(tenant, run, key).await?.into_iter().collect();
        Ok(self.show_all(tenant, found, |keys, signal| keys.show_signal(signal, run)).await?.pop())
    }
}
