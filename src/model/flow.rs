//! A compiled flow: what every surface's document becomes, and what a run pins.
//!
//! A graph of steps. Ordered documents arrive here as a chain, branches as guards; nothing is interpreted twice.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The format of the compiled form; a stored flow outlives its compiler.
pub const FORMAT: u32 = 1;

/// One flow, compiled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// See [`FORMAT`].
    pub format: u32,
    pub name: String,
    /// Every step, in display order. Disabled steps are not here.
    pub steps: Vec<Step>,
    /// How many steps may run at once.
    pub max_parallel: usize,
    /// What happens to the run when a step fails and does not say otherwise.
    pub on_step_error: OnError,
    /// The run's time budget in milliseconds, pauses not counted.
    pub timeout_ms: u64,
    /// Makes a workflow of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<Workflow>,
}

/// What makes a workflow of a flow. Its texts are in the language of paths, what its steps came to stands in the one variable `steps`, and when a
/// step fails the others that run come to their end and what was done is undone.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Workflow {
    /// Computed once, when the run begins, and seen as `vars`; strings in them are templates.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub vars: Map<String, Value>,
    /// The output, a template over everything; that of the last step when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
}

impl Flow {
    /// An agent: one prompt, and nothing after it.
    pub fn of_prompt(id: &str, name: &str, config: Value, timeout_ms: u64) -> Self {
        Self::of_step(id, name, "prompt", config, timeout_ms)
    }

    /// One step, with which the flow fails.
    pub fn of_step(id: &str, name: &str, action: &str, config: Value, timeout_ms: u64) -> Self {
        let step = Step {
            id: id.to_owned(),
            name: name.to_owned(),
            action: action.to_owned(),
            config,
            after: Vec::new(),
            guard: None,
            when: None,
            when_in: None,
            retry: Retry::default(),
            timeout_ms,
            on_error: Some(OnError::Stop),
            undo: None,
            output: None,
            stream: true,
            pointer: String::new(),
        };
        let (steps, on_step_error) = (vec![step], OnError::Stop);
        Self { format: FORMAT, name: name.to_owned(), steps, max_parallel: 1, on_step_error, timeout_ms, workflow: None }
    }
}

/// One step of a [`Flow`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Unique in the flow; chosen by the caller.
    pub id: String,
    /// Shown to people; also the key of results.
    pub name: String,
    /// Which executor runs it: `prompt`, `fetch-url`, ...
    pub action: String,
    /// The executor's parameters, templates inside.
    pub config: Value,
    /// Steps that must be settled before this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// The branch this step belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// A condition; false means skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// In which language that is, where it is not the flow's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_in: Option<String>,
    #[serde(default)]
    pub retry: Retry,
    /// Time budget of one attempt in milliseconds.
    pub timeout_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    /// What undoes the step when a later one fails: the parameters of its executor for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Value>,
    /// The variable that later templates read the result from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Whether the step's text is shown in the stream.
    pub stream: bool,
    /// Where the step stands in the caller's document; for messages, not part of the flow.
    #[serde(skip)]
    pub pointer: String,
}

/// A step inside a branch runs only when the branching step chose that branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    pub step: String,
    pub branch: bool,
}

/// What a failed step means for its run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "do")]
pub enum OnError {
    /// Note it and go on; the output is null.
    #[default]
    Continue,
    /// Go on with this output.
    Default { value: Value },
    /// The run fails.
    Stop,
}

/// How often, and how far apart, a failed attempt is made again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    /// Attempts in all, the first included.
    pub max_attempts: u32,
    pub delay_ms: u64,
    pub backoff: Backoff,
    pub max_delay_ms: u64,
}

/// How the delay between attempts grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    Constant,
    Linear,
    #[default]
    Exponential,
}

/// Attempts per step that no document may exceed.
pub const MAX_ATTEMPTS: u32 = 5;

impl Default for Retry {
    fn default() -> Self {
        Self { max_attempts: 1, delay_ms: 1_000, backoff: Backoff::Exponential, max_delay_ms: 60_000 }
    }
}

impl Retry {
    /// The delay in milliseconds before the attempt that follows `made` attempts.
    pub fn delay_after(&self, made: u32) -> u64 {
        let made = made.max(1);
        let delay = match self.backoff {
            Backoff::Constant => self.delay_ms,
            Backoff::Linear => self.delay_ms.saturating_mul(u64::from(made)),
            Backoff::Exponential => self.delay_ms.saturating_mul(1u64.checked_shl(made - 1).unwrap_or(u64::MAX)),
        };
        delay.min(self.max_delay_ms)
    }
}
