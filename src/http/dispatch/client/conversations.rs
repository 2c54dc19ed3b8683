//! Conversations: what was asked in a session, and which execution answered it.
//!
//! An answer is not copied here: it is the execution's output, read when the conversation is. So nothing has to be written when an
//! execution ends, on whichever server that is.

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
use super::door::{Door, Guest};
use super::identity::Proof;
use super::visitors::{self, Visitor};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::extract::{Body, Id, InPath, Params};
use crate::http::problem::Problem;
use crate::id::{ClientTokenId, ConversationId, RunId, TenantId, VisitorId};
use crate::model::RunState;
use crate::secret::Secret;
use crate::store::{Collection, Document, Kept};

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

/// A conversation as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Conversation {
    token: ClientTokenId,
    target: String,
    visitor: Option<VisitorId>,
    pub turns: Vec<Turn>,
}

/// What the user said, and what answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Turn {
    pub said: Vec<Said>,
    pub run: RunId,
    /// The id that the page gave the answer.
    pub answer: Option<String>,
    /// What the page shows in the answer's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<String>,
    pub at: Timestamp,
}

/// One message of the user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Said {
    pub id: String,
    pub content: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<String>,
}

impl Document for Conversation {
    const KIND: &'static str = "conversation";
    type Id = ConversationId;

    fn parent(&self) -> Option<String> {
        Some(self.token.to_string())
    }
}

/// Turns that a conversation keeps; the oldest are let go.
const MOST_TURNS: usize = 200;
/// Bytes of one message that a conversation keeps: a page may send megabytes, and a conversation is read and written whole.
const LONGEST_SAID: usize = 16 * 1024;
/// Characters of a title.
const TITLE: usize = 80;

impl Conversation {
    pub fn new(token: ClientTokenId, target: String, visitor: Option<VisitorId>) -> Self {
        Self { token, target, visitor, turns: Vec::new() }
    }

    pub fn add(&mut self, turn: Turn) {
        self.turns.push(turn);
        let surplus = self.turns.len().saturating_sub(MOST_TURNS);
        self.turns.drain(..surplus);
    }

    fn title(&self) -> Option<String> {
        let first = self.turns.iter().flat_map(|turn| &turn.said).next()?;
        Some(text_of(&first.content).chars().take(TITLE).collect())
    }
}

impl Said {
    /// A message as a conversation keeps it: of one that is very long, how its text begins.
    pub fn new(id: String, content: Value, shown: Option<String>) -> Self {
        let short = |text: String| {
            text.chars()
                .scan(0, |bytes, letter| {
                    *bytes += letter.len_utf8();
                    (*bytes <= LONGEST_SAID).then_some(letter)
                })
                .collect::<String>()
        };
        let content = if content.to_string().len() <= LONGEST_SAID { content } else { Value::String(short(text_of(&content))) };
        Self { id: id.chars().take(LONGEST_ID).collect(), content, shown: shown.map(short) }
    }
}

/// Characters of a message's id that are kept.
const LONGEST_ID: usize = 200;

/// A message's text, whether it came as a text or in parts.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    }
}

/// A conversation in a list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConversationSummary")]
pub(super) struct Summary {
    id: ConversationId,
    target_id: String,
    /// How its first message begins.
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
            turn_count: kept.body.turns.len(),
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
/// Turns on a page of messages.
const PAGE: usize = 50;

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
        if found.body.turns.is_empty() || query.target_id.as_ref().is_some_and(|target| *target != found.body.target) {
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
    let turns = &found.body.turns;
    let end = match &query.message_cursor {
        None => turns.len(),
        Some(cursor) => {
            let wrong =
                || Error::new(Kind::Malformed, "invalid_cursor", "this cursor is none of this list's").next("start again without a cursor");
            cursor.parse().ok().filter(|end| *end <= turns.len()).ok_or_else(wrong)?
        }
    };
    let begin = end.saturating_sub(PAGE);
    let mut messages = Vec::new();
    for turn in &turns[begin..end] {
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
        next_message_cursor: (begin > 0).then(|| begin.to_string()),
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
    let lengths: Vec<usize> = body.value.messages.iter().map(|message| message.display_content.chars().count()).collect();
    for (index, length) in lengths.iter().enumerate().filter(|(_, length)| **length > LONGEST_PROJECTION) {
        problems.add(format!("/messages/{index}/displayContent"), format!("{length} characters are more than {LONGEST_PROJECTION}"));
    }
    if lengths.iter().sum::<usize>() > LONGEST_BATCH {
        problems.add("/messages", format!("expected at most {LONGEST_BATCH} characters together"));
    }
    problems.into_result()?;
    let edit = |conversation: &mut Conversation| {
        for message in &body.value.messages {
            let shown = Some(message.display_content.clone());
            for turn in &mut conversation.turns {
                turn.said.iter_mut().filter(|said| said.id == message.id).for_each(|said| said.shown.clone_from(&shown));
                if turn.answer.as_ref() == Some(&message.id) {
                    turn.shown.clone_from(&shown);
                }
            }
        }
        Ok::<_, Error>(())
    };
    let kept = all(&door, guest.tenant).amend(found, door.clock.now(), edit).await?.ok_or_else(ConversationId::missing)?;
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
        deleted += usize::from(all(door, guest.tenant).delete(*id).await?);
    }
    visitors::change(door, guest.tenant, visitor, |known| known.retain(|id| !ids.contains(id))).await?;
    Ok(deleted)
}
