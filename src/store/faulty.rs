//! A store that fails on purpose, wrapped around one that works.
//!
//! An operation fails before it is applied, or after it: then it is done and only its answer is lost, as when a
//! connection breaks between a commit and its acknowledgement. Which ones fail is told by number or drawn from the
//! clock's randomness, so a simulated failure replays from its seed. Delays pass on the clock.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::{
    Accounts, Answer, ApiKey, Begun, BlobSweep, Census, Censuses, Claim, Claimed, Commit, Committed, Created, Credential, DeadFilter,
    DocumentQuery, DocumentRow, Documents, EndedRun, Enqueued, FlowVersion, Flows, Idempotency, JobClaim, JobCount, JobFilter, Jobs, Lease,
    LimitsRow, Logs, Near, Nearest, NewJob, NewRun, Notices, PageRuns, Put, Queue, QuotaAnswer, QuotaChange, QuotaCount, QuotaSlot,
    QuotaTake, Quotas, Receipt, RecordPage, RecordQuery, Records, Renewed, Resolve, Resolved, Retention, RunDeletion, RunFilter,
    RunSummary, Rung, Runs, SavedFlow, Secrets, Signal, SignalKey, SmallLog, Store, StoreError, StoreResult, StoredSecret, Tenant,
    UsageQuery, UsageTotal, Usages, Vaults, Vectors, Waits,
};
use crate::clock::{Clock, Timestamp};
use crate::id::{ClientTokenId, DeadLetterId, FlowId, FlowVersionId, JobId, KeyId, NodeId, RecordId, RunId, SecretId, TenantId, WaitId};
use crate::model::event::Segment;
use crate::model::job::{DeadLetter, Job, JobEnd, JobState};
use crate::model::vector::Vector;
use crate::model::{Epoch, JournalEntry, ModelUsage, Record, Run, RunState, TargetKind, Wait};

/// When an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing was done.
    Before,
    /// It was done; the caller does not learn it.
    After,
}

/// Which operations fail, and how long they take. The default is a store that works at once.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Operations that fail, by number; the first is 0.
    pub at: BTreeMap<u64, Fault>,
    /// How many of 1,000 operations fail before they are applied.
    pub before: u64,
    /// How many of 1,000 operations lose their answer.
    pub after: u64,
    /// The longest an operation waits before it is applied, and again before it answers.
    pub delay: Duration,
}

/// See the module.
pub struct Faulty<S: ?Sized> {
    inner: Arc<S>,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    plan: Plan,
    /// Operations so far.
    count: u64,
}

impl<S: Store + ?Sized> Faulty<S> {
    /// Wraps a store.
    pub fn new(inner: Arc<S>, clock: Clock, plan: Plan) -> Self {
        Self { inner, clock, state: Mutex::new(State { plan, count: 0 }) }
    }

    /// Fails by another plan from now on; operations are counted on.
    pub fn follow(&self, plan: Plan) {
        self.state.lock().plan = plan;
    }

    /// How many operations were asked for; the number of the next one.
    pub fn operations(&self) -> u64 {
        self.state.lock().count
    }

    /// The next operation's fate.
    fn draw(&self) -> (Option<Fault>, Duration) {
        let mut state = self.state.lock();
        let number = state.count;
        state.count += 1;
        let (lot, plan) = (self.clock.below(1_000), &state.plan);
        let drawn = if lot < plan.before { Some(Fault::Before) } else { (lot < plan.before + plan.after).then_some(Fault::After) };
        (plan.at.get(&number).copied().or(drawn), plan.delay)
    }

    async fn pause(&self, longest: Duration) {
        let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        if micros > 0 {
            self.clock.sleep(Duration::from_micros(self.clock.below(micros.saturating_add(1)))).await;
        }
    }

    async fn perform<T>(&self, operation: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
        let (fault, delay) = self.draw();
        self.pause(delay).await;
        if fault == Some(Fault::Before) {
            return Err(StoreError::unavailable("a planned fault: nothing was done"));
        }
        let result = operation.await;
        self.pause(delay).await;
        if fault == Some(Fault::After) {
            return Err(StoreError::unavailable("a planned fault: the answer was lost"));
        }
        result
    }
}

/// Passes every operation of a trait through [`Faulty::perform`].
macro_rules! pass {
    ($($noun:ident { $(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)* })*) => {$(
        #[async_trait]
        impl<S: Store + ?Sized> $noun for Faulty<S> {
            $(async fn $name(&self, $($argument: $type),*) -> StoreResult<$result> {
                self.perform(self.inner.$name($($argument),*)).await
            })*
        }
    )*};
}

pass! {
    Runs {
        fn create_run(new: NewRun) -> Created;
        fn commit_run(commit: Commit) -> Committed;
        fn claim_runs(claim: Claim) -> Vec<Lease>;
        fn renew_runs(node: NodeId, held: &[(RunId, Epoch)], until: Timestamp) -> Vec<Renewed>;
        fn next_wake(except: &[TenantId]) -> Option<Timestamp>;
        fn request_cancel(tenant: TenantId, run: RunId, now: Timestamp) -> Option<RunState>;
        fn find_run(tenant: TenantId, run: RunId) -> Option<Run>;
        fn list_runs(tenant: TenantId, filter: RunFilter) -> Vec<RunSummary>;
        fn flow_of_run(tenant: TenantId, run: RunId) -> Option<String>;
        fn count_runs(tenant: TenantId) -> Vec<(RunState, u64)>;
        fn read_log(tenant: TenantId, run: RunId, after: Option<u64>, limit: u32) -> Vec<Segment>;
        fn read_journal(tenant: TenantId, run: RunId) -> Vec<JournalEntry>;
        fn stuck_runs(limit: u32) -> Vec<(TenantId, RunId)>;
        fn wake_run(tenant: TenantId, run: RunId, now: Timestamp) -> ();
    }
    Jobs {
        fn enqueue_job(new: NewJob) -> Enqueued;
        fn claim_jobs(claim: JobClaim) -> Claimed;
        fn end_job(end: JobEnd) -> bool;
        fn next_job(now: Timestamp) -> Option<Timestamp>;
        fn find_job(tenant: TenantId, id: JobId) -> Option<Job>;
        fn list_jobs(tenant: TenantId, filter: JobFilter) -> Vec<Job>;
        fn count_jobs(tenant: TenantId) -> Vec<JobCount>;
        fn move_job(tenant: TenantId, id: JobId, from: &[JobState], to: JobState, now: Timestamp) -> Option<JobState>;
        fn delete_job(tenant: TenantId, id: JobId) -> Option<JobState>;
        fn untold_jobs(except: &[TenantId], limit: u32) -> Vec<Job>;
        fn job_told(tenant: TenantId, id: JobId) -> ();
        fn find_dead(tenant: TenantId, id: DeadLetterId) -> Option<DeadLetter>;
        fn list_dead(tenant: TenantId, filter: DeadFilter) -> Vec<DeadLetter>;
        fn count_dead(tenant: TenantId, filter: DeadFilter) -> u64;
        fn replay_dead(tenant: TenantId, letter: &DeadLetter, job: Job, now: Timestamp) -> bool;
        fn purge_dead(tenant: TenantId, filter: DeadFilter) -> u64;
        fn put_queue(tenant: TenantId, queue: Queue) -> ();
        fn list_queues(tenant: TenantId) -> Vec<Queue>;
        fn delete_queue(tenant: TenantId, name: &str) -> bool;
    }
    Notices {
        fn noticed_runs(except: &[TenantId], limit: u32) -> Vec<(TenantId, RunId)>;
        fn notice_told(tenant: TenantId, run: RunId, commit: i64) -> bool;
    }
    Censuses {
        fn census(now: Timestamp) -> Census;
    }
    Logs {
        fn bulky_logs(before: Timestamp, except: &[TenantId], limit: u32) -> Vec<(TenantId, RunId)>;
        fn shrink_logs(logs: Vec<SmallLog>) -> u64;
    }
    PageRuns {
        fn note_page_run(tenant: TenantId, token: ClientTokenId, run: RunId) -> ();
        fn page_bytes(tenant: TenantId, token: ClientTokenId) -> u64;
    }
    Retention {
        fn delete_runs(tenant: TenantId, runs: &[RunId]) -> Vec<RunDeletion>;
        fn ended_runs(tenant: TenantId, before: Timestamp, after: Option<EndedRun>, limit: u32) -> Vec<EndedRun>;
        fn delete_logs(tenant: TenantId, before: Timestamp, limit: u32) -> u64;
        fn delete_jobs(tenant: TenantId, before: Timestamp, limit: u32) -> u64;
        fn stale_documents(tenant: TenantId, kind: &str, before: Timestamp, due_after: Timestamp, limit: u32) -> Vec<String>;
        fn collect_blobs(before: Timestamp, after: Option<String>, limit: u32) -> BlobSweep;
        fn release_space(pages: u32) -> u64;
    }
    Waits {
        fn resolve_waits(answers: Vec<Resolve>) -> Vec<Resolved>;
        fn run_waits(tenant: TenantId, run: RunId) -> Vec<Wait>;
        fn find_wait(tenant: TenantId, wait: WaitId) -> Option<Wait>;
        fn open_waits(tenant: TenantId, after: Option<WaitId>, limit: u32) -> Vec<Wait>;
        fn send_signal(tenant: TenantId, run: RunId, signal: Signal, now: Timestamp) -> bool;
        fn list_signals(tenant: TenantId, run: RunId) -> Vec<SignalKey>;
        fn find_signal(tenant: TenantId, run: RunId, key: &SignalKey) -> Option<Signal>;
    }
    Flows {
        fn create_flow(tenant: TenantId, flow: SavedFlow, version: FlowVersion) -> ();
        fn update_flow(tenant: TenantId, flow: SavedFlow, version: Option<FlowVersion>, expected: Option<FlowVersionId>) -> Option<SavedFlow>;
        fn find_flow(tenant: TenantId, kind: TargetKind, id: FlowId) -> Option<SavedFlow>;
        fn find_flow_by_name(tenant: TenantId, kind: TargetKind, name: &str) -> Option<SavedFlow>;
        fn list_flows(tenant: TenantId, kind: TargetKind, before: Option<FlowId>, search: Option<&str>, limit: u32) -> Vec<SavedFlow>;
        fn delete_flow(tenant: TenantId, kind: TargetKind, id: FlowId) -> bool;
        fn find_flow_version(tenant: TenantId, id: FlowVersionId) -> Option<FlowVersion>;
        fn list_flow_versions(tenant: TenantId, flow: FlowId) -> Vec<FlowVersion>;
        fn delete_flow_version(tenant: TenantId, flow: FlowId, version: FlowVersionId) -> bool;
        fn publish_flow(tenant: TenantId, kind: TargetKind, flow: FlowId, version: FlowVersionId, now: Timestamp) -> bool;
    }
    Records {
        fn create_record(tenant: TenantId, record: Record) -> ();
        fn replace_record(tenant: TenantId, record: Record, expected: Timestamp) -> bool;
        fn find_record(tenant: TenantId, id: RecordId) -> Option<Record>;
        fn find_record_by_name(tenant: TenantId, kind: &str, name: &str) -> Option<Record>;
        fn list_records(tenant: TenantId, query: RecordQuery) -> RecordPage;
        fn delete_records(tenant: TenantId, ids: &[RecordId]) -> u64;
    }
    Accounts {
        fn create_first_tenant(tenant: Tenant, key: ApiKey) -> bool;
        fn create_tenant(tenant: Tenant, key: ApiKey) -> ();
        fn list_tenants() -> Vec<Tenant>;
        fn create_key(key: ApiKey) -> ();
        fn find_key(hash: &str) -> Option<ApiKey>;
        fn list_keys(tenant: TenantId) -> Vec<ApiKey>;
        fn revoke_key(tenant: TenantId, id: KeyId, now: Timestamp) -> bool;
    }
    Idempotency {
        fn begin_receipt(tenant: TenantId, receipt: Receipt, now: Timestamp) -> Begun;
        fn find_created_run(tenant: TenantId, route: &str, key: &str, now: Timestamp) -> Option<Created>;
        fn file_answer(tenant: TenantId, route: &str, key: &str, answer: Answer) -> ();
        fn drop_receipt(tenant: TenantId, route: &str, key: &str) -> ();
        fn purge_receipts(now: Timestamp) -> u64;
    }
    Documents {
        fn create_document(tenant: TenantId, kind: &str, row: DocumentRow) -> ();
        fn replace_document(tenant: TenantId, kind: &str, row: DocumentRow) -> bool;
        fn find_document(tenant: TenantId, kind: &str, id: &str) -> Option<DocumentRow>;
        fn find_document_at(tenant: TenantId, kind: &str, place: &str) -> Option<DocumentRow>;
        fn list_documents(tenant: TenantId, kind: &str, query: DocumentQuery) -> Vec<DocumentRow>;
        fn delete_document(tenant: TenantId, kind: &str, id: &str) -> bool;
        fn delete_documents_of(tenant: TenantId, kind: &str, parent: &str) -> u64;
        fn due_documents(kind: &str, now: Timestamp, except: &[TenantId], limit: u32) -> Vec<(TenantId, DocumentRow)>;
        fn trim_documents(tenant: TenantId, kind: &str, number: u32, bytes: u64) -> u64;
    }
    Secrets {
        fn create_secret(tenant: TenantId, secret: StoredSecret) -> ();
        fn update_secret(tenant: TenantId, secret: StoredSecret, expected: u32) -> bool;
        fn find_secret(tenant: TenantId, id: SecretId) -> Option<StoredSecret>;
        fn list_secrets(tenant: TenantId) -> Vec<StoredSecret>;
        fn delete_secret(tenant: TenantId, id: SecretId) -> bool;
    }
    Quotas {
        fn put_limits(tenant: TenantId, row: LimitsRow, now: Timestamp) -> ();
        fn find_limits(tenant: TenantId, key: Option<KeyId>) -> Vec<LimitsRow>;
        fn list_limits(tenant: TenantId) -> Vec<LimitsRow>;
        fn take_quota(tenant: TenantId, takes: Vec<QuotaTake>) -> QuotaAnswer;
        fn correct_quota(tenant: TenantId, changes: Vec<QuotaChange>) -> ();
        fn count_quota(tenant: TenantId, key: Option<KeyId>) -> Vec<QuotaCount>;
        fn take_slots(tenant: TenantId, run: RunId, slots: Vec<QuotaSlot>, now: Timestamp, until: Timestamp) -> Option<usize>;
        fn purge_quotas(now: Timestamp) -> u64;
    }
    Usages {
        fn add_usage(tenant: TenantId, key: Option<KeyId>, usage: ModelUsage, now: Timestamp) -> ();
        fn read_usage(tenant: TenantId, query: UsageQuery) -> Vec<UsageTotal>;
    }
    Vectors {
        fn put_vectors(tenant: TenantId, vectors: Vec<Vector>) -> Put;
        fn nearest_vectors(tenant: TenantId, query: Nearest) -> Vec<Near>;
        fn delete_vectors(tenant: TenantId, collection: &str, which: Option<Vec<String>>) -> u64;
    }
    Vaults {
        fn put_credential(tenant: TenantId, credential: Credential) -> Credential;
        fn list_credentials(tenant: TenantId) -> Vec<Credential>;
        fn delete_credential(tenant: TenantId, provider: &str) -> bool;
    }
}

#[async_trait]
impl<S: Store + ?Sized> Store for Faulty<S> {
    fn bell(&self) -> broadcast::Receiver<Rung> {
        self.inner.bell()
    }

    async fn ping(&self) -> StoreResult<()> {
        self.perform(self.inner.ping()).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }
}
