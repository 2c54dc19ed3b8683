//! What is asked of the door.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::error::{Error, ErrorKind};
use crate::secret::Secret;

/// The largest body taken when the caller names no other limit: 10 MiB after inflation.
pub const DEFAULT_MAX_BYTES: u64 = 10 * 1024 * 1024;

/// Who chose the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The server's configuration: not judged, as long as it stays at its origin.
    Operator,
    /// Anyone else: every address is judged.
    Judged,
}

/// How long the phases of an exchange may take. Connecting is limited by the door's [`Policy`](super::Policy).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Until the head of the answer, connecting included.
    pub first_byte: Duration,
    /// Between two parts of the body.
    pub between_chunks: Duration,
    /// From the start to the last byte.
    pub total: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { first_byte: Duration::from_secs(60), between_chunks: Duration::from_secs(30), total: Duration::from_secs(600) }
    }
}

/// A header's value. A secret one is dropped when a redirect leaves the origin, and is never shown.
#[derive(Clone)]
pub enum HeaderText {
    Plain(String),
    Secret(Secret),
}

impl fmt::Debug for HeaderText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(text) => write!(f, "{text:?}"),
            Self::Secret(secret) => write!(f, "{secret:?}"),
        }
    }
}

impl From<&str> for HeaderText {
    fn from(text: &str) -> Self {
        Self::Plain(text.to_owned())
    }
}

impl From<String> for HeaderText {
    fn from(text: String) -> Self {
        Self::Plain(text)
    }
}

impl From<Secret> for HeaderText {
    fn from(secret: Secret) -> Self {
        Self::Secret(secret)
    }
}

/// One exchange. Build it with [`Request::new`] and set what differs.
#[derive(Clone)]
pub struct Request {
    pub method: Method,
    pub url: String,
    pub headers: Vec<(String, HeaderText)>,
    pub body: Option<Bytes>,
    /// The body contains secrets, so a redirect that would send it to another origin is refused.
    pub body_is_secret: bool,
    pub trust: Trust,
    pub deadlines: Deadlines,
    /// Limit of the body in bytes, counted after inflation.
    pub max_bytes: u64,
    /// How many redirects are followed; 0 hands the redirect itself to the caller.
    pub max_redirects: u8,
    /// The only hosts that any hop may reach: names, `*.example.com` for every name below, or addresses. On top
    /// of the judge, never instead of it; `None` for no such limit.
    pub hosts: Option<Arc<[String]>>,
}

impl Request {
    pub fn new(method: Method, url: impl Into<String>, trust: Trust) -> Self {
        Self {
            method,
            url: url.into(),
            headers: Vec::new(),
            body: None,
            body_is_secret: false,
            trust,
            deadlines: Deadlines::default(),
            max_bytes: DEFAULT_MAX_BYTES,
            max_redirects: 5,
            hosts: None,
        }
    }

    pub fn header(mut self, name: &str, value: impl Into<HeaderText>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// The headers as they go out; secret ones are marked sensitive.
    pub(super) fn header_map(&self) -> Result<HeaderMap, Error> {
        let mut map = HeaderMap::with_capacity(self.headers.len() + 1);
        for (name, value) in &self.headers {
            let refuse = || Error::new(ErrorKind::InvalidHeader { name: name.clone() }, "");
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refuse())?;
            if header == header::CONTENT_LENGTH {
                continue;
            }
            if is_forbidden(&header) {
                return Err(refuse());
            }
            map.append(header, header_value(value).map_err(|_| refuse())?);
        }
        Ok(map)
    }
}

fn header_value(text: &HeaderText) -> Result<HeaderValue, header::InvalidHeaderValue> {
    match text {
        HeaderText::Plain(text) => HeaderValue::from_str(text),
        HeaderText::Secret(secret) => {
            let mut value = HeaderValue::from_str(secret.expose())?;
            value.set_sensitive(true);
            Ok(value)
        }
    }
}

/// Headers that change who is asked or how bytes are framed; the client alone decides both.
fn is_forbidden(name: &HeaderName) -> bool {
    const NAMES: [HeaderName; 8] = [
        header::HOST,
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::PROXY_AUTHORIZATION,
        header::EXPECT,
    ];
    NAMES.contains(name) || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Whether a header may not follow a redirect to another origin.
pub(super) fn is_credential(name: &HeaderName, value: &HeaderValue) -> bool {
    value.is_sensitive()
        || *name == header::AUTHORIZATION
        || *name == header::COOKIE
        || matches!(name.as_str(), "x-api-key" | "api-key" | "x-auth-token" | "x-goog-api-key")
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Request").field("method", &self.method).field("headers", &names).field("trust", &self.trust).finish_non_exhaustive()
    }
}
