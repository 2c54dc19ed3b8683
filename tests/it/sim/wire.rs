//! What lies between a node and the one store: its line, which can be frozen or cut, and the ledger, which sees
//! every operation that was really applied.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use dispatch::clock::Timestamp;
use dispatch::id::{ClientTokenId, DeadLetterId, FlowId, FlowVersionId, JobId, KeyId, NodeId, RecordId, RunId, SecretId, TenantId, WaitId};
use dispatch::model::event::Segment;
use dispatch::model::job::{DeadLetter, Job, JobEnd, JobState};
use dispatch::model::vector::Vector;
use dispatch::model::{Epoch, JournalEntry, ModelUsage, Record, Run, RunState, TargetKind, Wait};
use dispatch::store::memory::MemoryStore;
use dispatch::store::{
    Accounts, Answer, ApiKey, Begun, BlobSweep, Census, Censuses, Claim, Claimed, Commit, Committed, Created, Credential, DeadFilter,
    DocumentQuery, DocumentRow, Documents, EndedRun, Enqueued, FlowVersion, Flows, Idempotency, JobClaim, JobCount, JobFilter, Jobs, Lease,
    LimitsRow, Logs, Near, Nearest, NewJob, NewRun, Notices, PageRuns, Put, Queue, QuotaAnswer, QuotaChange, QuotaCount, QuotaSlot,
    QuotaTake, Quotas, Receipt, RecordPage, RecordQuery, Records, Renewed, Resolve, Resolved, Retention, RunDeletion, RunFilter,
    RunSummary, Rung, Runs, SavedFlow, Secrets, SharedStore, Signal, SignalKey, SmallLog, Store, StoreError, StoreResult, StoredSecret,
    Tenant, UsageQuery, UsageTotal, Usages, Vaults, Vectors, Waits,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};

use super::ledger::Ledger;

/// Whether a node lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    Lives,
    /// Nothing it does reaches anyone until it goes on.
    Stalls,
    /// Nothing it does reaches anyone any more.
    Dead,
    /// Dead, and every task that still waits for something is told so, so that it ends.
    Buried,
}

/// The door through which everything that a node does must go.
#[derive(Clone)]
pub struct Gate(Arc<(Mutex<Pulse>, Notify)>);

impl Gate {
    pub fn new() -> Self {
        Self(Arc::new((Mutex::new(Pulse::Lives), Notify::new())))
    }

    pub fn set(&self, pulse: Pulse) {
        *self.0.0.lock() = pulse;
        self.0.1.notify_waiters();
    }

    pub fn pulse(&self) -> Pulse {
        *self.0.0.lock()
    }

    async fn until(&self, wanted: &[Pulse]) -> Pulse {
        loop {
            let changed = self.0.1.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let pulse = self.pulse();
            if wanted.contains(&pulse) {
                return pulse;
            }
            changed.await;
        }
    }

    /// Waits while the node is stalled or dead. `false`: it is buried.
    pub async fn pass(&self) -> bool {
        self.until(&[Pulse::Lives, Pulse::Buried]).await == Pulse::Lives
    }

    /// Returns when the node dies.
    pub async fn died(&self) {
        self.until(&[Pulse::Dead, Pulse::Buried]).await;
    }
}

/// A node's way to the store.
pub struct Line {
    pub store: SharedStore,
    pub gate: Gate,
    pub ledger: Arc<Ledger>,
    /// Where a bell is heard that nobody rings: the node must notice by itself.
    pub deaf: Option<broadcast::Sender<Rung>>,
}

impl Line {
    fn hear(&self) -> broadcast::Receiver<Rung> {
        self.deaf.as_ref().map_or_else(|| self.inner().bell(), broadcast::Sender::subscribe)
    }

    async fn perform<T>(&self, name: &str, operation: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
        self.ledger.note(name);
        let gone = || StoreError::unavailable("this node is dead");
        if !self.gate.pass().await {
            return Err(gone());
        }
        let result = operation.await;
        if self.gate.pass().await { result } else { Err(gone()) }
    }

    fn inner(&self) -> &dyn Store {
        &*self.store
    }
}

/// The store itself, watched.
pub struct Watched {
    pub store: MemoryStore,
    pub ledger: Arc<Ledger>,
}

impl Watched {
    async fn perform<T>(&self, _name: &str, operation: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
        operation.await
    }

    fn hear(&self) -> broadcast::Receiver<Rung> {
        self.store.bell()
    }

    fn inner(&self) -> &dyn Store {
        &self.store
    }
}

macro_rules! pass {
    ($type:ty; $($noun:ident { $(fn $name:ident($($argument:ident: $kind:ty),*) -> $result:ty;)* } $({ $($own:tt)* })?)*) => {$(
        #[async_trait]
        impl $noun for $type {
            $(async fn $name(&self, $($argument: $kind),*) -> StoreResult<$result> {
                self.perform(stringify!($name), self.inner().$name($($argument),*)).await
            })*
            $($($own)*)?
        }
    )*};
}

macro_rules! pass_the_rest {
    ($type:ty) => {
        pass! { $type;
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
        impl Store for $type {
            fn bell(&self) -> broadcast::Receiver<Rung> {
                self.hear()
            }

            async fn ping(&self) -> StoreResult<()> {
                self.perform("ping", self.inner().ping()).await
            }

            async fn close(&self) {}

            fn name(&self) -> &'static str {
                "simulated"
            }
        }
    };
}

pass! { Line;
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
    Waits {
        fn resolve_waits(answers: Vec<Resolve>) -> Vec<Resolved>;
        fn run_waits(tenant: TenantId, run: RunId) -> Vec<Wait>;
        fn find_wait(tenant: TenantId, wait: WaitId) -> Option<Wait>;
        fn open_waits(tenant: TenantId, after: Option<WaitId>, limit: u32) -> Vec<Wait>;
        fn send_signal(tenant: TenantId, run: RunId, signal: Signal, now: Timestamp) -> bool;
        fn list_signals(tenant: TenantId, run: RunId) -> Vec<SignalKey>;
        fn find_signal(tenant: TenantId, run: RunId, key: &SignalKey) -> Option<Signal>;
    }
}
pass_the_rest!(Line);

pass! { Watched;
    Runs {
        fn next_wake(except: &[TenantId]) -> Option<Timestamp>;
        fn request_cancel(tenant: TenantId, run: RunId, now: Timestamp) -> Option<RunState>;
        fn find_run(tenant: TenantId, run: RunId) -> Option<Run>;
        fn list_runs(tenant: TenantId, filter: RunFilter) -> Vec<RunSummary>;
        fn flow_of_run(tenant: TenantId, run: RunId) -> Option<String>;
        fn count_runs(tenant: TenantId) -> Vec<(RunState, u64)>;
        fn read_log(tenant: TenantId, run: RunId, after: Option<u64>, limit: u32) -> Vec<Segment>;
        fn read_journal(tenant: TenantId, run: RunId) -> Vec<JournalEntry>;
        fn wake_run(tenant: TenantId, run: RunId, now: Timestamp) -> ();
    }
    {
        async fn create_run(&self, new: NewRun) -> StoreResult<Created> {
            let created = self.store.create_run(new.clone()).await?;
            self.ledger.created(&new, &created);
            Ok(created)
        }

        async fn commit_run(&self, commit: Commit) -> StoreResult<Committed> {
            let committed = self.store.commit_run(commit.clone()).await?;
            self.ledger.committed(&commit, committed);
            Ok(committed)
        }

        async fn claim_runs(&self, claim: Claim) -> StoreResult<Vec<Lease>> {
            let leases = self.store.claim_runs(claim.clone()).await?;
            leases.iter().for_each(|lease| self.ledger.claimed(&claim, lease));
            Ok(leases)
        }

        async fn renew_runs(&self, node: NodeId, held: &[(RunId, Epoch)], until: Timestamp) -> StoreResult<Vec<Renewed>> {
            let renewed = self.store.renew_runs(node, held, until).await?;
            self.ledger.renewed(node, held, &renewed);
            Ok(renewed)
        }

        async fn stuck_runs(&self, limit: u32) -> StoreResult<Vec<(TenantId, RunId)>> {
            let stuck = self.store.stuck_runs(limit).await?;
            stuck.iter().for_each(|(_, run)| self.ledger.stuck(*run));
            Ok(stuck)
        }
    }
    Waits {
        fn run_waits(tenant: TenantId, run: RunId) -> Vec<Wait>;
        fn find_wait(tenant: TenantId, wait: WaitId) -> Option<Wait>;
        fn open_waits(tenant: TenantId, after: Option<WaitId>, limit: u32) -> Vec<Wait>;
        fn list_signals(tenant: TenantId, run: RunId) -> Vec<SignalKey>;
        fn find_signal(tenant: TenantId, run: RunId, key: &SignalKey) -> Option<Signal>;
    }
    {
        async fn resolve_waits(&self, answers: Vec<Resolve>) -> StoreResult<Vec<Resolved>> {
            let resolved = self.store.resolve_waits(answers.clone()).await?;
            answers.iter().zip(&resolved).for_each(|(answer, resolved)| self.ledger.resolved(answer, resolved));
            Ok(resolved)
        }

        async fn send_signal(&self, tenant: TenantId, run: RunId, signal: Signal, now: Timestamp) -> StoreResult<bool> {
            let (name, id) = (signal.name.clone(), signal.id.clone());
            let kept = self.store.send_signal(tenant, run, signal, now).await?;
            self.ledger.signalled(run, &name, &id, kept);
            Ok(kept)
        }
    }
}
pass_the_rest!(Watched);
