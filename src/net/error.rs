//! What can go wrong on the way out, and whether the other side can have seen anything of it.

use std::fmt;
use std::time::Duration;

use super::judge::Class;
use crate::error::{Error as Failure, Kind};

/// Why a request failed. Holds an origin at most: never a path, a query, user information or a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    origin: String,
    sent: bool,
}

/// The kinds of failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorKind {
    /// Refused by the door; nothing was sent.
    Blocked(Blocked),
    /// Not a URL that can be requested.
    InvalidUrl { why: &'static str },
    /// A header, or a header's value, that cannot be sent.
    InvalidHeader { name: String },
    /// What the request was made [under](super::under) was over before it left; nothing was sent.
    Released,
    /// The name did not resolve, or no connection came up.
    Connect { why: String },
    /// The connection came up but not its encryption.
    Tls { why: String },
    /// A deadline passed.
    Timeout { phase: Phase, after: Duration },
    /// The body, after inflation, passed its limit.
    TooLarge { limit: u64 },
    /// The connection ended inside the exchange.
    Cut { why: String },
    /// A redirect that may not be followed, or one too many.
    Redirect { why: &'static str },
    /// A redirect would send a body with secrets to another origin; they were meant for the first one only.
    SecretRedirect,
    /// The client could not be built.
    Setup { why: String },
}

/// Why the door refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// The address, or one of the name's addresses, is not public.
    Address(Class),
    /// The name is a metadata service's.
    Name,
    /// Not `http` or `https`.
    Scheme,
    /// A redirect from `https` to `http`.
    Downgrade,
    /// The request may reach certain hosts only, and this is none of them.
    Host,
}

/// The deadline that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Connect,
    FirstByte,
    BetweenChunks,
    Total,
}

impl Phase {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connecting",
            Self::FirstByte => "waiting for the first byte",
            Self::BetweenChunks => "waiting for more",
            Self::Total => "the whole exchange",
        }
    }
}

impl Error {
    pub(super) fn new(kind: ErrorKind, origin: &str) -> Self {
        let sent = matches!(
            kind,
            ErrorKind::Cut { .. }
                | ErrorKind::TooLarge { .. }
                | ErrorKind::Redirect { .. }
                | ErrorKind::SecretRedirect
                | ErrorKind::Timeout { phase: Phase::FirstByte | Phase::BetweenChunks | Phase::Total, .. }
        );
        Self { kind, origin: origin.to_owned(), sent }
    }

    /// The same failure after an earlier hop of the exchange had already been answered.
    pub(super) fn after_send(mut self) -> Self {
        self.sent = true;
        self
    }

    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// `scheme://host[:port]` of the failing hop; empty when there was no URL.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The stable code of this failure, wherever it is met.
    pub const fn code(&self) -> &'static str {
        match self.kind {
            ErrorKind::Blocked(_) => "egress_blocked",
            ErrorKind::InvalidUrl { .. } => "invalid_url",
            ErrorKind::InvalidHeader { .. } => "invalid_header",
            ErrorKind::Connect { .. } | ErrorKind::Released => "connect_failed",
            ErrorKind::Tls { .. } => "tls_failed",
            ErrorKind::Timeout { .. } => "timeout",
            ErrorKind::TooLarge { .. } => "response_too_large",
            ErrorKind::Cut { .. } => "connection_cut",
            ErrorKind::Redirect { .. } | ErrorKind::SecretRedirect => "redirect_refused",
            ErrorKind::Setup { .. } => "egress_unavailable",
        }
    }

    /// Whether it may go better later.
    pub const fn is_transient(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Released | ErrorKind::Connect { .. } | ErrorKind::Timeout { .. } | ErrorKind::Cut { .. } | ErrorKind::Setup { .. }
        )
    }

    /// Whether a byte of the request can have reached a peer. `false` is certain; `true` is "perhaps".
    pub fn may_have_been_sent(&self) -> bool {
        self.sent
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.origin.is_empty() { "the request" } else { &self.origin };
        match &self.kind {
            ErrorKind::Blocked(blocked) => write!(f, "{place} is blocked: {blocked}"),
            ErrorKind::InvalidUrl { why } => write!(f, "the URL cannot be requested: {why}"),
            ErrorKind::InvalidHeader { name } => write!(f, "the header `{name}` cannot be sent"),
            ErrorKind::Released => write!(f, "nothing was sent to {place}: {}", super::hold::Released),
            ErrorKind::Connect { why } => write!(f, "cannot connect to {place}: {why}"),
            ErrorKind::Tls { why } => write!(f, "no secure connection to {place}: {why}"),
            ErrorKind::Timeout { phase, after } => {
                write!(f, "{place} took longer than {} s ({})", after.as_secs_f64(), phase.name())
            }
            ErrorKind::TooLarge { limit } => write!(f, "the answer of {place} is larger than {limit} bytes"),
            ErrorKind::Cut { why } => write!(f, "the connection to {place} was cut: {why}"),
            ErrorKind::Redirect { why } => write!(f, "{place} redirects: {why}"),
            ErrorKind::SecretRedirect => {
                write!(f, "{place} redirects to another origin, and the request's body contains secrets; set `url` to the final address")
            }
            ErrorKind::Setup { why } => write!(f, "the HTTP client cannot be built: {why}"),
        }
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(class) => write!(f, "it has a {} address", class.name()),
            Self::Name => f.write_str("it is a cloud metadata service"),
            Self::Scheme => f.write_str("only http and https may leave"),
            Self::Host => f.write_str("it is not among the hosts that this request may reach"),
            Self::Downgrade => f.write_str("it redirects from https to http"),
        }
    }
}

impl std::error::Error for Error {}
impl std::error::Error for Blocked {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            ErrorKind::Blocked(_)
            | ErrorKind::InvalidUrl { .. }
            | ErrorKind::InvalidHeader { .. }
            | ErrorKind::Redirect { .. }
            | ErrorKind::SecretRedirect => Kind::Invalid,
            ErrorKind::TooLarge { .. } => Kind::TooLarge,
            ErrorKind::Released | ErrorKind::Timeout { .. } | ErrorKind::Connect { .. } | ErrorKind::Tls { .. } | ErrorKind::Cut { .. } => {
                Kind::Unavailable
            }
            ErrorKind::Setup { .. } => return Self::internal(error),
        };
        let failure = Self::new(kind, error.code(), error.to_string());
        if matches!(error.kind, ErrorKind::Blocked(_)) {
            return failure.next("if this target is meant, the operator opens it with an allow rule (CIDR and port)");
        }
        failure
    }
}
