//! A run's events as server-sent events: LF frames, `id:` is the event's number, no `[DONE]`.

use aide::openapi::{MediaType, ReferenceOr, SchemaObject, StatusCode};
use aide::transform::TransformOperation;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::clock::Clock;
use crate::failpoint;
use crate::feed::Follower;
use crate::http::disconnect::OnDisconnect;
use crate::http::headers::event_stream;
use crate::http::limits::StreamSlot;
use crate::id::RunId;
use crate::model::EventRecord;
use crate::model::event::{Event, Rest};

const COMMENT: &str = ": keep-alive\n\n";
/// Where the client goes on, and how soon.
const RETRY: &str = "retry: 1000\n\n";

/// A page of a run's events, when they are not streamed.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventPage {
    pub execution_id: RunId,
    pub status: String,
    #[schemars(with = "Vec<PublicEvent>")]
    pub events: Vec<Value>,
    /// The cursor for the next call: `?after=`.
    pub after: Option<u64>,
}

/// An event with its place in the log, for the API document.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "DispatchEvent")]
#[expect(dead_code, reason = "describes what `EventRecord::write_public` writes")]
pub struct PublicEvent {
    execution_id: RunId,
    /// Rises by at least one from event to event; also the `id` of the server-sent event.
    seq: u64,
    #[serde(flatten)]
    event: Event,
}

/// Documents that an operation's good answer may also be the events one by one. The schema is that of one server-sent event,
/// its fields as OpenAPI 3.2 (section 4.14.4) names them.
pub fn or_events<'t>(mut operation: TransformOperation<'t>, whole: &str) -> TransformOperation<'t> {
    let event = aide::generate::in_context(|context| context.schema.subschema_for::<PublicEvent>());
    let json_schema = schemars::json_schema!({
        "type": "object",
        "required": ["id", "event", "data"],
        "properties": {
            "id": { "type": "string", "pattern": "^[0-9]+$", "description": "The event's `seq`: the cursor to come back with." },
            "event": { "type": "string", "description": "The event's `type`." },
            "data": { "type": "string", "contentMediaType": "application/json", "contentSchema": event },
        },
    });
    let schema = Some(SchemaObject { json_schema, external_docs: None, example: None });
    let responses = operation.inner_mut().responses.get_or_insert_default();
    if let Some(ReferenceOr::Item(answer)) = responses.responses.get_mut(&StatusCode::Code(200)) {
        answer.description = format!("{whole}, or its events as they come (one `DispatchEvent` per server-sent event)");
        answer.content.insert("text/event-stream".into(), MediaType { schema, ..MediaType::default() });
    }
    operation
}

/// Appends one frame.
pub fn write_frame(run: RunId, event: &EventRecord, out: &mut String) {
    let _ = std::fmt::Write::write_fmt(out, format_args!("id: {}\nevent: {}\ndata: ", event.seq, event.kind()));
    event.write_public(run, out);
    out.push_str("\n\n");
}

/// What one stream carries along.
struct Streaming {
    follower: Follower,
    run: RunId,
    clock: Clock,
    ends_at: tokio::time::Instant,
    done: bool,
    first: bool,
    guard: Option<OnDisconnect>,
    slot: StreamSlot,
}

/// Streams a run until it ends or waits for its caller.
pub fn stream_response(run: RunId, follower: Follower, clock: Clock, slot: StreamSlot, guard: Option<OnDisconnect>) -> Response {
    let ends_at = clock.instant() + slot.stream_time();
    let state = Streaming { follower, run, clock, ends_at, done: false, first: true, guard, slot };
    event_stream(Body::from_stream(stream::unfold(state, |mut state| async move {
        let part = state.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(part), state))
    })))
}

/// The stream of a reader who has read everything there is for now.
pub fn nothing_more() -> Response {
    event_stream(Body::empty())
}

impl Streaming {
    /// The next bytes: all events that are ready together leave in one write.
    async fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let stretch = tokio::select! {
            stretch = self.follower.next() => stretch,
            () = self.clock.sleep(self.slot.keep_alive()) => {
                if self.clock.instant() < self.ends_at {
                    return Some(Bytes::from_static(COMMENT.as_bytes()));
                }
                self.end();
                return Some(Bytes::from_static(RETRY.as_bytes()));
            }
        };
        let stretch = match stretch {
            Ok(stretch) => stretch,
            Err(error) => {
                // The cursor is the client's: it comes back and misses nothing.
                if error.code() == "shutting_down" {
                    tracing::debug!(run = %self.run, "a stream ends with the server");
                } else {
                    tracing::warn!(run = %self.run, ?error, "a stream broke off");
                }
                self.end();
                return Some(Bytes::from_static(RETRY.as_bytes()));
            }
        };
        if std::mem::take(&mut self.first) {
            failpoint::hit("http.first_byte");
        }
        let mut text = String::with_capacity(stretch.events.len() * 192);
        for event in &stretch.events {
            write_frame(self.run, event, &mut text);
        }
        if matches!(stretch.rest, Rest::End | Rest::Caller) {
            failpoint::hit("http.last_byte");
            self.end();
        }
        Some(text.into())
    }

    fn end(&mut self) {
        self.done = true;
        self.guard.take().into_iter().for_each(OnDisconnect::disarm);
    }
}
