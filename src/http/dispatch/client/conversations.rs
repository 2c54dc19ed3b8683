//! Conversations: what was asked in a session, and which execution answered it.
//!
//! An answer is not copied here: it is the execution's output, read when the conversation is. So nothing has to be written when an
//! execution ends, on whichever server that is. What is stored is in `history`; the turns have rows of their own (`turns`).

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, patch_with};
use axum::Json;
use axum::extract::State;
use axum::http::header::{HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::TAG;
use super::bounds::{MAX_ID_BYTES, check_length};
use super::door::{Door, Guest};
pub(super) use super::history::{Conversation, forget};
use super::identity::Proof;
use super::turns;
use super::visitors::{self, Visitor};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::extract::{Body, Id, InPath, Params};
use crate::http::problem::Problem;
use crate::id::{ConversationId, FlowId, TenantId};
use crate::model::RunState;
use crate::secret::Secret;
use crate::store::{Collection, Kept};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/client/conversations",
            get_with(list, |op| {
                about("listClientConversations", TAG, "List a visitor's conversations, newest first")(op).response::<200, Json<List>>()
            })
            .delete_with(delete_all, |op| {
                about("deleteClientConversations", TAG, "Delete a visitor's conversations")(op).response::<200, Json<Deleted>>()
            }),
        )
        .api_route(
            "/v1/client/conversations/{conversationId}",
            get_with(read, |op| {
                about("getClientConversation", TAG, "Read one of a visitor's conversations")(op).response::<200, Json<Detail>>()
            })
            .delete_with(delete, |op| {
                about("deleteClientConversation", TAG, "Delete one of a visitor's conversations")(op).response::<200, Json<Deleted>>()
            }),
        )
        .api_route(
            "/v1/client/conversations/{conversationId}/display-projections",
            patch_with(project, |op| {
                about("projectClientConversation", TAG, "Keep what a page shows in the place of a message")(op)
                    .response::<200, Json<Revised>>()
            }),
        )
}

/// A conversation in a list.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConversationSummary")]
pub(super) struct Summary {
    id: ConversationId,
    target_id: String,
    /// The flow that it talks to; null for an agent.
    flow_id: Option<String>,
    /// The beginning of its first message; empty when that has no text.
    title: String,
    /// The beginning of its latest message.
    preview: Option<String>,
    turn_count: usize,
    /// Stored messages: those of the user, and an answer for each turn.
    message_count: usize,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl Summary {
    pub fn title(&self) -> &str {
        &self.title
    }

    pub fn of(kept: &Kept<Conversation>) -> Self {
        Self {
            id: kept.id,
            target_id: kept.body.target.clone(),
            flow_id: kept.body.target.parse::<FlowId>().is_ok().then(|| kept.body.target.clone()),
            title: kept.body.title().unwrap_or_default(),
            preview: kept.body.preview(),
            turn_count: kept.body.turn_count(),
            message_count: kept.body.message_count(),
            created_at: kept.created_at,
            updated_at: kept.updated_at,
        }
    }
}

/// A visitor's conversations.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConversationList")]
struct List {
    data: Vec<Summary>,
    next_cursor: Option<ConversationId>,
}

/// A conversation with a page of its messages.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConversationDetail")]
struct Detail {
    #[serde(flatten)]
    summary: Summary,
    conversation_revision: String,
    /// Oldest first.
    messages: Vec<Message>,
    /// Leads to earlier messages.
    next_message_cursor: Option<String>,
}

/// One message.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConversationMessage")]
struct Message {
    id: String,
    role: &'static str,
    /// What was said; absent while the answer is being written.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Value>,
    /// What the page shows instead, if it said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    display_content: Option<String>,
    display_available: bool,
    timestamp: Timestamp,
}

/// How many were deleted.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeletedConversations")]
struct Deleted {
    deleted: usize,
}

/// What a change made of a conversation.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RevisedConversation")]
struct Revised {
    conversation_revision: String,
}

/// Which session asks, and for what.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Query {
    session_id: String,
    cursor: Option<ConversationId>,
    /// 1 to 100; 20 when absent.
    limit: Option<usize>,
    target_id: Option<String>,
    message_cursor: Option<String>,
}

/// What a page shows in the place of messages.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "DisplayProjections")]
struct Projections {
    messages: Vec<Projection>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "DisplayProjection")]
struct Projection {
    id: String,
    /// At most 32,768 characters; 49,152 in one call.
    display_content: String,
}

const LONGEST_PROJECTION: usize = 32_768;
const LONGEST_BATCH: usize = 49_152;
/// Maximum number of messages in one call.
const MAX_PROJECTIONS: usize = 100;

/// The conversation was there.
pub(super) fn gone() -> Problem {
    let error = Error::new(Kind::Missing, "conversation_deleted", "conversation_deleted");
    Problem::new(StatusCode::GONE, error.next("open another session without `conversationId`"))
}

/// Changes whenever the conversation does. The end of an answer is seen in `messages`.
pub(super) fn revision(kept: &Kept<Conversation>) -> String {
    format!("r{}", kept.version)
}

pub(super) fn all(door: &Door, tenant: TenantId) -> Collection<'_, Conversation> {
    Collection::of(&*door.store, tenant)
}

/// A conversation that a visitor may come back to.
pub(super) async fn of_visitor(door: &Door, tenant: TenantId, visitor: &Kept<Visitor>, id: ConversationId) -> Result<Kept<Conversation>> {
    if !visitor.body.conversations.contains(&id) {
        return Err(ConversationId::missing());
    }
    all(door, tenant).find(id).await?.ok_or_else(ConversationId::missing)
}

/// Whoever asks for history: a session, and the visitor it belongs to.
async fn asks(door: &Door, session: &str, headers: &HeaderMap) -> Result<(Guest, Kept<Visitor>)> {
    let guest = door.guest(&Secret::new(session), headers).await?;
    let visitor = visitors::proven(door, &guest, headers).await?;
    Ok((guest, visitor))
}

/// An answer about history says what became of the identity proof.
fn told<T: Serialize>(guest: &Guest, headers: &HeaderMap, body: T) -> Response {
    const STATUS: HeaderName = HeaderName::from_static("x-history-identity-status");
    let status = Proof::of(headers).status(&guest.token.body.settings);
    ([(STATUS, HeaderValue::from_static(status))], Json(body)).into_response()
}

async fn list(State(door): State<Door>, headers: HeaderMap, Params(query): Params<Query>) -> Result<Response> {
    let (guest, visitor) = asks(&door, &query.session_id, &headers).await?;
    let limit = query.limit.unwrap_or(20).clamp(1, 100);
    let mut data = Vec::new();
    let mut next_cursor = None;
    let ids = visitor.body.conversations.iter().rev().filter(|id| query.cursor.is_none_or(|cursor| **id < cursor));
    for id in ids {
        let Some(found) = all(&door, guest.tenant).find(*id).await? else { continue };
        if found.body.turn_count() == 0 || query.target_id.as_ref().is_some_and(|target| *target != found.body.target) {
            continue;
        }
        if data.len() == limit {
            next_cursor = data.last().map(|summary: &Summary| summary.id);
            break;
        }
        data.push(Summary::of(&found));
    }
    Ok(told(&guest, &headers, List { data, next_cursor }))
}

async fn read(State(door): State<Door>, Id(id): Id<ConversationId>, headers: HeaderMap, Params(query): Params<Query>) -> Result<Response> {
    let (guest, visitor) = asks(&door, &query.session_id, &headers).await?;
    let found = of_visitor(&door, guest.tenant, &visitor, id).await?;
    let end = match &query.message_cursor {
        None => found.body.end(),
        Some(cursor) => {
            let wrong =
                || Error::new(Kind::Malformed, "invalid_cursor", "this cursor is none of this list's").next("start again without a cursor");
            cursor.parse().ok().filter(|end| *end <= found.body.end()).ok_or_else(wrong)?
        }
    };
    let (turns, earlier) = turns::page(&door, guest.tenant, &found, end).await?;
    let mut messages = Vec::new();
    for turn in &turns {
        messages
            .extend(turn.said.iter().map(|said| Message::new(said.id.clone(), "user", Some(said.content.clone()), &said.shown, turn.at)));
        let run = door.store.find_run(guest.tenant, turn.run).await?;
        let answer = run.filter(|run| run.state == RunState::Completed).map(|run| answer_of(run.output));
        let id = turn.answer.clone().unwrap_or_else(|| format!("answer_{}", turn.run.suffix()));
        messages.push(Message::new(id, "assistant", answer, &turn.shown, turn.at));
    }
    let detail = Detail {
        conversation_revision: revision(&found),
        summary: Summary::of(&found),
        messages,
        next_message_cursor: earlier.map(|number| number.to_string()),
    };
    Ok(told(&guest, &headers, detail))
}

impl Message {
    fn new(id: String, role: &'static str, content: Option<Value>, shown: &Option<String>, timestamp: Timestamp) -> Self {
        Self { id, role, display_content: shown.clone(), display_available: content.is_some() || shown.is_some(), content, timestamp }
    }
}

/// What an execution said in the end.
fn answer_of(output: Option<Value>) -> Value {
    let output = output.unwrap_or_default();
    output.get("response").cloned().unwrap_or(output)
}

async fn project(
    State(door): State<Door>,
    Id(id): Id<ConversationId>,
    headers: HeaderMap,
    Params(query): Params<Query>,
    body: Body<Projections>,
) -> Result<Response> {
    let (guest, visitor) = asks(&door, &query.session_id, &headers).await?;
    let found = of_visitor(&door, guest.tenant, &visitor, id).await?;
    let mut problems = Problems::default();
    if body.value.messages.len() > MAX_PROJECTIONS {
        return Err(Error::invalid_at("/messages", format!("expected at most {MAX_PROJECTIONS} messages in one call")));
    }
    for (index, message) in body.value.messages.iter().enumerate() {
        check_length(&mut problems, format!("/messages/{index}/id"), Some(message.id.as_str()), MAX_ID_BYTES);
    }
    let lengths: Vec<usize> = body.value.messages.iter().map(|message| message.display_content.chars().count()).collect();
    for (index, length) in lengths.iter().enumerate().filter(|(_, length)| **length > LONGEST_PROJECTION) {
        problems.add(format!("/messages/{index}/displayContent"), format!("{length} characters are more than {LONGEST_PROJECTION}"));
    }
    if lengths.iter().sum::<usize>() > LONGEST_BATCH {
        problems.add("/messages", format!("expected at most {LONGEST_BATCH} characters together"));
    }
    problems.into_result()?;
    let texts: Vec<(String, String)> = body.value.messages.into_iter().map(|message| (message.id, message.display_content)).collect();
    let kept = turns::show(&door, guest.tenant, found, &texts).await?.ok_or_else(ConversationId::missing)?;
    Ok(told(&guest, &headers, Revised { conversation_revision: revision(&kept) }))
}

async fn delete(
    State(door): State<Door>,
    Id(id): Id<ConversationId>,
    headers: HeaderMap,
    Params(query): Params<Query>,
) -> Result<Response> {
    let (guest, visitor) = asks(&door, &query.session_id, &headers).await?;
    of_visitor(&door, guest.tenant, &visitor, id).await?;
    let deleted = remove(&door, &guest, &visitor, vec![id]).await?;
    Ok(told(&guest, &headers, Deleted { deleted }))
}

async fn delete_all(State(door): State<Door>, headers: HeaderMap, Params(query): Params<Query>) -> Result<Response> {
    let (guest, visitor) = asks(&door, &query.session_id, &headers).await?;
    let mut wanted = Vec::new();
    for id in &visitor.body.conversations {
        let found = all(&door, guest.tenant).find(*id).await?;
        if found.is_some_and(|found| query.target_id.as_ref().is_none_or(|target| *target == found.body.target)) {
            wanted.push(*id);
        }
    }
    let deleted = remove(&door, &guest, &visitor, wanted).await?;
    Ok(told(&guest, &headers, Deleted { deleted }))
}

async fn remove(door: &Door, guest: &Guest, visitor: &Kept<Visitor>, ids: Vec<ConversationId>) -> Result<usize> {
    let mut deleted = 0;
    for id in &ids {
        turns::delete_all(door, guest.tenant, *id).await?;
        deleted += usize::from(all(door, guest.tenant).delete(*id).await?);
    }
    visitors::change(door, guest.tenant, visitor, |known| known.retain(|id| !ids.contains(id))).await?;
    Ok(deleted)
}
