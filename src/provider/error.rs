//! What can go wrong with a model provider, by meaning, and what follows from each meaning.
//!
//! The table in [`Class::remedy`] is the whole policy: whether the same model is tried again and whether
//! another one may take over. Vendors spell the same trouble differently ("out of credit" comes as 400,
//! 402, 403 or 429), so [`classify`] reads the words as well as the status.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::completion::AttemptReport;
use crate::error::{Error, Kind};
use crate::net::{self, ErrorKind, Phase};

/// The meaning of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The key is missing, wrong or revoked.
    Auth,
    /// The account has no credit or quota left.
    Billing,
    /// The key is good but may not do this.
    Forbidden,
    /// The vendor has no such model or endpoint.
    NotFound,
    RateLimited,
    Overloaded,
    TimeoutConnect,
    TimeoutFirstByte,
    TimeoutStall,
    TimeoutTotal,
    Connect,
    Tls,
    ServerError,
    BadRequest,
    ContextLength,
    ContentFilter,
    /// The answer ended before its end.
    Cut,
    /// A success that says nothing.
    Empty,
    /// Not what the wire format says.
    Malformed,
    /// The egress policy refused the address.
    Blocked,
    /// No key is configured.
    Unconfigured,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remedy {
    /// The same model may be tried again.
    pub retry: bool,
    /// Another model of the chain may take over.
    pub fall_back: bool,
}

impl Class {
    /// Every class, for tables and tests.
    pub const ALL: [Self; 21] = [
        Self::Auth,
        Self::Billing,
        Self::Forbidden,
        Self::NotFound,
        Self::RateLimited,
        Self::Overloaded,
        Self::TimeoutConnect,
        Self::TimeoutFirstByte,
        Self::TimeoutStall,
        Self::TimeoutTotal,
        Self::Connect,
        Self::Tls,
        Self::ServerError,
        Self::BadRequest,
        Self::ContextLength,
        Self::ContentFilter,
        Self::Cut,
        Self::Empty,
        Self::Malformed,
        Self::Blocked,
        Self::Unconfigured,
    ];

    /// The table: what follows from each meaning.
    pub const fn remedy(self) -> Remedy {
        let (retry, fall_back) = match self {
            // Passing troubles: wait and try again, or let another model take over.
            Self::RateLimited | Self::Overloaded | Self::ServerError => (true, true),
            Self::TimeoutConnect | Self::TimeoutFirstByte | Self::TimeoutStall => (true, true),
            Self::Connect | Self::Cut | Self::Empty | Self::Malformed => (true, true),
            // Trying again cannot help, another model or vendor can.
            Self::Auth | Self::Billing | Self::Forbidden | Self::NotFound | Self::Unconfigured => (false, true),
            Self::Tls | Self::Blocked | Self::ContextLength | Self::TimeoutTotal => (false, true),
            // What one vendor refuses (an image, a schema), another may take.
            Self::BadRequest => (false, true),
            // A refusal is an answer. Shopping for a vendor that does not refuse is not ours to do.
            Self::ContentFilter => (false, false),
        };
        Remedy { retry, fall_back }
    }

    /// The stable name, as serialized.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Billing => "billing",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::TimeoutConnect => "timeout_connect",
            Self::TimeoutFirstByte => "timeout_first_byte",
            Self::TimeoutStall => "timeout_stall",
            Self::TimeoutTotal => "timeout_total",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::ServerError => "server_error",
            Self::BadRequest => "bad_request",
            Self::ContextLength => "context_length",
            Self::ContentFilter => "content_filter",
            Self::Cut => "cut",
            Self::Empty => "empty",
            Self::Malformed => "malformed",
            Self::Blocked => "blocked",
            Self::Unconfigured => "unconfigured",
        }
    }

    const fn code(self) -> (Kind, &'static str) {
        match self {
            Self::Auth => (Kind::Unconfigured, "provider_auth_failed"),
            Self::Billing => (Kind::Unconfigured, "provider_billing"),
            Self::Forbidden => (Kind::Unconfigured, "provider_forbidden"),
            Self::Unconfigured => (Kind::Unconfigured, "provider_not_configured"),
            Self::NotFound => (Kind::Invalid, "provider_model_not_found"),
            Self::BadRequest => (Kind::Invalid, "provider_rejected_request"),
            Self::ContextLength => (Kind::Invalid, "context_length_exceeded"),
            Self::ContentFilter => (Kind::Invalid, "content_filtered"),
            Self::Blocked => (Kind::Invalid, "egress_blocked"),
            Self::RateLimited => (Kind::Limited, "provider_rate_limited"),
            Self::Overloaded => (Kind::Unavailable, "provider_overloaded"),
            Self::TimeoutConnect | Self::TimeoutFirstByte | Self::TimeoutStall | Self::TimeoutTotal => {
                (Kind::Unavailable, "provider_timeout")
            }
            Self::Connect | Self::Tls => (Kind::Unavailable, "provider_unreachable"),
            Self::ServerError => (Kind::Unavailable, "provider_error"),
            Self::Cut => (Kind::Unavailable, "provider_cut"),
            Self::Empty => (Kind::Unavailable, "provider_empty"),
            Self::Malformed => (Kind::Unavailable, "provider_malformed"),
        }
    }
}

/// A failed call. One word wide, so that results stay small.
#[derive(Clone)]
pub struct ProviderError(Box<Detail>);

/// The facts of a failed call.
#[derive(Debug, Clone)]
pub struct Detail {
    pub class: Class,
    /// The vendor's HTTP status, when it answered.
    pub status: Option<u16>,
    /// For people; without secrets, URLs or user information.
    pub message: String,
    pub retry_after: Option<Duration>,
    pub provider: String,
    pub model: String,
    /// The vendor's id of the request, for its support.
    pub request_id: Option<String>,
    /// The beginning of the vendor's own words, for the log.
    pub excerpt: Option<String>,
    /// Whether the request can have reached the vendor.
    pub sent: bool,
    /// Bytes of text that readers had seen of the failed attempt.
    pub shown_bytes: u64,
    /// Every attempt of the call, when this is its end.
    pub attempts: Vec<AttemptReport>,
}

/// The part of a failure that is journaled with the attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub class: Class,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    pub message: String,
}

impl ProviderError {
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self(Box::new(Detail {
            class,
            status: None,
            message: message.into(),
            retry_after: None,
            provider: String::new(),
            model: String::new(),
            request_id: None,
            excerpt: None,
            sent: true,
            shown_bytes: 0,
            attempts: Vec::new(),
        }))
    }

    pub fn summary(&self) -> Summary {
        Summary { class: self.class, status: self.status, message: self.message.clone() }
    }
}

impl Deref for ProviderError {
    type Target = Detail;

    fn deref(&self) -> &Detail {
        &self.0
    }
}

impl DerefMut for ProviderError {
    fn deref_mut(&mut self) -> &mut Detail {
        &mut self.0
    }
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.provider.is_empty() {
            write!(f, "{}: ", self.provider)?;
        }
        f.write_str(&self.message)?;
        match self.status {
            Some(status) => write!(f, " ({}, status {status})", self.class.name()),
            None => write!(f, " ({})", self.class.name()),
        }
    }
}

impl fmt::Debug for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for ProviderError {}

impl From<net::Error> for ProviderError {
    fn from(error: net::Error) -> Self {
        let class = match error.kind() {
            ErrorKind::Blocked(_) => Class::Blocked,
            ErrorKind::InvalidUrl { .. } | ErrorKind::InvalidHeader { .. } => Class::BadRequest,
            ErrorKind::Connect { .. } | ErrorKind::Released | ErrorKind::Setup { .. } => Class::Connect,
            ErrorKind::Tls { .. } => Class::Tls,
            ErrorKind::Timeout { phase, .. } => match phase {
                Phase::Connect => Class::TimeoutConnect,
                Phase::FirstByte => Class::TimeoutFirstByte,
                Phase::BetweenChunks => Class::TimeoutStall,
                Phase::Total => Class::TimeoutTotal,
            },
            ErrorKind::TooLarge { .. } | ErrorKind::Redirect { .. } => Class::Malformed,
            ErrorKind::Cut { .. } => Class::Cut,
        };
        let mut failure = Self::new(class, error.to_string());
        failure.sent = error.may_have_been_sent();
        failure
    }
}

impl From<ProviderError> for Error {
    fn from(error: ProviderError) -> Self {
        let (kind, code) = error.class.code();
        let mut details = serde_json::json!({
            "class": error.class,
            "provider": error.provider,
            "model": error.model,
            "attempts": error.attempts.len(),
        });
        if let Some(status) = error.status {
            details["status"] = status.into();
        }
        if let Some(id) = &error.request_id {
            details["requestId"] = id.as_str().into();
        }
        let mut failure = Self::new(kind, code, error.to_string()).details(details);
        if let Some(wait) = error.retry_after {
            failure = failure.retry_after(wait);
        }
        failure.because(error)
    }
}

/// Words that tell the meaning, whatever the status. Searched in the vendor's code, type and message, lower case.
/// The first row that matches wins.
const WORDS: [(Class, &[&str]); 7] = [
    (
        Class::Billing,
        &[
            "insufficient_quota",
            "insufficient quota",
            "insufficient_balance",
            "insufficient balance",
            "insufficient credit",
            "insufficient_credit",
            "credit balance is too low",
            "billing",
            "payment required",
            "payment_required",
            "out of credit",
            "exceeded your current quota",
        ],
    ),
    (
        Class::ContextLength,
        &[
            "context_length_exceeded",
            "context length",
            "context window",
            "maximum context",
            "prompt is too long",
            "input is too long",
            "too many tokens",
            "exceeds the maximum number of tokens",
            "request_too_large",
        ],
    ),
    (Class::ContentFilter, &["content_filter", "content_policy", "content policy", "responsibleaipolicyviolation", "safety system"]),
    (
        Class::Auth,
        &[
            "invalid_api_key",
            "invalid api key",
            "incorrect api key",
            "api key not valid",
            "api_key_invalid",
            "authentication_error",
            "invalid x-api-key",
        ],
    ),
    (Class::Overloaded, &["overloaded", "engine_overloaded", "no available capacity"]),
    (Class::RateLimited, &["rate_limit", "rate limit", "resource_exhausted", "too many requests"]),
    (Class::NotFound, &["model_not_found", "model not found", "does not exist or you do not have access", "not_found_error"]),
];

/// The meaning of a vendor's error: by its words where they are plain, else by its status.
///
/// `status` is 200 for an error that came inside a stream. `words` is the vendor's code, type and message.
pub fn classify(status: u16, words: &str) -> Class {
    let words = words.to_lowercase();
    let said = WORDS.iter().find(|(_, signs)| signs.iter().any(|sign| words.contains(sign))).map(|(class, _)| *class);
    match (status, said) {
        // Gemini says RESOURCE_EXHAUSTED and "quota" for its per-minute limits as well: those carry a 429 and pass.
        (429, Some(Class::Billing)) if words.contains("per minute") || words.contains("perminute") => Class::RateLimited,
        // These words mean something only on a refusal, not inside a message about a broken server.
        (500.., Some(Class::Overloaded)) => Class::Overloaded,
        (200..=499, Some(class)) => class,
        _ => by_status(status, &words),
    }
}

fn by_status(status: u16, words: &str) -> Class {
    match status {
        401 => Class::Auth,
        402 => Class::Billing,
        403 => Class::Forbidden,
        404 => Class::NotFound,
        408 => Class::TimeoutFirstByte,
        409 | 425 => Class::ServerError,
        413 => Class::ContextLength,
        429 => Class::RateLimited,
        400..=499 => Class::BadRequest,
        503 | 529 => Class::Overloaded,
        504 | 524 => Class::TimeoutFirstByte,
        300..=399 => Class::Malformed,
        200 if words.contains("invalid_request") || words.contains("invalid_argument") => Class::BadRequest,
        _ => Class::ServerError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_is_one_class_whatever_its_status() {
        for (status, words) in [
            (429, "insufficient_quota You exceeded your current quota, please check your plan and billing details"),
            (400, "invalid_request_error Your credit balance is too low to access the Anthropic API"),
            (402, "Payment Required"),
            (403, "insufficient_quota"),
        ] {
            assert_eq!(classify(status, words), Class::Billing, "{status} {words}");
        }
        assert_eq!(classify(400, "INVALID_ARGUMENT API key not valid. Please pass a valid API key."), Class::Auth);
        assert_eq!(classify(400, "This model's maximum context length is 8192 tokens"), Class::ContextLength);
        assert_eq!(classify(400, "invalid_request_error prompt is too long: 200001 tokens > 200000 maximum"), Class::ContextLength);
        assert_eq!(
            classify(429, "RESOURCE_EXHAUSTED Quota exceeded: GenerateRequestsPerMinutePerProject. check billing"),
            Class::RateLimited
        );
        assert_eq!(classify(429, "rate_limit_exceeded"), Class::RateLimited);
        assert_eq!(classify(200, "overloaded_error Overloaded"), Class::Overloaded);
        assert_eq!(classify(529, "overloaded_error"), Class::Overloaded);
        assert_eq!(classify(500, "internal: lost the billing service"), Class::ServerError);
        assert_eq!(classify(418, "teapot"), Class::BadRequest);
    }

    #[test]
    fn names_are_the_serialized_form() {
        for class in Class::ALL {
            assert_eq!(serde_json::to_value(class).unwrap(), class.name());
        }
    }

    #[test]
    fn what_is_retried_may_also_fall_back() {
        for class in Class::ALL {
            let remedy = class.remedy();
            assert!(remedy.fall_back || !remedy.retry, "{}", class.name());
        }
    }
}
