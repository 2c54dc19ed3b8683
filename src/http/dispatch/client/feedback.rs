//! `POST /v1/client/feedback`: what a user says of an answer.

use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::TAG;
use super::bounds::{MAX_FEEDBACK, MAX_FEEDBACK_METADATA_BYTES, MAX_ID_BYTES, json_len};
use super::door::Door;
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::extract::Body;
use crate::id::{ClientTokenId, ConversationId, FeedbackId};
use crate::secret::Secret;
use crate::store::{Collection, Document};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route("/v1/client/feedback", post_with(send, about("sendFeedback", TAG, "Say something of an answer")))
}

/// The kinds of feedback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "FeedbackType")]
pub(super) enum Type {
    Upvote,
    Downvote,
    Copy,
    Csat,
    Nps,
}

impl Type {
    /// The marks that it takes.
    fn ratings(self) -> Option<std::ops::RangeInclusive<u32>> {
        match self {
            Self::Csat => Some(1..=5),
            Self::Nps => Some(0..=10),
            Self::Upvote | Self::Downvote | Self::Copy => None,
        }
    }
}

/// A word on an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FeedbackBody")]
pub(super) struct Feedback {
    #[serde(skip)]
    #[schemars(skip)]
    token: Option<ClientTokenId>,
    /// When it is deleted.
    #[serde(skip)]
    #[schemars(skip)]
    forget_at: Option<Timestamp>,
    pub conversation_id: ConversationId,
    #[serde(rename = "type")]
    kind: Type,
    message_id: Option<String>,
    rating: Option<u32>,
    comment: Option<String>,
    metadata: Option<Map<String, Value>>,
}

impl Document for Feedback {
    const KIND: &'static str = "feedback";
    type Id = FeedbackId;

    fn parent(&self) -> Option<String> {
        self.token.map(|token| token.to_string())
    }

    fn due_at(&self) -> Option<Timestamp> {
        self.forget_at
    }
}

/// What a page sends.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FeedbackRequest")]
struct Request {
    /// The client token. The session proves the page; it is not looked at.
    #[serde(default)]
    #[expect(dead_code, reason = "part of the contract; the session says whose it is")]
    token: Option<Secret>,
    session_id: Secret,
    #[serde(rename = "type")]
    kind: Type,
    /// Required for `upvote`, `downvote` and `copy`.
    #[serde(default)]
    message_id: Option<String>,
    /// 1 to 5 for `csat`, 0 to 10 for `nps`.
    #[serde(default)]
    rating: Option<u32>,
    /// At most 5,000 characters.
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
}

/// It was taken.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FeedbackTaken")]
struct Taken {
    /// Always true.
    success: bool,
    feedback_id: FeedbackId,
}

const LONGEST_COMMENT: usize = 5_000;
/// How long feedback is stored.
const FEEDBACK_TTL: Duration = Duration::from_secs(365 * 24 * 3_600);

async fn send(State(door): State<Door>, headers: HeaderMap, body: Body<Request>) -> Result<Json<Taken>> {
    let request = body.value;
    let mut guest = door.guest(&request.session_id, &headers).await?;
    let mut problems = Problems::default();
    match (request.kind.ratings(), request.rating) {
        (Some(marks), rating) if rating.is_none_or(|rating| !marks.contains(&rating)) => {
            problems.add("/rating", format!("expected {} to {}", marks.start(), marks.end()));
        }
        (None, _) if request.message_id.is_none() => problems.add("/messageId", "expected the id of the answer"),
        _ => {}
    }
    if request.message_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > MAX_ID_BYTES) {
        problems.add("/messageId", format!("expected 1 to {MAX_ID_BYTES} bytes"));
    }
    if request.metadata.as_ref().is_some_and(|metadata| json_len(metadata) > MAX_FEEDBACK_METADATA_BYTES) {
        problems.add("/metadata", format!("expected at most {MAX_FEEDBACK_METADATA_BYTES} bytes of JSON"));
    }
    if request.comment.as_ref().is_some_and(|comment| comment.chars().count() > LONGEST_COMMENT) {
        problems.add("/comment", format!("expected at most {LONGEST_COMMENT} characters"));
    }
    problems.into_result()?;
    door.change(&mut guest, |session| {
        if session.feedback >= MAX_FEEDBACK {
            let message = format!("a session may give feedback {MAX_FEEDBACK} times");
            return Err(Error::new(Kind::Limited, "session_feedback_limit", message).next("open another session"));
        }
        session.feedback += 1;
        Ok(())
    })
    .await?;
    let now = door.clock.now();
    let feedback = Feedback {
        token: Some(guest.token.id),
        forget_at: Some(now.after(FEEDBACK_TTL)),
        conversation_id: guest.session.body.conversation,
        kind: request.kind,
        message_id: request.message_id,
        rating: request.rating,
        comment: request.comment,
        metadata: request.metadata,
    };
    let id = FeedbackId::new(&door.clock);
    Collection::of(&*door.store, guest.tenant).create(id, feedback, now).await?;
    Ok(Json(Taken { success: true, feedback_id: id }))
}
