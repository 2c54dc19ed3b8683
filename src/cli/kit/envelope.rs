//! The answers: a plain document on success, an error envelope on failure.

use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::cli::output::Output;
use crate::error::{Error, Kind};

/// The result of a command.
pub type KitResult<T> = Result<T, KitFault>;

/// The codes of error envelopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultCode {
    /// The work failed.
    Runtime,
    /// The command line or a document must be changed.
    Usage,
    /// The same command may succeed later.
    Transient,
    NotFound,
}

impl FaultCode {
    /// Returns the code on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Runtime => "RUNTIME_ERROR",
            Self::Usage => "USAGE_ERROR",
            Self::Transient => "TRANSIENT_ERROR",
            Self::NotFound => "NOT_FOUND",
        }
    }

    /// Returns the process's exit code.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Runtime => 1,
            Self::Usage => 2,
            Self::Transient => 3,
            Self::NotFound => 4,
        }
    }
}

/// A command to run next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NextCommand {
    pub command: String,
    pub description: String,
}

impl NextCommand {
    pub fn new(command: impl Into<String>, description: impl Into<String>) -> Self {
        Self { command: command.into(), description: description.into() }
    }
}

/// The failure of a command.
#[derive(Debug, Clone)]
pub struct KitFault {
    pub code: FaultCode,
    pub message: String,
    /// Facts for programs; `null` when there are none.
    pub details: Box<Value>,
    pub next: Vec<NextCommand>,
}

impl KitFault {
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Box::default(), next: Vec::new() }
    }

    pub fn runtime(message: impl Into<String>) -> Self {
        Self::new(FaultCode::Runtime, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(FaultCode::Usage, message)
    }

    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(FaultCode::Transient, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(FaultCode::NotFound, message)
    }

    /// Adds facts for programs.
    pub fn details(mut self, details: Value) -> Self {
        self.details = Box::new(details);
        self
    }

    /// Adds a command to run next.
    pub fn next(mut self, command: impl Into<String>, description: impl Into<String>) -> Self {
        self.next.push(NextCommand::new(command, description));
        self
    }

    /// Returns the envelope; members that are empty are left out.
    pub fn envelope(&self) -> Value {
        let envelope = json!({
            "status": "error",
            "code": self.code.as_str(),
            "retryable": self.code == FaultCode::Transient,
            "message": self.message,
            "details": *self.details,
            "next": self.next,
        });
        clean(envelope)
    }
}

impl From<Error> for KitFault {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            Kind::Internal => FaultCode::Runtime,
            Kind::Limited | Kind::Unavailable => FaultCode::Transient,
            Kind::Missing => FaultCode::NotFound,
            _ => FaultCode::Usage,
        };
        let envelope = error.envelope();
        let mut details = Map::new();
        details.insert("code".into(), envelope.code.into());
        details.extend(envelope.next.map(|next| ("hint".to_owned(), next.into())));
        if let Some(Value::Object(facts)) = envelope.details {
            details.extend(facts);
        }
        Self::new(code, error.message()).details(details.into())
    }
}

/// Prints a failure. As in the contract, the text for people goes to stdout.
pub fn print_fault(output: Output, fault: &KitFault) -> ExitCode {
    if output.json {
        print_document(output, fault.envelope());
    } else {
        output.say(format_args!("Error: {}", fault.message));
        for line in issue_lines(&fault.details) {
            output.say(format_args!("- {line}"));
        }
        print_next(output, &fault.next);
    }
    ExitCode::from(fault.code.exit_code())
}

/// Prints one JSON document, indented by two blanks.
pub fn print_document(output: Output, document: Value) {
    let text = serde_json::to_string_pretty(&clean(document)).unwrap_or_else(|_| "{}".into());
    output.document(&text);
}

/// Prints the next commands for people.
pub fn print_next(output: Output, next: &[NextCommand]) {
    if next.is_empty() {
        return;
    }
    output.say("\nNext");
    for command in next {
        output.say(format_args!("  {}  ({})", command.command, command.description));
    }
}

/// Every issue of a failure's details as a line.
fn issue_lines(details: &Value) -> Vec<String> {
    let lists = details.as_object().into_iter().flatten().filter_map(|(_, value)| value.as_array());
    let text = |issue: &Value, name: &str| issue.get(name).and_then(Value::as_str).map(str::to_owned);
    lists
        .flatten()
        .filter_map(|issue| {
            let message = text(issue, "message")?;
            Some(text(issue, "path").map_or_else(|| message.clone(), |path| format!("{path}: {message}")))
        })
        .collect()
}

/// Drops members of a document that say nothing: nulls, empty objects, and an empty `next`. What is deeper stays as it is.
fn clean(document: Value) -> Value {
    let Value::Object(members) = document else { return document };
    let says_something = |name: &str, value: &Value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => name != "next" || !items.is_empty(),
        _ => true,
    };
    const EXACT: &[&str] = &["response", "exports", "values"];
    Value::Object(members.into_iter().filter(|(name, value)| EXACT.contains(&name.as_str()) || says_something(name, value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_keeps_data_and_drops_what_is_empty() {
        let fault = KitFault::not_found("no module").next("dispatch module list", "see the modules");
        assert_eq!(
            fault.envelope(),
            json!({ "status": "error", "code": "NOT_FOUND", "retryable": false, "message": "no module",
                "next": [{ "command": "dispatch module list", "description": "see the modules" }] })
        );
        assert_eq!(
            clean(json!({ "values": {}, "a": null, "b": {}, "c": [], "next": [], "d": { "e": null } })),
            json!({ "values": {}, "c": [], "d": { "e": null } })
        );
    }
}
