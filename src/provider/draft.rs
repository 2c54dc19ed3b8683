//! An answer in the making: events folded until it is whole.

use serde::de::IgnoredAny;
use serde_json::Value;

use super::chat::{Thought, ToolCall};
use super::completion::{Finish, Usage};
use super::{ChatRequest, ModelEvent, estimate};

/// What has come of one attempt so far.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub text: String,
    pub reasoning: Vec<Thought>,
    /// The last thought is still growing.
    thinking: bool,
    /// By index; gaps are closed at the end.
    calls: Vec<(u32, ToolCall)>,
    pub state: Option<Value>,
    usage: Option<Usage>,
    finish: Option<Finish>,
    events: u64,
}

impl Draft {
    /// Takes the next event.
    pub fn take(&mut self, event: &ModelEvent) {
        self.events += 1;
        match event {
            ModelEvent::Restart => *self = Self { usage: self.usage, events: self.events, ..Self::default() },
            ModelEvent::Text(delta) => {
                self.thinking = false;
                self.text.push_str(delta);
            }
            ModelEvent::Reasoning(delta) => self.thought().text.push_str(delta),
            ModelEvent::ReasoningEnd { signature, redacted } => {
                let thought = self.thought();
                thought.signature.clone_from(signature);
                thought.redacted = *redacted;
                self.thinking = false;
            }
            ModelEvent::ToolCallStart { index, id, name, signature } => {
                let call = self.call(*index);
                call.id.clone_from(id);
                call.name.clone_from(name);
                call.signature.clone_from(signature);
            }
            ModelEvent::ToolCallState { index, state } => self.call(*index).state = Some(state.clone()),
            ModelEvent::State(state) => self.state = Some(state.clone()),
            ModelEvent::ToolCallDelta { index, delta } => self.call(*index).arguments.push_str(delta),
            ModelEvent::Usage(usage) => self.usage = Some(*usage),
            ModelEvent::Finish(finish) => self.finish = Some(*finish),
            ModelEvent::Media { media_type, data } => {
                self.thinking = false;
                // What a later step or turn reads of it.
                self.text += &["![image](data:", media_type.as_str(), ";base64,", data.as_str(), ")"].concat();
            }
            ModelEvent::Citation(_) | ModelEvent::LimitReached(_) => {}
        }
    }

    fn thought(&mut self) -> &mut Thought {
        if !std::mem::replace(&mut self.thinking, true) || self.reasoning.is_empty() {
            self.reasoning.push(Thought::default());
        }
        let last = self.reasoning.len() - 1;
        &mut self.reasoning[last]
    }

    fn call(&mut self, index: u32) -> &mut ToolCall {
        let at = self.calls.iter().position(|(own, _)| *own == index).unwrap_or_else(|| {
            self.calls.push((index, ToolCall::default()));
            self.calls.len() - 1
        });
        &mut self.calls[at].1
    }

    /// Whether the model has said or asked anything.
    pub fn has_content(&self) -> bool {
        !self.text.is_empty() || !self.reasoning.is_empty() || !self.calls.is_empty()
    }

    /// The vendor's last total; an estimate when it gave none but did work; nothing when it did nothing.
    pub fn usage(&self, request: &ChatRequest) -> Usage {
        match self.usage {
            Some(usage) if usage.output > 0 || !self.has_content() => usage,
            // A total from the start of a cut answer knows the input but not yet the output.
            Some(usage) => {
                let guess = self.estimate(request);
                Usage { output: guess.output, reasoning: guess.reasoning, estimated: true, ..usage }
            }
            None if self.events > 0 => self.estimate(request),
            None => Usage::default(),
        }
    }

    fn estimate(&self, request: &ChatRequest) -> Usage {
        let calls: usize = self.calls.iter().map(|(_, call)| call.name.len() + call.arguments.len()).sum();
        let thoughts = self.reasoning.iter().map(|thought| thought.text.len()).sum();
        estimate::usage(request, self.text.len() + calls, thoughts)
    }

    /// The tool calls in order. A call without arguments has empty ones, unless the answer was cut: then its arguments never came.
    pub fn tool_calls(&mut self) -> Vec<ToolCall> {
        self.calls.sort_by_key(|(index, _)| *index);
        let is_cut = matches!(self.finish, Some(Finish::Length | Finish::ContentFilter | Finish::Refusal));
        let calls = std::mem::take(&mut self.calls).into_iter().map(|(_, call)| call);
        let filled = calls.map(|mut call| {
            call.cut = is_cut && serde_json::from_str::<IgnoredAny>(&call.arguments).is_err();
            // Models write `null` for a tool without parameters.
            if !call.cut && matches!(call.arguments.trim(), "" | "null") {
                call.arguments = "{}".to_owned();
            }
            call
        });
        filled.collect()
    }

    /// Why the model stopped. Some servers say "stop" beside tool calls; the calls are what counts.
    pub fn finish(&self) -> Finish {
        match self.finish.unwrap_or_default() {
            Finish::EndTurn | Finish::Unknown if !self.calls.is_empty() => Finish::ToolCalls,
            finish => finish,
        }
    }
}
