//! `/mcp`: published flows and agents as tools of the Model Context Protocol, over streamable HTTP and without sessions.
//!
//! A call is a dispatch of the published version, and ends with its output. What waits for an approval comes back as `input_required` to clients
//! that know it (revision 2026-07-28): they ask their user and call again. To others the answer says where the decision is made.
//!
//! `catalogue` says which tools there are; the protocol itself is the official SDK's.

mod catalogue;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorData, InputRequiredResult, ListToolsResult,
    PaginatedRequestParams, ProgressNotificationParam, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::execute::{Follow, Lookup, Outcome, follow};
use crate::engine::{Decision, Verdict};
use crate::error::{Error, Kind, Result};
use crate::http::extract::as_sent;
use crate::http::problem::Problem;
use crate::http::{AppState, admission};
use crate::id::{RunId, WaitId};
use crate::model::{Caller, RunState};

/// The first revision that knows `input_required`.
const ASKS_FOR_INPUT: &str = "2026-07-28";
/// The events that are progress.
const PROGRESS: [&str; 3] = ["step_complete", "tool_complete", "turn_complete"];
/// Maximum number of faults of the arguments that are reported at once.
const MAX_FAULTS: usize = 5;
/// The key of the one thing that a call asks for.
const APPROVAL: &str = "approval";

/// The route; the guard stands before it.
pub(in crate::http) fn routes(state: AppState) -> Router<AppState> {
    let mut config = StreamableHttpServerConfig::default();
    config.legacy_session_mode = false;
    config.json_response = true;
    // Every call brings a key, so a page that was rebound to this address gets nowhere.
    let config = config.disable_allowed_hosts();
    let own = state.clone();
    let service = StreamableHttpService::new(move || Ok(Server { state: own.clone() }), NeverSessionManager::default().into(), config);
    Router::new().route_service("/mcp", service).route_layer(from_fn_with_state(state, read_body))
}

/// Reads the body within the usual limits on size and time, before the protocol's library reads it.
async fn read_body(State(state): State<AppState>, request: Request, next: Next) -> std::result::Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let bytes = as_sent(&parts.headers, body, &state).await?;
    Ok(next.run(Request::from_parts(parts, Body::from(bytes))).await)
}

#[derive(Clone)]
struct Server {
    state: AppState,
}

/// What a call that waits carries through its client: sealed, so that it is not the client's to change.
#[derive(Serialize, Deserialize)]
struct Pending {
    run: RunId,
    approval: WaitId,
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().build();
        let mut info = ServerConfig::new(capabilities);
        info.server_info = rmcp::model::Implementation::new("dispatch", env!("CARGO_PKG_VERSION"));
        info.instructions =
            Some("The tools are flows and agents that were published here. A call is durable: it goes on when you hang up.".into());
        info
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> std::result::Result<ListToolsResult, ErrorData> {
        let caller = caller(&context)?;
        let offers = catalogue::offers(&self.state.store, &caller).await.map_err(refused)?;
        let tools = offers.into_iter().map(|offer| Tool::new(offer.name, offer.description, offer.schema)).collect();
        Ok(ListToolsResult::with_all_items(tools))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> std::result::Result<CallToolResponse, ErrorData> {
        let caller = caller(&context)?;
        let asks = context.protocol_version().is_some_and(|version| version.as_str() >= ASKS_FOR_INPUT);
        let (run, after) = match &request.request_state {
            Some(pending) => self.go_on(&caller, pending, request.input_responses.as_ref().and_then(|given| given.get(APPROVAL))).await,
            None => self.start(&caller, &request).await.map(|run| (run, None)),
        }
        .map_err(refused)?;
        let answer = self.answer(&caller, run, after, &context).await.map_err(refused)?;
        self.told(&caller, answer, asks).map_err(refused)
    }
}

/// Whom the guard has proven.
fn caller(context: &RequestContext<RoleServer>) -> std::result::Result<Caller, ErrorData> {
    let caller = context.extensions.get::<Parts>().and_then(|parts| parts.extensions.get::<Caller>()).cloned();
    caller.ok_or_else(|| ErrorData::internal_error("the caller is not known", None))
}

/// A refusal in the protocol's words. What the caller can mend is an invalid parameter, with the envelope beside it.
fn refused(error: Error) -> ErrorData {
    let envelope = serde_json::to_value(error.envelope()).ok();
    match error.kind() {
        Kind::Internal | Kind::Unavailable => {
            tracing::warn!(?error, "a call of a tool could not be served");
            ErrorData::internal_error(error.message().to_owned(), envelope)
        }
        _ => ErrorData::invalid_params(error.message().to_owned(), envelope),
    }
}

impl Server {
    async fn start(&self, caller: &Caller, request: &CallToolRequestParams) -> Result<RunId> {
        let state = &self.state;
        let offers = catalogue::offers(&state.store, caller).await?;
        let missing = || Error::missing("tool; a flow or agent is one when it is published and the key may execute it");
        let offer = offers.iter().find(|offer| offer.name == request.name).ok_or_else(missing)?;
        let arguments = request.arguments.clone().unwrap_or_default();
        self.check(caller, &offer.schema, &arguments).await?;
        let mut start = Lookup::of(state, caller.tenant).resolve(offer.request(arguments)).await?.start(caller.tenant, None);
        admission::admit_start(&state.engine, caller, &mut start).await?;
        Ok(state.workers.start_run(start).await?.0)
    }

    /// Validates arguments against the tool's schema.
    async fn check(&self, caller: &Caller, schema: &Map<String, Value>, arguments: &Map<String, Value>) -> Result<()> {
        let (schema, arguments) = (Value::Object(schema.clone()), Value::Object(arguments.clone()));
        let faults = self.state.engine.judge(caller.tenant, &schema, &arguments).await.map_err(|error| error.under("/inputSchema"))?;
        let mut problems = crate::error::Problems::default();
        for (pointer, message) in faults.into_iter().take(MAX_FAULTS) {
            problems.add(format!("/arguments{pointer}"), message);
        }
        problems.into_result()
    }

    /// Goes on with a call that waited for an approval; the number after which there is news.
    async fn go_on(&self, caller: &Caller, pending: &str, response: Option<&Value>) -> Result<(RunId, Option<u64>)> {
        let unknown = || Error::new(Kind::Invalid, "invalid_request_state", "the request state is none of this server's, or another key's");
        let sealed = URL_SAFE_NO_PAD.decode(pending).map_err(|_| unknown())?;
        let opened = self.state.vault.open(&sealed, &format!("mcp/{}", caller.tenant)).map_err(|_| unknown())?;
        let Pending { run, approval } = serde_json::from_slice(&opened).map_err(|_| unknown())?;
        let decision = decision(response)?;
        let by = caller.who.to_string();
        let verdict = Verdict { decision, reason: None, digest: None, by: &by };
        let answered = self.state.engine.approve(caller.tenant, run, approval, verdict).await?;
        self.state.workers.nudge(run).await;
        Ok((run, answered.after))
    }

    /// Waits for the execution's end or next pause, and tells of its progress meanwhile to those who asked.
    async fn answer(&self, caller: &Caller, run: RunId, after: Option<u64>, context: &RequestContext<RoleServer>) -> Result<Outcome> {
        let (state, tenant) = (&self.state, caller.tenant);
        let place = Follow { store: &state.store, clock: &state.clock, tenant, run };
        let (tell, mut heard) = mpsc::unbounded_channel();
        let whole = follow(place, state.feed.follow(tenant, run, after), move |event| {
            if PROGRESS.contains(&event.kind()) {
                let _ = tell.send(event.kind().replace('_', " "));
            }
        });
        let Some(token) = context.meta.get_progress_token() else { return whole.await };
        // Ends when the whole has been heard, so that nothing of it is told after the answer.
        let progress = async {
            let mut done = 0.0;
            while let Some(what) = heard.recv().await {
                done += 1.0;
                let mut told = ProgressNotificationParam::new(token.clone(), done);
                told.message = Some(what);
                // A client that is gone hears nothing; the execution goes on.
                let _ = context.peer.notify_progress(told).await;
            }
        };
        tokio::join!(whole, progress).0
    }

    fn told(&self, caller: &Caller, answer: Outcome, asks: bool) -> Result<CallToolResponse> {
        match RunState::parse(&answer.status) {
            Some(RunState::Completed) if answer.success => Ok(complete(answer.result)),
            Some(RunState::Paused) => self.paused(caller, &answer, asks),
            _ => {
                let error = serde_json::to_value(&answer.error).unwrap_or_default();
                let message = error.get("message").and_then(Value::as_str).unwrap_or("the execution did not succeed").to_owned();
                let mut result = CallToolResult::error(vec![ContentBlock::text(message)]);
                result.structured_content = Some(json!({ "executionId": answer.execution_id, "status": answer.status, "error": error }));
                Ok(result.into())
            }
        }
    }

    /// A call that waits: for an approval the client may ask its user, for anything else the owner must see to it.
    fn paused(&self, caller: &Caller, answer: &Outcome, asks: bool) -> Result<CallToolResponse> {
        let reason = answer.paused_reason.clone().unwrap_or_default();
        let text = |name: &str| reason.get(name).and_then(Value::as_str).unwrap_or_default();
        let approval = text("approvalId").parse::<WaitId>().ok().filter(|_| text("waitType") == "approval");
        if let Some(approval) = approval.filter(|_| asks) {
            let pending = serde_json::to_vec(&Pending { run: answer.execution_id, approval }).map_err(Error::internal)?;
            let sealed = URL_SAFE_NO_PAD.encode(self.state.vault.seal(&pending, &format!("mcp/{}", caller.tenant))?);
            let parameters = reason.get("parameters").cloned().unwrap_or_default();
            let question = json!({ "method": "elicitation/create", "params": {
                "message": format!("Allow the call of `{}` with {parameters}?", text("toolName")),
                "requestedSchema": { "type": "object", "properties": { "decision": { "type": "string", "enum": ["approved", "denied"] } }, "required": ["decision"] },
            } });
            let question = serde_json::from_value(question).map_err(Error::internal)?;
            return Ok(InputRequiredResult::new(Some([(APPROVAL.to_owned(), question)].into_iter().collect()), Some(sealed)).into());
        }
        let message =
            format!("The execution {} is paused ({}). It goes on when somebody answers it here.", answer.execution_id, text("waitType"));
        let mut result = CallToolResult::error(vec![ContentBlock::text(message)]);
        result.structured_content = Some(json!({ "executionId": answer.execution_id, "status": "paused", "pausedReason": reason }));
        Ok(result.into())
    }
}

/// What the client's user said. Who declines or turns away denies.
fn decision(response: Option<&Value>) -> Result<Decision> {
    let missing = || Error::invalid_at(format!("/inputResponses/{APPROVAL}"), "expected the user's word: {action, content: {decision}}");
    let response = response.ok_or_else(missing)?;
    match response.get("action").and_then(Value::as_str) {
        Some("accept") => {
            let word = response.pointer("/content/decision").cloned().ok_or_else(missing)?;
            serde_json::from_value(word).map_err(|_| missing())
        }
        Some("decline" | "cancel") => Ok(Decision::Denied),
        _ => Err(missing()),
    }
}

/// An output as the protocol has it: text for people and models, and the value itself when it is more than a text.
fn complete(output: Value) -> CallToolResponse {
    match output {
        Value::String(text) => CallToolResult::success(vec![ContentBlock::text(text)]).into(),
        Value::Object(_) => CallToolResult::structured(output).into(),
        other => CallToolResult::success(vec![ContentBlock::text(other.to_string())]).into(),
    }
}
