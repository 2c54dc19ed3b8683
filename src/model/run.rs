//! A run, its states, and the one table of legal transitions.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::job::Attempt;
use super::origin::Origin;
use super::target::Target;
use crate::clock::Timestamp;
use crate::id::{ClientTokenId, KeyId, RecordId, RunId, ScheduleId, SessionId, TenantId, WaitId};

/// Where a run is.
///
/// ```text
/// queued -> running <-> paused -> completed | failed | cancelled
///              |  \-> compensating -> failed | cancelled
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    Queued,
    Running,
    Paused,
    Compensating,
    Completed,
    Failed,
    Cancelled,
}

impl RunState {
    pub const ALL: [Self; 7] =
        [Self::Queued, Self::Running, Self::Paused, Self::Compensating, Self::Completed, Self::Failed, Self::Cancelled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Compensating => "compensating",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads what [`RunState::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Their names, as [`RunState::as_str`] writes them.
    pub fn words(states: &[Self]) -> Vec<&'static str> {
        states.iter().map(|state| state.as_str()).collect()
    }

    /// No way leads out of this state.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The table of legal transitions. Staying in a state is legal while it is not terminal.
    pub const fn may_become(self, next: Self) -> bool {
        use RunState::{Cancelled, Compensating, Completed, Failed, Paused, Queued, Running};
        match self {
            Queued => matches!(next, Queued | Running | Cancelled),
            Running => matches!(next, Running | Queued | Paused | Compensating | Completed | Failed | Cancelled),
            Paused => matches!(next, Paused | Running | Cancelled),
            Compensating => matches!(next, Compensating | Failed | Cancelled),
            Completed | Failed | Cancelled => false,
        }
    }
}

/// Where a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    Pending,
    Running,
    Retrying,
    Waiting,
    Completed,
    Skipped,
    Failed,
    Cancelled,
    Compensated,
    /// An effect of class `once` went out and its answer was lost.
    Unknown,
}

impl StepState {
    /// The step will not move again by itself.
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Completed | Self::Skipped | Self::Failed | Self::Cancelled | Self::Compensated)
    }
}

/// A lease's fencing number: every claim raises it, every write carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub i64);

/// What a caller proved itself by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    Key(KeyId),
    /// A page, before it has a session.
    ClientToken(ClientTokenId),
    /// A page with a session.
    Session(SessionId),
    /// A run of a workflow, or whoever it gave its token to.
    Run(RunId),
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key(id) => id.fmt(f),
            Self::ClientToken(id) => id.fmt(f),
            Self::Session(id) => id.fmt(f),
            Self::Run(id) => id.fmt(f),
        }
    }
}

/// What a caller may do, proven by a credential.
#[derive(Debug, Clone)]
pub struct Caller {
    pub tenant: TenantId,
    pub who: Who,
    pub scopes: Vec<String>,
}

impl Caller {
    /// The API key that calls, if one does.
    pub const fn key_id(&self) -> Option<KeyId> {
        match self.who {
            Who::Key(id) => Some(id),
            _ => None,
        }
    }

    /// A page sees what its own session began; a key's holder everything of the tenant.
    pub fn may_see(&self, run: &Run) -> bool {
        match self.who {
            Who::Key(_) => true,
            Who::ClientToken(_) => false,
            Who::Session(session) => run.input.session == Some(session),
            Who::Run(id) => run.id == id,
        }
    }

    /// Whether the caller holds `scope` (`FLOWS:READ`), its family (`FLOWS:*`) or everything (`*`).
    pub fn may(&self, scope: &str) -> bool {
        let family = scope.split(':').next().unwrap_or(scope);
        self.scopes.iter().any(|held| held == "*" || held == scope || held.strip_suffix(":*").is_some_and(|held| held == family))
    }
}

/// On whose behalf the server works: a tenant, or visitors of its pages, who have a line of their own in fair queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Requester {
    pub tenant: TenantId,
    pub is_visitor: bool,
}

impl From<TenantId> for Requester {
    fn from(tenant: TenantId) -> Self {
        Self { tenant, is_visitor: false }
    }
}

/// What a run starts from. Kept with the run; surfaces decide only under which names it is seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunInput {
    /// Root-level template variables.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub inputs: Map<String, Value>,
    /// The record, as templates see it under `_record`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<Value>,
    /// Chat history, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<Value>,
    /// Tools that run in the caller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub client_tools: Vec<Value>,
    /// The page's session that began the run; it may answer what the run asks of its end user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// The API key that started the run, or the run above it; its limits hold for the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The job whose attempt the run is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<Attempt>,
    /// Returns the origin of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    pub options: RunOptions,
}

impl RunInput {
    /// Whether a visitor of a page began the run, or the run above it.
    pub const fn is_by_visitor(&self) -> bool {
        self.session.is_some() || self.options.by_visitor
    }

    /// Returns the schedule that started the run.
    pub fn schedule_id(&self) -> Option<ScheduleId> {
        self.inputs.get("_schedule")?.get("id")?.as_str()?.parse().ok()
    }

    /// The saved record that the run is about.
    pub fn record_id(&self) -> Option<RecordId> {
        self.record.as_ref()?.get("id")?.as_str()?.parse().ok()
    }
}

/// How one run behaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunOptions {
    /// Append the record's metadata to prompts.
    pub auto_append_metadata: bool,
    /// More data in events: rendered prompts, resolved inputs.
    pub debug: bool,
    /// Cancel the run when its caller's connection is dropped.
    pub cancel_on_disconnect: bool,
    pub budget: Budget,
    /// Where the flow came from: `virtual`, `existing`, ...
    pub source: String,
    /// Runs above this one.
    pub depth: u32,
    /// A visitor of a page began the run, or a run above it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub by_visitor: bool,
    /// The caller wants the model's answer as it is. Calls of the caller's tools, and an answer that was cut or withheld, end the prompt instead of
    /// pausing or failing it, and the log reports each prompt's answer in a `dispatch.completion`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub as_completion: bool,
    /// The `dispatch.completion` also holds the opaque data that the model wants back with its answer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reports_state: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            auto_append_metadata: false,
            debug: false,
            cancel_on_disconnect: false,
            budget: Budget::default(),
            source: "virtual".into(),
            depth: 0,
            by_visitor: false,
            as_completion: false,
            reports_state: false,
        }
    }
}

/// Hard limits of one run, reserved before each model call and shared with child runs. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Budget {
    /// Money in nano-dollars (1e-9 USD).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<u64>,
    /// Input and output tokens together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Model calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls: Option<u64>,
    /// Time spent running, in milliseconds; pauses are free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

/// What a run has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spent {
    /// Nano-dollars.
    pub cost: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub calls: u64,
    /// Time spent running, in milliseconds.
    pub duration_ms: u64,
    /// Whether some figure is an estimate, or a model has no known price.
    pub estimated: bool,
}

impl Spent {
    pub fn add(&mut self, other: &Self) {
        self.cost = self.cost.saturating_add(other.cost);
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.calls = self.calls.saturating_add(other.calls);
        self.duration_ms = self.duration_ms.saturating_add(other.duration_ms);
        self.estimated |= other.estimated;
    }

    /// Returns the cost in US dollars.
    #[expect(clippy::cast_precision_loss, reason = "shown to people; the exact figure stays in nano-dollars")]
    pub fn dollars(&self) -> f64 {
        self.cost as f64 / 1e9
    }

    pub const fn tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }
}

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Stable identifier.
    pub code: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    #[serde(default)]
    pub retryable: bool,
}

/// Why a run was not successful, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ExecutionFailure")]
pub struct Fault {
    /// Stable identifier.
    pub code: String,
    pub message: String,
    /// The step that failed.
    pub step_id: Option<String>,
    /// Same as `stepId`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Whether the run may succeed if it is started again.
    pub retryable: bool,
}

impl Fault {
    pub fn of(failure: &Failure) -> Self {
        let Failure { code, message, step, retryable } = failure.clone();
        Self { code, message, step_id: step.clone(), step, retryable }
    }
}

/// A child run's tie to the wait of its parent that it answers when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    pub run: RunId,
    pub wait: WaitId,
}

/// A run as the store keeps it.
#[derive(Debug, Clone)]
pub struct Run {
    pub id: RunId,
    pub tenant: TenantId,
    pub state: RunState,
    pub flow_hash: String,
    pub target: Target,
    pub flow_name: String,
    pub input: RunInput,
    /// Request secrets, sealed by the vault; gone when the run ends.
    pub sealed: Option<Vec<u8>>,
    pub parent: Option<Parent>,
    pub epoch: Epoch,
    /// Number of the last commit.
    pub commit: i64,
    /// Raised by whoever resolves a wait or asks for a cancel.
    pub nudges: i64,
    /// Sequence numbers below this may have been shown to someone.
    pub reserved: u64,
    pub cancel_requested: bool,
    /// How often the run was taken over from an owner that went away.
    pub recoveries: u32,
    pub wake_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub output: Option<Value>,
    /// Whether all steps succeeded. `None`: the run has not ended, or an earlier version ended it and did not record it.
    pub success: Option<bool>,
    /// Why it was not successful: the error that ended it, or that of the first failed step.
    pub failure: Option<Failure>,
    pub spent: Spent,
}

impl Run {
    /// See [`did_well`].
    pub fn did_well(&self) -> Option<bool> {
        did_well(self.state, self.success)
    }
}

/// Returns whether a run was successful, as far as its row tells: `None` until it has ended. Without a recorded success, its state decides.
pub fn did_well(state: RunState, noted: Option<bool>) -> Option<bool> {
    state.is_terminal().then(|| noted.unwrap_or(state == RunState::Completed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_states_are_final() {
        for from in RunState::ALL {
            for to in RunState::ALL {
                assert!(!(from.is_terminal() && from.may_become(to)), "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn every_state_but_the_first_can_be_reached_and_every_live_state_can_end() {
        for state in RunState::ALL {
            assert!(state == RunState::Queued || RunState::ALL.iter().any(|from| *from != state && from.may_become(state)), "{state:?}");
            assert!(state.is_terminal() || state.may_become(RunState::Cancelled), "{state:?} cannot be cancelled");
            assert_eq!(RunState::parse(state.as_str()), Some(state));
        }
    }

    #[test]
    fn scopes_cover_their_family() {
        let caller =
            |scope: &str| Caller { tenant: TenantId::from_u128(1), who: Who::Key(KeyId::from_u128(1)), scopes: vec![scope.into()] };
        assert!(caller("*").may("FLOWS:READ"));
        assert!(caller("FLOWS:*").may("FLOWS:READ"));
        assert!(caller("FLOWS:READ").may("FLOWS:READ"));
        assert!(!caller("FLOWS:READ").may("FLOWS:WRITE"));
        assert!(!caller("FLOW:*").may("FLOWS:READ"));
    }
}
