//! One request over HTTP, whatever the wire format: sent, checked, and its answer fed to the format's decoder.
//!
//! A stream that ends before the decoder has seen its terminal marker is [`Class::Cut`]; a success that says
//! nothing is [`Class::Empty`]. What a body is, is read off its first bytes: servers send good streams under any content type.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use http::Method;
use serde::Serialize;

use super::error::{Class, ProviderError};
use super::lenient::SurrogateJoiner;
use super::{Finish, ModelEvent, ProviderCall, credential, frames, refusal};
use crate::clock::Clock;
use crate::net::sse::{self, Event, Fault};
use crate::net::{self, Egress, ErrorKind, Output, Phase, Request, Response, Trust, limit_reached, produce, retry_after};
use crate::secret::Redactor;

/// The largest answer taken, streamed or whole. Images come inside answers.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;
/// How much of an error's body is read and kept.
const EXCERPT: usize = 4 * 1024;
/// How long a stream that has given its totals may stay open. Some servers never close one that is over.
const GRACE: Duration = Duration::from_secs(2);
/// Tool calls of one answer.
const MAX_CALLS: u32 = 256;
/// How AWS frames its streams.
const AWS_EVENTS: &str = "application/vnd.amazon.eventstream";

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

    /// Gives what was held back until the answer's end; called once, after a whole answer.
    fn end(&mut self, _out: &mut Vec<ModelEvent>) {}

    /// Whether what has come is a whole answer although its terminal marker has not.
    fn is_whole(&self) -> bool;

    /// Whether an answer that is whole stays so when its connection breaks instead of ending.
    fn may_break_off(&self) -> bool {
        true
    }

    /// Whether the totals that nothing follows have come.
    fn is_totalled(&self) -> bool {
        false
    }
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
        let scrub = Redactor::new(credential::secrets(&call));
        let mut reading = Reading { out, decoder, said: false, finish: None, output: 0, joiners: Joiners::default() };
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
    joiners: Joiners,
}

/// What puts surrogate pairs together that a server cut between deltas.
#[derive(Default)]
struct Joiners {
    text: SurrogateJoiner,
    reasoning: SurrogateJoiner,
    arguments: HashMap<u32, SurrogateJoiner>,
}

impl Joiners {
    fn join(&mut self, event: ModelEvent) -> ModelEvent {
        match event {
            ModelEvent::Text(delta) => ModelEvent::Text(self.text.join(delta)),
            ModelEvent::Reasoning(delta) => ModelEvent::Reasoning(self.reasoning.join(delta)),
            ModelEvent::ToolCallDelta { index, delta } => {
                ModelEvent::ToolCallDelta { index, delta: self.arguments.entry(index).or_default().join(delta) }
            }
            other => other,
        }
    }
}

/// What a body turns out to be, whatever its content type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyKind {
    Events,
    Json,
    Other,
}

impl BodyKind {
    /// Bytes that tell every kind apart.
    const HEAD: usize = 8;

    fn of(media: &str, head: &[u8], streamed: bool) -> Self {
        let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head).trim_ascii_start();
        let is_json = media == "application/json" || media.ends_with("+json");
        match head.first() {
            Some(b'{' | b'[') => Self::Json,
            Some(b'<') => Self::Other,
            _ if [&b"data:"[..], b"event:", b"id:", b"retry:", b":"].iter().any(|field| head.starts_with(field)) => Self::Events,
            _ if media == "text/event-stream" || (media.is_empty() && streamed) => Self::Events,
            _ if is_json || media.is_empty() => Self::Json,
            _ => Self::Other,
        }
    }
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
        let request = credential::authorize(call, egress, clock, request(call, &post)?).await?;
        let response = egress.send(request).await?;
        let id = request_id(&response);
        if let Some(wait) = response.status.is_success().then(|| limit_reached(&response.headers, clock.now())).flatten() {
            self.out.send(Ok(ModelEvent::LimitReached(wait))).await;
        }
        let read = if response.status.is_success() { self.read(call, response, clock).await } else { Err(refused(response, clock).await) };
        read.map_err(|mut error| {
            error.request_id = id;
            error
        })
    }

    async fn read(&mut self, call: &ProviderCall, response: Response, clock: &Clock) -> Result<(), ProviderError> {
        let media = response.media_type();
        let mut bytes: BoxStream<'static, Result<Bytes, net::Error>> = response.stream().fuse().boxed();
        if media == AWS_EVENTS {
            self.events(frames::events(bytes, D::EVENT_CAP), clock).await?;
            return self.check_said();
        }
        let mut head = BytesMut::new();
        while head.trim_ascii_start().len() < BodyKind::HEAD {
            match bytes.try_next().await? {
                Some(part) => head.extend_from_slice(&part),
                None => break,
            }
        }
        let kind = BodyKind::of(&media, &head, call.request.stream);
        let mut bytes = futures_util::stream::iter([Ok(head.freeze())]).chain(bytes).boxed();
        match kind {
            BodyKind::Events => self.events(sse::events(bytes, D::EVENT_CAP).map_err(EventFault::from).boxed(), clock).await?,
            BodyKind::Json => {
                let mut body = BytesMut::new();
                while let Some(part) = bytes.try_next().await? {
                    body.extend_from_slice(&part);
                }
                let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&body);
                let mut events = Vec::new();
                let decoded = self.decoder.whole(body, &mut events);
                self.give(&mut events).await?;
                decoded?;
                self.end().await?;
            }
            BodyKind::Other => {
                let mut error = ProviderError::new(Class::Malformed, format!("the answer is of the wrong kind, `{media}`"));
                let head = bytes.try_next().await?.unwrap_or_default();
                error.excerpt = Some(excerpt(head.get(..EXCERPT).unwrap_or(&head)));
                return Err(error);
            }
        }
        self.check_said()
    }

    async fn events(&mut self, mut stream: BoxStream<'static, Result<Event, EventFault>>, clock: &Clock) -> Result<(), ProviderError> {
        let mut events = Vec::new();
        loop {
            let next = if self.decoder.is_whole() && self.decoder.is_totalled() {
                tokio::select! {
                    biased;
                    next = stream.try_next() => next,
                    () = clock.sleep(GRACE) => return self.end().await,
                }
            } else {
                stream.try_next().await
            };
            let event = match next {
                Ok(Some(event)) => event,
                Ok(None) if self.decoder.is_whole() => return self.end().await,
                Ok(None) => return Err(ProviderError::new(Class::Cut, "the stream ended before its end mark")),
                // A server that falls silent after its last word is done.
                Err(EventFault::Bytes(error)) if self.decoder.is_whole() && is_stall(&error) => return self.end().await,
                Err(EventFault::Bytes(_)) if self.decoder.is_whole() && self.decoder.may_break_off() => return self.end().await,
                Err(EventFault::Bytes(_)) if self.decoder.is_whole() => {
                    return Err(ProviderError::new(Class::Cut, "the connection broke before the stream's end"));
                }
                Err(EventFault::Bytes(error)) => return Err(error.into()),
                Err(EventFault::Framing(why)) => return Err(ProviderError::new(Class::Malformed, why)),
            };
            let decoded = self.decoder.event(&event, &mut events);
            self.give(&mut events).await?;
            if decoded? == Flow::End {
                return self.end().await;
            }
        }
    }

    /// Gives what the decoder and the joiners held back.
    async fn end(&mut self) -> Result<(), ProviderError> {
        let mut events = Vec::new();
        self.decoder.end(&mut events);
        self.give(&mut events).await?;
        events.extend(self.joiners.reasoning.finish().map(ModelEvent::Reasoning));
        events.extend(self.joiners.text.finish().map(ModelEvent::Text));
        let arguments = self.joiners.arguments.iter_mut();
        events.extend(arguments.filter_map(|(index, joiner)| Some(ModelEvent::ToolCallDelta { index: *index, delta: joiner.finish()? })));
        self.give(&mut events).await
    }

    async fn give(&mut self, events: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        for event in events.drain(..) {
            let event = self.joiners.join(event);
            match &event {
                ModelEvent::Usage(usage) => self.output = usage.output,
                ModelEvent::Finish(finish) => self.finish = Some(*finish),
                ModelEvent::Restart => self.said = false,
                ModelEvent::Citation(_) | ModelEvent::State(_) | ModelEvent::LimitReached(_) => {}
                ModelEvent::Text(text) | ModelEvent::Reasoning(text) => self.said |= !text.is_empty(),
                ModelEvent::ToolCallStart { index, .. } if *index >= MAX_CALLS => {
                    return Err(ProviderError::new(Class::TooLarge, format!("the answer asks for more than {MAX_CALLS} tool calls")));
                }
                ModelEvent::ToolCallStart { .. }
                | ModelEvent::ToolCallState { .. }
                | ModelEvent::ToolCallDelta { .. }
                | ModelEvent::ReasoningEnd { .. }
                | ModelEvent::Media { .. } => self.said = true,
            }
            self.out.send(Ok(event)).await;
        }
        Ok(())
    }

    /// Silence is an answer only when the vendor vouches for it: it stopped well after it had spent tokens, or gives another reason.
    fn check_said(&self) -> Result<(), ProviderError> {
        let explained = match self.finish {
            Some(Finish::Length | Finish::ContentFilter | Finish::Refusal) => true,
            Some(Finish::EndTurn | Finish::ToolCalls | Finish::Pause) => self.output > 0,
            Some(Finish::Error | Finish::Unknown) | None => false,
        };
        if self.said || explained {
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
) -> Result<Bytes, ProviderError> {
    let scrub = Redactor::new(credential::secrets(call));
    let asked = async {
        let request = credential::authorize(call, egress, clock, request(call, &post.map_err(unsent)?)?).await?;
        let response = egress.send(request).await?;
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
    request.deadlines = call.deadlines;
    request.max_bytes = MAX_ANSWER;
    // A model server that redirects is a wrong base URL; its answer to that is clearer than a lost key.
    request.max_redirects = 0;
    Ok(request)
}

fn is_stall(error: &net::Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout { phase: Phase::BetweenChunks, .. })
}

/// What ends a stream of events early.
#[derive(Debug)]
pub(super) enum EventFault {
    /// The connection failed.
    Bytes(net::Error),
    /// The framing is broken; says how.
    Framing(String),
}

impl From<Fault<net::Error>> for EventFault {
    fn from(fault: Fault<net::Error>) -> Self {
        match fault {
            Fault::Bytes(error) => Self::Bytes(error),
            Fault::TooLarge(error) => Self::Framing(error.to_string()),
        }
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
    let names = ["x-request-id", "request-id", "x-goog-request-id", "x-amzn-requestid", "cf-ray"];
    let value = names.iter().find_map(|name| response.headers.get(*name))?;
    Some(value.to_str().ok()?.to_owned())
}

/// Decodes a stream of server-sent events that is already here, as [`exchange`] would.
pub(super) fn read_all<D: Decode>(decoder: D, stream: &[u8]) -> Result<Vec<ModelEvent>, ProviderError> {
    let mut reader = sse::SseReader::new(D::EVENT_CAP);
    reader.feed(stream).map_err(|error| ProviderError::new(Class::Malformed, error.to_string()))?;
    let mut events: Vec<Event> = std::iter::from_fn(|| reader.next_event()).collect();
    events.extend(reader.finish());
    decode_all(decoder, events)
}

/// Decodes the events of a stream, as [`exchange`] would.
pub(super) fn decode_all<D: Decode>(mut decoder: D, stream: impl IntoIterator<Item = Event>) -> Result<Vec<ModelEvent>, ProviderError> {
    let mut events = Vec::new();
    let mut ended = false;
    for event in stream {
        if decoder.event(&event, &mut events)? == Flow::End {
            ended = true;
            break;
        }
    }
    if !ended && !decoder.is_whole() {
        return Err(ProviderError::new(Class::Cut, "the stream ended before its end mark"));
    }
    decoder.end(&mut events);
    Ok(events)
}

/// Decodes a whole answer that is already here, as [`exchange`] would.
pub(super) fn read_whole<D: Decode>(mut decoder: D, body: &[u8]) -> Result<Vec<ModelEvent>, ProviderError> {
    let mut events = Vec::new();
    decoder.whole(body, &mut events)?;
    decoder.end(&mut events);
    Ok(events)
}
