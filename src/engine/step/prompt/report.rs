//! What a prompt's answer came to, for callers who want it as a model's completion.
//!
//! Only executions with `as_completion` report it: everybody else reads outputs.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::context::StepContext;
use crate::model::event::Event;
use crate::provider::{Completion, Finish, Message, Part, Thought, ToolCall, Usage};

/// The name of the event that carries a [`CompletionReport`].
pub const COMPLETION: &str = "dispatch.completion";

/// See the module. A prompt that is entered again after a crash reports again: its last report counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompletionReport {
    pub step_id: String,
    /// The `provider/model` that answered.
    pub model: String,
    pub finish: Finish,
    /// Calls that the caller makes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Of all model calls of the prompt.
    pub usage: Usage,
    /// The answer's text, where the output is the JSON in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A second answer, which was not streamed, took the place of the first, whose JSON was broken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_repaired: bool,
    /// Reported only where the run's options ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_state: Option<AnswerState>,
}

/// The name of the member of an assistant's message that carries an [`AnswerState`].
pub const ANSWER_STATE: &str = "answerState";

/// The opaque data that a model wants back with its answer in the next request, so that it does not lose its reasoning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnswerState {
    /// The `provider/model` that answered. No other model receives the state.
    origin: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    reasoning: Vec<Thought>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<Value>,
    /// The data of each call of the answer, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    calls: Vec<CallState>,
}

/// The opaque data that a model wants back with one of its calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct CallState {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<Value>,
}

impl AnswerState {
    /// Returns the state of an answer; `None` if the model wants nothing back.
    fn of_completion(completion: &Completion, calls: &[ToolCall]) -> Option<Self> {
        let is_signed = completion.reasoning.iter().any(|thought| thought.signature.is_some());
        let has_calls = calls.iter().any(|call| call.signature.is_some() || call.state.is_some());
        if completion.state.is_none() && !is_signed && !has_calls {
            return None;
        }
        let of_call = |call: &ToolCall| CallState { signature: call.signature.clone(), state: call.state.clone() };
        Some(Self {
            origin: origin_of(completion),
            reasoning: completion.reasoning.clone(),
            state: completion.state.clone(),
            calls: calls.iter().map(of_call).collect(),
        })
    }

    /// Reads the state that a caller's message carries, if it has one.
    pub fn of_message(message: &serde_json::Map<String, Value>) -> Option<Self> {
        Self::deserialize(message.get(ANSWER_STATE)?).ok()
    }

    /// Gives an assistant's message its state back.
    pub fn restore(self, message: &mut Message) {
        let Self { origin, reasoning, state, calls } = self;
        message.content.splice(..0, reasoning.into_iter().map(Part::Reasoning));
        // Data of calls belongs to them by position; the caller may have left some out.
        if calls.len() == message.tool_calls.len() {
            for (call, CallState { signature, state }) in message.tool_calls.iter_mut().zip(calls) {
                (call.signature, call.state) = (signature, state);
            }
        }
        (message.origin, message.state) = (Some(origin), state);
    }
}

fn origin_of(completion: &Completion) -> String {
    format!("{}/{}", completion.provider, completion.model)
}

/// Reports an answer. `reads_json`: the prompt's output is the JSON in the text.
pub fn tell(context: &StepContext<'_>, completion: &Completion, calls: &[ToolCall], usage: Usage, reads_json: bool) {
    let answered = completion.attempts.iter().filter(|attempt| attempt.error.is_none()).count();
    // What only this vendor reads of a call is of no use to the caller, who sends calls back in another form.
    let tool_calls = calls.iter().map(|call| ToolCall { signature: None, state: None, ..call.clone() }).collect();
    let report = CompletionReport {
        step_id: context.step_id().to_owned(),
        model: origin_of(completion),
        finish: completion.finish,
        tool_calls,
        usage,
        text: reads_json.then(|| completion.text.clone()),
        is_repaired: answered > 1,
        answer_state: context.run.input.options.reports_state.then(|| AnswerState::of_completion(completion, calls)).flatten(),
    };
    let value = serde_json::to_value(report).unwrap_or_default();
    context.emit(Event::Custom { name: COMPLETION.into(), value });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn completion(value: Value) -> Completion {
        let mut whole = json!({
            "text": "yes", "finish": "end_turn", "usage": {}, "model": "m", "provider": "p", "attempts": [],
            "cost": crate::provider::Cost::default(),
        });
        for (name, part) in value.as_object().into_iter().flatten() {
            whole[name] = part.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn a_message_gets_back_what_its_model_wants() {
        assert_eq!(AnswerState::of_completion(&completion(json!({})), &[]), None);
        let signed = completion(json!({ "reasoning": [{ "text": "hm", "signature": "sealed" }], "state": { "a": 1 } }));
        let calls = [ToolCall { name: "act".into(), signature: Some("proof".into()), ..ToolCall::default() }];
        let state = serde_json::to_value(AnswerState::of_completion(&signed, &calls)).unwrap();
        let sent = json!({ ANSWER_STATE: state });
        let mut message = Message { tool_calls: vec![ToolCall { name: "act".into(), ..ToolCall::default() }], ..Message::assistant("yes") };
        AnswerState::of_message(sent.as_object().unwrap()).unwrap().restore(&mut message);
        assert_eq!((message.origin.as_deref(), &message.state), (Some("p/m"), &Some(json!({ "a": 1 }))));
        assert!(matches!(&message.content[0], Part::Reasoning(thought) if thought.signature.as_deref() == Some("sealed")));
        assert_eq!((message.text(), message.tool_calls[0].signature.as_deref()), ("yes".into(), Some("proof")));
    }
}
