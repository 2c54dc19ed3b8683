//! The steps of an execution: their states from its log, and their prompts from its journal.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::clock::Timestamp;
use crate::engine::{Inquiry, StepRecord};
use crate::error::Result;
use crate::id::{RunId, TenantId};
use crate::model::event::Event;
use crate::model::run::Spent;
use crate::model::{JournalEntry, Outcome, RunState, StepState, TargetKind};
use crate::provider::{Message, Role};
use crate::store::SharedStore;

/// A step of an execution.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ExecutionStep")]
pub(in crate::http::dispatch) struct StepRow {
    id: String,
    /// Same as `id`.
    step_id: String,
    name: String,
    /// Same as `name`.
    step_name: String,
    step_type: String,
    index: u32,
    /// Same as `index`.
    order: u32,
    status: StepState,
    started_at: Option<Timestamp>,
    completed_at: Option<Timestamp>,
    duration_ms: Option<u64>,
    result: Option<Value>,
    /// The first 200 characters of the result.
    output_preview: Option<String>,
    error: Option<String>,
    /// Same as `error`.
    error_message: Option<String>,
    code: Option<String>,
    /// For a failed step: whether it may succeed if it is run again.
    retryable: bool,
    /// The user message of the first request to the model, truncated to 16 KiB.
    resolved_prompt: Option<String>,
    /// The system prompt of the first request to the model, truncated to 16 KiB.
    resolved_system_prompt: Option<String>,
    /// The model that answered, as `provider/model`; if none did, the model that was asked.
    model_used: Option<String>,
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
    /// Same as `totalTokens`.
    tokens_used: Option<u64>,
    /// US dollars.
    cost: Option<f64>,
    /// Same as `cost`, as text.
    estimated_cost: Option<String>,
    /// Number of attempts after the first.
    retry_count: u32,
    unresolved_variables: Vec<String>,
}

/// Length of a preview of a result, in characters.
const PREVIEW: usize = 200;

/// Returns the steps of an execution in this state, folded from its log; [`with_inquiries`] adds the prompts.
pub(in crate::http::dispatch) async fn steps_of(
    store: &SharedStore,
    tenant: TenantId,
    id: RunId,
    state: RunState,
    kind: TargetKind,
) -> Result<Vec<StepRow>> {
    if kind == TargetKind::Agent {
        // An agent's log contains turns; only its journal shows it as a flow of one step.
        return Ok(of_agent(&store.read_journal(tenant, id).await?, state));
    }
    let log = store.read_log(tenant, id, None, u32::MAX).await?;
    let mut rows: Vec<StepRow> = Vec::new();
    for event in log.iter().flat_map(|segment| &segment.events).filter_map(|record| record.event()) {
        note(&mut rows, event);
    }
    for row in rows.iter_mut().filter(|row| row.status == StepState::Running) {
        row.status = unsettled(state);
    }
    rows.sort_by_key(|row| row.index);
    Ok(rows)
}

/// The state of a step that has begun and is not settled, in an execution in this state.
const fn unsettled(state: RunState) -> StepState {
    match state {
        RunState::Paused => StepState::Waiting,
        RunState::Cancelled => StepState::Cancelled,
        RunState::Failed => StepState::Failed,
        _ => StepState::Running,
    }
}

/// Adds the prompts, attempts and token counts of the steps.
pub(in crate::http::dispatch) async fn with_inquiries(
    store: &SharedStore,
    tenant: TenantId,
    id: RunId,
    rows: &mut [StepRow],
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let journal = store.read_journal(tenant, id).await?;
    for row in rows {
        row.inquire(&journal);
    }
    Ok(())
}

/// Returns what the steps of an execution asked of models: for each step, the model that answered and what that cost.
pub(in crate::http::dispatch) async fn models_of(store: &SharedStore, tenant: TenantId, id: RunId) -> Result<Vec<(String, Spent)>> {
    let journal = store.read_journal(tenant, id).await?;
    let is_step = |entry: &&JournalEntry| entry.key.strip_prefix("steps/").is_some_and(|id| !id.contains('/'));
    let asked = |record: StepRecord| {
        let inquiry = record.inquiry?;
        let spent =
            Spent { cost: record.cost, input_tokens: inquiry.input_tokens, output_tokens: inquiry.output_tokens, ..Spent::default() };
        Some((inquiry.model?, spent))
    };
    Ok(journal.iter().filter(is_step).filter_map(record_of).filter_map(asked).collect())
}

/// Returns the steps of an agent's execution, from its journal.
fn of_agent(journal: &[JournalEntry], state: RunState) -> Vec<StepRow> {
    let ids: BTreeSet<&str> = journal.iter().filter_map(|entry| entry.key.strip_prefix("steps/")?.split('/').next()).collect();
    let rows = ids.into_iter().map(|id| {
        let mut row = row(id.to_owned(), id.to_owned(), "prompt".into(), 0, unsettled(state));
        if let Some(record) = done(journal, &format!("steps/{id}")).and_then(record_of) {
            row.settle(record);
        }
        row
    });
    rows.collect()
}

fn done<'j>(journal: &'j [JournalEntry], key: &str) -> Option<&'j JournalEntry> {
    // The journal is sorted by key.
    journal.binary_search_by(|entry| entry.key.as_str().cmp(key)).ok().and_then(|at| journal.get(at))
}

fn record_of(entry: &JournalEntry) -> Option<StepRecord> {
    match &entry.outcome {
        Outcome::Done(value) => serde_json::from_value(value.clone()).ok(),
        Outcome::Begun | Outcome::Failed(_) => None,
    }
}

/// Returns the beginning of a result as text.
fn preview(result: &Value) -> String {
    let text = match result {
        Value::String(text) => text.clone(),
        other => other.get("response").and_then(Value::as_str).map_or_else(|| other.to_string(), str::to_owned),
    };
    text.chars().take(PREVIEW).collect()
}

impl StepRow {
    pub(in crate::http::dispatch) fn id(&self) -> &str {
        &self.id
    }

    /// The beginning of its result.
    pub(in crate::http::dispatch) fn output(&self) -> Option<String> {
        self.output_preview.clone()
    }

    /// US dollars.
    pub(in crate::http::dispatch) const fn cost(&self) -> Option<f64> {
        self.cost
    }

    /// When it began; `None` if it was skipped.
    pub(in crate::http::dispatch) const fn began(&self) -> Option<Timestamp> {
        self.started_at
    }

    /// Adds the journal's data of a settled step.
    fn settle(&mut self, record: StepRecord) {
        self.status = record.state;
        (self.started_at, self.completed_at) = (Some(record.started_at), Some(record.completed_at));
        self.duration_ms = Some(u64::try_from(record.completed_at.since(record.started_at).as_millis()).unwrap_or(u64::MAX));
        self.result = Some(record.output).filter(|output| !output.is_null());
        self.output_preview = self.result.as_ref().map(preview);
        (self.error, self.error_message) = (record.error.clone(), record.error);
        (self.code, self.retryable) = (record.code, record.retryable);
        if record.tokens > 0 {
            (self.tokens_used, self.total_tokens) = (Some(record.tokens), Some(record.tokens));
            let cost = Spent { cost: record.cost, ..Spent::default() }.dollars();
            (self.cost, self.estimated_cost) = (Some(cost), Some(cost.to_string()));
        }
    }

    fn inquire(&mut self, journal: &[JournalEntry]) {
        let key = format!("steps/{}", self.id);
        let Some(record) = done(journal, &key).and_then(record_of) else { return self.open(journal, &key) };
        self.retry_count = record.retries;
        let Some(inquiry) = record.inquiry else { return };
        (self.resolved_prompt, self.resolved_system_prompt, self.model_used) = (inquiry.user, inquiry.system, inquiry.model);
        (self.prompt_tokens, self.completion_tokens) = (Some(inquiry.input_tokens), Some(inquiry.output_tokens));
    }

    /// A step that is not settled may have stored its first prompt.
    fn open(&mut self, journal: &[JournalEntry], key: &str) {
        let Some(Outcome::Done(opening)) = done(journal, &format!("{key}/opening")).map(|entry| &entry.outcome) else { return };
        let Some(messages) = opening.get("messages").cloned().and_then(|messages| serde_json::from_value::<Vec<Message>>(messages).ok())
        else {
            return;
        };
        let system = messages.iter().find(|message| message.role == Role::System).map(Message::text);
        let user = messages.iter().rfind(|message| message.role == Role::User).map(Message::text);
        let mut inquiry = Inquiry::default();
        inquiry.open(system.as_deref(), user.as_deref());
        (self.resolved_system_prompt, self.resolved_prompt) = (inquiry.system, inquiry.user);
    }
}

/// Folds one event into the steps.
fn note(rows: &mut Vec<StepRow>, event: Event) {
    match event {
        Event::StepStart { id, name, step_type, index, started_at, .. } => {
            if let Some(row) = rows.iter_mut().find(|row| row.id == id) {
                row.status = StepState::Running;
                return;
            }
            rows.push(StepRow { started_at: Some(started_at), ..row(id, name, step_type, index, StepState::Running) });
        }
        Event::StepSkip { id, name, step_type, index, .. } => rows.push(row(id, name, step_type, index, StepState::Skipped)),
        Event::StepComplete {
            id,
            success,
            result,
            error,
            code,
            retryable,
            duration_ms,
            completed_at,
            tokens_used,
            cost,
            unresolved_variables,
            ..
        } => {
            let Some(row) = rows.iter_mut().find(|row| row.id == id) else { return };
            row.status = if success { StepState::Completed } else { StepState::Failed };
            row.completed_at = Some(completed_at);
            row.duration_ms = Some(duration_ms);
            row.output_preview = result.as_ref().map(preview);
            row.result = result;
            (row.error, row.error_message) = (error.clone(), error);
            (row.code, row.retryable) = (code, retryable);
            (row.tokens_used, row.total_tokens) = (tokens_used, tokens_used);
            (row.cost, row.estimated_cost) = (cost, cost.map(|cost| cost.to_string()));
            row.unresolved_variables = unresolved_variables;
        }
        _ => {}
    }
}

fn row(id: String, name: String, step_type: String, index: u32, status: StepState) -> StepRow {
    StepRow {
        step_id: id.clone(),
        id,
        step_name: name.clone(),
        name,
        step_type,
        index,
        order: index,
        status,
        started_at: None,
        completed_at: None,
        duration_ms: None,
        result: None,
        output_preview: None,
        error: None,
        error_message: None,
        code: None,
        retryable: false,
        resolved_prompt: None,
        resolved_system_prompt: None,
        model_used: None,
        prompt_tokens: None,
        completion_tokens: None,
        total_tokens: None,
        tokens_used: None,
        cost: None,
        estimated_cost: None,
        retry_count: 0,
        unresolved_variables: Vec::new(),
    }
}
