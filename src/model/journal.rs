//! The journal: recorded results of effects, by path.
//!
//! Keys are paths: `steps/charge`, `steps/charge/attempt/2`, `steps/agent/turn/3/tool/call_x`. What is in
//! the journal is not performed again.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the journal knows of one effect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is", content = "value")]
pub enum Outcome {
    /// It was about to happen; written before effects of class `once` only.
    Begun,
    /// It happened, with this result.
    Done(Value),
    /// It was tried and failed, with this error.
    Failed(Value),
}

/// One entry. Writing the same key again replaces the entry: `Begun` becomes `Done`.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalEntry {
    pub key: String,
    pub outcome: Outcome,
}
