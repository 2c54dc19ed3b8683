//! One request over HTTP, whatever the wire format: sent, checked, and its answer fed to the format's decoder.
//!
//! A stream that ends before the decoder has seen its terminal marker is [`Class::Cut`]; a success that says
//! nothing is [`Class::Empty`]; a body of another kind than asked for is [`Class::Malformed`].

use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use http::Method;
use serde::Serialize;

use super::catalogue::Auth;
use super::error::{Class, ProviderError};
use super::{Finish, ModelEvent, ProviderCall, refusal};
use crate::clock::Clock;
use crate::net::sse::{self, Event, Fault};
use crate::net::{Egress, HeaderText, Output, Request, Response, Trust, produce, retry_after};
use crate::secret::{Redactor, Secret};

/// The largest answer taken, streamed or whole. Images come inside answers.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;
/// How much of an error's body is read and kept.
const EXCERPT: usize = 4 * 1024;
/// How long totals may lag behind the last word. Some servers never close a stream that is over.
const GRACE: Duration = Duration::from_secs(2);

/// Whether more events are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    More,
    /// The terminal marker has come.
    End,
}

/// A wire format's reading half. Pure: bytes in, events out.
pub(super) trait Decode: Send + 'static {
    /// The largest event of a stream, in bytes.
    const EVENT_CAP: usize = sse::DEFAULT_CAP;

    /// Reads one event of a stream.
    fn event(&mut self, event: &Event, out: &mut Vec<ModelEvent>) -> Result<Flow, ProviderError>;

    /// Reads a whole answer.
    fn whole(&mut self, body: &[u8], out: &mut Vec<ModelEvent>) -> Result<(), ProviderError>;

    /// Whether what has come is a whole answer although its terminal marker has not.
    fn is_whole(&self) -> bool;
}

/// Where a request goes and what it says.
pub(super) struct Post<B> {
    pub url: String,
    pub body: B,
}

/// Sends the request and decodes the answer.
pub(super) fn exchange<B, D>(
    egress: Egress,
    clock: Clock,
    call: ProviderCall,
    post: Result<Post<B>, ProviderError>,
    decoder: D,
) -> BoxStream<'static, Result<ModelEvent, ProviderError>>
where
    B: Serialize + Send + 'static,
    D: Decode,
{
    produce(move |out| async move {
        let scrub = Redactor::new(call.key.clone());
        let mut reading = Reading { out, decoder, said: false, output: 0, finish: None };
        if let Err(mut error) = reading.run(&egress, &clock, &call, post).await {
            error.message = scrub.text(&error.message);
            error.excerpt = error.excerpt.take().map(|excerpt| scrub.text(&excerpt));
            reading.out.send(Err(error)).await;
        }
    })
    .boxed()
}

struct Reading<D> {
    out: Output<Result<ModelEvent, ProviderError>>,
    decoder: D,
    /// Some content has come.
    said: bool,
    /// Output tokens of the last total.
    output: u64,
    finish: Option<Finish>,
}

impl<D: Decode> Reading<D> {
    async fn run<B: Serialize>(
        &mut self,
        egress: &Egress,
        clock: &Clock,
        call: &ProviderCall,
        post: Result<Post<B>, ProviderError>,
    ) -> Result<(), ProviderError> {
        let post = post.map_err(unsent)?;
        let response = egress.send(request(call, &post)?).await?;
        let id = request_id(&response);
        let read = if response.status.is_success() { self.read(call, response, clock).await } else { Err(refused(response, clock).await) };
        read.map_err(|mut error| {
            error.request_id = id;
            error
        })
    }

    async fn read(&mut self, call: &ProviderCall, response: Response, clock: &Clock) -> Result<(), ProviderError> {
        let media = response.media_type();
        let is_json = media == "application/json" || media.ends_with("+json");
        let is_events = media == "text/event-stream";
        if is_events || (media.is_empty() && call.request.stream) {
            self.events(response, clock).await?;
        } else if is_json || media.is_empty() {
            let body = response.bytes().await?;
            let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&body);
            let mut events = Vec::new();
            let decoded = self.decoder.whole(body, &mut events);
            self.give(&mut events).await;
            decoded?;
        } else {
            let mut error = ProviderError::new(Class::Malformed, format!("the answer is of the wrong kind, `{media}`"));
            error.excerpt = Some(excerpt(&response.prefix(EXCERPT).await));
            return Err(error);
        }
        self.check_said()
    }

    async fn events(&mut self, response: Response, clock: &Clock) -> Result<(), ProviderError> {
        let mut stream = Box::pin(sse::events(response.stream(), D::EVENT_CAP));
        let mut events = Vec::new();
        loop {
            let next = if self.decoder.is_whole() {
                tokio::select! {
                    biased;
                    next = stream.try_next() => next,
                    () = clock.sleep(GRACE) => return Ok(()),
                }
            } else {
                stream.try_next().await
            };
            let event = match next {
                Ok(Some(event)) => event,
                // After its last word an answer is whole, whatever becomes of the connection.
                _ if self.decoder.is_whole() => return Ok(()),
                Ok(None) => return Err(ProviderError::new(Class::Cut, "the stream ended before its end mark")),
                Err(Fault::Bytes(error)) => return Err(error.into()),
                Err(Fault::TooLarge(error)) => return Err(ProviderError::new(Class::Malformed, error.to_string())),
            };
            let decoded = self.decoder.event(&event, &mut events);
            self.give(&mut events).await;
            if decoded? == Flow::End {
                return Ok(());
            }
        }
    }

    async fn give(&mut self, events: &mut Vec<ModelEvent>) {
        for event in events.drain(..) {
            match &event {
                ModelEvent::Usage(usage) => self.output = usage.output,
                ModelEvent::Finish(finish) => self.finish = Some(*finish),
                ModelEvent::Citation(_) | ModelEvent::State(_) => {}
                ModelEvent::Text(text) | ModelEvent::Reasoning(text) => self.said |= !text.is_empty(),
                ModelEvent::ToolCallStart { .. }
                | ModelEvent::ToolCallState { .. }
                | ModelEvent::ToolCallDelta { .. }
                | ModelEvent::ReasoningEnd { .. }
                | ModelEvent::Media { .. } => self.said = true,
            }
            self.out.send(Ok(event)).await;
        }
    }

    /// Silence is an answer only when the vendor vouches for it: tokens were spent, or a reason is given.
    fn check_said(&self) -> Result<(), ProviderError> {
        let explained = matches!(self.finish, Some(Finish::Length | Finish::ContentFilter));
        if self.said || self.output > 0 || explained {
            return Ok(());
        }
        Err(ProviderError::new(Class::Empty, "the answer is empty"))
    }
}

/// Sends a request and gives the whole of a good answer's body.
pub(super) async fn ask<B: Serialize>(
    egress: &Egress,
    clock: &Clock,
    call: &ProviderCall,
    post: Result<Post<B>, ProviderError>,
) -> Result<bytes::Bytes, ProviderError> {
    let scrub = Redactor::new(call.key.clone());
    let asked = async {
        let response = egress.send(request(call, &post.map_err(unsent)?)?).await?;
        let id = request_id(&response);
        let body =
            if response.status.is_success() { response.bytes().await.map_err(Into::into) } else { Err(refused(response, clock).await) };
        body.map_err(|mut error: ProviderError| {
            error.request_id = id;
            error
        })
    };
    asked.await.map_err(|mut error| {
        error.message = scrub.text(&error.message);
        error.excerpt = error.excerpt.take().map(|excerpt| scrub.text(&excerpt));
        error
    })
}

fn unsent(mut error: ProviderError) -> ProviderError {
    error.sent = false;
    error
}

fn request<B: Serialize>(call: &ProviderCall, post: &Post<B>) -> Result<Request, ProviderError> {
    let body = serde_json::to_vec(&post.body)
        .map_err(|error| unsent(ProviderError::new(Class::BadRequest, format!("the request cannot be written as JSON: {error}"))))?;
    let mut request = Request::new(Method::POST, post.url.as_str(), Trust::Operator).header("content-type", "application/json").body(body);
    request = if call.request.stream {
        // A compressed stream arrives in lumps.
        request.header("accept", "text/event-stream").header("accept-encoding", "identity")
    } else {
        request.header("accept", "application/json")
    };
    for (name, value) in &call.headers {
        request = request.header(name, value.as_str());
    }
    if let Some(key) = &call.request.idempotency_key {
        request = request.header("idempotency-key", key.as_str());
    }
    if let Some((name, value)) = call.key.as_ref().and_then(|key| credential(&call.auth, key)) {
        request = request.header(&name, value);
    }
    request.deadlines = call.deadlines;
    request.max_bytes = MAX_ANSWER;
    // A model server that redirects is a wrong base URL; its answer to that is clearer than a lost key.
    request.max_redirects = 0;
    Ok(request)
}

fn credential(auth: &Auth, key: &Secret) -> Option<(String, HeaderText)> {
    match auth {
        Auth::Bearer => Some(("authorization".to_owned(), Secret::new(format!("Bearer {}", key.expose())).into())),
        Auth::Header(name) => Some((name.clone(), key.clone().into())),
        Auth::None => None,
    }
}

/// The vendor's error, by meaning.
async fn refused(response: Response, clock: &Clock) -> ProviderError {
    let status = response.status.as_u16();
    let wait = retry_after(&response.headers, clock.now());
    let body = response.prefix(EXCERPT).await;
    let mut error = refusal::read(status, &body);
    error.retry_after = wait.or(error.retry_after);
    error.excerpt = Some(excerpt(&body));
    error
}

fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

fn request_id(response: &Response) -> Option<String> {
    let names = ["x-request-id", "request-id", "x-goog-request-id", "cf-ray"];
    let value = names.iter().find_map(|name| response.headers.get(*name))?;
    Some(value.to_str().ok()?.to_owned())
}

/// Decodes a stream that is already here, as [`exchange`] would.
pub(super) fn read_all<D: Decode>(mut decoder: D, stream: &[u8]) -> Result<Vec<ModelEvent>, ProviderError> {
    let mut reader = sse::SseReader::new(D::EVENT_CAP);
    reader.feed(stream).map_err(|error| ProviderError::new(Class::Malformed, error.to_string()))?;
    let mut events = Vec::new();
    while let Some(event) = reader.next_event() {
        if decoder.event(&event, &mut events)? == Flow::End {
            return Ok(events);
        }
    }
    if decoder.is_whole() { Ok(events) } else { Err(ProviderError::new(Class::Cut, "")) }
}
