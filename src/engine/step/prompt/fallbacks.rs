//! What a prompt does when its model cannot answer: ask it again, ask another one, or give a text of its own.
//!
//! The chain goes to the provider layer as a list of models, which are asked in turn; a text of its own is given by the step when the whole chain has
//! failed.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::config::Prompt;
use super::rounds::Rounds;
use crate::engine::context::{StepContext, StepFailure};
use crate::engine::step::{Fields, StepOutput};
use crate::model::event::Event;
use crate::provider::{AttemptReport, Completion};

/// What takes over: a model's name, or a step of a chain.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a model's name, {model}, {type: \"retry\"} or {type: \"message\", message}")]
pub enum Fallback {
    Name(String),
    Step(Box<FallbackStep>),
}

/// A step of a chain of fallbacks.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FallbackStep {
    /// `model` asks another model, `retry` the one before, `message` answers with a text.
    #[serde(rename = "type", default)]
    kind: FallbackKind,
    /// The model, of `model`.
    #[serde(default)]
    model: Option<String>,
    /// The text, of `message`.
    #[serde(default)]
    message: Option<String>,
    /// Milliseconds before a model is asked.
    #[serde(default)]
    delay: Option<u64>,
    #[serde(default)]
    #[schemars(skip)]
    max_tokens: Option<Value>,
    #[serde(default)]
    #[schemars(skip)]
    temperature: Option<Value>,
}

#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq, Default, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum FallbackKind {
    #[default]
    Model,
    Retry,
    Message,
}

/// What makes the next model take over.
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FallbackTrigger {
    /// A failure. It always does.
    Error,
    /// An answer without text.
    EmptyOutput,
}

/// Maximum number of fallbacks of one prompt.
const MAX_FALLBACKS: usize = 20;
/// Milliseconds before a model is asked, at most.
const MAX_DELAY: u64 = 600_000;

/// A compiled chain.
pub struct FallbackChain {
    /// The models in the order that they are asked in, each with how long is waited before it takes over.
    pub models: Vec<(String, Duration)>,
    /// Answered when all of them have failed.
    pub message: Option<String>,
    /// Whether an answer without text makes the next model take over.
    pub after_empty: bool,
}

impl FallbackChain {
    pub fn compile(first: &str, fallbacks: &[Fallback], triggers: &[FallbackTrigger], fields: &mut Fields) -> Self {
        let after_empty = triggers.contains(&FallbackTrigger::EmptyOutput);
        let mut chain = Self { models: vec![(first.to_owned(), Duration::ZERO)], message: None, after_empty };
        if fallbacks.len() > MAX_FALLBACKS {
            fields.problem("fallbacks", format!("expected at most {MAX_FALLBACKS} fallbacks"));
        }
        for (index, fallback) in fallbacks.iter().enumerate().take(MAX_FALLBACKS) {
            let at = format!("fallbacks/{index}");
            if chain.message.is_some() {
                fields.problem(&at, "a message answers in any case: nothing can follow it");
            }
            match fallback {
                Fallback::Name(name) => chain.models.push((name.clone(), Duration::ZERO)),
                Fallback::Step(step) => chain.add(step, &at, fields),
            }
        }
        chain
    }

    fn add(&mut self, step: &FallbackStep, at: &str, fields: &mut Fields) {
        for (name, given) in [("maxTokens", &step.max_tokens), ("temperature", &step.temperature)] {
            if given.as_ref().is_some_and(|given| !given.is_null()) {
                fields.problem(&format!("{at}/{name}"), "not available in this version: every model is asked with the prompt's own");
            }
        }
        let delay = step.delay.unwrap_or(0);
        if delay > MAX_DELAY {
            fields.problem(&format!("{at}/delay"), format!("expected 0 to {MAX_DELAY}"));
        }
        let delay = Duration::from_millis(delay);
        match (step.kind, &step.model, &step.message) {
            (FallbackKind::Model, Some(model), _) => self.models.push((model.clone(), delay)),
            (FallbackKind::Retry, ..) => {
                let before = self.models.last().map(|(model, _)| model.clone()).unwrap_or_default();
                self.models.push((before, delay));
            }
            (FallbackKind::Message, _, Some(message)) => self.message = Some(message.clone()),
            (FallbackKind::Model, None, _) => fields.problem(at, "expected a model's name or {model}"),
            (FallbackKind::Message, _, None) => fields.problem(&format!("{at}/message"), "expected a text"),
        }
    }
}

/// The number of the block that a message is shown in: behind those of all turns.
const MESSAGE_BLOCK: u32 = 900_000_000;

impl Prompt {
    /// Whether an answer says nothing, where another model is to be asked for one.
    pub(super) fn is_empty_answer(&self, completion: &Completion) -> bool {
        self.after_empty && completion.tool_calls.is_empty() && completion.text.trim().is_empty()
    }

    /// The text that is given instead of an answer, when this failure is the last word.
    pub(super) fn message_for(&self, context: &StepContext<'_>, failure: &StepFailure) -> Option<&str> {
        let is_tried_again = failure.retryable && context.attempt < context.planned.step.retry.max_attempts;
        self.message.as_deref().filter(|_| !failure.fatal && !failure.fate_unknown && !is_tried_again)
    }

    /// Answers with a text of the prompt's own.
    pub(super) fn answer_with(
        &self,
        context: &StepContext<'_>,
        message: &str,
        failure: &StepFailure,
        rounds: Rounds<'_, '_>,
    ) -> StepOutput {
        let reason = context.run.redactor.text(&failure.message);
        let mut attempts = list_attempts(&failure.model_attempts);
        let number = attempts.len() + 1;
        attempts.push(json!({ "attempt": number, "type": "message", "success": true }));
        let value = json!({ "phase": "start", "stepId": context.step_id(), "type": "message", "attempt": number, "reason": reason });
        context.emit(Event::Custom { name: "runtype.fallback".into(), value });
        if self.show {
            let id = context.block("text", MESSAGE_BLOCK);
            let step_id = Some(context.step_id().to_owned());
            context.emit(Event::TextStart { id: id.clone(), role: "assistant".into(), step_id });
            context.emit(Event::TextDelta { id: id.clone(), delta: message.to_owned() });
            context.emit(Event::TextComplete { id, text: message.to_owned() });
        }
        let turns = rounds.give_up();
        StepOutput {
            shown: Some(json!({ "response": message, "model": self.models.first() })),
            stop_reason: Some("fallback".into()),
            turns: self.turns.map(|_| turns),
            fallback: Some(json!({ "used": true, "exhausted": true, "reason": reason, "attempts": attempts })),
            ..StepOutput::of(Value::String(message.to_owned()))
        }
    }
}

/// Reports the attempts of an answer that took more than one.
pub(super) fn report(completion: &Completion) -> Option<Value> {
    let first = completion.attempts.first()?;
    if completion.attempts.len() < 2 {
        return None;
    }
    let used = first.model != completion.model || first.provider != completion.provider;
    let model = format!("{}/{}", completion.provider, completion.model);
    let reason = first.error.as_ref().map(|error| &error.message);
    let attempts = list_attempts(&completion.attempts);
    Some(json!({ "used": used, "exhausted": false, "model": model, "reason": reason, "attempts": attempts }))
}

/// Lists the requests of a model call in the order that they were made in; `retry` is one to the first model.
fn list_attempts(attempts: &[AttemptReport]) -> Vec<Value> {
    let name = |attempt: &AttemptReport| format!("{}/{}", attempt.provider, attempt.model);
    let first = attempts.first().map(name);
    attempts
        .iter()
        .map(|attempt| {
            let model = name(attempt);
            let kind = if first.as_ref() == Some(&model) { "retry" } else { "model" };
            let error = attempt.error.as_ref().map(|error| &error.message);
            json!({ "attempt": attempt.number, "type": kind, "model": model, "success": error.is_none(), "error": error })
        })
        .collect()
}
