//! How client tokens are shown.
//!
//! Runtype's API wraps a token in `clientToken`; its Python client reads members in snake case, partly in `data`. Answers have all of these forms, beside
//! the plain members.

use schemars::JsonSchema;
use serde::Serialize;

use super::tokens::{ClientToken, Environment, Look, Settings};
use crate::clock::Timestamp;
use crate::http::paging::Pagination;
use crate::id::{AgentId, ClientTokenId, FlowId};
use crate::store::Kept;

/// A client token, without its text.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ClientToken")]
pub(super) struct Row {
    id: ClientTokenId,
    name: String,
    /// `https://app.example.com`, `app.example.com`, `localhost:3000`, `*.example.com` or `*`.
    allowed_origins: Vec<String>,
    flow_ids: Vec<FlowId>,
    agent_ids: Vec<AgentId>,
    /// What runs when a page names nothing: one of the flows or agents. The first of them when absent.
    default_flow_id: Option<String>,
    environment: Environment,
    /// Whether pages may use it.
    is_active: bool,
    /// How the token begins.
    token_prefix: &'static str,
    /// Same as `hint`.
    token_hint: String,
    /// How the token begins, for people.
    hint: String,
    /// `published`: the published version runs. Null: the one that was saved last.
    pin_to_version: Option<&'static str>,
    rate_limit_per_minute: u32,
    rate_limit_per_hour: u32,
    max_messages_per_session: u32,
    session_idle_timeout_minutes: u32,
    visitor_history: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity_secret: Option<String>,
    config: Look,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(flatten)]
    snake: SnakeRow,
}

/// The members that a client in Python reads, under its names.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct SnakeRow {
    flow_ids: Vec<FlowId>,
    /// What runs when a page names nothing.
    default_flow_id: String,
    allowed_origins: Vec<String>,
    pin_to_version: Option<&'static str>,
    rate_limit_per_minute: u32,
    rate_limit_per_hour: u32,
    max_messages_per_session: u32,
    session_idle_timeout_minutes: u32,
    is_active: bool,
    token_prefix: &'static str,
    token_hint: String,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl From<Kept<ClientToken>> for Row {
    fn from(kept: Kept<ClientToken>) -> Self {
        let Kept { id, created_at, updated_at, body, .. } = kept;
        let target = body.targets().into_iter().next().unwrap_or_default();
        let hint = body.hint().to_owned();
        let Settings {
            name,
            allowed_origins,
            flow_ids,
            agent_ids,
            default_flow_id,
            environment,
            is_active,
            pin_to_version,
            rate_limit_per_minute,
            rate_limit_per_hour,
            max_messages_per_session,
            session_idle_timeout_minutes,
            visitor_history,
            identity_secret,
            config,
        } = body.settings;
        let (token_prefix, pin_to_version) = (environment.prefix(), pin_to_version.then_some("published"));
        let snake = SnakeRow {
            flow_ids: flow_ids.clone(),
            default_flow_id: target,
            allowed_origins: allowed_origins.clone(),
            pin_to_version,
            rate_limit_per_minute,
            rate_limit_per_hour,
            max_messages_per_session,
            session_idle_timeout_minutes,
            is_active,
            token_prefix,
            token_hint: hint.clone(),
            created_at,
            updated_at,
        };
        Self {
            id,
            name,
            allowed_origins,
            flow_ids,
            agent_ids,
            default_flow_id,
            environment,
            is_active,
            token_prefix,
            token_hint: hint.clone(),
            hint,
            pin_to_version,
            rate_limit_per_minute,
            rate_limit_per_hour,
            max_messages_per_session,
            session_idle_timeout_minutes,
            visitor_history,
            identity_secret,
            config,
            created_at,
            updated_at,
            snake,
        }
    }
}

/// Client tokens.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ClientTokenList")]
pub(super) struct Rows {
    pub client_tokens: Vec<Row>,
    /// Same as `clientTokens`.
    pub data: Vec<Row>,
    pub pagination: Pagination,
}

/// Something that the owner may not have meant.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "ClientTokenWarning")]
pub(super) struct Warning {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub message: &'static str,
}

/// One client token, without its text.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ClientTokenAnswer")]
pub(super) struct TokenAnswer {
    client_token: Row,
    /// Same as `clientToken`.
    data: Row,
    #[serde(flatten)]
    row: Row,
    warnings: Vec<Warning>,
}

impl TokenAnswer {
    pub fn new(kept: Kept<ClientToken>, warnings: Vec<Warning>) -> Self {
        let row = Row::from(kept);
        Self { client_token: row.clone(), data: row.clone(), row, warnings }
    }
}

/// A client token with its text.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "NewClientToken")]
pub(super) struct NewRow {
    client_token: Row,
    /// Same as `clientToken`.
    #[serde(rename = "client_token")]
    snake: Row,
    /// What the page holds. It is no secret, but whoever has it can run what it allows from the origins that it allows.
    token: String,
    /// For people.
    message: &'static str,
    /// How a page uses it.
    #[serde(rename = "embed_code")]
    embed_code: EmbedCode,
    warnings: Vec<Warning>,
}

/// How a page uses a client token with the widget of `@runtypelabs/persona`.
#[derive(Debug, Serialize, JsonSchema)]
struct EmbedCode {
    script: String,
    react: String,
}

impl NewRow {
    pub fn new(kept: Kept<ClientToken>, token: String, warnings: Vec<Warning>) -> Self {
        let row = Row::from(kept);
        let config = format!("{{ apiUrl: \"https://YOUR-SERVER/v1/dispatch\", clientToken: \"{token}\" }}");
        let embed_code = EmbedCode {
            script: format!("<script>AgentWidget.initAgentWidget({{ target: \"body\", config: {config} }});</script>"),
            react: format!("useEffect(() => {{ initAgentWidget({{ target: \"body\", config: {config} }}); }}, []);"),
        };
        let message = "put the token into the page; GET /v1/client-tokens/{clientTokenId}/token shows it again";
        Self { client_token: row.clone(), snake: row, token, message, embed_code, warnings }
    }
}
