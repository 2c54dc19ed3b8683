//! What a paused run waits for, and the answer it gets.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::id::{RunId, TenantId, WaitId};

/// The kinds of wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitKind {
    /// A person decides about an exact call.
    Approval,
    /// The caller runs a tool and sends its output.
    ToolOutput,
    /// A named signal arrives.
    Signal,
    /// A time comes.
    Timer,
    /// A child run ends.
    Child,
    /// A person settles an effect whose answer was lost.
    Settlement,
}

impl WaitKind {
    pub const ALL: [Self; 6] = [Self::Approval, Self::ToolOutput, Self::Signal, Self::Timer, Self::Child, Self::Settlement];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approval => "approval",
            Self::ToolOutput => "tool_output",
            Self::Signal => "signal",
            Self::Timer => "timer",
            Self::Child => "child",
            Self::Settlement => "settlement",
        }
    }

    /// Reads what [`WaitKind::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Only the caller, or a person behind it, can answer: its stream ends here.
    pub const fn needs_the_caller(self) -> bool {
        matches!(self, Self::Approval | Self::ToolOutput | Self::Settlement)
    }
}

impl Wait {
    /// Whose word it takes, if it is an approval.
    pub fn approver(&self) -> Approver {
        self.shown.get("approver").and_then(|word| Approver::deserialize(word).ok()).unwrap_or_default()
    }
}

/// Whose word an approval takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Approver {
    /// Whoever holds an API key.
    #[default]
    Owner,
    /// Also the user of the page that began the run.
    EndUser,
}

/// One thing a run waits for.
#[derive(Debug, Clone, PartialEq)]
pub struct Wait {
    pub id: WaitId,
    pub run: RunId,
    pub tenant: TenantId,
    /// The journal key that asked.
    pub key: String,
    pub kind: WaitKind,
    /// What an answer is addressed by besides the id: a tool call's id, a signal's name.
    pub name: String,
    /// What the one who answers was shown.
    pub shown: Value,
    /// See [`digest`]; the answer holds for exactly this.
    pub digest: Option<String>,
    /// When it resolves by itself.
    pub deadline: Option<Timestamp>,
    pub created_at: Timestamp,
    pub resolution: Option<Resolution>,
    pub resolved_at: Option<Timestamp>,
    /// The number of the run's last event when it was answered: what came of the answer comes after it.
    pub resolved_after: Option<u64>,
}

/// The answer to a wait. The first one is final.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resolution {
    /// What was answered; for an approval `{"decision": "approved" | "denied", "reason"?}`.
    pub answer: Value,
    /// Who: `key_...`, or `system` for a deadline.
    pub by: String,
    /// The deadline passed before anyone answered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
}

impl Resolution {
    /// What the clock answers when a deadline passes.
    pub fn timeout() -> Self {
        Self { answer: Value::Null, by: "system".into(), timed_out: true }
    }

    /// Whether two answers say the same, whoever gave them.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.timed_out == other.timed_out && canonical(&self.answer) == canonical(&other.answer)
    }
}

/// The digest that binds an approval to what was shown: SHA-256 over tool, exact arguments and flow
/// version, in canonical JSON, as lowercase hex.
pub fn digest(tool: &str, arguments: &Value, flow_hash: &str) -> String {
    let mut hash = Sha256::new();
    for part in [tool, &canonical(arguments), flow_hash] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

/// Lowercase hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
        text
    })
}

/// JSON with sorted keys and no spaces: equal values give equal texts.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            let fields: Vec<String> = keys
                .into_iter()
                .map(|key| format!("{}:{}", Value::String(key.clone()), map.get(key).map_or_else(String::new, canonical)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_digest_sees_arguments_not_their_order() {
        let one = digest("refund", &json!({"amount": 5, "to": {"a": 1, "b": 2}}), "v1");
        assert_eq!(one, digest("refund", &json!({"to": {"b": 2, "a": 1}, "amount": 5}), "v1"));
        assert_ne!(one, digest("refund", &json!({"amount": 6, "to": {"a": 1, "b": 2}}), "v1"));
        assert_ne!(one, digest("refund", &json!({"amount": 5, "to": {"a": 1, "b": 2}}), "v2"));
        assert_ne!(digest("ab", &json!("c"), ""), digest("a", &json!("bc"), ""));
    }
}
