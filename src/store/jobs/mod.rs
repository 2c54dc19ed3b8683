//! Jobs: put in queues, claimed within the queues' limits, ended by their runs, buried and dug up again.

pub(super) mod sql;
mod turns;

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;

pub use self::turns::JobTurns;
pub(super) use self::turns::{Place, Turns};
use super::StoreResult;
use crate::clock::Timestamp;
use crate::id::{DeadLetterId, JobId, NodeId, TenantId};
use crate::model::job::{Bucket, DeadLetter, Job, JobEnd, JobState, Limits, QueueRules};

/// Most jobs that one claim takes.
pub const MOST_CLAIMED: u32 = 256;

/// How often one claim looks for jobs; each look finds some that may begin, or something that is full.
pub(super) const MOST_LOOKS: u32 = 500;

/// A job to put in its queue.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub job: Job,
    /// A tenant's jobs with the same key are one job, as long as it is kept.
    pub key: Option<String>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// It is durable.
    New,
    /// The key was used before, for this job.
    Before(JobId),
}

/// Who claims, how many, and until when nobody asks after them.
#[derive(Debug, Clone)]
pub struct JobClaim {
    pub node: NodeId,
    pub now: Timestamp,
    /// When somebody looks whether the attempt is still alive; the longer it has lived, the later.
    pub check_at: Timestamp,
    /// New attempts; old ones that are looked after come on top, at most as many.
    pub max: u32,
    /// New attempts of these tenants' jobs do not begin.
    pub except: Vec<TenantId>,
    /// Whose jobs are taken first.
    pub turns: JobTurns,
}

/// What a claim took.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Claimed {
    pub jobs: Vec<ClaimedJob>,
    /// When a queue that held jobs back because of its rate lets one begin.
    pub again_at: Option<Timestamp>,
}

/// A claimed job, in the state `running`.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimedJob {
    pub job: Job,
    /// Its attempt was begun before, and nobody has said for a while that it is alive.
    pub begun_before: bool,
}

impl ClaimedJob {
    /// What the claim makes of the job as it was found.
    pub(super) fn note(&mut self, claim: &JobClaim) {
        let job = &mut self.job;
        if job.state != JobState::Running {
            job.state = JobState::Running;
            job.attempt += 1;
            job.worker = Some(claim.node);
            job.started_at = Some(claim.now);
        }
        (job.heartbeat_at, job.updated_at) = (Some(claim.now), claim.now);
    }
}

/// Which jobs, oldest first.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub state: Option<JobState>,
    pub queue: Option<String>,
    pub name: Option<String>,
    /// Only jobs with a greater id.
    pub after: Option<JobId>,
    pub offset: u32,
    pub limit: u32,
}

/// Which dead letters, the one that failed first at the head.
#[derive(Debug, Clone, Default)]
pub struct DeadFilter {
    pub queue: Option<String>,
    /// Only letters that failed before this time.
    pub before: Option<Timestamp>,
    /// Only letters that were not made a job again.
    pub open: bool,
    /// Only letters behind this one.
    pub after: Option<(Timestamp, DeadLetterId)>,
    pub offset: u32,
    pub limit: u32,
}

/// How many jobs are in a state, by queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobCount {
    pub queue: String,
    pub state: JobState,
    pub count: u64,
}

/// A queue that has rules.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    pub name: String,
    pub rules: QueueRules,
}

/// The store of jobs.
#[async_trait]
pub trait Jobs {
    /// Puts a job in its queue.
    async fn enqueue_job(&self, new: NewJob) -> StoreResult<Enqueued>;

    /// Takes jobs whose time has come, within the limits of their queues: of each tenant in its turn, in the order of the turns; a tenant's
    /// job of higher priority first, then the longer due one. Besides, before them, attempts that nobody said to be alive for a while.
    async fn claim_jobs(&self, claim: JobClaim) -> StoreResult<Claimed>;

    /// Ends an attempt from outside its run; `false`: it is not the job's present one, or it has ended.
    async fn end_job(&self, end: JobEnd) -> StoreResult<bool>;

    /// The first time after `now` at which a job's time comes, or an attempt is looked after.
    async fn next_job(&self, now: Timestamp) -> StoreResult<Option<Timestamp>>;

    async fn find_job(&self, tenant: TenantId, id: JobId) -> StoreResult<Option<Job>>;

    async fn list_jobs(&self, tenant: TenantId, filter: JobFilter) -> StoreResult<Vec<Job>>;

    async fn count_jobs(&self, tenant: TenantId) -> StoreResult<Vec<JobCount>>;

    /// Moves a job that is in one of the states `from` to `to`, by hand. Back to `pending`, it has all its retries again, its time is now, and its dead letter
    /// counts as replayed. The state that it was in; `None`: no such job.
    async fn move_job(&self, tenant: TenantId, id: JobId, from: &[JobState], to: JobState, now: Timestamp)
    -> StoreResult<Option<JobState>>;

    /// Deletes a job that is over; the state that it was in. `None`: no such job.
    async fn delete_job(&self, tenant: TenantId, id: JobId) -> StoreResult<Option<JobState>>;

    /// Jobs that ended without a run that tells of it, the oldest first; those of some tenants left out.
    async fn untold_jobs(&self, except: &[TenantId], limit: u32) -> StoreResult<Vec<Job>>;

    /// A job's end has been told.
    async fn job_told(&self, tenant: TenantId, id: JobId) -> StoreResult<()>;

    async fn find_dead(&self, tenant: TenantId, id: DeadLetterId) -> StoreResult<Option<DeadLetter>>;

    async fn list_dead(&self, tenant: TenantId, filter: DeadFilter) -> StoreResult<Vec<DeadLetter>>;

    /// `offset`, `limit` and `after` do not matter.
    async fn count_dead(&self, tenant: TenantId, filter: DeadFilter) -> StoreResult<u64>;

    /// Puts the job in that a dead letter is made into, and notes it there, in one. `false`: the letter is gone, or was replayed since it was read.
    async fn replay_dead(&self, tenant: TenantId, letter: &DeadLetter, job: Job, now: Timestamp) -> StoreResult<bool>;

    /// Deletes the letters that a filter names (`offset`, `limit` and `after` do not matter); how many.
    async fn purge_dead(&self, tenant: TenantId, filter: DeadFilter) -> StoreResult<u64>;

    /// Gives a queue its rules; what its rates still allow stays.
    async fn put_queue(&self, tenant: TenantId, queue: Queue) -> StoreResult<()>;

    /// By name.
    async fn list_queues(&self, tenant: TenantId) -> StoreResult<Vec<Queue>>;

    /// Takes a queue's rules away; whether it had any.
    async fn delete_queue(&self, tenant: TenantId, name: &str) -> StoreResult<bool>;
}

/// A queue's rules with what its rates still allow: by organisation, the whole queue under the empty name.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pub rules: QueueRules,
    pub buckets: HashMap<String, Bucket>,
    /// Jobs that run, likewise.
    pub running: HashMap<String, u64>,
    pub changed: bool,
}

/// The gates of every tenant's queues that have rules; others are open.
#[derive(Debug, Default)]
pub(super) struct Gates {
    pub all: HashMap<(TenantId, String), Gate>,
    /// Organisations in queues that take nothing more now: tenant and queue, and the organisation in a line below.
    pub full: HashSet<String>,
    /// When the first of the rates that refused a job lets one begin.
    pub again_at: Option<Timestamp>,
}

impl Gates {
    /// Whether a job may begin now; it counts as begun then.
    pub fn admit(&mut self, tenant: TenantId, queue: &str, org: &str, now: Timestamp) -> bool {
        let Some(gate) = self.all.get_mut(&(tenant, queue.to_owned())) else { return true };
        let of_org = gate.rules.orgs.get(org).filter(|_| !org.is_empty()).copied();
        let limits: Vec<(String, Limits)> =
            std::iter::once((String::new(), gate.rules.limits)).chain(of_org.map(|limits| (org.to_owned(), limits))).collect();
        // All are asked before anything is taken from one.
        let mut taken = Vec::new();
        let in_full = |name: &str| (!name.is_empty()).then(|| format!("{} {queue}\n{name}", tenant.suffix()));
        for (name, limits) in &limits {
            let running = gate.running.get(name).copied().unwrap_or(0);
            if limits.max_concurrency > 0 && running >= u64::from(limits.max_concurrency) {
                self.full.extend(in_full(name));
                return false;
            }
            if limits.rate_limit > 0.0 {
                let mut bucket = limits.refill(gate.buckets.get(name).copied(), now);
                if bucket.is_empty() {
                    self.full.extend(in_full(name));
                    let filled = bucket.filled_at(limits);
                    self.again_at = Some(self.again_at.map_or(filled, |before| before.min(filled)));
                    return false;
                }
                bucket.take();
                taken.push((name.clone(), bucket));
            }
        }
        if gate.rules.paused {
            return false;
        }
        gate.changed |= !taken.is_empty();
        gate.buckets.extend(taken);
        for (name, _) in limits {
            *gate.running.entry(name).or_default() += 1;
        }
        true
    }

    /// What of a tenant's takes nothing more now, by tenant and queue, and the organisation in a line below.
    pub fn closed(&mut self, tenant: TenantId, now: Timestamp) -> Vec<String> {
        let prefix = format!("{} ", tenant.suffix());
        let shut = self.shut(now).into_iter().filter(|(owner, _)| *owner == tenant).map(|(_, name)| format!("{prefix}{name}"));
        let full = self.full.iter().filter(|full| full.starts_with(&prefix)).cloned();
        shut.chain(full).collect()
    }

    /// The queues that take nothing more now, whichever organisation's it is.
    pub fn shut(&mut self, now: Timestamp) -> Vec<(TenantId, String)> {
        let mut shut = Vec::new();
        for (key, gate) in &self.all {
            let limits = gate.rules.limits;
            let running = gate.running.get("").copied().unwrap_or(0);
            if gate.rules.paused || limits.max_concurrency > 0 && running >= u64::from(limits.max_concurrency) {
                shut.push(key.clone());
            } else if limits.rate_limit > 0.0 {
                let bucket = limits.refill(gate.buckets.get("").copied(), now);
                if bucket.is_empty() {
                    let filled = bucket.filled_at(&limits);
                    self.again_at = Some(self.again_at.map_or(filled, |before| before.min(filled)));
                    shut.push(key.clone());
                }
            }
        }
        shut
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_millis(5_000);
    const TENANT: TenantId = TenantId::from_u128(1);

    fn gates(rules: QueueRules) -> Gates {
        let gate = Gate { rules, buckets: HashMap::new(), running: HashMap::new(), changed: false };
        Gates { all: [((TENANT, "mail".to_owned()), gate)].into_iter().collect(), ..Gates::default() }
    }

    fn begun(gates: &mut Gates, orgs: &[&str]) -> Vec<bool> {
        orgs.iter().map(|org| gates.admit(TENANT, "mail", org, NOW)).collect()
    }

    #[test]
    fn a_queue_without_rules_is_open() {
        let mut gates = gates(QueueRules { limits: Limits { max_concurrency: 1, ..Limits::default() }, ..QueueRules::default() });
        assert!((0..100).all(|_| gates.admit(TENANT, "other", "", NOW)));
        assert_eq!(begun(&mut gates, &["", ""]), [true, false]);
        assert!(gates.admit(TenantId::from_u128(2), "mail", "", NOW), "another tenant's queue of the same name");
        assert_eq!(gates.shut(NOW), [(TENANT, "mail".to_owned())]);
    }

    #[test]
    fn an_organisation_has_limits_of_its_own_and_takes_nothing_when_it_is_refused() {
        let one = Limits { max_concurrency: 1, ..Limits::default() };
        let limits = Limits { max_concurrency: 2, rate_limit: 1.0, rate_burst: 2 };
        let mut gates = gates(QueueRules { limits, orgs: BTreeMap::from([("a".to_owned(), one)]), paused: false });
        assert_eq!(begun(&mut gates, &["a", "a", "b", "b"]), [true, false, true, false]);
        assert_eq!(gates.shut(NOW).len(), 1);
        assert_eq!(gates.shut(NOW.after(Duration::from_secs(1))).len(), 1, "two still run");
    }

    #[test]
    fn a_rate_lets_so_many_begin_and_no_more_until_time_has_passed() {
        let limits = Limits { rate_limit: 10.0, rate_burst: 2, ..Limits::default() };
        let mut gates = gates(QueueRules { limits, ..QueueRules::default() });
        assert_eq!(begun(&mut gates, &["", "", ""]), [true, true, false]);
        assert!(gates.all.values().all(|gate| gate.changed));
        assert_eq!(gates.again_at, Some(NOW.after(Duration::from_millis(101))), "a tenth of a second, and one more");
        assert!(!gates.admit(TENANT, "mail", "", NOW.after(Duration::from_millis(99))));
        assert!(gates.admit(TENANT, "mail", "", NOW.after(Duration::from_millis(101))));
        let mut paused = self::gates(QueueRules { paused: true, ..QueueRules::default() });
        assert_eq!(begun(&mut paused, &[""]), [false]);
    }
}
