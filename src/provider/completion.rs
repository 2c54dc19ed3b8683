//! What a call of a model came to: the answer, what it used and what it cost, attempt by attempt.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::chat::{Message, Part, Role, Thought, ToolCall};
use super::error::Summary;
use super::price::Cost;
use crate::clock::Timestamp;

/// Tokens used by one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// All input tokens, those read from and written to a cache included.
    pub input: u64,
    /// All output tokens, reasoning included.
    pub output: u64,
    /// Of the input: read from a cache.
    pub cached_input: u64,
    /// Of the input: written to a cache.
    pub cache_write: u64,
    /// Of the output: reasoning.
    pub reasoning: u64,
    /// Counted by us (four bytes to a token) because the vendor said nothing.
    pub estimated: bool,
}

impl Usage {
    pub fn total(&self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// The later total of two of the same answer. A zero in it does not erase an earlier count.
    pub fn updated(&self, later: &Self) -> Self {
        let pick = |later: u64, earlier: u64| if later > 0 { later } else { earlier };
        Self {
            input: pick(later.input, self.input),
            output: pick(later.output, self.output),
            cached_input: pick(later.cached_input, self.cached_input),
            cache_write: pick(later.cache_write, self.cache_write),
            reasoning: pick(later.reasoning, self.reasoning),
            estimated: later.estimated,
        }
    }

    /// Both together; estimated when either is.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
            cached_input: self.cached_input.saturating_add(other.cached_input),
            cache_write: self.cache_write.saturating_add(other.cache_write),
            reasoning: self.reasoning.saturating_add(other.reasoning),
            estimated: self.estimated || other.estimated,
        }
    }
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    EndTurn,
    ToolCalls,
    /// The token limit was reached; the answer is incomplete.
    Length,
    ContentFilter,
    /// The vendor's own tools paused a long turn (Anthropic).
    Pause,
    /// The model said why it will not answer; its text is the refusal.
    Refusal,
    Error,
    #[default]
    Unknown,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Completion {
    pub text: String,
    #[serde(default)]
    pub reasoning: Vec<Thought>,
    #[serde(default)]
    pub tool_calls: Vec<ToolCall>,
    /// Opaque state of the answer; see [`Message::state`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Value>,
    pub finish: Finish,
    /// Of the attempt that succeeded.
    pub usage: Usage,
    /// Of all attempts together: failed ones are billed too.
    pub cost: Cost,
    /// The model that answered.
    pub model: String,
    /// The provider that answered.
    pub provider: String,
    pub attempts: Vec<AttemptReport>,
}

impl Completion {
    /// The reasoning as one text.
    pub fn reasoning_text(&self) -> String {
        let texts: Vec<&str> = self.reasoning.iter().map(|thought| thought.text.as_str()).filter(|text| !text.is_empty()).collect();
        texts.join("\n")
    }

    /// The assistant's message to put into the conversation before the next call.
    pub fn message(&self) -> Message {
        let mut content: Vec<Part> = self.reasoning.iter().cloned().map(Part::Reasoning).collect();
        if !self.text.is_empty() {
            content.push(Part::text(self.text.clone()));
        }
        Message {
            role: Role::Assistant,
            content,
            tool_calls: self.tool_calls.clone(),
            tool_call_id: None,
            tool_name: None,
            is_error: false,
            origin: Some(format!("{}/{}", self.provider, self.model)),
            state: self.state.clone(),
        }
    }

    /// A later answer that takes the place of this one: both were billed.
    pub fn followed_by(self, later: Self) -> Self {
        let mut attempts = self.attempts;
        attempts.extend(later.attempts);
        for (number, attempt) in (1u32..).zip(&mut attempts) {
            attempt.number = number;
        }
        Self { cost: self.cost.plus(later.cost), attempts, ..later }
    }

    /// The tokens of all attempts together.
    pub fn total_usage(&self) -> Usage {
        self.attempts.iter().fold(Usage::default(), |sum, attempt| sum.plus(&attempt.usage))
    }
}

/// One request that went to a vendor, however it ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptReport {
    /// From 1.
    pub number: u32,
    pub provider: String,
    pub model: String,
    pub started_at: Timestamp,
    pub duration_ms: u64,
    /// Until the first content; absent when none came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_content_ms: Option<u64>,
    /// Absent when the attempt gave the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Summary>,
    pub usage: Usage,
    pub cost: Cost,
}
