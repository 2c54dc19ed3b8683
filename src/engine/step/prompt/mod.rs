//! `prompt`: one model call, or a loop of model calls and tool calls.
//!
//! [`config`](self::config) compiles the configuration, `messages` makes the conversation, `call` streams one model call into the log, `turns` is
//! the loop, `fallbacks` takes over when it fails, `rounds` counts it, `reflect` looks back on it, `remember` knows what was said before, `own_tools` are those that a prompt brings
//! along, `report` tells what the answer came to. Each turn and each tool call is journaled under its own key.

mod cache;
mod call;
mod config;
mod fallbacks;
pub(super) mod messages;
mod own_tools;
mod reflect;
mod remember;
mod report;
mod rounds;
mod turns;

pub use cache::CachedAnswer;
pub use call::unpriced_message;
pub use report::{ANSWER_STATE, AnswerState, COMPLETION, CompletionReport};

use serde_json::Value;

use super::StepType;
use crate::model::Step;

pub const TYPE: StepType = StepType {
    action: "prompt",
    summary: "Calls a model, with tools if it is given any.",
    schema: || schemars::schema_for!(config::Config),
    compile: config::compile,
};

/// The models that a prompt's configuration names, each with its field. The step need not compile.
pub fn named_models(step: &Step) -> Vec<(String, &str)> {
    let config = Some(&step.config).filter(|_| step.action == TYPE.action);
    let first = config.and_then(|config| config.get("model")).and_then(Value::as_str).map(|name| ("model".to_owned(), name));
    let fallbacks = config.and_then(|config| config.get("fallbacks")).and_then(Value::as_array).into_iter().flatten();
    let others = fallbacks.enumerate().filter_map(|(index, fallback)| {
        let name = fallback.as_str().or_else(|| fallback.get("model").and_then(Value::as_str))?;
        Some((format!("fallbacks/{index}"), name))
    });
    first.into_iter().chain(others).collect()
}
