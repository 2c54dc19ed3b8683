//! Frames: the one form of everything that is said in this protocol.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::error::{Error, Kind};
use crate::http::admin::time::AdminTime;
use crate::id::EventId;
use crate::queue::broker::{Delivery, StreamEvent};
use crate::secret::Secret;

/// A frame that came. Whose it is follows from its token; an `app_id` or `org_id` of a frame says nothing.
#[derive(Deserialize)]
#[serde(default)]
pub(super) struct Frame {
    /// The caller's name for it; what answers it says so in `correl_id`.
    pub id: String,
    /// `request` and `ping` are answered.
    #[serde(rename = "type")]
    pub kind: String,
    pub method: String,
    pub token: Option<Secret>,
    pub data: Value,
    pub channel: Option<String>,
    /// Events that may come besides; such a frame says nothing else.
    pub credits: i64,
}

impl Default for Frame {
    fn default() -> Self {
        Self { id: String::new(), kind: "request".into(), method: String::new(), token: None, data: Value::Null, channel: None, credits: 0 }
    }
}

/// A frame that goes out. Members that are empty are left out.
#[derive(Debug, Serialize)]
pub(super) struct AnswerFrame {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    correl_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<FrameError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    ts: AdminTime,
}

/// What went wrong.
#[derive(Debug, Serialize)]
struct FrameError {
    /// The status that the call would have over HTTP.
    code: u16,
    message: String,
    /// The stable code of docs/errors.md.
    details: String,
}

/// A refused request: the error, and the code that this protocol has for it.
pub(super) struct Refusal {
    pub code: u16,
    pub error: Error,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        // There is one code for input that is wrong.
        let code = if error.kind() == Kind::Invalid { Kind::Malformed.status() } else { error.kind().status() };
        Self { code, error }
    }
}

impl AnswerFrame {
    fn new(clock: &Clock, kind: &'static str, to: &str) -> Self {
        Self {
            id: format!("frm_{}", EventId::new(clock).suffix()),
            kind,
            correl_id: (!to.is_empty()).then(|| to.to_owned()),
            data: None,
            error: None,
            channel: None,
            ts: AdminTime(clock.now()),
        }
    }

    /// What a request came to.
    pub fn response(clock: &Clock, to: &str, data: Value) -> Self {
        Self { data: Some(data), ..Self::new(clock, "response", to) }
    }

    /// Why a request was refused. The cause of a fault of ours goes to the log.
    pub fn refusal(clock: &Clock, to: &str, refusal: &Refusal) -> Self {
        let Refusal { code, error } = refusal;
        if error.kind() == Kind::Internal {
            tracing::error!(code = error.code(), ?error, "a request of the wire protocol failed");
        }
        let error = FrameError { code: *code, message: error.message().to_owned(), details: error.code().to_owned() };
        Self { error: Some(error), ..Self::new(clock, "error", to) }
    }

    /// The answer to a `ping`.
    pub fn pong(clock: &Clock, to: &str) -> Self {
        Self::new(clock, "pong", to)
    }

    /// An event, under the channel that was subscribed to.
    pub fn event(clock: &Clock, delivery: &Delivery) -> Self {
        let (channel, data) = (Some(delivery.channel.to_string()), Some(event_data(&delivery.event)));
        Self { channel, data, ..Self::new(clock, "event", "") }
    }
}

/// An event as streams show it.
pub(super) fn event_data(event: &StreamEvent) -> Value {
    json!({ "type": event.kind, "ts": AdminTime(event.at), "topic": event.topic().to_string(), "data": event.data })
}
