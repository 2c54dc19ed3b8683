//! What can go wrong with a model provider, by meaning, and what follows from each meaning.
//!
//! The table in [`Class::remedy`] is the whole policy: whether the same model is tried again and whether
//! another one may take over. Vendors spell the same trouble differently ("out of credit" comes as 400,
//! 402, 403 or 429), so [`classify`] reads codes and types before the status, and words last.

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
    /// More than is taken from any model.
    TooLarge,
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
    pub const ALL: [Self; 22] = [
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
        Self::TooLarge,
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
            Self::Tls | Self::Blocked | Self::ContextLength | Self::TimeoutTotal | Self::TooLarge => (false, true),
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
            Self::TooLarge => "too_large",
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
            Self::TooLarge => (Kind::Invalid, "answer_too_large"),
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
            ErrorKind::TooLarge { .. } | ErrorKind::Redirect { .. } | ErrorKind::SecretRedirect => Class::Malformed,
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

/// Codes and types whose meaning is plain, in lower case. They decide before the status does.
const CODES: [(Class, &[&str]); 11] = [
    (
        Class::Billing,
        &[
            "insufficient_quota",
            "insufficient_balance",
            "insufficient_credits",
            "insufficient_credit",
            "insufficient_funds",
            "billing_error",
            "billing_not_active",
            "billing_hard_limit_reached",
            "payment_required",
            "credit_balance_too_low",
            "arrearage",
            // Zhipu: the account is in debt. MiniMax: insufficient balance.
            "1113",
            "1008",
        ],
    ),
    (
        Class::ContextLength,
        &[
            "context_length_exceeded",
            "request_too_large",
            "string_above_max_length",
            "model_max_prompt_tokens_exceeded",
            "tokens_limit_reached",
        ],
    ),
    (
        Class::ContentFilter,
        &[
            "content_filter",
            "content_policy_violation",
            "responsibleaipolicyviolation",
            "data_inspection_failed",
            "moderation_blocked",
            "1301",
        ],
    ),
    (
        Class::Auth,
        &["invalid_api_key", "authentication_error", "api_key_invalid", "unauthenticated", "invalid_authentication", "account_deactivated"],
    ),
    (Class::Forbidden, &["permission_error", "permission_denied", "accessdeniedexception", "unsupported_country_region_territory"]),
    (
        Class::Overloaded,
        &[
            "overloaded_error",
            "overloaded",
            "engine_overloaded",
            "engine_overloaded_error",
            "model_overloaded",
            "serviceunavailableexception",
        ],
    ),
    (
        Class::RateLimited,
        &["rate_limit_exceeded", "rate_limit_error", "rate_limited", "too_many_requests", "throttlingexception", "throttling"],
    ),
    (Class::NotFound, &["model_not_found", "not_found_error", "deploymentnotfound", "model_not_available", "model_not_supported"]),
    (Class::TimeoutFirstByte, &["timeout_error", "deadline_exceeded", "modeltimeoutexception"]),
    // The model wrote a tool call that its server could not read (Groq): a slip of the answer, not of the request.
    (Class::Malformed, &["tool_use_failed", "output_parse_failed", "json_validate_failed"]),
    (
        Class::BadRequest,
        &[
            "invalid_function_parameters",
            "invalid_value",
            "unknown_parameter",
            "unsupported_parameter",
            "unsupported_value",
            "missing_required_parameter",
            "invalid_type",
            "invalid_request_message_order",
        ],
    ),
];

/// Sentences that tell the meaning where neither code nor type do. Whole phrases, so that a tool or a field of such a name is not
/// taken for the trouble itself.
const PHRASES: [(Class, &[&str]); 7] = [
    (
        Class::Billing,
        &[
            "credit balance is too low",
            "exceeded your current quota",
            "insufficient balance",
            "insufficient quota",
            "insufficient credit",
            "out of credit",
            "payment required",
            "billing is not active",
            "billing hard limit",
        ],
    ),
    (
        Class::ContextLength,
        &[
            "maximum context length",
            "context length exceeded",
            "exceeds the context window",
            "context window exceeds",
            "exceed context limit",
            "exceeds the available context size",
            "prompt is too long",
            "input is too long",
            "too many input tokens",
            "too many tokens",
            "too large for model",
            "exceeds the maximum number of tokens",
        ],
    ),
    (
        Class::ContentFilter,
        &[
            "content management policy",
            "content filtering policy",
            "content policy violation",
            "violates the content policy",
            "rejected as a result of our safety system",
            "rejected by the safety system",
            "flagged as potentially violating our usage policy",
            "flagged for potentially",
        ],
    ),
    (Class::Auth, &["api key not valid", "incorrect api key", "invalid api key", "invalid x-api-key", "no auth credentials found"]),
    (
        Class::NotFound,
        &["does not exist or you do not have access", "model identifier is invalid", "model not found", "no endpoints found"],
    ),
    (Class::Overloaded, &["overloaded", "no available capacity", "is at capacity"]),
    (Class::RateLimited, &["rate limit", "too many requests", "resource has been exhausted"]),
];

/// The meaning of a vendor's error: by its codes and types where they are plain, then by its status, and by phrases of its message only
/// where both leave it open.
///
/// `status` is 200 for an error inside a stream or a success. `codes` are the vendor's codes and types in lower case.
pub fn classify(status: u16, codes: &[String], message: &str) -> Class {
    let coded = CODES.iter().find(|(_, known)| codes.iter().any(|code| known.contains(&code.as_str()))).map(|(class, _)| *class);
    match coded {
        // A broken server that names a debt is still a broken server; overload and time-outs are its own words.
        Some(class @ (Class::Overloaded | Class::TimeoutFirstByte | Class::RateLimited)) if status >= 500 => return class,
        // A type such as `invalid_request_error` says no more than the status; these codes say more.
        Some(class) if status < 500 => return class,
        _ => {}
    }
    let message = message.to_lowercase();
    let said = |classes: &[Class]| {
        let rows = PHRASES.iter().filter(|(class, _)| classes.contains(class));
        rows.into_iter().find(|(_, phrases)| phrases.iter().any(|phrase| message.contains(phrase))).map(|(class, _)| *class)
    };
    let has = |code: &str| codes.iter().any(|known| known == code);
    match status {
        200 => match () {
            () if has("invalid_request_error") || has("invalid_argument") => {
                said(&[Class::Billing, Class::ContextLength, Class::ContentFilter, Class::Auth]).unwrap_or(Class::BadRequest)
            }
            () if has("resource_exhausted") => Class::RateLimited,
            () if has("unavailable") => Class::Overloaded,
            () => said(&PHRASES.map(|(class, _)| class)).unwrap_or(Class::ServerError),
        },
        400 | 405..=407 | 410..=412 | 414..=423 | 426..=428 | 430..=499 => {
            said(&[Class::Billing, Class::ContextLength, Class::ContentFilter, Class::Auth, Class::NotFound]).unwrap_or(Class::BadRequest)
        }
        401 => Class::Auth,
        402 => Class::Billing,
        403 => said(&[Class::Billing, Class::Auth, Class::ContentFilter]).unwrap_or(Class::Forbidden),
        404 => Class::NotFound,
        408 => Class::TimeoutFirstByte,
        409 | 425 => Class::ServerError,
        413 => Class::ContextLength,
        429 => Class::RateLimited,
        503 | 529 => Class::Overloaded,
        504 | 524 => Class::TimeoutFirstByte,
        300..=399 => Class::Malformed,
        500.. => said(&[Class::Overloaded]).unwrap_or(Class::ServerError),
        _ => Class::ServerError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: u16, codes: &[&str], message: &str) -> Class {
        let codes: Vec<String> = codes.iter().map(|code| (*code).to_owned()).collect();
        classify(status, &codes, message)
    }

    #[test]
    fn the_same_trouble_is_one_class_whatever_its_status() {
        let debt = "You exceeded your current quota, please check your plan and billing details";
        assert_eq!(class(429, &["insufficient_quota"], debt), Class::Billing);
        assert_eq!(class(400, &["invalid_request_error"], "Your credit balance is too low to access the Anthropic API"), Class::Billing);
        assert_eq!(class(402, &[], "Payment Required"), Class::Billing);
        assert_eq!(class(403, &["insufficient_quota"], ""), Class::Billing);
        assert_eq!(class(400, &["invalid_argument"], "API key not valid. Please pass a valid API key."), Class::Auth);
        assert_eq!(class(400, &[], "This model's maximum context length is 8192 tokens"), Class::ContextLength);
        assert_eq!(class(400, &["invalid_request_error"], "prompt is too long: 200001 tokens > 200000 maximum"), Class::ContextLength);
        assert_eq!(class(429, &["rate_limit_exceeded"], ""), Class::RateLimited);
        assert_eq!(class(200, &["overloaded_error"], "Overloaded"), Class::Overloaded);
        assert_eq!(class(529, &["overloaded_error"], ""), Class::Overloaded);
        assert_eq!(class(500, &[], "internal: lost the billing service"), Class::ServerError);
        assert_eq!(class(418, &[], "teapot"), Class::BadRequest);
    }

    #[test]
    fn words_of_a_sentence_decide_nothing_where_status_or_code_speak() {
        assert_eq!(class(429, &["429", "resource_exhausted"], "Quota exceeded, check your plan and billing details"), Class::RateLimited);
        assert_eq!(class(429, &[], "Tokens per minute limit exceeded - too many tokens processed"), Class::RateLimited);
        assert_eq!(class(400, &[], "Invalid schema for function 'get_billing_address'"), Class::BadRequest);
        assert_eq!(class(400, &[], "'content_policy.check' does not match pattern"), Class::BadRequest);
        assert_eq!(class(400, &[], "Unknown parameter: 'rate_limit_tier'"), Class::BadRequest);
        assert_eq!(class(400, &["invalid_function_parameters"], "insufficient balance"), Class::BadRequest);
        assert_eq!(class(400, &["tool_use_failed"], "Failed to call a function."), Class::Malformed);
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
