//! What can go wrong, said once.
//!
//! An [`Error`] has a kind (mapped once to an HTTP status and once to a CLI exit code), a stable
//! `code` for programs, a message that tells the caller what to change, and for refused documents
//! every [`Problem`] at once with a JSON pointer to it. Its cause is kept for the log and never shown.
//!
//! Must not know: HTTP types, storage, who asked.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// The result of everything that can fail with an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kinds of failure that cross layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is not well-formed (400).
    Malformed,
    /// Well-formed, but it asks for something that cannot be (422).
    Invalid,
    /// No valid credential (401).
    Unauthenticated,
    /// A valid credential that may not do this (403).
    Forbidden,
    /// Something must be configured or paid for first (402).
    Unconfigured,
    /// Not there, or not yours: both look the same (404).
    Missing,
    /// It clashes with the present state (409).
    Conflict,
    /// Larger than a stated limit (413).
    TooLarge,
    /// Too many at once or in a period (429).
    Limited,
    /// A part we depend on cannot serve now (503).
    Unavailable,
    /// Our fault (500).
    Internal,
}

impl Kind {
    /// The HTTP status of this kind.
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Unauthenticated => 401,
            Self::Unconfigured => 402,
            Self::Forbidden => 403,
            Self::Missing => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Invalid => 422,
            Self::Limited => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }

    /// The CLI's exit code: 1 internal, 2 usage (do not retry), 3 transient (retry), 4 not found.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Limited | Self::Unavailable => 3,
            Self::Missing => 4,
            _ => 2,
        }
    }

    /// Whether the same call can succeed later without being changed.
    pub const fn retryable(self) -> bool {
        matches!(self, Self::Limited | Self::Unavailable)
    }
}

/// A member's name as a token of a JSON pointer (RFC 6901).
pub fn pointer_token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// One fault in a document, found at a JSON pointer (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Problem {
    /// Where: `/flow/steps/2/config/model`; empty for the whole document.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    /// Where a value does not fit its type, or would stand if it were not missing, and why.
    pub fn misfit<E: fmt::Display>(error: &serde_path_to_error::Error<E>) -> Self {
        let (mut pointer, message) = (pointer(error.path()), misfit(error.inner()));
        if let Some((name, _)) = message.strip_prefix("missing field `").and_then(|rest| rest.split_once('`')) {
            pointer.push_str(&format!("/{}", pointer_token(name)));
        }
        Self { pointer, message }
    }

    /// The same problem in a document that holds this one at `at`.
    #[must_use]
    pub fn under(self, at: &str) -> Self {
        Self { pointer: format!("{at}{}", self.pointer), ..self }
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// Every fault found in a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Notes one more fault.
    pub fn add(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { pointer: pointer.into(), message: message.into() });
    }

    /// `Ok` when nothing was found, else one [`Kind::Invalid`] error that carries every fault.
    pub fn into_result(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(self.into()) }
    }
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        let mut error = Error::new(Kind::Invalid, "validation_failed", summary(&problems.0));
        error.0.problems = problems.0;
        error
    }
}

/// The first problem in words, and how many more there are.
fn summary(problems: &[Problem]) -> String {
    let first = problems.first().map_or_else(String::new, |problem| {
        if problem.pointer.is_empty() { problem.message.clone() } else { format!("{}: {}", problem.pointer, problem.message) }
    });
    match problems.len() {
        0 | 1 => first,
        more => format!("{first} (and {} more, see details)", more - 1),
    }
}

/// A failure, with everything its reader needs. One word wide, so that results stay small.
pub struct Error(Box<Body>);

struct Body {
    kind: Kind,
    code: Cow<'static, str>,
    message: String,
    problems: Vec<Problem>,
    details: Option<serde_json::Value>,
    retry_after: Option<Duration>,
    next: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure with its stable code and a message for the caller.
    pub fn new(kind: Kind, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self(Box::new(Body {
            kind,
            code: code.into(),
            message: message.into(),
            problems: Vec::new(),
            details: None,
            retry_after: None,
            next: None,
            source: None,
        }))
    }

    /// A fault of ours. The cause goes to the log; the caller sees only that it happened.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(
            Kind::Internal,
            "internal_error",
            "an internal error occurred; the request id in the response headers finds it in the log",
        )
        .because(source)
    }

    /// Something is not there, or not the caller's.
    pub fn missing(what: &str) -> Self {
        Self::new(Kind::Missing, "not_found", format!("no such {what}"))
    }

    /// The same in the words of xraph/dispatch's API.
    pub fn not_found(what: &str) -> Self {
        Self::new(Kind::Missing, "not_found", format!("{what} not found"))
    }

    /// One fault at one place of a document.
    pub fn invalid_at(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        let mut problems = Problems::default();
        problems.add(pointer, message);
        problems.into()
    }

    /// Keeps the cause, for the log only.
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says when to try again.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Says what to do next, for people and agents.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.0.next = Some(next.into());
        self
    }

    /// Adds facts for programs.
    pub fn details(mut self, details: serde_json::Value) -> Self {
        self.0.details = Some(details);
        self
    }

    /// Moves every problem's pointer under `prefix`.
    pub fn under(mut self, prefix: &str) -> Self {
        for problem in &mut self.0.problems {
            problem.pointer.insert_str(0, prefix);
        }
        if !self.0.problems.is_empty() {
            self.0.message = summary(&self.0.problems);
        }
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// The code, to keep.
    pub fn static_code(&self) -> Cow<'static, str> {
        self.0.code.clone()
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn problems(&self) -> &[Problem] {
        &self.0.problems
    }

    pub fn wait(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The envelope that every surface answers with.
    pub fn envelope(&self) -> Envelope<'_> {
        let details = match (&self.0.details, self.0.problems.is_empty()) {
            (Some(details), _) => Some(details.clone()),
            (None, false) => Some(serde_json::json!({ "problems": self.0.problems })),
            (None, true) => None,
        };
        let is_shown_to_users = matches!(self.0.kind, Kind::Unauthenticated | Kind::Forbidden | Kind::Limited);
        let next = self.0.next.as_deref();
        Envelope {
            error: &self.0.message,
            code: &self.0.code,
            message: match &*self.0.code {
                "route_not_found" => Some("there is no such route"),
                "APPROVAL_ALREADY_RESOLVED" => Some(self.0.message.as_str()),
                _ => None,
            },
            hint: is_shown_to_users.then(|| next.unwrap_or(&self.0.message)),
            details,
            retryable: self.0.kind.retryable() || self.0.retry_after.is_some(),
            retry_after: self.0.retry_after.map(|wait| wait.as_secs_f64().ceil() as u64),
            next,
        }
    }
}

/// The one error body: `{error, code, message?, hint?, details?, retryable, retryAfter?, next?}`.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ErrorEnvelope")]
pub struct Envelope<'a> {
    /// What went wrong and what to change, for people.
    pub error: &'a str,
    /// Stable identifier, for programs; listed in docs/errors.md.
    pub code: &'a str,
    /// The same as `error`, or more of it, where clients look for it under this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
    /// What a page may show its user who has no access, or asked too often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<&'a str>,
    /// Facts about the failure; `problems` lists every fault of a refused document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
    /// Whether the same call can succeed later.
    pub retryable: bool,
    /// Seconds to wait before trying again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<&'a str>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.message, self.0.code)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.0.kind, self.0.code, self.0.message)?;
        for problem in &self.0.problems {
            write!(f, "; {} {}", problem.pointer, problem.message)?;
        }
        if let Some(source) = &self.0.source {
            write!(f, "; because {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// A serde path as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |mut text, segment| {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("/{index}")),
            Segment::Map { key } => text.push_str(&format!("/{}", pointer_token(key))),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
        text
    })
}

/// What serde says of a value that does not fit, in the words of documents: their reader knows objects, not our types.
fn misfit(cause: &impl fmt::Display) -> String {
    let text = cause.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    if let Some((found, _)) = text.split_once("expected struct ") {
        return format!("{found}expected an object");
    }
    if text.starts_with("data did not match any variant") {
        return "the value has none of the forms that are understood here".into();
    }
    text.replace("unknown variant", "unknown value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_part_is_named_from_the_whole_document() {
        let error = Error::invalid_at("/steps/0/type", "unknown").under("/flow");
        assert_eq!(error.message(), "/flow/steps/0/type: unknown");
        assert_eq!(error.problems().first().map(|problem| problem.pointer.as_str()), Some("/flow/steps/0/type"));
    }
}
