//! Which web pages may call: CORS by a list of origins.
//!
//! An allowed origin is reflected, a preflight from it answered 204. A preflight from any other origin is
//! refused with a readable 403; other calls from there go on without the grant, which the browser enforces.
//! Cookies are never granted.
//!
//! Routes of pages are bound to the origins of a client token, which a preflight does not carry: there every preflight is answered, and the
//! call itself is granted unless its route refused the origin.

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN, VARY,
};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::dispatch::is_of_pages;
use super::problem::Code;
use crate::error::{Error, Kind, Result};

const METHODS: &str = "GET, POST, PUT, PATCH, DELETE, OPTIONS";
/// What callers may send: all that the server reads, and what clients of the contract send besides.
const REQUEST_HEADERS: &str = "Content-Type, Content-Encoding, Authorization, X-API-Key, Idempotency-Key, Last-Event-ID, Prefer, \
                               X-Request-Id, X-Persona-Version, X-Visitor-Token, X-Identity-Proof";
/// What pages may read: all that answers carry for callers.
const EXPOSED: &str = "X-Request-Id, X-Execution-Id, Location, Allow, Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, \
                       X-RateLimit-Limit-Requests, X-RateLimit-Remaining-Requests, X-RateLimit-Reset-Requests, \
                       Idempotency-Replayed, X-History-Identity-Status";
/// Seconds that a browser may remember a preflight's answer.
const MAX_AGE: &str = "600";

/// A list of allowed web origins. Shared with whatever else is bound to origins.
///
/// An entry is a host (`app.example.com`: its default ports), a host with a port (`localhost:3000`), a
/// full origin (`https://app.example.com`: this scheme only), `*.example.com` for every host below, or `*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<Pattern>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Any,
    Host { scheme: Option<String>, below: bool, host: String, port: Option<u16> },
}

/// An origin taken apart. `port` is `None` for the scheme's own.
struct Origin<'a> {
    scheme: &'a str,
    host: String,
    port: Option<u16>,
}

/// Splits `host:port`; IPv6 hosts keep their brackets.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().ok()?)),
        _ => (text, None),
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    (!host.is_empty() && host.bytes().all(legal)).then(|| (host.to_ascii_lowercase(), port))
}

fn is_default(scheme: &str, port: u16) -> bool {
    matches!((scheme, port), ("http", 80) | ("https", 443))
}

impl<'a> Origin<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (host, port) = host_and_port(rest)?;
        Some(Self { scheme, host, port: port.filter(|port| !is_default(scheme, *port)) })
    }
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_end_matches('/');
        if text == "*" {
            return Some(Self::Any);
        }
        let (scheme, rest) = text.split_once("://").map_or((None, text), |(scheme, rest)| (Some(scheme.to_ascii_lowercase()), rest));
        let (below, rest) = rest.strip_prefix("*.").map_or((false, rest), |rest| (true, rest));
        let (host, port) = host_and_port(rest)?;
        let port = port.filter(|port| !scheme.as_deref().is_some_and(|scheme| is_default(scheme, *port)));
        Some(Self::Host { scheme, below, host, port })
    }

    fn matches(&self, origin: &Origin<'_>) -> bool {
        let Self::Host { scheme, below, host, port } = self else { return true };
        let same_host = if *below {
            origin.host.strip_suffix(host.as_str()).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
        } else {
            origin.host == *host
        };
        let same_port = *port == origin.port || (origin.port.is_none() && port.is_some_and(|port| is_default(origin.scheme, port)));
        same_host && same_port && scheme.as_deref().is_none_or(|scheme| scheme == origin.scheme)
    }
}

impl Origins {
    /// Reads a list of entries. Error: `invalid_origin`, naming the entry.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let read = |entry: &str| {
            Pattern::parse(entry).ok_or_else(|| {
                Error::new(Kind::Invalid, "invalid_origin", format!("`{entry}` is not an origin"))
                    .next("write `https://app.example.com`, `app.example.com`, `localhost:3000`, `*.example.com` or `*`")
            })
        };
        entries.into_iter().map(read).collect::<Result<_>>().map(Self)
    }

    /// Whether an `Origin` header's value is on the list.
    pub fn allow(&self, origin: &str) -> bool {
        // Sandboxed pages say `null`: nobody in particular, so only `*` covers them.
        match Origin::parse(origin) {
            Some(origin) => self.0.iter().any(|pattern| pattern.matches(&origin)),
            None => self.0.contains(&Pattern::Any),
        }
    }
}

/// The code of a refused origin.
const NOT_ALLOWED: &str = "origin_not_allowed";

/// Answers preflights and grants what the list allows.
pub async fn cors(State(origins): State<Origins>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(ORIGIN).cloned();
    let allowed = origin.as_ref().and_then(|origin| origin.to_str().ok()).is_some_and(|origin| origins.allow(origin));
    let of_pages = request.extensions().get::<MatchedPath>().is_some_and(|route| is_of_pages(route.as_str()));
    let preflight = request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match (&origin, preflight, allowed) {
        (Some(_), true, granted) if granted || of_pages => preflight_answer(),
        (Some(_), true, _) => refusal(),
        _ => next.run(request).await,
    };
    let refused = response.extensions().get::<Code>().is_some_and(|code| code.0 == NOT_ALLOWED);
    if let Some(origin) = origin.filter(|_| allowed || of_pages && !refused) {
        grant(response.headers_mut(), origin);
    }
    response.headers_mut().append(VARY, HeaderValue::from_static("Origin"));
    response
}

fn preflight_answer() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    response
}

fn refusal() -> Response {
    Error::new(Kind::Forbidden, "origin_not_allowed", "this web origin may not call this server")
        .next("the operator allows origins with `--cors-origin`; secret keys belong on a server, not in a page")
        .into_response()
}

fn grant(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(entry: &str, origin: &str) -> bool {
        Origins::parse([entry]).is_ok_and(|origins| origins.allow(origin))
    }

    #[test]
    fn origins_match_as_written() {
        for (entry, origin, expected) in [
            ("app.example.com", "https://app.example.com", true),
            ("app.example.com", "http://app.example.com", true),
            ("app.example.com", "https://APP.example.com", true),
            ("app.example.com", "https://app.example.com:8443", false),
            ("app.example.com:8443", "https://app.example.com:8443", true),
            ("https://app.example.com", "http://app.example.com", false),
            ("https://app.example.com/", "https://app.example.com", true),
            ("https://app.example.com:443", "https://app.example.com", true),
            ("localhost:3000", "http://localhost:3000", true),
            ("localhost", "http://localhost:3000", false),
            ("*.example.com", "https://a.b.example.com", true),
            ("*.example.com", "https://example.com", false),
            ("*.example.com", "https://evilexample.com", false),
            ("example.com", "https://example.com.evil.net", false),
            ("[::1]:3000", "http://[::1]:3000", true),
            ("*", "https://anything.test", true),
            ("*", "null", true),
            ("app.example.com", "null", false),
        ] {
            assert_eq!(allows(entry, origin), expected, "{entry} {origin}");
        }
        assert!(!Origins::default().allow("https://app.example.com"));
        assert!(Origins::parse(["a b"]).is_err());
    }
}
