//! A job: work that waits its turn in a queue, its states, and the one table of legal transitions.
//!
//! A job is done by runs, one for each attempt. Its queue says when an attempt may begin; the run's end says what becomes of the job.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::RunState;
use super::run::Failure;
use crate::clock::Timestamp;
use crate::id::{CronId, DeadLetterId, JobId, KeyId, NodeId, TenantId};

/// What the name of a job that runs a workflow begins with. Cron entries with such names are those of workflows.
pub const WORKFLOW_PREFIX: &str = "workflow:";
/// The queue of jobs that name none.
pub const DEFAULT_QUEUE: &str = "default";
/// Retries of a job that says nothing.
pub const DEFAULT_RETRIES: u32 = 3;
/// The time of an attempt of a job that says nothing.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// The wait before the first retry, and the longest one. Between them it doubles, and is drawn evenly from nothing to that ("full jitter").
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Where a job is.
///
/// ```text
/// pending -> running -> completed | cancelled
///    ^         | \-> retrying -> running | cancelled
///    |         \--> failed
///    \----- running (handed back) | failed (retried by hand)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Pending,
    Running,
    Completed,
    Failed,
    Retrying,
    Cancelled,
}

impl JobState {
    pub const ALL: [Self; 6] = [Self::Pending, Self::Running, Self::Completed, Self::Failed, Self::Retrying, Self::Cancelled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Retrying => "retrying",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads what [`JobState::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Nothing happens to it by itself any more.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The table of legal transitions.
    pub const fn may_become(self, next: Self) -> bool {
        use JobState::{Cancelled, Completed, Failed, Pending, Retrying, Running};
        match self {
            Pending | Retrying => matches!(next, Running | Cancelled),
            Running => matches!(next, Pending | Retrying | Completed | Failed | Cancelled),
            Failed => matches!(next, Pending),
            Completed | Cancelled => false,
        }
    }
}

/// Whose work it is, in words of the tenant's own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JobScope {
    pub app: String,
    pub org: String,
}

/// A job as the store keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: JobId,
    pub tenant: TenantId,
    pub queue: String,
    /// Higher ones first.
    pub priority: i32,
    pub state: JobState,
    /// Attempts begun so far.
    pub attempt: u32,
    /// Failures so far.
    pub retry_count: u32,
    pub last_error: Option<String>,
    /// The node that began the present attempt.
    pub worker: Option<NodeId>,
    /// No attempt begins earlier.
    pub run_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    /// When its present attempt was last seen to be alive.
    pub heartbeat_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub order: Order,
}

/// What is to be done; it does not change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// What does it: the name of a saved flow, unless there is a callback.
    pub name: String,
    pub payload: Value,
    /// The call that does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<Value>,
    pub max_retries: u32,
    /// The time of one attempt, pauses not counted; none is no limit but that of the flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    #[serde(default)]
    pub scope: JobScope,
    /// The API key of whoever asked for it; its limits hold for what the job runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The cron entry that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<CronId>,
    /// The dead letter that it was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<DeadLetterId>,
}

/// An order, the queue it goes to, and its priority there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placed {
    pub queue: String,
    pub priority: i32,
    pub order: Order,
}

/// What a run knows of the job whose attempt it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    pub job: JobId,
    pub number: u32,
    /// Failures before this attempt.
    pub failures: u32,
    pub max_retries: u32,
}

/// What an attempt's end makes of its job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobEnd {
    pub tenant: TenantId,
    pub job: JobId,
    pub attempt: u32,
    pub state: JobState,
    pub error: Option<String>,
    /// When the next attempt may begin.
    pub run_at: Option<Timestamp>,
    /// Under which id a job that is given up lies among the dead letters.
    pub dead: Option<DeadLetterId>,
    pub now: Timestamp,
}

impl Job {
    /// One that waits for its first attempt.
    pub fn new(id: JobId, tenant: TenantId, placed: Placed, now: Timestamp) -> Self {
        let Placed { queue, priority, order } = placed;
        Self {
            id,
            tenant,
            queue,
            priority,
            state: JobState::Pending,
            attempt: 0,
            retry_count: 0,
            last_error: None,
            worker: None,
            run_at: now,
            started_at: None,
            completed_at: None,
            heartbeat_at: None,
            created_at: now,
            updated_at: now,
            order,
        }
    }

    /// The present attempt, as its run knows it.
    pub fn attempt(&self) -> Attempt {
        Attempt { job: self.id, number: self.attempt, failures: self.retry_count, max_retries: self.order.max_retries }
    }
}

impl Attempt {
    /// The key under which the attempt's run is created, once.
    pub fn key(&self) -> String {
        format!("{}/{}", self.job, self.number)
    }

    /// What becomes of the job when the run has ended so. `draw` gives a random number below its argument, `dead` the id of a dead letter.
    pub fn end(
        &self,
        tenant: TenantId,
        state: RunState,
        failure: Option<&Failure>,
        now: Timestamp,
        draw: impl FnOnce(u64) -> u64,
        dead: impl FnOnce() -> DeadLetterId,
    ) -> Option<JobEnd> {
        let end = |state| JobEnd { tenant, job: self.job, attempt: self.number, state, error: None, run_at: None, dead: None, now };
        match state {
            RunState::Completed => Some(end(JobState::Completed)),
            RunState::Cancelled => Some(end(JobState::Cancelled)),
            RunState::Failed => {
                let error = failure.map(|failure| plain(&failure.message));
                let failures = self.failures.saturating_add(1);
                if failures > self.max_retries {
                    return Some(JobEnd { error, dead: Some(dead()), ..end(JobState::Failed) });
                }
                let longest = u64::try_from(longest_wait(failures).as_millis()).unwrap_or(u64::MAX);
                let run_at = now.after(Duration::from_millis(draw(longest + 1)));
                Some(JobEnd { error, run_at: Some(run_at), ..end(JobState::Retrying) })
            }
            RunState::Queued | RunState::Running | RunState::Paused | RunState::Compensating => None,
        }
    }

    /// The job is given up, whatever attempts it has left: another one would end like this one.
    pub fn give_up(&self, tenant: TenantId, error: String, now: Timestamp, dead: DeadLetterId) -> JobEnd {
        let (job, attempt) = (self.job, self.number);
        JobEnd { tenant, job, attempt, state: JobState::Failed, error: Some(plain(&error)), run_at: None, dead: Some(dead), now }
    }

    /// The attempt could not begin here: the job waits again, and nothing is counted.
    pub fn hand_back(&self, tenant: TenantId, run_at: Timestamp, now: Timestamp) -> JobEnd {
        let (job, attempt) = (self.job, self.number);
        JobEnd { tenant, job, attempt, state: JobState::Pending, error: None, run_at: Some(run_at), dead: None, now }
    }
}

/// A text without NUL, which databases cannot keep.
fn plain(text: &str) -> String {
    text.replace('\0', "")
}

/// The longest wait before the retry that follows so many failures.
fn longest_wait(failures: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX)).min(LONGEST_WAIT)
}

/// A job that failed for the last time.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    pub id: DeadLetterId,
    pub tenant: TenantId,
    pub job: JobId,
    pub queue: String,
    pub priority: i32,
    pub order: Order,
    pub retry_count: u32,
    pub error: String,
    pub failed_at: Timestamp,
    /// When it was made a job again, and which one, the last time.
    pub replayed_at: Option<Timestamp>,
    pub replayed_as: Option<JobId>,
}

/// How much of a queue may happen at once, and how fast. Nothing is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
#[schemars(rename = "QueueLimits")]
pub struct Limits {
    /// Jobs that run at once, on all nodes together; 0 is no limit.
    pub max_concurrency: u32,
    /// Jobs that begin in a second; 0 is no limit.
    #[schemars(range(min = 0.0))]
    pub rate_limit: f64,
    /// Jobs that may begin at once after a pause, when there is a rate; 1 when absent.
    pub rate_burst: u32,
}

/// A queue's limits.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueRules {
    #[serde(flatten)]
    pub limits: Limits,
    /// Limits of each organisation in it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub orgs: BTreeMap<String, Limits>,
    /// No attempt begins.
    pub paused: bool,
}

/// What a rate still allows: as many as `tokens` at `at`, and so many a second more (a token bucket).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    tokens: f64,
    at: Timestamp,
}

impl Limits {
    /// How many tokens a full bucket holds.
    fn most(&self) -> f64 {
        f64::from(self.rate_burst.max(1))
    }

    /// What is in the bucket now; a new one is full.
    pub fn refill(&self, bucket: Option<Bucket>, now: Timestamp) -> Bucket {
        let tokens = bucket.map_or(self.most(), |bucket| bucket.tokens + now.since(bucket.at).as_secs_f64() * self.rate_limit);
        // Clocks of nodes differ; what was given for a time is not given again.
        Bucket { tokens: tokens.min(self.most()), at: bucket.map_or(now, |bucket| bucket.at.max(now)) }
    }
}

impl Bucket {
    pub fn is_empty(&self) -> bool {
        self.tokens < 1.0
    }

    pub fn take(&mut self) {
        self.tokens -= 1.0;
    }

    /// When there is a token again.
    pub fn filled_at(&self, limits: &Limits) -> Timestamp {
        let wait = ((1.0 - self.tokens) / limits.rate_limit).clamp(0.0, 86_400.0);
        self.at.after(Duration::from_secs_f64(wait)).after(Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn attempt(failures: u32, max_retries: u32) -> Attempt {
        Attempt { job: JobId::from_u128(1), number: failures + 1, failures, max_retries }
    }

    fn end(attempt: Attempt, state: RunState, draw: impl FnOnce(u64) -> u64) -> Option<JobEnd> {
        let failure = Failure { code: "x".into(), message: "why".into(), step: None, retryable: false };
        attempt.end(TenantId::from_u128(1), state, Some(&failure), NOW, draw, || DeadLetterId::from_u128(9))
    }

    #[test]
    fn every_end_of_an_attempt_is_a_legal_move_of_its_job() {
        for state in RunState::ALL {
            for failures in 0..5 {
                let end = end(attempt(failures, 3), state, |_| 0);
                assert_eq!(end.is_some(), state.is_terminal(), "{state:?}");
                assert!(end.is_none_or(|end| JobState::Running.may_become(end.state)), "{state:?}");
            }
        }
        for state in JobState::ALL {
            assert_eq!(JobState::parse(state.as_str()), Some(state));
            assert_eq!(
                state.is_over() && state != JobState::Failed,
                !JobState::ALL.iter().any(|next| state.may_become(*next)),
                "{state:?}"
            );
        }
    }

    #[test]
    fn a_failure_is_retried_as_often_as_is_left_and_then_lies_with_the_dead() {
        let retried = end(attempt(1, 2), RunState::Failed, |most| most - 1).unwrap();
        assert_eq!((retried.state, retried.error.as_deref(), retried.dead), (JobState::Retrying, Some("why"), None));
        assert_eq!(retried.run_at, Some(NOW.after(Duration::from_secs(2))), "the second wait is 2 s at most");
        let dead = end(attempt(2, 2), RunState::Failed, |_| 0).unwrap();
        assert_eq!((dead.state, dead.run_at, dead.dead), (JobState::Failed, None, Some(DeadLetterId::from_u128(9))));
        assert_eq!(end(attempt(0, 0), RunState::Failed, |_| 0).unwrap().state, JobState::Failed, "without retries at once");
    }

    #[test]
    fn waits_double_to_a_minute() {
        let seconds = [1, 2, 3, 6, 7, 8, 40, u32::MAX].map(|failures| longest_wait(failures).as_secs());
        assert_eq!(seconds, [1, 2, 4, 32, 60, 60, 60, 60]);
    }

    #[test]
    fn a_bucket_fills_with_time_up_to_its_burst() {
        let limits = Limits { rate_limit: 2.0, rate_burst: 3, ..Limits::default() };
        let mut bucket = limits.refill(None, NOW);
        for _ in 0..3 {
            assert!(!bucket.is_empty());
            bucket.take();
        }
        assert!(bucket.is_empty());
        assert!(limits.refill(Some(bucket), NOW.after(Duration::from_millis(499))).is_empty());
        assert!(!limits.refill(Some(bucket), NOW.after(Duration::from_millis(500))).is_empty());
        let mut full = limits.refill(Some(bucket), NOW.after(Duration::from_secs(3_600)));
        (0..3).for_each(|_| full.take());
        assert!(full.is_empty());
    }
}
