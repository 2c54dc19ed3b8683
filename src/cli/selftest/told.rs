//! What the caller was told about one run, and what it must not be told.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

/// What a violation violates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Breach {
    /// Something that was accepted, or shown as done, is gone or came out otherwise.
    Lost,
    /// A step that was shown as complete had effects again.
    Redone,
    /// An effect, or a run, happened twice.
    Doubled,
    /// A run did not end in time.
    Stuck,
    /// The event log or the stream broke its promises.
    Log,
    /// The server answered what it should not.
    Answer,
    /// A failpoint was never reached.
    Unreached,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Violation {
    pub breach: Breach,
    /// The run, or the failpoint.
    pub about: String,
    pub what: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Told {
    /// Every run that the creating call was answered with.
    pub runs: BTreeSet<String>,
    /// Every event that was shown, by number.
    pub shown: BTreeMap<u64, Value>,
    /// Steps that were shown as complete, with what they had caused by then.
    pub complete: Vec<(String, u32)>,
    pub status: Option<String>,
    pub output: Value,
    /// The log as it stood at the end.
    pub log: Option<Vec<Value>>,
    pub faults: Vec<(Breach, String)>,
}

impl Told {
    pub fn fault(&mut self, breach: Breach, what: impl Into<String>) {
        let what = what.into();
        if !self.faults.iter().any(|(_, known)| *known == what) {
            self.faults.push((breach, what));
        }
    }

    /// Takes in an event that a reader got after `cursor`; its number.
    pub fn show(&mut self, event: &Value, cursor: Option<u64>) -> Option<u64> {
        let Some(seq) = seq_of(event) else {
            self.fault(Breach::Log, format!("an event without a number: {event}"));
            return None;
        };
        if cursor.is_some_and(|cursor| seq <= cursor) {
            self.fault(Breach::Log, format!("event {seq} came after event {}", cursor.unwrap_or_default()));
        }
        match self.shown.get(&seq) {
            Some(before) if before != event => {
                let what = format!("event {seq} was shown as {before} and as {event}");
                self.fault(Breach::Log, what);
            }
            _ => drop(self.shown.insert(seq, event.clone())),
        }
        Some(seq)
    }
}

pub fn seq_of(event: &Value) -> Option<u64> {
    event.get("seq").and_then(Value::as_u64)
}

pub fn kind_of(event: &Value) -> &str {
    event.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Text on its way: shown before it is committed, and void if its attempt is lost.
pub fn is_delta(event: &Value) -> bool {
    kind_of(event).ends_with("_delta")
}

pub fn is_end(event: &Value) -> bool {
    matches!(kind_of(event), "execution_complete" | "execution_error")
}
