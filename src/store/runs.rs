//! Runs: created, claimed under a lease, moved by commits, read.

use async_trait::async_trait;
use serde_json::Value;

use super::StoreResult;
use crate::clock::Timestamp;
use crate::id::{KeyId, NodeId, RecordId, RunId, TenantId, WaitId};
use crate::model::event::Segment;
use crate::model::job::JobEnd;
use crate::model::run::{Failure, Parent, Spent};
use crate::model::wait::{Resolution, Wait};
use crate::model::{Epoch, JournalEntry, ModelUsage, Run, RunInput, RunState, Target};

/// Bytes kept once under their content hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub hash: String,
    pub body: String,
}

/// The `Idempotency-Key` a creating call came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunKey {
    /// The route it was sent to; the same key on another route is another key.
    pub route: String,
    pub key: String,
    /// Hash of the request; a different one under the same key is refused.
    pub request_hash: String,
    pub expires_at: Timestamp,
}

/// A run that starts.
#[derive(Debug, Clone)]
pub struct NewRun {
    pub id: RunId,
    pub tenant: TenantId,
    pub flow: Blob,
    pub target: Target,
    pub flow_name: String,
    pub input: RunInput,
    pub sealed: Option<Vec<u8>>,
    pub parent: Option<Parent>,
    pub key: Option<RunKey>,
    /// Born leased by this node until that time, or queued for anyone.
    pub lease: Option<(NodeId, Timestamp)>,
    pub created_at: Timestamp,
    /// First sequence number that nobody may have seen.
    pub reserved: u64,
    pub journal: Vec<JournalEntry>,
    pub segment: Option<Segment>,
}

/// What became of a creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The run exists and is durable.
    New,
    /// The key was used before, for this run and a request with this hash.
    Duplicate { run: RunId, request_hash: String },
}

/// One commit of a run by its owner: everything or nothing.
#[derive(Debug, Clone)]
pub struct Commit {
    pub tenant: TenantId,
    pub run: RunId,
    pub epoch: Epoch,
    /// This commit's number; it applies only on top of its predecessor, or again on itself.
    pub number: i64,
    /// Pause only if nobody nudged since this reading.
    pub seen_nudges: Option<i64>,
    pub state: RunState,
    /// Something is durable with it that was not before: whoever takes the run over later starts further on.
    pub advances: bool,
    /// When somebody must look at the run next: the lease's end, a timer, never.
    pub wake_at: Option<Timestamp>,
    pub reserved: u64,
    pub spent: Spent,
    pub output: Option<Value>,
    pub failure: Option<Failure>,
    pub finished_at: Option<Timestamp>,
    pub journal: Vec<JournalEntry>,
    pub segment: Option<Segment>,
    pub waits: Vec<Wait>,
    /// What models used since the last commit; added to the tenant's usage.
    pub usage: Vec<ModelUsage>,
    /// The run ends and answers its parent's wait.
    pub child_end: Option<ChildEnd>,
    /// The run ends, and with it an attempt of a job.
    pub job_end: Option<JobEnd>,
    pub now: Timestamp,
}

/// A child run's end, told to the wait that its parent holds.
#[derive(Debug, Clone)]
pub struct ChildEnd {
    pub parent: Parent,
    pub tenant: TenantId,
    pub resolution: Resolution,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It is durable.
    Done,
    /// Another owner holds the run, or it has ended: stop at once.
    Fenced,
    /// Somebody nudged the run since it was read: look again before pausing.
    Nudged,
}

/// A hold on a run: the row as it was when claimed, and all that is needed to go on.
#[derive(Debug, Clone)]
pub struct Lease {
    pub run: Run,
    /// The compiled flow's JSON.
    pub flow: String,
    pub journal: Vec<JournalEntry>,
    pub waits: Vec<Wait>,
    /// Step starts and blocks that the log shows without their end, for telling readers what is void.
    pub tail: Vec<Segment>,
    /// It was taken from an owner that let its lease expire.
    pub recovered: bool,
}

/// Who claims, what and until when.
#[derive(Debug, Clone)]
pub struct Claim {
    pub node: NodeId,
    pub now: Timestamp,
    pub until: Timestamp,
    pub max: u32,
    /// This run only.
    pub only: Option<RunId>,
    /// Runs of these tenants are left where they are.
    pub except: Vec<TenantId>,
    /// The tenant that had the last turn: if more tenants have due runs than the claim may take, those behind it come first.
    pub after: Option<TenantId>,
}

/// A renewed lease and what was asked of its run meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    pub run: RunId,
    pub cancel_requested: bool,
    pub nudges: i64,
}

/// Which runs to list.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Only runs in one of these states; in any when there are none.
    pub states: Vec<RunState>,
    /// Only runs of this saved flow or agent.
    pub target: Option<Target>,
    /// Only runs of workflows.
    pub workflows: bool,
    /// Only runs that this API key started.
    pub key: Option<KeyId>,
    /// Only runs about this record.
    pub record: Option<RecordId>,
    /// Only runs that have ended, by success.
    pub success: Option<bool>,
    /// Only runs of a flow or an agent with this name.
    pub flow_name: Option<String>,
    /// Only runs created at or after this time.
    pub since: Option<Timestamp>,
    /// Only runs created before this time.
    pub until: Option<Timestamp>,
    /// Only runs with a smaller id (older).
    pub before: Option<RunId>,
    /// Only runs with a greater id (newer).
    pub after: Option<RunId>,
    /// Else newest first.
    pub oldest_first: bool,
    pub offset: u32,
    pub limit: u32,
}

/// A run as lists show it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSummary {
    pub id: RunId,
    pub state: RunState,
    pub target: Target,
    pub flow_name: String,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    /// As in [`Run`].
    pub success: Option<bool>,
    pub failure: Option<Failure>,
    pub spent: Spent,
}

/// The store of runs, their journals and their logs.
#[async_trait]
pub trait Runs {
    /// Creates a run; durable when it returns [`Created::New`].
    async fn create_run(&self, new: NewRun) -> StoreResult<Created>;

    /// Applies one commit of the run's owner.
    async fn commit_run(&self, commit: Commit) -> StoreResult<Committed>;

    /// Takes over runs that are due: ready, with a timer that has passed, or with an expired lease. If more are due than the claim may take, it takes
    /// some of each tenant, for each the longest due ones.
    async fn claim_runs(&self, claim: Claim) -> StoreResult<Vec<Lease>>;

    /// Prolongs leases; those not returned are lost.
    async fn renew_runs(&self, node: NodeId, held: &[(RunId, Epoch)], until: Timestamp) -> StoreResult<Vec<Renewed>>;

    /// When the next run is due, those of some tenants left out.
    async fn next_wake(&self, except: &[TenantId]) -> StoreResult<Option<Timestamp>>;

    /// Asks the run's owner to cancel it; a run without owner becomes due at once. Returns the state it was in.
    async fn request_cancel(&self, tenant: TenantId, run: RunId, now: Timestamp) -> StoreResult<Option<RunState>>;

    /// One run.
    async fn find_run(&self, tenant: TenantId, run: RunId) -> StoreResult<Option<Run>>;

    async fn list_runs(&self, tenant: TenantId, filter: RunFilter) -> StoreResult<Vec<RunSummary>>;

    /// The compiled flow that a run pins, as its JSON.
    async fn flow_of_run(&self, tenant: TenantId, run: RunId) -> StoreResult<Option<String>>;

    /// How many runs are in each state.
    async fn count_runs(&self, tenant: TenantId) -> StoreResult<Vec<(RunState, u64)>>;

    /// The committed log after a sequence number, whole segments, at most `limit` of them. `after: None` reads from the start.
    async fn read_log(&self, tenant: TenantId, run: RunId, after: Option<u64>, limit: u32) -> StoreResult<Vec<Segment>>;

    /// The journal, in key order.
    async fn read_journal(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<JournalEntry>>;

    /// Runs that are paused with nothing left that could wake them: no open wait, no timer.
    async fn stuck_runs(&self, limit: u32) -> StoreResult<Vec<(TenantId, RunId)>>;

    /// Makes a run due now, whatever it waits for; one that runs looks again before it pauses.
    async fn wake_run(&self, tenant: TenantId, run: RunId, now: Timestamp) -> StoreResult<()>;
}

impl Commit {
    /// The parent's wait that this commit answers.
    pub fn child_wait(&self) -> Option<WaitId> {
        self.child_end.as_ref().map(|end| end.parent.wait)
    }

    /// Whether the run that ends with this commit was successful; `None` if it goes on. A run that completed with failed steps has a failure, like
    /// one that failed.
    pub fn success(&self) -> Option<bool> {
        self.state.is_terminal().then(|| self.state == RunState::Completed && self.failure.is_none())
    }

    /// It lets go of the run, and somebody must look at it at a time that nobody else knows yet.
    pub fn leaves_due(&self) -> bool {
        self.wake_at.is_some() && matches!(self.state, RunState::Queued | RunState::Paused)
    }
}
