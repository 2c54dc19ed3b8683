//! `POST /v1/client/init`: a page opens a session.

use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TAG;
use super::conversations::{self, Conversation};
use super::door::{self, Door, Page, Session, Window};
use super::identity::Proof;
use super::tokens::Look;
use super::visitors::{self, Visitor};
use crate::auth::ticket;
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::extract::{Body, InPath};
use crate::id::{AgentId, ClientTokenId, ConversationId, FlowId, SessionId, VisitorId};
use crate::model::TargetKind;
use crate::secret::Secret;
use crate::store::{Collection, Kept};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route("/v1/client/init", post_with(init, about("initClient", TAG, "Open a session with a client token")))
}

/// What a page says of itself.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ClientInitRequest")]
struct Request {
    /// The client token.
    token: Secret,
    /// The flow or agent to talk to; the token's default when absent.
    #[serde(default)]
    flow_id: Option<String>,
    /// A session of before; when it has expired, another is opened.
    #[serde(default)]
    session_id: Option<Secret>,
    /// A conversation of before; needs `visitorToken`.
    #[serde(default)]
    conversation_id: Option<String>,
    /// Ask for a visitor, who can come back to conversations.
    #[serde(default)]
    visitor_history: bool,
    #[serde(default)]
    visitor_token: Option<Secret>,
    /// Who the user is, in the word of the token's owner: a JSON Web Token signed with HS256 under the managed secret that the token names, with
    /// `sub` and an `exp` at most a day ahead. Not read when the token names none.
    #[serde(default)]
    identity_proof: Option<Secret>,
}

/// A session.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ClientSession")]
struct Opened {
    /// Proves the page in every later call.
    session_id: String,
    expires_at: Timestamp,
    conversation_id: ConversationId,
    /// Changes with the conversation.
    conversation_revision: String,
    target_id: String,
    flow: Target,
    config: Look,
    #[serde(skip_serializing_if = "Option::is_none")]
    visitor: Option<VisitorRow>,
}

/// What the session talks to.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ClientTarget")]
struct Target {
    id: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
}

/// Who comes back.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ClientVisitor")]
struct VisitorRow {
    id: VisitorId,
    /// The proof's `sub`; null for somebody whose identity was not proven.
    end_user_id: Option<String>,
    expires_at: Timestamp,
    identity_status: &'static str,
    /// Only when it was just made; the page keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

async fn init(State(door): State<Door>, headers: HeaderMap, body: Body<Request>) -> Result<Json<Opened>> {
    let request = body.value;
    let page = door.page(&request.token, &headers).await?;
    let settings = &page.token.body.settings;
    if request.session_id.is_some() && request.conversation_id.is_some() {
        return Err(Error::invalid_at("/conversationId", "a session has its conversation; give one of the two"));
    }
    let proof = Proof::new(request.identity_proof.as_ref().map(Secret::expose));
    let end_user = proof.user(&door, page.tenant, settings).await?;
    let asked = request.visitor_history || request.visitor_token.is_some() || request.conversation_id.is_some();
    let history = asked || end_user.is_some() && settings.visitor_history;
    if history && !settings.visitor_history {
        return Err(Error::new(Kind::Forbidden, "visitor_history_disabled", "visitor_history_disabled")
            .next("the token's owner turns it on with `visitorHistory`"));
    }
    let target = target(&door, &page, request.flow_id.as_deref()).await?;
    let visitor = match history {
        true => Some(visitor(&door, &page, &request, end_user.as_deref()).await?),
        false => None,
    };
    let now = door.clock.now();
    let expires_at = now.after(Duration::from_secs(60 * u64::from(settings.session_idle_timeout_minutes)));
    let (text, session) =
        match old_session(&door, &page, request.session_id.as_ref(), &target.id, end_user.as_deref(), &headers, expires_at).await? {
            Some(old) => old,
            None => {
                let conversation = match (&request.conversation_id, &visitor) {
                    (Some(id), Some((visitor, _))) => {
                        let id = id.parse::<ConversationId>().map_err(|_| ConversationId::missing())?;
                        conversations::of_visitor(&door, page.tenant, visitor, id).await?.id
                    }
                    _ => ConversationId::new(&door.clock),
                };
                door.count_new_session(page.token.id)?;
                let id = SessionId::new(&door.clock);
                let (text, hash) = ticket::mint(&door.clock, door::SESSION, page.tenant, id.as_u128());
                let session = Session {
                    token: page.token.id,
                    hash,
                    target: target.id.clone(),
                    conversation,
                    visitor: visitor.as_ref().map(|(visitor, _)| visitor.id),
                    end_user: end_user.clone(),
                    expires_at,
                    messages: 0,
                    minute: Window { since: now, count: 0 },
                    hour: Window { since: now, count: 0 },
                    client_tools: Vec::new(),
                    fingerprint: None,
                    running: None,
                    feedback: 0,
                };
                (text, door.sessions(page.tenant).create(id, session, now).await?)
            }
        };
    let conversation = conversation(&door, &page, &session, visitor.as_ref().map(|(visitor, _)| visitor)).await?;
    Ok(Json(Opened {
        session_id: text.expose().to_owned(),
        expires_at: session.body.expires_at,
        conversation_id: conversation.id,
        conversation_revision: conversations::revision(&conversation),
        target_id: target.id.clone(),
        flow: target,
        config: settings.config.clone(),
        visitor: visitor.map(|(visitor, token)| VisitorRow {
            id: visitor.id,
            end_user_id: visitor.body.end_user.clone(),
            expires_at: visitor.body.expires_at,
            identity_status: proof.status(settings),
            token: token.map(|token| token.expose().to_owned()),
        }),
    }))
}

/// The flow or agent that a page asked for, if its token allows it and it is still there.
async fn target(door: &Door, page: &Page, wanted: Option<&str>) -> Result<Target> {
    let allowed = page.token.body.targets();
    let id = match wanted {
        Some(wanted) => allowed.into_iter().find(|id| id == wanted),
        None => allowed.into_iter().next(),
    };
    let missing = || Error::missing("flow or agent for this client token");
    let id = id.ok_or_else(missing)?;
    let (kind, flow) = match (id.parse::<AgentId>(), id.parse::<FlowId>()) {
        (Ok(agent), _) => (TargetKind::Agent, agent.as_flow()),
        (_, Ok(flow)) => (TargetKind::Flow, flow),
        _ => return Err(missing()),
    };
    let saved = door.store.find_flow(page.tenant, kind, flow).await?.ok_or_else(missing)?;
    Ok(Target { id, name: saved.name, description: saved.description })
}

/// The session that the page had before, if it is still good for what the page wants now.
async fn old_session(
    door: &Door,
    page: &Page,
    text: Option<&Secret>,
    target: &str,
    end_user: Option<&str>,
    headers: &HeaderMap,
    expires_at: Timestamp,
) -> Result<Option<(Secret, Kept<Session>)>> {
    let Some(text) = text else { return Ok(None) };
    let same = |token: ClientTokenId, of: &str| token == page.token.id && of == target;
    match door.guest(text, headers).await {
        Ok(mut guest) if same(guest.token.id, &guest.session.body.target) => {
            // A session whose conversation was deleted is no good any more, and neither is somebody else's.
            let other = end_user.is_some_and(|user| guest.session.body.end_user.as_deref() != Some(user));
            if other || conversations::all(door, guest.tenant).find(guest.session.body.conversation).await?.is_none() {
                return Ok(None);
            }
            door.change(&mut guest, |session| {
                session.expires_at = expires_at;
                Ok(())
            })
            .await?;
            Ok(Some((text.clone(), guest.session)))
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() == Kind::Unauthenticated => Ok(None),
        Err(error) => Err(error),
    }
}

/// The visitor who comes back, or a new one with their token. Whoever proves who they are needs none.
async fn visitor(door: &Door, page: &Page, request: &Request, end_user: Option<&str>) -> Result<(Kept<Visitor>, Option<Secret>)> {
    if let Some(user) = end_user {
        return Ok((visitors::of_user(door, page.tenant, page.token.id, user).await?, None));
    }
    if let Some(text) = &request.visitor_token
        && let Some(visitor) = visitors::find(door, page.tenant, page.token.id, text).await?
    {
        return Ok((visitor, None));
    }
    if request.conversation_id.is_some() {
        return Err(Error::new(Kind::Unauthenticated, "visitor_required", "visitor_required")
            .next("send the `visitorToken` of whoever had the conversation"));
    }
    let (visitor, text) = visitors::create(door, page.tenant, page.token.id).await?;
    Ok((visitor, Some(text)))
}

/// The session's conversation; its first session begins it.
async fn conversation(door: &Door, page: &Page, session: &Kept<Session>, visitor: Option<&Kept<Visitor>>) -> Result<Kept<Conversation>> {
    let all = Collection::<Conversation>::of(&*door.store, page.tenant);
    let id = session.body.conversation;
    if let Some(known) = all.find(id).await? {
        return Ok(known);
    }
    if let Some(visitor) = visitor {
        visitors::remember(door, page.tenant, visitor, id).await?;
    }
    let now = door.clock.now();
    let body = Conversation::new(page.token.id, session.body.target.clone(), session.body.visitor, now);
    Ok(all.create(id, body, now).await?)
}
