//! `/dwp`: the whole protocol over a WebSocket.
//!
//! The first frame proves who calls; then each request is answered in its turn, and events come in between. A reader that is too slow loses events
//! first, and its connection when nothing can be written for a while; it never holds up anybody else. The key is looked at again with each request,
//! each event and each ping, so that a revoked one ends its connections.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::frame::{AnswerFrame, Frame, Refusal};
use super::pending::PendingPlace;
use super::rpc::invalid_frame;
use super::{Sockets, credentials, methods, read_channel, require_channel};
use crate::auth::Credentials;
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::extract::parse_object;
use crate::http::limits::StreamSlot;
use crate::http::problem::Problem;
use crate::id::EventId;
use crate::model::Caller;
use crate::queue::broker::{Delivery, Subscription};
use crate::secret::Secret;

/// From the connection's start until its first frame.
const AUTH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long writing one frame may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long saying goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a peer is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// A peer that says nothing for so long is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Channels that one connection listens to.
const MAX_SUBSCRIPTIONS: usize = 100;

pub(super) async fn upgrade(
    State(state): State<AppState>,
    Extension(sockets): Extension<Sockets>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|_| {
        let error = Error::new(Kind::Malformed, "upgrade_required", "this address speaks WebSocket")
            .next("open it with a WebSocket client, or send single requests to POST /dwp/rpc");
        Problem::new(StatusCode::UPGRADE_REQUIRED, error)
    })?;
    let place = sockets.admit_new();
    let limit = state.limits.body().raw;
    Ok(upgrade.max_message_size(limit).max_frame_size(limit).on_upgrade(move |socket| serve(state, sockets, place, socket)))
}

/// Serves a socket until it ends. `place`: what it holds until it is known whose it is.
async fn serve(state: AppState, sockets: Sockets, place: PendingPlace, socket: WebSocket) {
    let mut connection = Connection { state, socket };
    let refused = match connection.authenticate(&place).await {
        Ok(session) => {
            drop(place);
            match sockets.admit() {
                Ok(place) => {
                    session.run(connection).await;
                    drop(place);
                    return;
                }
                Err(error) => Some((String::new(), error.into())),
            }
        }
        Err(refused) => refused,
    };
    if let Some((to, refusal)) = refused {
        let answer = AnswerFrame::refusal(&connection.state.clock, &to, &refusal);
        if connection.send(&answer).await {
            connection.close(close_code::POLICY, "refused").await;
        }
    }
}

/// A socket, before it is known whose it is and after.
struct Connection {
    state: AppState,
    socket: WebSocket,
}

/// What a caller's connection has.
struct Session {
    credentials: Credentials,
    subscription: Subscription,
    _slot: StreamSlot,
    /// When the peer was last heard of.
    heard_at: Timestamp,
}

/// Why a connection is not begun: the frame that is refused, by its id, and the refusal. `None`: nobody is there to hear it.
type StartRefusal = Option<(String, Refusal)>;

/// What a first frame says.
#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthData {
    token: Option<Secret>,
}

/// What is subscribed to.
#[derive(Deserialize, Default)]
#[serde(default)]
struct ChannelData {
    channel: Option<String>,
    credits: i64,
}

/// What happens to a connection next.
enum Turn {
    Stop,
    Message(Option<Result<Message, axum::Error>>),
    Event(Delivery),
    Ping,
}

/// What follows a message.
enum Outcome {
    Silence,
    Answer(AnswerFrame),
    /// It is refused, and the connection ends.
    End(AnswerFrame),
}

impl Connection {
    /// Waits for the first frame and finds out who calls.
    async fn authenticate(&mut self, place: &PendingPlace) -> Result<Session, StartRefusal> {
        let (clock, feed) = (self.state.clock.clone(), self.state.feed.clone());
        let too_late = clock.now().after(AUTH_TIMEOUT);
        let text = loop {
            let message = tokio::select! {
                biased;
                () = feed.stopped() => return Err(None),
                message = self.socket.recv() => message,
                () = place.evicted() => return Err(None),
                () = clock.sleep_until(too_late) => {
                    let error = Error::new(Kind::Unauthenticated, "auth_timeout", "the connection's first frame did not come in time");
                    return Err(Some((String::new(), error.into())));
                }
            };
            match message {
                Some(Ok(Message::Text(text))) => break Bytes::from(text),
                Some(Ok(Message::Binary(bytes))) => break bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(None),
            }
        };
        let frame =
            parse_object::<Frame>(&text, self.state.limits.body().depth).map_err(|error| Some((String::new(), invalid_frame(error))))?;
        let id = frame.id.clone();
        let (session, answer) = begin(&self.state, frame).await.map_err(|refusal| Some((id, refusal)))?;
        if self.send(&answer).await { Ok(session) } else { Err(None) }
    }

    /// Sends a frame. `false`: the peer is gone, or does not read.
    async fn send(&mut self, answer: &AnswerFrame) -> bool {
        let text = serde_json::to_string(answer).unwrap_or_default();
        self.write(Message::text(text), WRITE_TIMEOUT).await
    }

    async fn write(&mut self, message: Message, limit: Duration) -> bool {
        let clock = self.state.clock.clone();
        tokio::select! {
            biased;
            sent = self.socket.send(message) => sent.is_ok(),
            () = clock.sleep(limit) => false,
        }
    }

    /// Says goodbye, if the peer hears it.
    async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        self.write(Message::Close(Some(frame)), CLOSE_TIMEOUT).await;
    }
}

/// The session of a first frame, and its answer.
async fn begin(state: &AppState, frame: Frame) -> Result<(Session, AnswerFrame), Refusal> {
    if frame.method != "auth" {
        return Err(Error::new(Kind::Malformed, "invalid_frame", "the first frame must be `auth`").into());
    }
    let token = methods::read::<AuthData>(frame.data)?.token.or(frame.token).filter(|token| !token.expose().is_empty());
    let missing = || Error::new(Kind::Unauthenticated, "missing_api_key", "the first frame needs an API key in `data.token`");
    let credentials = credentials(token.ok_or_else(missing)?);
    let caller = state.auth.authenticate(&credentials).await?;
    state.limits.count(caller.who).map_err(|limited| limited.error())?;
    let slot = state.limits.open_stream(caller.who)?;
    let now = state.clock.now();
    let subscription = state.jobs.broker().subscribe(caller.tenant, now);
    // Frames are JSON, whatever other format was asked for: clients go by what the answer says.
    let data = json!({ "format": "json", "session_id": format!("dwp_{}", EventId::new(&state.clock).suffix()) });
    let answer = AnswerFrame::response(&state.clock, &frame.id, data);
    Ok((Session { credentials, subscription, _slot: slot, heard_at: now }, answer))
}

impl Session {
    /// Answers requests and sends events until either side ends the connection.
    async fn run(mut self, mut connection: Connection) {
        let (clock, feed) = (connection.state.clock.clone(), connection.state.feed.clone());
        let mut ping_at = clock.now().after(PING_INTERVAL);
        loop {
            let turn = tokio::select! {
                biased;
                () = feed.stopped() => Turn::Stop,
                // Before all else: the key is checked then, and a peer that sends without a pause must not put it off.
                () = clock.sleep_until(ping_at) => Turn::Ping,
                message = connection.socket.recv() => Turn::Message(message),
                Some(delivery) = self.subscription.next() => Turn::Event(delivery),
            };
            let goes_on = match turn {
                Turn::Stop => {
                    connection.close(close_code::AWAY, "the server stops; connect again").await;
                    false
                }
                Turn::Message(message) => {
                    self.heard_at = clock.now();
                    self.take(&mut connection, message).await
                }
                Turn::Event(delivery) => {
                    self.check_key(&mut connection).await && connection.send(&AnswerFrame::event(&clock, &delivery)).await
                }
                Turn::Ping => {
                    ping_at = clock.now().after(PING_INTERVAL);
                    self.ping(&mut connection).await
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Takes a message. `false`: the connection ends.
    async fn take(&self, connection: &mut Connection, message: Option<Result<Message, axum::Error>>) -> bool {
        let text = match message {
            Some(Ok(Message::Text(text))) => Bytes::from(text),
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => return true,
            Some(Ok(Message::Close(_))) | None => return false,
            Some(Err(error)) => {
                // Mostly a frame that is too large; nothing after it can be read.
                tracing::debug!(%error, "a connection of the wire protocol broke off");
                connection.close(close_code::SIZE, "the frame cannot be read, or is too large").await;
                return false;
            }
        };
        match self.answer(&connection.state, &text).await {
            Outcome::Silence => true,
            Outcome::Answer(answer) => connection.send(&answer).await,
            Outcome::End(answer) => {
                if connection.send(&answer).await {
                    connection.close(close_code::POLICY, "not authenticated").await;
                }
                false
            }
        }
    }

    async fn answer(&self, state: &AppState, text: &[u8]) -> Outcome {
        let clock = &state.clock;
        let frame = match parse_object::<Frame>(text, state.limits.body().depth) {
            Ok(frame) => frame,
            Err(error) => return Outcome::Answer(AnswerFrame::refusal(clock, "", &invalid_frame(error))),
        };
        match frame.kind.as_str() {
            "ping" => return Outcome::Answer(AnswerFrame::pong(clock, &frame.id)),
            "pong" => return Outcome::Silence,
            _ => {}
        }
        if frame.credits > 0 {
            self.subscription.grant(frame.credits);
            return Outcome::Silence;
        }
        let id = frame.id.clone();
        match self.handle(state, frame).await {
            Ok(data) => Outcome::Answer(AnswerFrame::response(clock, &id, data)),
            Err(refusal) if refusal.error.kind() == Kind::Unauthenticated => Outcome::End(AnswerFrame::refusal(clock, &id, &refusal)),
            Err(refusal) => Outcome::Answer(AnswerFrame::refusal(clock, &id, &refusal)),
        }
    }

    async fn handle(&self, state: &AppState, frame: Frame) -> Result<Value, Refusal> {
        let caller = self.still(state).await?;
        state.limits.count(caller.who).map_err(|limited| limited.error())?;
        let channel = |data: &ChannelData| read_channel(data.channel.as_deref().or(frame.channel.as_deref()).unwrap_or_default());
        match frame.method.as_str() {
            "subscribe" => {
                let data: ChannelData = methods::read(frame.data)?;
                let channel = channel(&data)?;
                require_channel(&caller, &channel)?;
                if data.credits > 0 {
                    self.subscription.grant(data.credits);
                }
                let name = channel.to_string();
                if !self.subscription.add(channel, MAX_SUBSCRIPTIONS) {
                    let message = format!("this connection listens to {MAX_SUBSCRIPTIONS} channels, the most it may");
                    return Err(Error::new(Kind::Conflict, "too_many_subscriptions", message).next("unsubscribe from one first").into());
                }
                self.subscription.until_watched().await;
                Ok(json!({ "channel": name, "status": "subscribed" }))
            }
            "unsubscribe" => {
                let channel = channel(&methods::read(frame.data)?)?;
                self.subscription.remove(&channel);
                Ok(json!({ "channel": channel.to_string(), "status": "unsubscribed" }))
            }
            method => methods::handle(state, &caller, method, frame.data).await,
        }
    }

    /// The caller, whose key is still good.
    async fn still(&self, state: &AppState) -> Result<Caller> {
        state.auth.authenticate(&self.credentials).await
    }

    /// Asks whether the peer is there, and looks at its key. `false`: the connection ends.
    async fn ping(&self, connection: &mut Connection) -> bool {
        let clock = connection.state.clock.clone();
        if clock.now().since(self.heard_at) > IDLE_TIMEOUT {
            connection.close(close_code::AWAY, "nothing was heard for too long").await;
            return false;
        }
        self.check_key(connection).await && connection.write(Message::Ping(Bytes::new()), WRITE_TIMEOUT).await
    }

    /// Looks at the key again. `false`: it is not good any more; the peer was told, and the connection ends.
    async fn check_key(&self, connection: &mut Connection) -> bool {
        let Err(error) = self.still(&connection.state).await else { return true };
        if error.kind() != Kind::Unauthenticated {
            return true;
        }
        let answer = AnswerFrame::refusal(&connection.state.clock, "", &error.into());
        if connection.send(&answer).await {
            connection.close(close_code::POLICY, "not authenticated").await;
        }
        false
    }
}
