//! A group of writes as rows, one JSON array per table: what both SQL stores send as one call.
//!
//! Each array becomes the argument of one set-wise statement. Rows that depend on a run's commit carry its
//! epoch and number, so that a statement's join drops them when the commit itself lost its compare-and-set.

use serde::Serialize;

use super::payload::externalise;
use super::usage::UsageLine;
use super::{Blob, Commit, NewJob, NewRun, Resolve};
use crate::clock::Timestamp;
use crate::id::{JobId, RunId, WaitId};
use crate::model::event::Segment;
use crate::model::job::JobEnd;
use crate::model::quota::day_of;
use crate::model::wait::hex;
use crate::model::{JournalEntry, ModelUsage, Wait};

/// Tables that a group writes.
pub(super) const TABLES: usize = 11;
/// A batch with this many bytes is written before more is added to it.
const HEAVY: usize = 8 * 1024 * 1024;

#[derive(Serialize)]
pub(super) struct BlobRow {
    hash: String,
    body: String,
    at: i64,
}

#[derive(Serialize)]
pub(super) struct KeyRow {
    tenant: String,
    route: String,
    key: String,
    request_hash: String,
    run: String,
    now: i64,
    expires_at: i64,
}

#[derive(Serialize)]
pub(super) struct RunRow {
    id: String,
    tenant: String,
    state: &'static str,
    flow_hash: String,
    flow_id: Option<String>,
    flow_name: String,
    input: String,
    sealed: Option<String>,
    parent_run: Option<String>,
    parent_wait: Option<String>,
    owner: Option<String>,
    epoch: i64,
    reserved: u64,
    wake_at: i64,
    created_at: i64,
    spent: String,
    record_id: Option<String>,
    api_key: Option<String>,
    key_route: Option<String>,
    key: Option<String>,
}

#[derive(Serialize)]
pub(super) struct CommitRow {
    run: String,
    epoch: i64,
    number: i64,
    seen: Option<i64>,
    state: &'static str,
    wake_at: Option<i64>,
    reserved: u64,
    spent: String,
    output: Option<String>,
    failure: Option<String>,
    finished_at: Option<i64>,
    ends: bool,
    advances: bool,
    success: Option<u8>,
}

#[derive(Serialize)]
pub(super) struct JournalRow {
    run: String,
    epoch: i64,
    number: i64,
    key: String,
    outcome: String,
}

#[derive(Serialize)]
pub(super) struct EventRow {
    run: String,
    epoch: i64,
    number: i64,
    first: u64,
    last: u64,
    rest: i64,
    body: String,
}

#[derive(Serialize)]
pub(super) struct WaitRow {
    run: String,
    epoch: i64,
    number: i64,
    id: String,
    tenant: String,
    key: String,
    kind: &'static str,
    name: String,
    shown: String,
    digest: Option<String>,
    deadline: Option<i64>,
    created_at: i64,
}

#[derive(Serialize)]
pub(super) struct ResolutionRow {
    wait: String,
    tenant: String,
    resolution: String,
    now: i64,
    /// The commit that this answer belongs to; absent for answers from outside.
    run: Option<String>,
    epoch: Option<i64>,
    number: Option<i64>,
}

#[derive(Serialize)]
pub(super) struct JobRow {
    pub id: String,
    pub tenant: String,
    pub queue: String,
    pub org: String,
    pub name: String,
    pub priority: i32,
    /// 1: its time has come.
    ready: i64,
    pub run_at: i64,
    key: Option<String>,
    pub body: String,
    pub created_at: i64,
}

impl JobRow {
    pub fn of(new: &NewJob) -> Self {
        let job = &new.job;
        Self {
            id: job.id.suffix(),
            tenant: job.tenant.suffix(),
            queue: job.queue.clone(),
            org: job.order.scope.org.clone(),
            name: job.order.name.clone(),
            priority: job.priority,
            ready: i64::from(job.run_at <= job.created_at),
            run_at: job.run_at.as_millis(),
            key: new.key.clone(),
            body: json(&job.order),
            created_at: job.created_at.as_millis(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct JobEndRow {
    tenant: String,
    job: String,
    attempt: u32,
    state: &'static str,
    error: Option<String>,
    run_at: Option<i64>,
    dead: Option<String>,
    now: i64,
    /// The commit that it belongs to; absent for ends from outside.
    run: Option<String>,
    epoch: Option<i64>,
    number: Option<i64>,
}

#[derive(Serialize)]
pub(super) struct UsageRow {
    run: String,
    epoch: i64,
    number: i64,
    seen: Option<i64>,
    day: String,
    model: String,
    requests: u64,
    executions: u64,
    failures: u64,
    input_tokens: u64,
    output_tokens: u64,
    cached_tokens: u64,
    reasoning_tokens: u64,
    cost: u64,
}

/// The rows of a group of writes.
#[derive(Default)]
pub(super) struct Batch {
    pub blobs: Vec<BlobRow>,
    pub keys: Vec<KeyRow>,
    pub runs: Vec<RunRow>,
    pub commits: Vec<CommitRow>,
    pub journal: Vec<JournalRow>,
    pub events: Vec<EventRow>,
    pub waits: Vec<WaitRow>,
    pub resolutions: Vec<ResolutionRow>,
    pub jobs: Vec<JobRow>,
    pub job_ends: Vec<JobEndRow>,
    pub usage: Vec<UsageRow>,
    /// About how many bytes the large texts have.
    bytes: usize,
}

/// Which writes of a group won.
#[derive(Debug, Default)]
pub(super) struct Won {
    pub created: Vec<String>,
    pub committed: Vec<String>,
    pub resolved: Vec<String>,
    pub enqueued: Vec<String>,
    pub ended: Vec<String>,
    /// Runs that became due through the group.
    pub nudged: Vec<String>,
}

/// Writes JSON; the rows hold only strings and numbers, so it cannot fail.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".into())
}

fn array<T: Serialize>(rows: &[T]) -> Option<String> {
    (!rows.is_empty()).then(|| json(rows))
}

impl Batch {
    /// The arguments of the group statement, in its order; none for a table without rows.
    pub fn arguments(&self) -> [Option<String>; TABLES] {
        [
            array(&self.blobs),
            array(&self.keys),
            array(&self.runs),
            array(&self.commits),
            array(&self.journal),
            array(&self.events),
            array(&self.waits),
            array(&self.resolutions),
            array(&self.jobs),
            array(&self.job_ends),
            array(&self.usage),
        ]
    }

    /// Whether no more should be added: what follows belongs into another transaction.
    pub fn is_heavy(&self) -> bool {
        self.bytes >= HEAVY
    }

    fn keep(&mut self, blobs: Vec<Blob>, at: Timestamp) {
        self.bytes += blobs.iter().map(|blob| blob.body.len()).sum::<usize>();
        self.blobs.extend(blobs.into_iter().map(|blob| BlobRow { hash: blob.hash, body: blob.body, at: at.as_millis() }));
    }

    fn facts(&mut self, run: RunId, epoch: i64, number: i64, journal: &[JournalEntry], segment: Option<&Segment>, blobs: &mut Vec<Blob>) {
        let run = run.suffix();
        // One statement cannot write a row twice, so of two entries with one key only the later goes in.
        let latest = |(place, entry): &(usize, &JournalEntry)| journal.iter().skip(place + 1).all(|later| later.key != entry.key);
        for (_, entry) in journal.iter().enumerate().filter(latest) {
            let outcome = externalise(json(&entry.outcome), blobs);
            self.bytes += outcome.len();
            self.journal.push(JournalRow { run: run.clone(), epoch, number, key: entry.key.clone(), outcome });
        }
        if let Some(segment) = segment.filter(|segment| !segment.events.is_empty()) {
            let (first, last, rest) = (segment.first(), segment.last(), segment.rest.as_i64());
            let body = segment.encode();
            self.bytes += body.len();
            self.events.push(EventRow { run, epoch, number, first, last, rest, body });
        }
    }

    /// Adds a run's creation. `flow_known`: its flow's blob is in the store already.
    pub fn create(&mut self, new: &NewRun, flow_known: bool) {
        let mut blobs = if flow_known { Vec::new() } else { vec![new.flow.clone()] };
        let input = externalise(json(&new.input), &mut blobs);
        self.bytes += input.len();
        if let Some(key) = &new.key {
            self.keys.push(KeyRow {
                tenant: new.tenant.suffix(),
                route: key.route.clone(),
                key: key.key.clone(),
                request_hash: key.request_hash.clone(),
                run: new.id.suffix(),
                now: new.created_at.as_millis(),
                expires_at: key.expires_at.as_millis(),
            });
        }
        self.runs.push(RunRow {
            id: new.id.suffix(),
            tenant: new.tenant.suffix(),
            state: if new.lease.is_some() { "running" } else { "queued" },
            flow_hash: new.flow.hash.clone(),
            flow_id: new.target.stored(),
            flow_name: new.flow_name.clone(),
            input,
            sealed: new.sealed.as_deref().map(hex),
            parent_run: new.parent.map(|parent| parent.run.suffix()),
            parent_wait: new.parent.map(|parent| parent.wait.suffix()),
            owner: new.lease.map(|(node, _)| node.suffix()),
            epoch: i64::from(new.lease.is_some()),
            reserved: new.reserved,
            wake_at: new.lease.map_or(new.created_at, |(_, until)| until).as_millis(),
            created_at: new.created_at.as_millis(),
            spent: "{}".into(),
            record_id: new.input.record_id().map(|id| id.suffix()),
            api_key: new.input.key_id.map(|id| id.suffix()),
            key_route: new.key.as_ref().map(|key| key.route.clone()),
            key: new.key.as_ref().map(|key| key.key.clone()),
        });
        self.facts(new.id, i64::from(new.lease.is_some()), 0, &new.journal, new.segment.as_ref(), &mut blobs);
        self.keep(blobs, new.created_at);
    }

    /// Adds a commit.
    pub fn commit(&mut self, commit: &Commit) {
        let mut blobs = Vec::new();
        let (epoch, number) = (commit.epoch.0, commit.number);
        self.commits.push(CommitRow {
            run: commit.run.suffix(),
            epoch,
            number,
            seen: commit.seen_nudges,
            state: commit.state.as_str(),
            wake_at: commit.wake_at.map(Timestamp::as_millis),
            reserved: commit.reserved,
            spent: json(&commit.spent),
            output: commit.output.as_ref().map(|output| externalise(json(output), &mut blobs)),
            failure: commit.failure.as_ref().map(json),
            finished_at: commit.finished_at.map(Timestamp::as_millis),
            ends: commit.state.is_terminal(),
            advances: commit.advances,
            success: commit.success().map(u8::from),
        });
        self.facts(commit.run, epoch, number, &commit.journal, commit.segment.as_ref(), &mut blobs);
        for wait in &commit.waits {
            self.wait(wait, epoch, number, &mut blobs);
        }
        self.add_usage(commit);
        if let Some(end) = &commit.child_end {
            self.resolutions.push(ResolutionRow {
                wait: end.parent.wait.suffix(),
                tenant: end.tenant.suffix(),
                resolution: externalise(json(&end.resolution), &mut blobs),
                now: commit.now.as_millis(),
                run: Some(commit.run.suffix()),
                epoch: Some(epoch),
                number: Some(number),
            });
        }
        if let Some(end) = &commit.job_end {
            self.job_ends.push(JobEndRow { run: Some(commit.run.suffix()), epoch: Some(epoch), number: Some(number), ..job_end(end) });
        }
        self.keep(blobs, commit.now);
    }

    /// Adds what a commit used. A run counts as an execution with its first commit, and as a failure with its last.
    fn add_usage(&mut self, commit: &Commit) {
        for UsageLine { usage, executions, failures } in commit.usage_lines() {
            let ModelUsage { model, requests, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost } = usage;
            self.usage.push(UsageRow {
                run: commit.run.suffix(),
                epoch: commit.epoch.0,
                number: commit.number,
                seen: commit.seen_nudges,
                day: day_of(commit.now),
                model,
                requests,
                executions,
                failures,
                input_tokens,
                output_tokens,
                cached_tokens,
                reasoning_tokens,
                cost,
            });
        }
    }

    /// Adds a job.
    pub fn enqueue(&mut self, new: &NewJob) {
        let row = JobRow::of(new);
        self.bytes += row.body.len();
        self.jobs.push(row);
    }

    /// Adds an end of a job's attempt that no commit brings.
    pub fn end_job(&mut self, end: &JobEnd) {
        self.job_ends.push(job_end(end));
    }

    fn wait(&mut self, wait: &Wait, epoch: i64, number: i64, blobs: &mut Vec<Blob>) {
        self.waits.push(WaitRow {
            run: wait.run.suffix(),
            epoch,
            number,
            id: wait.id.suffix(),
            tenant: wait.tenant.suffix(),
            key: wait.key.clone(),
            kind: wait.kind.as_str(),
            name: wait.name.clone(),
            shown: externalise(json(&wait.shown), blobs),
            digest: wait.digest.clone(),
            deadline: wait.deadline.map(Timestamp::as_millis),
            created_at: wait.created_at.as_millis(),
        });
    }

    /// Adds an answer to a wait, unless the batch answers it already.
    pub fn resolve(&mut self, answer: &Resolve) {
        let wait = answer.wait.suffix();
        if self.resolutions.iter().any(|row| row.wait == wait) {
            return;
        }
        let mut blobs = Vec::new();
        self.resolutions.push(ResolutionRow {
            wait,
            tenant: answer.tenant.suffix(),
            resolution: externalise(json(&answer.resolution), &mut blobs),
            now: answer.now.as_millis(),
            run: None,
            epoch: None,
            number: None,
        });
        self.keep(blobs, answer.now);
    }
}

fn job_end(end: &JobEnd) -> JobEndRow {
    JobEndRow {
        tenant: end.tenant.suffix(),
        job: end.job.suffix(),
        attempt: end.attempt,
        state: end.state.as_str(),
        error: end.error.clone(),
        run_at: end.run_at.map(Timestamp::as_millis),
        dead: end.dead.map(|id| id.suffix()),
        now: end.now.as_millis(),
        run: None,
        epoch: None,
        number: None,
    }
}

impl Won {
    /// Sorts a returned row by its tag.
    pub fn note(&mut self, tag: &str, id: String) {
        match tag {
            "created" => self.created.push(id),
            "committed" => self.committed.push(id),
            "resolved" => self.resolved.push(id),
            "enqueued" => self.enqueued.push(id),
            "ended" => self.ended.push(id),
            _ => self.nudged.push(id),
        }
    }

    pub fn has_created(&self, run: RunId) -> bool {
        self.created.contains(&run.suffix())
    }

    pub fn has_committed(&self, run: RunId) -> bool {
        self.committed.contains(&run.suffix())
    }

    pub fn has_enqueued(&self, job: JobId) -> bool {
        self.enqueued.contains(&job.suffix())
    }

    pub fn has_ended(&self, job: JobId) -> bool {
        self.ended.contains(&job.suffix())
    }

    pub fn has_resolved(&self, wait: WaitId) -> bool {
        self.resolved.contains(&wait.suffix())
    }
}
