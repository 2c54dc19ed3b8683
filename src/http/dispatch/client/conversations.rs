//! Conversations: what was asked in a session, and which execution answered it.
//!
//! An answer is not copied here: it is the execution's output, read when the conversation is. So nothing has to be written when an
//! execution ends, on whichever server that is. The turns have rows of their own (`turns`).

use std::time::Duration;

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
use super::identity::Proof;
use super::turns::{self, Turn, TurnRow};
use super::visitors::{self, Visitor};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::extract::{Body, Id, InPath, Params};
use crate::http::limits::ConversationLimits;
use crate::http::problem::Problem;
use crate::id::{ClientTokenId, ConversationId, TenantId, VisitorId};
use crate::model::RunState;
use crate::secret::Secret;
use crate::store::{Collection, Document, Kept, SharedStore, StoreResult};

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

/// A stored conversation, without its turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Conversation {
    token: ClientTokenId,
    target: String,
    visitor: Option<VisitorId>,
    /// The beginning of its first message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// The number of the next turn.
    #[serde(default)]
    next: u32,
    /// The sizes in bytes of the stored turns, oldest first; 0 for a number that has not been written yet.
    #[serde(default)]
    sizes: Vec<u32>,
    /// When it is deleted. Absent in conversations of earlier versions until their next message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forget_at: Option<Timestamp>,
    /// The turns of a conversation from an earlier version, which stored them in this row. The next turn moves them to rows of their own.
    #[serde(rename = "turns", default, skip_serializing_if = "Vec::is_empty")]
    old: Vec<Turn>,
}

impl Document for Conversation {
    const KIND: &'static str = "conversation";
    type Id = ConversationId;

    fn parent(&self) -> Option<String> {
        Some(self.token.to_string())
    }

    fn due_at(&self) -> Option<Timestamp> {
        self.forget_at
    }
}

/// How long a conversation without messages is stored: longer than any session lives without a message.
const EMPTY_TTL: Duration = Duration::from_secs(31 * 24 * 3_600);
/// How long a conversation is stored after its last message.
const CONVERSATION_TTL: Duration = Duration::from_secs(365 * 24 * 3_600);
/// Maximum number of conversations that one sweep deletes.
const SWEEP: u32 = 500;

impl Conversation {
    pub fn new(token: ClientTokenId, target: String, visitor: Option<VisitorId>, now: Timestamp) -> Self {
        let forget_at = Some(now.after(EMPTY_TTL));
        Self { token, target, visitor, title: None, next: 0, sizes: Vec::new(), forget_at, old: Vec::new() }
    }

    /// Returns the turns in this row.
    pub fn old(&self) -> &[Turn] {
        &self.old
    }

    /// Returns the number of the oldest stored turn.
    pub fn first(&self) -> u32 {
        self.next.saturating_sub(u32::try_from(self.sizes.len()).unwrap_or(u32::MAX))
    }

    /// Returns the number after its last turn.
    pub fn end(&self) -> u32 {
        if self.old.is_empty() { self.next } else { u32::try_from(self.old.len()).unwrap_or(u32::MAX) }
    }

    /// Records the size of a written turn, and removes the oldest turns beyond the limits.
    pub fn note(&mut self, number: u32, bytes: u32, limits: &ConversationLimits) {
        while self.next <= number {
            self.sizes.push(0);
            self.next += 1;
        }
        let first = self.first();
        // A turn that was deleted in the meantime does not count.
        if number >= first
            && let Some(size) = self.sizes.get_mut((number - first) as usize)
        {
            *size = bytes;
        }
        while self.sizes.len() > 1 && (self.sizes.len() > limits.max_turns || self.bytes() > limits.max_bytes) {
            self.sizes.remove(0);
        }
    }

    fn bytes(&self) -> u64 {
        self.sizes.iter().map(|size| u64::from(*size)).sum()
    }

    /// Records that its old turns now have rows of their own, with these numbers and sizes.
    pub fn forget_old(&mut self, moved: &[(u32, u32)], limits: &ConversationLimits) {
        if !self.old.is_empty() {
            self.old.clear();
            moved.iter().for_each(|(number, bytes)| self.note(*number, *bytes, limits));
        }
    }

    /// Sets the title, unless it has one.
    pub fn begin_with(&mut self, title: Option<&String>) {
        if self.title.is_none() {
            self.title = title.cloned();
        }
    }

    /// Records a message at this time.
    pub fn keep_from(&mut self, now: Timestamp) {
        self.forget_at = Some(now.after(CONVERSATION_TTL));
    }

    fn turn_count(&self) -> usize {
        if self.old.is_empty() { self.sizes.iter().filter(|size| **size > 0).count() } else { self.old.len() }
    }

    fn title(&self) -> Option<String> {
        self.title.clone().or_else(|| self.old.iter().find_map(Turn::title))
    }
}

/// Deletes conversations whose time has come; returns how many.
pub(super) async fn forget(store: &SharedStore, now: Timestamp) -> StoreResult<u64> {
    let mut forgotten = 0;
    for (tenant, row) in store.due_documents(Conversation::KIND, now, &[], SWEEP).await? {
        let parent = format!("{}_{}", ConversationId::PREFIX, row.id);
        store.delete_documents_of(tenant, TurnRow::KIND, &parent).await?;
        forgotten += u64::from(store.delete_document(tenant, Conversation::KIND, &row.id).await?);
    }
    Ok(forgotten)
}

/// A conversation in a list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConversationSummary")]
pub(super) struct Summary {
    id: ConversationId,
    target_id: String,
    /// The beginning of its first message.
    title: Option<String>,
    turn_count: usize,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl Summary {
    pub fn of(kept: &Kept<Conversation>) -> Self {
        Self {
            id: kept.id,
            target_id: kept.body.target.clone(),
            title: kept.body.title(),
            turn_count: kept.body.turn_count(),
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
