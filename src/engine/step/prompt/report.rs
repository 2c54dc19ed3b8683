//! What a prompt's answer came to, for callers who want it as a model's completion.
//!
//! Only executions with `as_completion` report it: everybody else reads outputs.

use serde::{Deserialize, Serialize};

use crate::engine::context::StepContext;
use crate::model::event::Event;
use crate::provider::{Completion, Finish, ToolCall, Usage};

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
}

/// Reports an answer. `reads_json`: the prompt's output is the JSON in the text.
pub fn tell(context: &StepContext<'_>, completion: &Completion, calls: &[ToolCall], usage: Usage, reads_json: bool) {
    let answered = completion.attempts.iter().filter(|attempt| attempt.error.is_none()).count();
    // What only this vendor reads of a call is of no use to the caller, who sends calls back in another form.
    let tool_calls = calls.iter().map(|call| ToolCall { signature: None, state: None, ..call.clone() }).collect();
    let report = CompletionReport {
        step_id: context.step_id().to_owned(),
        model: format!("{}/{}", completion.provider, completion.model),
        finish: completion.finish,
        tool_calls,
        usage,
        text: reads_json.then(|| completion.text.clone()),
        is_repaired: answered > 1,
    };
    let value = serde_json::to_value(report).unwrap_or_default();
    context.emit(Event::Custom { name: COMPLETION.into(), value });
}
