//! Evals: a flow or an agent over cases, in variants, with every answer graded.
//!
//! An eval is a batch of executions, one for each case and variant; `work` starts them and has them judged, `grade` judges, `routes` keeps evals and
//! compares them, `runtype` takes and shows them in the words of Runtype's API.
//! Executions and judges are executions like any other: they are listed, streamed and paid like them.

mod grade;
mod routes;
mod runtype;
mod variant;
mod work;

use aide::axum::ApiRouter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::batches::{Item, Progress};
use crate::clock::Timestamp;
use crate::http::AppState;
use crate::id::{EvalId, KeyId, RecordId};
use crate::model::TargetKind;
use crate::store::Document;

pub(super) fn routes() -> ApiRouter<AppState> {
    routes::routes().merge(runtype::routes())
}

/// What is asked, and what should come of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "EvalCase")]
struct Case {
    /// For people; `case 1`, `case 2` and so on when absent.
    name: Option<String>,
    /// Variables at the root of templates.
    inputs: Map<String, Value>,
    /// What an agent is asked; a text stands for one message of a user.
    messages: Option<Value>,
    /// What graders compare with, unless they say otherwise.
    expected: Value,
    /// The record that templates read as `_record`.
    record_id: Option<RecordId>,
    /// A record that is not saved: `{type?, name?, metadata?}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<Map<String, Value>>,
}

/// A way to ask: what differs from the target as it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "EvalVariant")]
struct Variant {
    /// Unique in the eval.
    name: String,
    /// The step whose prompt differs; all prompts of the flow when absent.
    step: Option<String>,
    model: Option<String>,
    system_prompt: Option<String>,
    user_prompt: Option<String>,
    temperature: Option<f64>,
    /// Further members of the prompt's configuration.
    config: Map<String, Value>,
    /// What differs at further steps. Their names say nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    more: Vec<Variant>,
}

/// What an answer is judged by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[schemars(rename = "EvalGrader")]
enum Grader {
    /// The execution succeeded.
    NoError {},
    /// The answer is what was expected; texts are compared without blanks around them.
    Exact {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected: Option<Value>,
        #[serde(default)]
        ignore_case: bool,
    },
    /// The answer's text has this in it.
    Contains {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<String>,
        #[serde(default)]
        ignore_case: bool,
    },
    /// The answer's text matches (ECMA 262).
    Regex { pattern: String },
    /// A member of the answer, by its path (`items.0.name`), is what was expected; without `equals` and without an expectation it only has to be there.
    JsonPath {
        path: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        equals: Option<Value>,
    },
    /// The answer fits the schema.
    JsonSchema { schema: Value },
    /// A tool was called, so often at least.
    CalledTool {
        tool: String,
        #[serde(default = "once")]
        at_least: u32,
    },
    /// The execution cost no more, in US dollars.
    MaxCost { usd: f64 },
    /// The execution took no longer, in milliseconds.
    MaxDuration { ms: u64 },
    /// A model judges by criteria and says 0 to 1.
    Ai {
        model: String,
        criteria: String,
        #[serde(default = "threshold")]
        threshold: f64,
    },
}

const fn once() -> u32 {
    1
}

const fn threshold() -> f64 {
    0.7
}

/// A grader's word on an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EvalGrade")]
struct Grade {
    /// The grader's type.
    grader: String,
    pass: bool,
    /// 0 to 1.
    score: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The judge's execution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    execution_id: Option<crate::id::RunId>,
}

/// One execution, its answer, and what was said of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trial {
    case: usize,
    variant: usize,
    output: Value,
    /// By the graders' places; `None` until it was judged.
    grades: Vec<Option<Grade>>,
    /// Judges at work.
    judges: Vec<Option<crate::id::RunId>>,
}

/// What an eval asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    kind: TargetKind,
    /// The whole document, as it was when the eval began.
    document: Value,
    /// The saved flow's or agent's id, for people.
    id: Option<String>,
}

/// An eval as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Eval {
    name: String,
    /// The first eval of its group; absent for the first one itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<EvalId>,
    target: Target,
    cases: Vec<Case>,
    variants: Vec<Variant>,
    graders: Vec<Grader>,
    items: Vec<Item>,
    trials: Vec<Trial>,
    /// The API key of whoever asked for it.
    #[serde(default)]
    key_id: Option<KeyId>,
    #[serde(flatten)]
    progress: Progress,
}

impl Document for Eval {
    const KIND: &'static str = "eval";
    type Id = EvalId;

    fn parent(&self) -> Option<String> {
        self.group.map(|group| group.to_string())
    }

    fn due_at(&self) -> Option<Timestamp> {
        self.progress.due_at()
    }
}
