//! `/api/runs/{run}/events`: what a run tells, at once, when something comes, or as a stream.

use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, HeaderMap};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::door::Reader;
use super::event_encoder::{EventEncoder, RunEvent, number};
use super::runs::{Status, flow_of};
use super::{Run, about};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::feed::Follower;
use crate::http::AppState;
use crate::http::extract::{Id, Params};
use crate::http::headers::event_stream;
use crate::http::limits::StreamSlot;
use crate::model::event::Rest;
use crate::model::{Caller, EventRecord};

const TAG: &str = "HTTP workflow runs";
/// Events of one answer.
const MOST: usize = 500;
/// Segments that are read at once.
const SEGMENTS: u32 = 64;
/// The longest wait for something to come.
const LONGEST_WAIT: u64 = 30;
const LAST_EVENT_ID: &str = "last-event-id";

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/api/runs/{run}/events",
        get_with(read, |op| {
            about("listHttpRunEvents", TAG, "List the events of a run, oldest first; with `Accept: text/event-stream` as they come")(op)
                .response::<200, Json<Page>>()
        }),
    )
}

/// Events.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpRunEvents")]
struct Page {
    events: Vec<RunEvent>,
    /// The cursor of the next call: `?after=`.
    last: u64,
    status: Status,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Query {
    /// Only events after this number.
    after: Option<u64>,
    /// Seconds to wait for something to come when there is nothing; 30 at most.
    wait: Option<u64>,
}

async fn read(
    reader: Reader,
    axum::Extension(caller): axum::Extension<Caller>,
    State(state): State<AppState>,
    Id(id): Id<Run>,
    Params(query): Params<Query>,
    headers: HeaderMap,
) -> Result<Response> {
    let run = reader.find(&state.store, id).await?;
    let encoder = EventEncoder::new(&run, &flow_of(&state.store, &run).await?);
    let header = headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok());
    let header = header.map(|text| text.trim().parse::<u64>().map_err(|_| wrong_cursor())).transpose()?;
    let after = query.after.or(header).unwrap_or(0);
    // The log counts from 0.
    let cursor = after.checked_sub(1);
    let streams = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accept| accept.contains("text/event-stream"));
    if streams {
        let slot = state.limits.open_stream(caller.who)?;
        let follower = state.feed.follow(run.tenant, run.id, cursor);
        return Ok(stream_of(Streaming { follower, encoder, clock: state.clock.clone(), done: false, slot }));
    }
    let mut found = committed(&state, &run, cursor).await?;
    let wait = Duration::from_secs(query.wait.unwrap_or(0).min(LONGEST_WAIT));
    if found.is_empty() && !wait.is_zero() && !run.state.is_terminal() {
        let mut follower = state.feed.follow(run.tenant, run.id, cursor);
        tokio::select! {
            stretch = follower.next() => found = stretch?.events,
            () = state.clock.sleep(wait) => {}
        }
    }
    let last = found.last().map_or(after, |event| number(event.seq));
    let status = Status::of(state.store.find_run(run.tenant, run.id).await?.map_or(run.state, |run| run.state));
    Ok(Json(Page { events: found.iter().filter_map(|record| encoder.encode(record)).collect(), last, status }).into_response())
}

fn wrong_cursor() -> Error {
    Error::new(Kind::Malformed, "invalid_cursor", "`Last-Event-ID` is the number of an event")
}

/// The committed events after a place, as many as one answer holds.
async fn committed(state: &AppState, run: &crate::model::Run, mut after: Option<u64>) -> Result<Vec<EventRecord>> {
    let mut found: Vec<EventRecord> = Vec::new();
    while found.len() < MOST {
        let segments = state.store.read_log(run.tenant, run.id, after, SEGMENTS).await?;
        let Some(last) = segments.last().map(|segment| segment.last()) else { break };
        let beyond = after;
        found
            .extend(segments.into_iter().flat_map(|segment| segment.events).filter(|event| beyond.is_none_or(|beyond| event.seq > beyond)));
        after = Some(last);
    }
    found.truncate(MOST);
    Ok(found)
}

/// What one stream carries along.
struct Streaming {
    follower: Follower,
    encoder: EventEncoder,
    clock: Clock,
    done: bool,
    slot: StreamSlot,
}

fn stream_of(state: Streaming) -> Response {
    let body = Body::from_stream(stream::unfold(state, |mut state| async move {
        let part = state.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(part), state))
    }));
    event_stream(body)
}

impl Streaming {
    async fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let stretch = tokio::select! {
            stretch = self.follower.next() => stretch,
            () = self.clock.sleep(self.slot.keep_alive()) => return Some(Bytes::from_static(b": keep-alive\n\n")),
        };
        let Ok(stretch) = stretch else {
            // The cursor is the client's: it comes back and misses nothing.
            self.done = true;
            return Some(Bytes::from_static(b"retry: 1000\n\n"));
        };
        let mut text = String::new();
        for event in stretch.events.iter().filter_map(|record| self.encoder.encode(record)) {
            let data = serde_json::to_string(&event).unwrap_or_default();
            let _ = std::fmt::Write::write_fmt(&mut text, format_args!("id: {}\nevent: {}\ndata: {data}\n\n", event.seq, event.kind));
        }
        self.done = stretch.rest == Rest::End;
        Some(text.into())
    }
}
