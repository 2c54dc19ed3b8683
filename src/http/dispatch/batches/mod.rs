//! Batches: one execution for each of many things, started and watched to their ends without anybody waiting.
//!
//! A batch is a document that is due as long as there is something to do. [`advance`] does a little of it: starts what is not started, under keys
//! of its own, and notes what has ended. Every server does so; `hold` sees to it that one does at a time.
//!
//! `records` keeps and shows batches over records, `submit` makes them, `runtype` shows them in the words of `/v1/batch`; evals are batches too, and judge what ended.

mod hold;
mod records;
mod runtype;
mod submit;
mod work;

use aide::axum::ApiRouter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(super) use self::hold::{Progress, Work, cancel, tick};
pub(super) use self::submit::of_type;
pub(super) use self::work::{advance, outcome_of, start_one};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::http::AppState;
use crate::id::{BatchId, FlowId, KeyId, RecordId, RunId, TenantId};
use crate::store::Document;

pub(super) fn routes() -> ApiRouter<AppState> {
    records::routes().merge(submit::routes()).merge(runtype::routes())
}

/// Executions of one batch.
pub(super) const MOST: usize = 1_000;

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "BatchStatus")]
pub(super) enum Status {
    Running,
    /// Every execution has ended.
    Completed,
    /// Nothing more is started; what was at work was told to end.
    Cancelled,
}

/// One execution of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Item {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordId>,
    /// For people: the record's name, or the case's and the variant's.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// What an execution came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ended {
    pub success: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Value>,
    /// Of the whole, in milliseconds, its pauses included.
    pub took_ms: u64,
    /// US dollars.
    pub cost: f64,
    pub tokens: u64,
    /// Prompts that were executed.
    pub prompts: u32,
    /// Steps that completed; 0 of an agent.
    #[serde(default)]
    pub steps: u32,
    /// Those of them that failed.
    #[serde(default)]
    pub failed_steps: u32,
    #[serde(default)]
    pub input_tokens: u64,
    #[serde(default)]
    pub output_tokens: u64,
    /// It asked models without a known price.
    #[serde(default)]
    pub unpriced: bool,
}

/// A flow over the records of a type, or over chosen records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Batch {
    pub flow: FlowId,
    /// Empty for chosen records.
    pub record_type: String,
    pub inputs: serde_json::Map<String, Value>,
    pub items: Vec<Item>,
    /// Records that are not saved: those of the last items.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inline: Vec<serde_json::Map<String, Value>>,
    /// The API key of whoever asked for it.
    #[serde(default)]
    pub key_id: Option<KeyId>,
    #[serde(flatten)]
    pub progress: Progress,
}

impl Document for Batch {
    const KIND: &'static str = "batch";
    type Id = BatchId;

    fn due_at(&self) -> Option<Timestamp> {
        self.progress.due_at()
    }

    fn parent(&self) -> Option<String> {
        Some(self.flow.to_string())
    }
}

impl Work for Batch {
    const NOUN: &'static str = "batch";

    fn progress(&self) -> Progress {
        self.progress
    }

    fn set_progress(&mut self, progress: Progress) {
        self.progress = progress;
    }

    fn at_work(&self) -> Vec<RunId> {
        self.items.iter().filter_map(Item::at_work).collect()
    }

    async fn go_on(&mut self, state: &AppState, tenant: TenantId, id: BatchId) -> Result<bool> {
        let (flow, inputs, inline) = (self.flow, &self.inputs, &self.inline);
        let saved = self.items.len().saturating_sub(inline.len());
        let request = |place: usize, item: &Item| {
            let unsaved = place.checked_sub(saved).and_then(|place| inline.get(place));
            submit::request(flow, inputs, item.record, unsaved)
        };
        advance(state, (tenant, self.key_id), &id.to_string(), &mut self.items, request).await
    }
}

impl Item {
    /// Its execution, unless that is known to have ended.
    pub fn at_work(&self) -> Option<RunId> {
        self.run.filter(|_| self.ended.is_none())
    }
}
