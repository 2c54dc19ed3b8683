//! The answer, as it comes in: counted, and on the clock.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::error::{Error, ErrorKind, Phase};
use super::gzip::GzipReader;
use super::request::Deadlines;
use super::target::origin;
use crate::clock::Clock;
use crate::fair::Permit;

/// The head of an answer, and its body still to be read. Dropping it closes the connection.
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Where the answer came from, after redirects. May carry a secret query: do not show it.
    pub url: Url,
    pub(super) body: Body,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("status", &self.status).field("origin", &origin(&self.url)).finish_non_exhaustive()
    }
}

impl Response {
    /// The whole body, within the request's limit and deadlines.
    pub async fn bytes(self) -> Result<Bytes, Error> {
        self.body.bytes().await
    }

    /// At most the first `limit` bytes; what follows is not read. A body that fails gives what had arrived.
    pub async fn prefix(self, limit: usize) -> Bytes {
        self.body.prefix(limit).await
    }

    /// The body in parts, as they arrive.
    pub fn stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        self.body.stream()
    }

    /// The content type as received; empty if the response has none.
    pub fn content_type(&self) -> &str {
        self.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The media type without its parameters, in lower case; empty when the answer names none.
    pub fn media_type(&self) -> String {
        self.content_type().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    pub fn into_body(self) -> Body {
        self.body
    }
}

type Parts = Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>;

/// A body being read.
pub struct Body {
    parts: Parts,
    /// The last chunk has been read.
    has_ended: bool,
    gzip: Option<GzipReader>,
    clock: Clock,
    deadlines: Deadlines,
    end: Instant,
    left: u64,
    limit: u64,
    origin: String,
    /// Counts the request as one of its party's until the body is dropped.
    _permit: Option<Permit>,
}

/// What a body is read under.
pub(super) struct Terms {
    /// The body is decompressed.
    pub is_gzip: bool,
    pub deadlines: Deadlines,
    pub end: Instant,
    pub limit: u64,
    pub permit: Option<Permit>,
}

impl Body {
    pub(super) fn new(response: reqwest::Response, clock: Clock, terms: Terms) -> Self {
        let Terms { is_gzip, deadlines, end, limit, permit } = terms;
        let origin = origin(response.url());
        let gzip = is_gzip.then(GzipReader::default);
        let parts = Box::pin(response.bytes_stream());
        Self { parts, has_ended: false, gzip, clock, deadlines, end, left: limit, limit, origin, _permit: permit }
    }

    /// Returns the next chunk, decompressed; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        while !self.has_ended {
            if let Some(inflated) = self.inflate(GzipReader::next_part)? {
                return self.count(inflated).map(Some);
            }
            let arrived = self.arrived().await?;
            self.has_ended = arrived.is_none();
            let Some(part) = arrived else { break };
            let Some(gzip) = &mut self.gzip else { return self.count(part).map(Some) };
            gzip.push(part);
        }
        let rest = self.inflate(GzipReader::finish)?;
        rest.map(|rest| self.count(rest)).transpose()
    }

    /// Returns decompressed data that is still buffered; nothing for other bodies.
    fn inflate(&mut self, read: impl FnOnce(&mut GzipReader) -> std::io::Result<Option<Bytes>>) -> Result<Option<Bytes>, Error> {
        let inflated = self.gzip.as_mut().map_or(Ok(None), read);
        inflated.map_err(|error| self.fail(ErrorKind::Cut { why: format!("its gzip body cannot be decompressed: {error}") }))
    }

    /// Returns the next chunk as it was sent.
    async fn arrived(&mut self) -> Result<Option<Bytes>, Error> {
        let left = self.end.saturating_duration_since(self.clock.instant());
        let (phase, wait) =
            if left < self.deadlines.between_chunks { (Phase::Total, left) } else { (Phase::BetweenChunks, self.deadlines.between_chunks) };
        let part = tokio::select! {
            biased;
            part = self.parts.next() => part,
            () = self.clock.sleep(wait) => return Err(self.timeout(phase)),
        };
        match part {
            None => Ok(None),
            Some(Ok(part)) => Ok(Some(part)),
            Some(Err(error)) => Err(self.fail(ErrorKind::Cut { why: super::client::innermost(&error) })),
        }
    }

    fn count(&mut self, part: Bytes) -> Result<Bytes, Error> {
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(length).ok_or_else(|| self.fail(ErrorKind::TooLarge { limit: self.limit }))?;
        Ok(part)
    }

    fn timeout(&self, phase: Phase) -> Error {
        let after: Duration = if phase == Phase::Total { self.deadlines.total } else { self.deadlines.between_chunks };
        self.fail(ErrorKind::Timeout { phase, after })
    }

    fn fail(&self, kind: ErrorKind) -> Error {
        Error::new(kind, &self.origin)
    }

    async fn bytes(mut self) -> Result<Bytes, Error> {
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        let Some(second) = self.chunk().await? else { return Ok(first) };
        let mut whole = BytesMut::from(first);
        whole.extend_from_slice(&second);
        while let Some(part) = self.chunk().await? {
            whole.extend_from_slice(&part);
        }
        Ok(whole.freeze())
    }

    async fn prefix(mut self, limit: usize) -> Bytes {
        let mut whole = BytesMut::new();
        while whole.len() < limit {
            match self.chunk().await {
                Ok(Some(part)) => whole.extend_from_slice(&part),
                Ok(None) | Err(_) => break,
            }
        }
        whole.truncate(limit);
        whole.freeze()
    }

    pub fn stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        stream::unfold(Some(self), |body| async move {
            let mut body = body?;
            match body.chunk().await {
                Ok(Some(part)) => Some((Ok(part), Some(body))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({})", self.origin)
    }
}
