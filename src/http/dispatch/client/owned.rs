//! Conversations as the owner of their client tokens sees them: `GET /v1/conversations`, and those of one token.

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conversations::{Conversation, Summary};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::extract::Params;
use crate::http::paging::{Pagination, Paging};
use crate::http::scope::{ClientTokensRead, Scoped};
use crate::id::{ConversationId, TenantId};
use crate::store::{Collection, Kept, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/v1/conversations",
        get_with(list, about("listConversations", "Client tokens", "List the conversations that pages had, newest first")),
    )
}

/// Conversations that may be passed over.
const MAX_OFFSET: u32 = 5_000;

/// A conversation of a page.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "OwnedConversation")]
struct Row {
    #[serde(flatten)]
    summary: Summary,
    /// Same as `title`.
    name: String,
    /// Same as `title`.
    first_message: String,
    /// Always `client_token`: it was had with a page.
    source: &'static str,
    /// Always empty: origins are not kept.
    origin: &'static str,
    #[serde(flatten)]
    snake: SnakeRow,
}

/// The members that a client in Python reads, under its names.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct SnakeRow {
    /// The flow or agent that it talks to.
    flow_id: String,
    message_count: usize,
    first_message: String,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// Which conversations.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "OwnedConversationQuery")]
pub(super) struct Query {
    /// Rows per page, 1 to 200; 50 by default.
    limit: Option<u32>,
    /// A `nextCursor` or `prevCursor` of an earlier answer.
    cursor: Option<String>,
    /// Rows to pass over, for clients that page so; 5,000 at most.
    offset: Option<u32>,
}

/// Where a page lies in its list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ConversationPagination")]
struct ConversationPagination {
    #[serde(flatten)]
    pagination: Pagination,
    /// Same as `hasMore`.
    has_more: bool,
}

/// Conversations of pages.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "OwnedConversationList")]
pub(super) struct Rows {
    conversations: Vec<Row>,
    /// Same as `conversations`.
    data: Vec<Row>,
    pagination: ConversationPagination,
}

impl From<&Kept<Conversation>> for Row {
    fn from(kept: &Kept<Conversation>) -> Self {
        let summary = Summary::of(kept);
        let title = summary.title().to_owned();
        let snake = SnakeRow {
            flow_id: kept.body.target.clone(),
            message_count: kept.body.message_count(),
            first_message: title.clone(),
            created_at: kept.created_at,
            updated_at: kept.updated_at,
        };
        Self { summary, name: title.clone(), first_message: title, source: "client_token", origin: "", snake }
    }
}

/// A page of a tenant's conversations, or of one client token's.
pub(super) async fn page(store: &SharedStore, tenant: TenantId, token: Option<&str>, query: Query) -> Result<Json<Rows>> {
    let Query { limit, cursor, offset } = query;
    let (paging, offset) = (Paging { limit, cursor, search: None }, offset.unwrap_or(0));
    if offset > MAX_OFFSET {
        return Err(Error::new(Kind::Malformed, "invalid_query", format!("expected an `offset` of at most {MAX_OFFSET}")));
    }
    let (trail, limit) = (paging.trail::<ConversationId>()?, paging.limit());
    let mut found = Collection::<Conversation>::of(&**store, tenant).list(token, trail.after(), offset + limit + 1).await?;
    found.drain(..found.len().min(offset as usize));
    let page = trail.page(found, limit, false, |conversation| conversation.id);
    let conversations: Vec<Row> = page.data.iter().map(Row::from).collect();
    let mut pagination = page.pagination;
    if offset > 0 {
        (pagination.offset, pagination.current_offset) = (u64::from(offset), u64::from(offset));
    }
    let has_more = pagination.has_more;
    Ok(Json(Rows { data: conversations.clone(), conversations, pagination: ConversationPagination { pagination, has_more } }))
}

async fn list(caller: Scoped<ClientTokensRead>, State(store): State<SharedStore>, Params(query): Params<Query>) -> Result<Json<Rows>> {
    page(&store, caller.tenant, None, query).await
}
