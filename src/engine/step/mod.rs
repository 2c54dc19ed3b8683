//! Step types: each is a file or folder here and one line in [`ALL`].
//!
//! A [`StepType`] compiles a step's configuration once, reporting every fault; the [`StepBody`] it gives runs many
//! times. Bodies touch the outside through their [`StepContext`] only.
//!
//! Must not know: tables, sockets of their own, surfaces.

mod artifact;
mod child;
mod conditional;
mod crawl;
mod execute_agent;
mod fetch_github;
mod files;
mod http;
mod job_action;
mod mcp;
mod memories;
mod paginate_api;
mod prompt;
mod publish_event;
mod records;
mod repeat;
mod request;
mod run_flow;
mod search;
mod send_email;
mod send_event;
mod send_stream;
mod send_text;
mod service;
mod set_variable;
mod state;
mod template;
mod tool_call;
mod tool_run;
mod transform_data;
mod vectors;
mod wait_for_event;
mod wait_for_signal;
mod wait_until;

pub use memories::Memory;
pub use prompt::messages::check_messages;
pub use prompt::{ANSWER_STATE, AnswerState, COMPLETION, CachedAnswer, CompletionReport, named_models, unpriced_message};
pub use request::SIGNING_SECRET;

use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::context::{LONGEST_WAIT, StepContext, StepResult};
use super::memory::Orders;
use super::plan::StepReads;
use crate::error::{Problem, Problems};
use crate::expr::{Missing, Piece, Template, TemplateTree};
use crate::model::{Flow, Step};
use crate::provider::Resolved;

/// A kind of step.
#[derive(Clone, Copy)]
pub struct StepType {
    /// The `type` that documents name it by.
    pub action: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// JSON Schema of `config`.
    pub schema: fn() -> schemars::Schema,
    /// Compiles a step; pointers of problems are relative to its `config`.
    pub compile: fn(&Step) -> Result<Box<dyn StepBody>, Problems>,
}

/// A compiled step.
#[async_trait]
pub trait StepBody: Send + Sync {
    /// Runs, or goes on after a pause: what the journal holds is recalled, not done again.
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput>;

    /// The flows that it may run as children, each with the place of its document in the step's configuration; with `Id` behind it, the
    /// place that names a saved one.
    fn children(&self) -> Vec<(String, &Flow)> {
        Vec::new()
    }

    /// The most turns that it takes, if it is an agent's loop.
    fn max_turns(&self) -> Option<u32> {
        None
    }

    /// What a model cannot honour of the step's configuration, as a field below `config` and a message. Asked when a flow is accepted.
    fn check_model(&self, _model: &Resolved) -> Vec<(String, String)> {
        Vec::new()
    }

    /// The models that the step asks, the first one first.
    fn models(&self) -> &[String] {
        &[]
    }

    /// What its texts read, for workflows.
    fn reads(&self) -> StepReads {
        StepReads::default()
    }

    /// Where its configuration names the first model.
    fn model_field(&self) -> &'static str {
        "model"
    }
}

/// What a step leaves behind.
#[derive(Debug, Clone, Default)]
pub struct StepOutput {
    /// Bound to the step's output variable.
    pub value: Value,
    /// What `step_complete` shows instead of the value.
    pub shown: Option<Value>,
    /// Further variables it sets.
    pub variables: Map<String, Value>,
    /// The branch it chose.
    pub branch: Option<bool>,
    pub stop_reason: Option<String>,
    /// How many turns an agent took.
    pub turns: Option<u32>,
    pub fallback: Option<Value>,
    /// What it says of the rest of the run.
    pub orders: Orders,
}

impl StepOutput {
    pub fn of(value: Value) -> Self {
        Self { value, ..Self::default() }
    }
}

/// Every step type.
pub const ALL: &[StepType] = &[
    prompt::TYPE,
    set_variable::TYPE,
    conditional::TYPE,
    transform_data::TYPE,
    http::FETCH_URL,
    http::API_CALL,
    template::TYPE,
    send_stream::TYPE,
    wait_until::TYPE,
    wait_for_signal::TYPE,
    wait_for_event::TYPE,
    publish_event::TYPE,
    tool_call::TYPE,
    run_flow::TYPE,
    execute_agent::TYPE,
    records::GET,
    records::LIST,
    records::RETRIEVE,
    records::UPSERT,
    records::UPDATE,
    paginate_api::TYPE,
    memories::SAVE,
    memories::RECALL,
    memories::SUMMARY,
    vectors::EMBED,
    vectors::STORE,
    vectors::SEARCH,
    repeat::TYPE,
    request::TYPE,
    crawl::TYPE,
    search::TYPE,
    fetch_github::TYPE,
    send_email::TYPE,
    send_text::TYPE,
    send_event::TYPE,
    files::STORE,
    files::PDF,
    job_action::TYPE,
];

/// Reads a configuration in its type; a fault is reported with the pointer to it.
fn config<T: DeserializeOwned>(step: &Step) -> Result<T, Problems> {
    serde_path_to_error::deserialize(&step.config).map_err(|error| Problem::misfit(&error).into())
}

/// Collects the parsed fields of a configuration and every fault on the way.
#[derive(Default)]
struct Fields(Problems);

pub(super) const SECRETS: &str = "secrets may be used in HTTP steps and external tools only: what they reach would be stored and shown";

impl Fields {
    fn problem(&mut self, name: &str, message: impl Into<String>) {
        self.0.add(if name.is_empty() { String::new() } else { format!("/{name}") }, message);
    }

    /// A template that may not read secrets.
    fn template(&mut self, name: &str, source: &str) -> Option<Template> {
        let template = self.open_template(name, source)?;
        if template.uses_secrets() {
            self.problem(name, SECRETS);
        }
        Some(template)
    }

    /// A template whose result leaves through the egress door and may read secrets.
    fn open_template(&mut self, name: &str, source: &str) -> Option<Template> {
        Template::parse(source).map_err(|error| self.problem(name, error.to_string())).ok()
    }

    /// A JSON value whose strings are templates that may not read secrets.
    fn tree(&mut self, name: &str, value: &Value) -> Option<TemplateTree> {
        let tree = self.open_tree(name, value)?;
        if tree.uses_secrets() {
            self.problem(name, SECRETS);
        }
        Some(tree)
    }

    /// A JSON value whose strings are templates that may read secrets.
    fn open_tree(&mut self, name: &str, value: &Value) -> Option<TemplateTree> {
        match TemplateTree::parse(value) {
            Ok(tree) => Some(tree),
            Err(faults) => {
                faults.0.into_iter().for_each(|fault| self.0.add(format!("/{name}{}", fault.pointer), fault.message));
                None
            }
        }
    }

    /// How long something is waited for, given in milliseconds.
    fn wait(&mut self, name: &str, given: Option<u64>) -> Duration {
        let wait = given.map_or(LONGEST_WAIT, Duration::from_millis);
        if wait > LONGEST_WAIT {
            self.problem(name, format!("a run may wait {} days at most", LONGEST_WAIT.as_secs() / 86_400));
        }
        wait
    }

    /// The body, unless something was wrong.
    fn finish<B: StepBody + 'static>(self, body: Option<B>) -> Result<Box<dyn StepBody>, Problems> {
        match body {
            Some(body) if self.0.0.is_empty() => Ok(Box::new(body)),
            _ => Err(self.0),
        }
    }
}

/// A template's text with what the step sees.
fn text(context: &StepContext<'_>, template: &Template) -> StepResult<String> {
    Ok(text_of(&context.fill(template)?))
}

/// A name under which things are kept apart. Everything that it is made of must be there, or what is one's would be another's too; else why it is no
/// name.
fn own_name(context: &StepContext<'_>, template: &Template, most: usize) -> StepResult<Result<String, String>> {
    let (pieces, unresolved) = template.pieces(&context.scope(), Missing::Empty)?;
    let empty = pieces.iter().any(|piece| matches!(piece, Piece::Value { text, .. } if text.trim().is_empty()));
    let texts = pieces.iter().map(|piece| match piece {
        Piece::Text(text) | Piece::Value { text, .. } => text.as_str(),
    });
    let name = texts.collect::<String>().trim().to_owned();
    if empty || !unresolved.is_empty() || name.is_empty() || name.chars().count() > most || name.contains(char::is_control) {
        return Ok(Err(format!("came to `{name}`: expected 1 to {most} characters, with none of its variables missing or empty")));
    }
    Ok(Ok(name))
}

/// A rendered value as text: nothing for null, compact JSON for containers.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
