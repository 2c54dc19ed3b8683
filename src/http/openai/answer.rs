//! What an execution's log tells, read as one chat completion.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::WireError;
use super::wire::{
    AssistantMessage, ChatCompletion, Choice, CompletionTokensDetails, FinishReason, FunctionCall, PromptTokensDetails, ToolCall, Usage,
};
use crate::clock::Timestamp;
use crate::engine::step::{AnswerState, COMPLETION, CompletionReport};
use crate::id::RunId;
use crate::model::EventRecord;
use crate::model::event::{Event, Rest, Tokens, output_of};
use crate::provider::Finish;

/// The facts about an execution that its log is read with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnswerFacts {
    /// How chunks, and the answers of saved agents and flows, name the model.
    pub model: String,
    /// The step whose text is the answer, if it is a prompt.
    pub step: Option<String>,
    /// All thoughts and pictures in the log are those of that prompt.
    pub is_one_prompt: bool,
    pub is_saved: bool,
    /// Only the first tool call is given.
    pub one_call: bool,
}

/// The execution whose log is read.
#[derive(Debug, Clone)]
pub struct Reading {
    pub run: RunId,
    pub facts: AnswerFacts,
}

/// A piece of an answer that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Reasoning(String),
    /// Text that was given before is void: the attempt that wrote it failed.
    Void,
}

/// What a stretch of the log adds.
#[derive(Debug, Default)]
pub struct Progress {
    pub pieces: Vec<Piece>,
    /// How the execution ended, or that it waits for what no caller of this API can give.
    pub end: Option<Ending>,
}

impl Progress {
    pub const fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.end.is_none()
    }
}

/// The end of an answer.
#[derive(Debug, Clone)]
pub enum Ending {
    Answered(Box<Answer>),
    Failed(WireError),
    /// It waits for a person or for the output of a tool.
    Waiting(WireError),
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub model: String,
    pub content: Option<String>,
    pub refusal: Option<String>,
    pub reasoning: Option<String>,
    pub tool_calls: Vec<ToolCall>,
    pub finish_reason: FinishReason,
    pub usage: Usage,
    /// The text that was streamed is not the answer.
    pub is_replaced: bool,
    /// The data that the model wants back with its answer.
    pub state: Option<AnswerState>,
}

/// Reads a log from its beginning.
pub struct AnswerReader {
    reading: Reading,
    /// When the execution began.
    pub created: Option<Timestamp>,
    /// When the execution ended.
    pub completed: Option<Timestamp>,
    /// Text blocks of the answering step.
    open: HashSet<String>,
    /// Those of them of which something was given.
    given: HashSet<String>,
    /// All text that was given.
    text: String,
    /// The next block of text begins a paragraph of its own.
    is_apart: bool,
    thoughts: Vec<(String, String)>,
    loop_thoughts: HashSet<String>,
    /// The last report of each step.
    reports: Vec<CompletionReport>,
    /// The first step that failed: code, message, whether it may succeed later.
    failed: Option<(String, String, bool)>,
    /// What the execution waits for, in words.
    waits_for: Option<String>,
}

impl AnswerReader {
    pub fn new(reading: Reading) -> Self {
        Self {
            reading,
            created: None,
            completed: None,
            open: HashSet::new(),
            given: HashSet::new(),
            text: String::new(),
            is_apart: false,
            thoughts: Vec::new(),
            loop_thoughts: HashSet::new(),
            reports: Vec::new(),
            failed: None,
            waits_for: None,
        }
    }

    pub const fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Whether some text was given.
    pub const fn has_text(&self) -> bool {
        !self.text.is_empty()
    }

    /// Takes the next events, and where the execution rests after them.
    pub fn take(&mut self, events: &[EventRecord], rest: Rest) -> Progress {
        let mut progress = Progress::default();
        for event in events.iter().filter_map(EventRecord::event) {
            self.take_event(event, &mut progress);
        }
        if rest == Rest::Caller && progress.end.is_none() {
            progress.end = Some(Ending::Waiting(self.waiting()));
        }
        progress
    }

    fn take_event(&mut self, event: Event, progress: &mut Progress) {
        match event {
            Event::ExecutionStart { started_at, .. } => self.created = Some(started_at),
            Event::TextStart { id, step_id, .. } if step_id.is_some() && step_id == self.reading.facts.step => {
                self.open.insert(id);
                self.is_apart = !self.text.is_empty();
            }
            Event::TextDelta { id, delta } if self.open.contains(&id) => {
                self.given.insert(id);
                self.give(delta, progress);
            }
            Event::MediaComplete { id, media_type, data, tool_call_id: None } if self.reading.facts.is_one_prompt => {
                self.given.insert(id);
                self.give(format!("![image](data:{media_type};base64,{data})"), progress);
            }
            Event::ReasoningStart { id, scope } if scope != "turn" => {
                self.loop_thoughts.insert(id);
            }
            Event::ReasoningDelta { id, delta } if self.reading.facts.is_one_prompt && !self.loop_thoughts.contains(&id) => {
                match self.thoughts.iter_mut().find(|(known, _)| *known == id) {
                    Some((_, thought)) => thought.push_str(&delta),
                    None => self.thoughts.push((id, delta.clone())),
                }
                progress.pieces.push(Piece::Reasoning(delta));
            }
            Event::Custom { name, value } => self.take_custom(&name, value, progress),
            Event::StepComplete { success: false, error, code, retryable, .. } => {
                let failed = (code.unwrap_or_else(|| "step_failed".into()), error.unwrap_or_default(), retryable);
                self.failed.get_or_insert(failed);
            }
            Event::ApprovalStart { tool_name, .. } => self.waits_for = Some(format!("a person's approval of `{tool_name}`")),
            Event::Await { tool_name, .. } => self.waits_for = Some(format!("the output of `{tool_name}`")),
            Event::ExecutionComplete { success, final_output, result, total_tokens, completed_at, .. } => {
                self.completed = Some(completed_at);
                progress.end = Some(self.ending(success, output_of(final_output, result).unwrap_or_default(), total_tokens));
            }
            Event::ExecutionError { error, code, retryable, completed_at, .. } => {
                self.completed = Some(completed_at);
                progress.end = Some(Ending::Failed(WireError::of_failure(&code, &error, retryable)));
            }
            _ => {}
        }
    }

    fn take_custom(&mut self, name: &str, value: Value, progress: &mut Progress) {
        match name {
            "dispatch.attempt_discarded" => {
                let blocks: Vec<&str> =
                    value.get("blocks").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
                self.thoughts.retain(|(id, _)| !blocks.contains(&id.as_str()));
                if blocks.iter().any(|block| self.given.contains(*block)) {
                    progress.pieces.push(Piece::Void);
                }
            }
            COMPLETION => {
                if let Ok(report) = serde_json::from_value::<CompletionReport>(value) {
                    self.reports.retain(|known| known.step_id != report.step_id);
                    self.reports.push(report);
                }
            }
            _ => {}
        }
    }

    fn give(&mut self, mut text: String, progress: &mut Progress) {
        if std::mem::take(&mut self.is_apart) {
            text.insert_str(0, "\n\n");
        }
        self.text.push_str(&text);
        progress.pieces.push(Piece::Text(text));
    }

    fn waiting(&self) -> WireError {
        let what = self.waits_for.as_deref().unwrap_or("somebody's answer");
        let message = format!(
            "the execution {} waited for {what}, which this API has no way to give, and was cancelled; run it at POST /v1/dispatch",
            self.reading.run
        );
        WireError::of_failure("execution_waits", &message, false)
    }

    fn ending(&self, success: bool, output: Value, tokens: Tokens) -> Ending {
        let report = match &self.reading.facts.step {
            Some(step) => self.reports.iter().find(|report| report.step_id == *step),
            None => None,
        };
        let failure = self.failed.as_ref().filter(|_| !success && output.is_null());
        if let Some((code, message, retryable)) = failure {
            return Ending::Failed(WireError::of_failure(code, message, *retryable));
        }
        let text = match (report.and_then(|report| report.text.clone()), output) {
            (Some(text), _) | (None, Value::String(text)) => text,
            (None, Value::Null) => String::new(),
            (None, other) => other.to_string(),
        };
        let finish = report.map_or(Finish::EndTurn, |report| report.finish);
        let mut tool_calls = report.map(|report| self.tool_calls(report)).unwrap_or_default();
        if self.reading.facts.one_call {
            tool_calls.truncate(1);
        }
        let finish_reason = match finish {
            _ if !tool_calls.is_empty() => FinishReason::ToolCalls,
            Finish::Length => FinishReason::Length,
            Finish::ContentFilter | Finish::Refusal => FinishReason::ContentFilter,
            Finish::EndTurn | Finish::ToolCalls | Finish::Pause | Finish::Error | Finish::Unknown => FinishReason::Stop,
        };
        let is_replaced = report.is_some_and(|report| report.is_repaired) && !self.text.ends_with(&text);
        let (content, refusal) = match finish {
            Finish::Refusal => (None, Some(text)),
            _ if text.is_empty() && finish_reason != FinishReason::Stop => (None, None),
            _ => (Some(text), None),
        };
        let thoughts: Vec<&str> = self.thoughts.iter().map(|(_, thought)| thought.as_str()).collect();
        Ending::Answered(Box::new(Answer {
            model: report
                .filter(|_| !self.reading.facts.is_saved)
                .map_or_else(|| self.reading.facts.model.clone(), |report| report.model.clone()),
            content,
            refusal,
            reasoning: (!thoughts.is_empty()).then(|| thoughts.join("\n")),
            tool_calls,
            finish_reason,
            usage: self.usage(tokens),
            is_replaced,
            state: report.filter(|_| self.reading.facts.is_one_prompt).and_then(|report| report.answer_state.clone()),
        }))
    }

    /// The calls under ids of their own: vendors that give none have theirs numbered anew in each execution, and a conversation may hold several.
    fn tool_calls(&self, report: &CompletionReport) -> Vec<ToolCall> {
        let run = self.reading.run.suffix();
        let call = |(index, call): (usize, &crate::provider::ToolCall)| ToolCall {
            id: format!("call_{run}{index}"),
            kind: "function",
            function: FunctionCall {
                name: call.name.clone(),
                arguments: if call.arguments.trim().is_empty() { "{}".into() } else { call.arguments.clone() },
            },
        };
        report.tool_calls.iter().enumerate().map(call).collect()
    }

    fn usage(&self, tokens: Tokens) -> Usage {
        let sum = |part: fn(&CompletionReport) -> u64| self.reports.iter().map(part).fold(0, u64::saturating_add);
        let cached_tokens = sum(|report| report.usage.cached_input).min(tokens.input);
        let cache_write_tokens = sum(|report| report.usage.cache_write).min(tokens.input);
        let reasoning_tokens = sum(|report| report.usage.reasoning).min(tokens.output);
        Usage {
            prompt_tokens: tokens.input,
            completion_tokens: tokens.output,
            total_tokens: tokens.input.saturating_add(tokens.output),
            prompt_tokens_details: PromptTokensDetails { cached_tokens, cache_write_tokens },
            completion_tokens_details: CompletionTokensDetails { reasoning_tokens },
        }
    }
}

/// The id of a completion: it names the execution.
pub fn completion_id(run: RunId) -> String {
    format!("chatcmpl-{run}")
}

/// Unix time in seconds.
pub const fn seconds(at: Timestamp) -> i64 {
    at.as_millis() / 1_000
}

impl Answer {
    /// The whole completion.
    pub fn completion(self, run: RunId, created: Timestamp) -> ChatCompletion {
        let Self { model, content, refusal, reasoning, tool_calls, finish_reason, usage, is_replaced: _, state: _ } = self;
        let message = AssistantMessage { role: "assistant", content, refusal, reasoning_content: reasoning, tool_calls };
        ChatCompletion {
            id: completion_id(run),
            object: "chat.completion",
            created: seconds(created),
            model,
            choices: vec![Choice { index: 0, message, finish_reason }],
            usage,
        }
    }
}
