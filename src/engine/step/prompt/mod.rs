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

use super::StepType;

pub const TYPE: StepType = StepType {
    action: "prompt",
    summary: "Calls a model, with tools if it is given any.",
    schema: || schemars::schema_for!(config::Config),
    compile: config::compile,
};
