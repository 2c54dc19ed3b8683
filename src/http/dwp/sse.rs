//! `GET /dwp/sse`: the events of one channel as server-sent events, for those who cannot open a WebSocket.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;

use super::frame::event_data;
use super::{credentials, read_channel, require_channel};
use crate::auth::{Auth, Credentials};
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::feed::Feed;
use crate::http::AppState;
use crate::http::extract::Params;
use crate::http::headers::event_stream;
use crate::http::limits::StreamSlot;
use crate::queue::broker::Subscription;
use crate::secret::Secret;

/// Interval of keep-alive comments. The key is checked with each of them, and with each event.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What is listened to, and by whom.
#[derive(Deserialize)]
pub(super) struct Query {
    /// An API key; the header `Authorization` is read when it is absent.
    token: Option<Secret>,
    channel: Option<String>,
}

pub(super) async fn open(State(state): State<AppState>, headers: HeaderMap, Params(query): Params<Query>) -> Result<Response> {
    let header = || headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).map(Secret::new);
    let missing =
        || Error::new(Kind::Unauthenticated, "missing_api_key", "this call needs an API key").next("send it in the query as `token`");
    let token = query.token.filter(|token| !token.expose().is_empty()).or_else(header).ok_or_else(missing)?;
    let credentials = credentials(token);
    let caller = state.auth.authenticate(&credentials).await?;
    state.limits.count(caller.who).map_err(|limited| limited.error())?;
    let channel = read_channel(query.channel.as_deref().unwrap_or_default())?;
    require_channel(&caller, &channel)?;
    let slot = state.limits.open_stream(caller.who)?;
    let subscription = state.jobs.broker().subscribe(caller.tenant, state.clock.now());
    subscription.add(channel, 1);
    subscription.until_watched().await;
    let AppState { auth, feed, clock, .. } = state;
    let check_at = clock.now().after(KEEP_ALIVE);
    let streaming = Streaming { subscription, auth, credentials, feed, clock, check_at, started: false, done: false, _slot: slot };
    let body = Body::from_stream(stream::unfold(streaming, |mut streaming| async move {
        let part = streaming.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(part), streaming))
    }));
    Ok(event_stream(body))
}

/// What one stream carries along.
struct Streaming {
    subscription: Subscription,
    auth: Auth,
    credentials: Credentials,
    feed: Feed,
    clock: Clock,
    /// When the key is checked next.
    check_at: Timestamp,
    /// The first part has been sent, which says that the stream is there.
    started: bool,
    done: bool,
    _slot: StreamSlot,
}

impl Streaming {
    /// Ends the stream if its key was revoked or has expired.
    async fn check_key(&mut self) {
        let known = self.auth.authenticate(&self.credentials).await;
        self.done = known.is_err_and(|error| error.kind() == Kind::Unauthenticated);
    }

    async fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        if !self.started {
            self.started = true;
            return Some(Bytes::from_static(b": connected\n\n"));
        }
        let feed = self.feed.clone();
        let delivery = tokio::select! {
            biased;
            () = feed.stopped() => None,
            () = self.clock.sleep_until(self.check_at) => {
                self.check_at = self.clock.now().after(KEEP_ALIVE);
                self.check_key().await;
                return (!self.done).then(|| Bytes::from_static(b": keep-alive\n\n"));
            }
            delivery = self.subscription.next() => delivery,
        };
        let Some(delivery) = delivery else {
            self.done = true;
            return Some(Bytes::from_static(b"retry: 1000\n\n"));
        };
        self.check_key().await;
        if self.done {
            return None;
        }
        let data = event_data(&delivery.event);
        Some(format!("event: {}\ndata: {data}\n\n", delivery.event.kind).into())
    }
}
