//! The door itself: clients built once, resolvers that judge, redirects followed by hand.

use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::Instant;
use url::Url;

use super::body::{Body, Response, Terms};
use super::error::{Blocked, Error, ErrorKind, Phase};
use super::hold::{self, Released};
use super::judge::judge;
use super::names::{Names, SystemNames};
use super::policy::Policy;
use super::request::{Request, Trust, is_credential};
use super::share;
use super::target::{check_host, check_shape, judge_host, origin, parse_url};
use crate::clock::Clock;
use crate::fair::{OwnerLimits, Party, Permit};

const IDLE_PER_HOST: usize = 1024;
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The way out. Cheap to clone; every clone shares the same connection pools.
#[derive(Clone, Debug)]
pub struct Egress(Arc<Door>);

#[derive(Debug)]
struct Door {
    policy: Arc<Policy>,
    clock: Clock,
    trusted: reqwest::Client,
    judged: Judged,
    requests: OwnerLimits,
}

/// A resolver is asked for a name, never for a port, so a port with its own allow rules has its own client.
#[derive(Debug)]
struct Judged {
    by_port: Vec<(u16, reqwest::Client)>,
    other: reqwest::Client,
}

/// Installs ring as the TLS provider of this process. Must run before any HTTP client of the process is built.
pub fn install_tls() {
    // A second installation in the same process fails, and the first one stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl Egress {
    /// Builds the clients. Fails when the machine's TLS roots cannot be read.
    pub fn new(policy: Policy, clock: Clock) -> Result<Self, Error> {
        Self::with_names(policy, clock, Arc::new(SystemNames))
    }

    /// [`Egress::new`] with another resolver for judged requests.
    pub fn with_names(policy: Policy, clock: Clock, names: Arc<dyn Names>) -> Result<Self, Error> {
        install_tls();
        let policy = Arc::new(policy);
        let judged_client = |port| client(&policy, Some(JudgingResolver { policy: policy.clone(), names: names.clone(), port }));
        let judged = Judged {
            by_port: policy.special_ports().into_iter().map(|port| Ok((port, judged_client(port)?))).collect::<Result<_, Error>>()?,
            other: judged_client(0)?,
        };
        let trusted = client(&policy, None)?;
        let requests = OwnerLimits::new(policy.max_requests);
        Ok(Self(Arc::new(Door { policy, clock, trusted, judged, requests })))
    }

    /// Whether a judged request to this URL may go out, as far as that can be told before its host's name is resolved.
    pub fn would_reach(&self, url: &str) -> Result<(), Error> {
        judge_host(&parse_url(url)?, &self.0.policy)
    }

    /// One exchange: the head of the answer, its body still to be read. Any status is an answer, not an error.
    pub async fn send(&self, request: Request) -> Result<Response, Error> {
        let mut hop = Hop {
            url: parse_url(&request.url)?,
            headers: accepting_gzip(request.header_map()?),
            method: request.method.clone(),
            body: request.body.clone(),
            body_is_secret: request.body_is_secret,
            trust: request.trust,
        };
        let end = self.0.clock.instant() + request.deadlines.total;
        let permit = self.permit(&hop.url, request.deadlines.total).await?;
        for followed in 0..=request.max_redirects {
            let answered = followed > 0;
            let exchanged = loop {
                let exchanged = self.exchange(&hop, &request, end).await;
                // Kept back, and the hold is there again: nobody else has done it meanwhile.
                if !matches!(&exchanged, Err(error) if error.kind() == &ErrorKind::Released) || !hold::lasts() {
                    break exchanged;
                }
            };
            let response = exchanged.map_err(|error| if answered { error.after_send() } else { error })?;
            let Some(location) = location(&response).filter(|_| request.max_redirects > 0) else {
                let mut headers = response.headers().clone();
                let is_gzip = remove_gzip(&mut headers);
                return Ok(Response {
                    status: response.status(),
                    headers,
                    url: response.url().clone(),
                    body: Body::new(
                        response,
                        self.0.clock.clone(),
                        Terms { is_gzip, deadlines: request.deadlines, end, limit: request.max_bytes, permit },
                    ),
                });
            };
            hop = hop.follow(response.status(), &location).map_err(Error::after_send)?;
        }
        Err(Error::new(ErrorKind::Redirect { why: "too many redirects" }, &origin(&hop.url)))
    }

    /// Waits until the party may have one more request. Waiting counts as a part of the exchange.
    async fn permit(&self, url: &Url, total: Duration) -> Result<Option<Permit>, Error> {
        let party = share::party();
        if party == Party::NOBODY {
            return Ok(None);
        }
        tokio::select! {
            biased;
            permit = self.0.requests.acquire(party) => Ok(permit.ok()),
            () = self.0.clock.sleep(total) => {
                Err(Error::new(ErrorKind::Timeout { phase: Phase::Total, after: total }, &origin(url)))
            }
        }
    }

    async fn exchange(&self, hop: &Hop, request: &Request, end: Instant) -> Result<reqwest::Response, Error> {
        let door = &self.0;
        if let Some(hosts) = &request.hosts {
            check_host(&hop.url, hosts)?;
        }
        let client = match hop.trust {
            Trust::Operator => &door.trusted,
            Trust::Judged => {
                judge_host(&hop.url, &door.policy)?;
                door.judged.client(hop.url.port_or_known_default().unwrap_or(0))
            }
        };
        let mut outgoing = client.request(hop.method.clone(), hop.url.clone()).headers(hop.headers.clone());
        if let Some(body) = &hop.body {
            outgoing = outgoing.body(hold::guarded(body.clone()));
        }
        let left = end.saturating_duration_since(door.clock.instant());
        let (phase, wait) =
            if left < request.deadlines.first_byte { (Phase::Total, left) } else { (Phase::FirstByte, request.deadlines.first_byte) };
        let after = if phase == Phase::Total { request.deadlines.total } else { wait };
        tokio::select! {
            biased;
            answer = outgoing.send() => answer.map_err(|error| classify(&error, &hop.url, &door.policy)),
            () = door.clock.sleep(wait) => Err(Error::new(ErrorKind::Timeout { phase, after }, &origin(&hop.url))),
        }
    }
}

impl Judged {
    fn client(&self, port: u16) -> &reqwest::Client {
        self.by_port.iter().find(|(own, _)| *own == port).map_or(&self.other, |(_, client)| client)
    }
}

/// One request of a chain of redirects.
struct Hop {
    url: Url,
    headers: HeaderMap,
    method: Method,
    body: Option<bytes::Bytes>,
    body_is_secret: bool,
    trust: Trust,
}

impl Hop {
    /// The next hop, as RFC 9110 section 15.4 and browsers have it.
    fn follow(mut self, status: StatusCode, location: &str) -> Result<Self, Error> {
        let refuse = |why| Error::new(ErrorKind::Redirect { why }, &origin(&self.url));
        if location.chars().any(|c| c.is_control() || c == '\\') {
            return Err(refuse("its target contains control characters or backslashes"));
        }
        let next = self.url.join(location).map_err(|_| refuse("its target is not a URL"))?;
        check_shape(&next)?;
        if self.url.scheme() == "https" && next.scheme() == "http" {
            return Err(Error::new(ErrorKind::Blocked(Blocked::Downgrade), &origin(&next)));
        }
        let becomes_get = match status {
            StatusCode::SEE_OTHER => self.method != Method::HEAD,
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => self.method == Method::POST,
            _ => false,
        };
        if becomes_get {
            self.method = Method::GET;
            self.body = None;
            for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE] {
                self.headers.remove(name);
            }
        }
        if next.origin() != self.url.origin() {
            if self.body_is_secret && self.body.is_some() {
                return Err(Error::new(ErrorKind::SecretRedirect, &origin(&self.url)));
            }
            self.headers =
                self.headers.iter().filter(|(name, value)| !is_credential(name, value)).map(|(n, v)| (n.clone(), v.clone())).collect();
            self.trust = Trust::Judged;
        }
        self.url = next;
        Ok(self)
    }
}

/// Accepts gzip, unless the request has its own `Accept-Encoding`.
fn accepting_gzip(mut headers: HeaderMap) -> HeaderMap {
    headers.entry(header::ACCEPT_ENCODING).or_insert(HeaderValue::from_static("gzip"));
    headers
}

/// Returns whether a body is gzip, which is decompressed here, whatever was accepted; removes the headers that are wrong afterwards.
fn remove_gzip(headers: &mut HeaderMap) -> bool {
    let coding = headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes).unwrap_or_default().trim_ascii();
    let is_gzip = [b"gzip".as_slice(), b"x-gzip"].iter().any(|name| coding.eq_ignore_ascii_case(name));
    if is_gzip {
        headers.remove(header::CONTENT_ENCODING);
        headers.remove(header::CONTENT_LENGTH);
    }
    is_gzip
}

fn location(response: &reqwest::Response) -> Option<String> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    // Header bytes above ASCII are legal in practice; the URL parser percent-encodes them.
    response.headers().get(header::LOCATION).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

#[expect(clippy::disallowed_methods, reason = "the one place that builds an HTTP client")]
fn client(policy: &Policy, resolver: Option<JudgingResolver>) -> Result<reqwest::Client, Error> {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("dispatch/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        // `Body` decompresses; the HTTP client's own decoder, which another crate may enable, stops after the first member.
        .no_gzip()
        .no_proxy()
        .connect_timeout(policy.connect)
        .tcp_nodelay(true)
        .tcp_keepalive(KEEP_ALIVE)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .pool_idle_timeout(IDLE_TIMEOUT);
    let builder = match resolver {
        Some(resolver) => builder.dns_resolver(Arc::new(resolver)),
        None => builder,
    };
    builder.build().map_err(|error| Error::new(ErrorKind::Setup { why: innermost(&error) }, ""))
}

/// Resolves a name and judges all its addresses; one bad address refuses the name, because which one is
/// connected to is chance. The connection is made to the addresses returned here and to no others.
#[derive(Debug)]
struct JudgingResolver {
    policy: Arc<Policy>,
    names: Arc<dyn Names>,
    port: u16,
}

impl Resolve for JudgingResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, names, port) = (self.policy.clone(), self.names.clone(), self.port);
        Box::pin(async move {
            let addresses = names.addresses(name.as_str()).await?;
            for address in &addresses {
                judge(*address, port, &policy).map_err(Blocked::Address)?;
            }
            Ok(Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}

/// A client's error in the door's words. Only causes below the request are quoted: they know no URL.
fn classify(error: &reqwest::Error, url: &Url, policy: &Policy) -> Error {
    let origin = origin(url);
    if let Some(blocked) = causes(error).find_map(|cause| cause.downcast_ref::<Blocked>()) {
        return Error::new(ErrorKind::Blocked(*blocked), &origin);
    }
    if causes(error).any(|cause| cause.is::<Released>()) {
        return Error::new(ErrorKind::Released, &origin);
    }
    let why = innermost(error);
    if !error.is_connect() {
        return Error::new(ErrorKind::Cut { why }, &origin);
    }
    if error.is_timeout() {
        return Error::new(ErrorKind::Timeout { phase: Phase::Connect, after: policy.connect }, &origin);
    }
    if causes(error).any(is_tls) {
        return Error::new(ErrorKind::Tls { why }, &origin);
    }
    Error::new(ErrorKind::Connect { why }, &origin)
}

type Cause = dyn std::error::Error + 'static;

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &Cause> {
    fn below<'a>(cause: &&'a Cause) -> Option<&'a Cause> {
        (**cause).source()
    }
    std::iter::successors(error.source(), below)
}

/// `std::io::Error` does not name what it wraps as its source, so it is looked into, however often it is wrapped.
fn is_tls(cause: &Cause) -> bool {
    let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    cause.is::<rustls::Error>() || inner.is_some_and(|inner| is_tls(inner))
}

/// The text of the last cause, which speaks of sockets and certificates and not of URLs.
pub(super) fn innermost(error: &reqwest::Error) -> String {
    causes(error).last().map_or_else(|| "the request could not be made".to_owned(), ToString::to_string)
}
