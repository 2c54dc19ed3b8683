//! `POST /v1/client/chat`, `/resume` and `/approve`: a page's part in executions.
//!
//! A chat is a dispatch of the session's target, and answered like one; what continues it is checked against the session that began it.

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::extract::{FromRef, State};
use axum::http::HeaderMap;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::TAG;
use super::bounds::{
    MAX_CLIENT_TOOLS, MAX_CLIENT_TOOLS_BYTES, MAX_FINGERPRINT_BYTES, MAX_ID_BYTES, MAX_REASON_BYTES, check_length, json_len,
};
use super::conversations::{self, Conversation};
use super::door::{Door, Guest};
use super::turns::{self, Said, Turn};
use crate::engine::{Decision, no_paused_run};
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::dispatch::execute::{ApproveRequest, Desk, DispatchRequest, Posted, ResumeRequest, streamed};
use crate::http::extract::{Body, IdempotencyKey};
use crate::http::idempotency::fingerprint;
use crate::http::problem::Problem;
use crate::id::{AgentId, RunId, WaitId};
use crate::queue::Workers;
use crate::secret::Secret;
use crate::store::Kept;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/client/chat", post_with(chat, |op| streamed(about("chat", TAG, "Send a message and stream the answer")(op))))
        .api_route(
            "/v1/client/resume",
            post_with(resume, |op| streamed(about("resumeChat", TAG, "Deliver outputs of the page's tools")(op))),
        )
        .api_route(
            "/v1/client/approve",
            post_with(approve, |op| streamed(about("approveChat", TAG, "Decide what the end user may decide")(op))),
        )
}

/// A message and all that came before it.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ClientChatRequest")]
struct ChatRequest {
    session_id: Secret,
    /// The whole conversation, oldest first: `{id?, role, content, displayContent?}`. What says `system` reaches the model as the user's.
    messages: Vec<Value>,
    /// The id that the page keeps for the answer.
    #[serde(default)]
    assistant_message_id: Option<String>,
    /// Variables at the root of templates.
    #[serde(default)]
    inputs: Option<Map<String, Value>>,
    #[serde(default)]
    metadata: Option<Value>,
    #[serde(default)]
    context: Option<Value>,
    #[serde(default)]
    client_tools: Option<Vec<Value>>,
    /// Names the set of tools: sent alone it stands for the set that was sent with it before.
    #[serde(default)]
    client_tools_fingerprint: Option<String>,
    /// `interrupt` cancels the session's execution that is under way.
    #[serde(default)]
    submit_mode: SubmitMode,
    #[serde(default)]
    stream_response: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum SubmitMode {
    #[default]
    Normal,
    Interrupt,
}

impl ChatRequest {
    /// Refuses ids that are too long: they are stored with the conversation.
    fn check(&self) -> Result<()> {
        let mut problems = Problems::default();
        check_length(&mut problems, "/assistantMessageId", self.assistant_message_id.as_deref(), MAX_ID_BYTES);
        for (index, message) in self.messages.iter().enumerate() {
            check_length(&mut problems, format!("/messages/{index}/id"), message.get("id").and_then(Value::as_str), MAX_ID_BYTES);
        }
        problems.into_result()
    }
}

/// Outputs of the page's tools.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ClientResumeRequest")]
struct Outputs {
    session_id: Secret,
    execution_id: String,
    /// Outputs by `toolCallId` (or tool name); at least one.
    #[serde(default)]
    tool_outputs: Map<String, Value>,
    #[serde(default)]
    messages: Vec<Value>,
    #[serde(default)]
    client_tools: Option<Vec<Value>>,
    #[serde(default)]
    client_tools_fingerprint: Option<String>,
    #[serde(default)]
    stream_response: Option<bool>,
}

/// The user's word on an approval.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ClientApproveRequest")]
struct Word {
    session_id: Secret,
    execution_id: String,
    approval_id: String,
    decision: Decision,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    stream_response: Option<bool>,
}

/// What a chat needs besides the door.
#[derive(Clone)]
struct Table {
    door: Door,
    desk: Desk,
    workers: Workers,
}

impl FromRef<AppState> for Table {
    fn from_ref(state: &AppState) -> Self {
        Self { door: Door::from_ref(state), desk: Desk::from_ref(state), workers: state.workers.clone() }
    }
}

async fn chat(State(table): State<Table>, headers: HeaderMap, body: Body<ChatRequest>) -> Result<Response, Problem> {
    let Table { door, desk, workers } = table;
    let request = body.value;
    let mut guest = door.guest(&request.session_id, &headers).await?;
    request.check()?;
    let conversation = guest.session.body.conversation;
    let all = conversations::all(&door, guest.tenant);
    let kept = all.find(conversation).await?.ok_or_else(conversations::gone)?;
    let tools = tools_of(&guest, request.client_tools, request.client_tools_fingerprint.as_deref())?;
    door.check_storage(&guest).await?;
    door.count_message(&mut guest).await?;
    if request.submit_mode == SubmitMode::Interrupt
        && let Some(running) = guest.session.body.running
    {
        workers.cancel(guest.tenant, running).await?;
    }
    let mut said = said(&request.messages);
    let messages: Vec<Value> = request.messages.into_iter().map(as_of_the_user).collect();
    let mut dispatch = dispatch(&guest, messages, tools.clone());
    dispatch.inputs = inputs(&guest, request.inputs.unwrap_or_default()).into();
    dispatch.metadata = request.metadata;
    dispatch.context = request.context;
    dispatch.stream_response = request.stream_response.into();
    let caller = guest.caller();
    let posted = Posted {
        route: "POST /v1/client/chat".into(),
        key: IdempotencyKey(None),
        headers: &headers,
        hash: fingerprint(&body.raw),
        request: dispatch,
        session: Some(guest.session.id),
    };
    let begun = desk.begin(&caller, posted).await?;
    let run = begun.run;
    said.iter_mut()
        .enumerate()
        .filter(|(_, said)| said.id.is_empty())
        .for_each(|(index, said)| said.id = format!("said_{}_{index}", run.suffix()));
    let answer = request.assistant_message_id.filter(|id| !id.is_empty());
    let turn = Turn { said, run, answer, shown: None, at: door.clock.now() };
    // The execution is under way: a caller who hangs up now finds it in the conversation all the same. In a task of its own, since handlers end
    // with their callers; before the answer, so that the next message can interrupt this one.
    let keeping = tokio::spawn(remember(door, guest, kept, turn, tools, request.client_tools_fingerprint));
    if let Err(error) = keeping.await.map_err(Error::internal).flatten() {
        tracing::warn!(%run, ?error, "a turn is missing from its conversation");
    }
    Ok(desk.reply(begun).await?)
}

/// Puts a turn into its conversation, and the execution and the page's tools into the session.
async fn remember(
    door: Door,
    mut guest: Guest,
    kept: Kept<Conversation>,
    turn: Turn,
    tools: Vec<Value>,
    fingerprint: Option<String>,
) -> Result<()> {
    let run = turn.run;
    door.store.note_page_run(guest.tenant, guest.token.id, run).await?;
    turns::append(&door, guest.tenant, kept, turn).await?;
    // Tools without a fingerprint cannot be asked for again.
    let tools = if fingerprint.is_some() { tools } else { Vec::new() };
    door.change(&mut guest, |session| {
        session.running = Some(run);
        session.client_tools.clone_from(&tools);
        session.fingerprint.clone_from(&fingerprint);
        Ok(())
    })
    .await
}

/// The page's tools: those that it sent, or those that it sent before under the same fingerprint.
fn tools_of(guest: &Guest, sent: Option<Vec<Value>>, fingerprint: Option<&str>) -> Result<Vec<Value>> {
    let mut problems = Problems::default();
    check_length(&mut problems, "/clientToolsFingerprint", fingerprint, MAX_FINGERPRINT_BYTES);
    let tools = sent.as_deref().unwrap_or_default();
    if tools.len() > MAX_CLIENT_TOOLS {
        problems.add("/clientTools", format!("expected at most {MAX_CLIENT_TOOLS} tools, got {}", tools.len()));
    } else if json_len(tools) > MAX_CLIENT_TOOLS_BYTES {
        problems.add("/clientTools", format!("expected at most {MAX_CLIENT_TOOLS_BYTES} bytes of JSON; shorten descriptions and schemas"));
    }
    problems.into_result()?;
    match (sent, fingerprint) {
        (Some(tools), _) => Ok(tools),
        (None, None) => Ok(Vec::new()),
        (None, known) if known == guest.session.body.fingerprint.as_deref() => Ok(guest.session.body.client_tools.clone()),
        // Clients compare this very text.
        (None, Some(_)) => Err(Error::new(Kind::Conflict, "client_tools_resend_required", "client_tools_resend_required")
            .next("send `clientTools` together with the fingerprint")),
    }
}

/// The user's messages since the last answer.
fn said(messages: &[Value]) -> Vec<Said> {
    let text = |message: &Value, name: &str| message.get(name).and_then(Value::as_str).map(str::to_owned);
    let since = messages.iter().rposition(|message| text(message, "role").as_deref() == Some("assistant")).map_or(0, |last| last + 1);
    let new = messages.iter().skip(since).filter(|message| text(message, "role").as_deref() == Some("user"));
    let said = new.map(|message| {
        let content = message.get("content").cloned().unwrap_or_default();
        Said::new(text(message, "id").unwrap_or_default(), content, text(message, "displayContent"))
    });
    turns::newest(said.collect())
}

/// A message as the model may read it: a page has no more authority than its user.
fn as_of_the_user(mut message: Value) -> Value {
    let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
    if ["system", "developer"].contains(&role) {
        message["role"] = "user".into();
    }
    message
}

/// What the templates read: what the page says, and who its user was proven to be, which no page says of itself.
fn inputs(guest: &Guest, mut said: Map<String, Value>) -> Option<Map<String, Value>> {
    const END_USER: &str = "_endUser";
    said.remove(END_USER);
    if let Some(user) = &guest.session.body.end_user {
        said.insert(END_USER.into(), json!({ "id": user }));
    }
    (!said.is_empty()).then_some(said)
}

/// A dispatch of the session's target.
fn dispatch(guest: &Guest, messages: Vec<Value>, tools: Vec<Value>) -> DispatchRequest {
    let target = &guest.session.body.target;
    let mut request =
        DispatchRequest { messages: Some(Value::Array(messages)), client_tools: Some(tools).into(), ..DispatchRequest::default() };
    if target.parse::<AgentId>().is_ok() {
        request.agent = Some(json!({ "agentId": target }));
    } else {
        request.flow = Some(json!({ "id": target }));
    }
    if guest.token.body.settings.pin_to_version {
        request.version_id = Some("published".to_owned()).into();
    }
    request
}

/// The execution that a page names; a text that is no id is none that is there. Whether it is the session's is judged where it is answered.
async fn execution(door: &Door, guest: &Guest, id: &str) -> Result<RunId> {
    let id = id.parse::<RunId>().map_err(|_| no_paused_run())?;
    door.store.find_run(guest.tenant, id).await?.map(|run| run.id).ok_or_else(no_paused_run)
}

async fn resume(State(table): State<Table>, headers: HeaderMap, body: Body<Outputs>) -> Result<Response> {
    let Outputs { session_id, execution_id, tool_outputs, messages, client_tools, client_tools_fingerprint, stream_response } = body.value;
    let mut guest = table.door.guest(&session_id, &headers).await?;
    let execution_id = execution(&table.door, &guest, &execution_id).await?;
    if client_tools.is_some() || client_tools_fingerprint.is_some() {
        let tools = tools_of(&guest, client_tools, client_tools_fingerprint.as_deref())?;
        table
            .door
            .change(&mut guest, |session| {
                session.client_tools.clone_from(&tools);
                session.fingerprint.clone_from(&client_tools_fingerprint);
                Ok(())
            })
            .await?;
    }
    let messages = messages.into_iter().map(as_of_the_user).collect();
    let request = ResumeRequest { execution_id, tool_outputs, messages, stream_response: Some(stream_response.unwrap_or(true)) };
    table.desk.resume(&guest.caller(), &headers, request).await
}

async fn approve(State(table): State<Table>, headers: HeaderMap, body: Body<Word>) -> Result<Response> {
    let Word { session_id, execution_id, approval_id, decision, reason, stream_response } = body.value;
    let guest = table.door.guest(&session_id, &headers).await?;
    let execution_id = execution(&table.door, &guest, &execution_id).await?;
    let approval_id = approval_id.parse::<WaitId>().map_err(|_| Error::missing("approval"))?;
    let mut problems = Problems::default();
    check_length(&mut problems, "/reason", reason.as_deref(), MAX_REASON_BYTES);
    problems.into_result()?;
    let stream_response = Some(stream_response.unwrap_or(true));
    let request = ApproveRequest { execution_id, approval_id, decision, reason, digest: None, stream_response };
    table.desk.approve(&guest.caller(), &headers, request).await
}
