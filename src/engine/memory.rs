//! What a run's owner knows of it: journal, waits, variables and where each step stands.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::budget::{Reserved, Worst};
use super::plan::Plan;
use crate::clock::Timestamp;
use crate::expr::bounds;
use crate::model::run::Failure;
use crate::model::{JournalEntry, Outcome, StepState, Wait, WaitKind};

/// A settled step, as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepRecord {
    pub state: StepState,
    /// Position among the settled steps: later outputs hide earlier ones of the same name.
    pub order: u32,
    #[serde(default)]
    pub output: Value,
    /// Variables it set.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub variables: Map<String, Value>,
    /// The branch it chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// For a failure: whether the same step may succeed later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retryable: bool,
    /// The failure was expected: the step says what to go on with.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handled: bool,
    pub started_at: Timestamp,
    pub completed_at: Timestamp,
    /// Of an agent: why its loop ended, and after how many turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<u32>,
    #[serde(default)]
    pub tokens: u64,
    /// Nano-dollars.
    #[serde(default)]
    pub cost: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// What it asked a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inquiry: Option<Inquiry>,
    /// What it says of the rest of the run.
    #[serde(default, skip_serializing_if = "Orders::is_none")]
    pub orders: Orders,
}

/// What a step asked of models, for the diagnosis of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Inquiry {
    /// The rendered system prompt and user message of the first request, truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The model that answered last, as `provider/model`; if none did, the one that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    pub input_tokens: u64,
    pub output_tokens: u64,
}

/// Maximum number of bytes of a prompt that are stored with its step.
const MAX_PROMPT_BYTES: usize = 16 * 1024;

impl Inquiry {
    /// Records the beginning of a conversation; only the first one is recorded.
    pub fn open(&mut self, system: Option<&str>, user: Option<&str>) {
        if self.system.is_none() && self.user.is_none() {
            (self.system, self.user) = (system.map(beginning), user.map(beginning));
        }
    }

    /// Returns `None` if nothing was asked.
    pub fn told(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }
}

/// Truncates a text to the stored length, with a note of how much is missing.
fn beginning(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_PROMPT_BYTES);
    let (kept, left) = text.split_at(end);
    if left.is_empty() { kept.to_owned() } else { format!("{kept}… ({} more bytes)", left.len()) }
}

/// A workflow on its way to an early end: what runs comes to its own end, then what was done is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failing {
    pub why: Failure,
    /// It ends cancelled, not failed.
    #[serde(default)]
    pub cancelled: bool,
    /// Everything has come to its end; nothing is entered any more.
    #[serde(default)]
    pub undoing: bool,
}

/// What a step may say of the rest of its run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Orders {
    /// Steps that are passed over if they have not begun.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skip: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<EndOrder>,
}

/// How a step ends its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndOrder {
    /// Well, as if nothing came after it.
    Complete,
    /// Cancelled, and what was done is undone.
    Cancel,
}

impl Orders {
    const fn is_none(&self) -> bool {
        self.skip.is_empty() && self.end.is_none()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Under which name a workflow's texts see what its steps came to.
const STEPS: &str = "steps";
/// Where the journal keeps a workflow's computed values, why it fails, and what became of undoing.
pub const VARS: &str = "workflow/vars";
pub const FAILURE: &str = "workflow/failure";
pub const COMPENSATION: &str = "workflow/compensation";

/// Where the journal keeps that a workflow's step has begun, and what its call came to while it waits for a signal.
pub fn begun(key: &str) -> String {
    format!("{key}/begun")
}
pub const CALLED: &str = "called";

/// A step as the texts of later ones see it.
fn seen(record: &StepRecord) -> Value {
    let mut seen = record.output.as_object().cloned().unwrap_or_default();
    seen.insert("status".into(), serde_json::to_value(record.state).unwrap_or_default());
    if let Some(error) = &record.error {
        seen.insert("error".into(), serde_json::json!({ "code": record.code, "message": error }));
    }
    Value::Object(seen)
}

/// About what an entry of the journal takes in memory.
pub fn weight(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Begun => 0,
        Outcome::Done(value) | Outcome::Failed(value) => bounds::weight(value),
    }
}

/// Where a step stands in memory.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    pub state: Option<StepState>,
    pub branch: Option<bool>,
}

impl Standing {
    pub fn is_settled(&self) -> bool {
        self.state.is_some_and(StepState::is_settled)
    }
}

/// See the module.
pub struct Memory {
    pub journal: HashMap<String, Outcome>,
    /// By journal key.
    pub waits: HashMap<String, Wait>,
    pub variables: Arc<Map<String, Value>>,
    pub steps: Vec<Standing>,
    pub records: HashMap<usize, StepRecord>,
    pub settled: u32,
    /// Of the records.
    pub orders: Orders,
    /// Why a workflow ends early, once it does: nothing new begins.
    pub failing: Option<Failing>,
    /// The steps that this owner has entered.
    pub entered: HashSet<usize>,
    /// Of everything in the journal, by [`crate::expr::bounds::weight`].
    pub weight: usize,
    pub reserved: Reserved,
    /// What is set aside for child runs, by journal key.
    pub kept: HashMap<String, Worst>,
    /// Last reading of the run's nudges.
    pub nudges: i64,
    /// How often something came that steps may wait for.
    pub news: u64,
}

impl Memory {
    /// Rebuilds the memory from what the store holds.
    pub fn load(plan: &Plan, journal: Vec<JournalEntry>, waits: Vec<Wait>, nudges: i64) -> Self {
        let journal: HashMap<String, Outcome> = journal.into_iter().map(|entry| (entry.key, entry.outcome)).collect();
        let mut memory = Self {
            journal,
            waits: waits.into_iter().map(|wait| (wait.key.clone(), wait)).collect(),
            variables: Arc::default(),
            steps: vec![Standing::default(); plan.steps.len()],
            records: HashMap::new(),
            settled: 0,
            orders: Orders::default(),
            failing: None,
            entered: HashSet::new(),
            weight: 0,
            reserved: Reserved::default(),
            kept: HashMap::new(),
            nudges,
            news: 0,
        };
        memory.weight = memory.journal.values().map(weight).sum();
        let mut records: Vec<(usize, StepRecord)> = plan
            .steps
            .iter()
            .enumerate()
            .filter_map(|(index, step)| {
                let Some(Outcome::Done(value)) = memory.journal.get(&step.key()) else { return None };
                Some((index, serde_json::from_value(value.clone()).ok()?))
            })
            .collect();
        records.sort_by_key(|(_, record)| record.order);
        for (index, record) in records {
            memory.settle(plan, index, record);
        }
        if let Some(Outcome::Done(vars)) = memory.journal.get(VARS).cloned() {
            memory.set("vars", vars);
        }
        if let Some(Outcome::Done(failure)) = memory.journal.get(FAILURE).cloned() {
            memory.failing = serde_json::from_value(failure).ok();
        }
        memory
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: Value) {
        Arc::make_mut(&mut self.variables).insert(name.to_owned(), value);
    }

    /// Notes a settled step and what it leaves to later ones.
    pub fn settle(&mut self, plan: &Plan, index: usize, record: StepRecord) {
        if let Some(standing) = self.steps.get_mut(index) {
            *standing = Standing { state: Some(record.state), branch: record.branch };
        }
        self.settled = self.settled.max(record.order + 1);
        let variables = Arc::make_mut(&mut self.variables);
        if record.state != StepState::Skipped
            && let Some(name) = plan.steps.get(index).and_then(|step| step.step.output.clone())
        {
            variables.insert(name, record.output.clone());
        }
        variables.extend(record.variables.clone());
        if let Some(planned) = plan.steps.get(index).filter(|_| plan.workflow.is_some()) {
            let all = variables.entry(STEPS).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(all) = all {
                all.insert(planned.step.id.clone(), seen(&record));
            }
        }
        self.orders.skip.extend(record.orders.skip.iter().cloned());
        self.orders.end = self.orders.end.or(record.orders.end);
        self.records.insert(index, record);
    }

    /// Whether a step has begun, and waits for nothing that need not come.
    pub fn is_under_way(&self, key: &str) -> bool {
        let waits = |wait: &Wait| wait.kind == WaitKind::Signal;
        self.journal.contains_key(&begun(key)) && !self.open_below(&[format!("{key}/")]).any(waits)
    }

    /// Takes in what the store knows of the waits now.
    pub fn reload_waits(&mut self, waits: Vec<Wait>) {
        for wait in waits {
            // The reading may be older than an answer that was given here.
            let answered = self.waits.get(&wait.key).is_some_and(|known| known.resolution.is_some());
            if !answered {
                self.waits.insert(wait.key.clone(), wait);
            }
        }
    }

    /// Open waits whose keys begin with one of these. A step that has ended may leave one behind, which nobody waits for.
    pub fn open_below(&self, keys: &[String]) -> impl Iterator<Item = &Wait> {
        let theirs = |wait: &&Wait| wait.resolution.is_none() && keys.iter().any(|key| wait.key.starts_with(key));
        self.waits.values().filter(theirs)
    }

    /// Whether a step has only waited for what comes by itself. A wait before another attempt ends in a new beginning.
    pub fn has_slept(&self, key: &str) -> bool {
        let below = |wait: &&Wait| wait.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('/'));
        self.waits.values().filter(below).all(|wait| !wait.kind.needs_the_caller() && !wait.key.contains("/retry/"))
    }

    /// The ids of the tool calls that recorded turns of models asked for.
    pub fn calls(&self) -> HashSet<String> {
        let turns = self.journal.iter().filter(|(key, _)| key.contains("/turn/"));
        let calls = turns.filter_map(|(_, outcome)| match outcome {
            Outcome::Done(turn) => turn.get("toolCalls")?.as_array(),
            _ => None,
        });
        calls.flatten().filter_map(|call| call.get("id")?.as_str().map(str::to_owned)).collect()
    }

    /// Whether a step has opened a wait before.
    pub fn has_waited(&self, key: &str) -> bool {
        self.waits.keys().any(|wait| wait.strip_prefix(key).is_some_and(|rest| rest.starts_with('/')))
    }
}
