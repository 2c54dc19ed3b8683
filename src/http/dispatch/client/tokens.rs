//! `/v1/client-tokens`: which pages may run what.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::bounds::{MAX_LOOK_BYTES, MAX_ORIGIN_BYTES, check_length, json_len};
use super::feedback::Feedback;
use super::owned;
use super::token_rows::{NewRow, Row, Rows, TokenAnswer, Warning};
use crate::auth::ticket;
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::cors::Origins;
use crate::http::dispatch::about;
use crate::http::dispatch::deletion::Deletion;
use crate::http::extract::{Body, Id, IdempotencyKey, InPath, Params};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::paging::{Page, Paging};
use crate::http::scope::{ClientTokensRead, ClientTokensWrite, Scoped};
use crate::id::{AgentId, ClientTokenId, FeedbackId, FlowId, TenantId};
use crate::model::TargetKind;
use crate::secret::{Secret, Vault};
use crate::store::{Collection, Document, Kept, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/client-tokens",
            get_with(list, about("listClientTokens", "Client tokens", "List client tokens, newest first"))
                .post_with(create, about("createClientToken", "Client tokens", "Make a client token for pages")),
        )
        .api_route(
            "/v1/client-tokens/{clientTokenId}",
            get_with(read, about("getClientToken", "Client tokens", "Read a client token's settings"))
                .put_with(update, about("updateClientToken", "Client tokens", "Change a client token's settings"))
                .delete_with(delete, about("deleteClientToken", "Client tokens", "Delete a client token; its sessions end at once")),
        )
        .api_route(
            "/v1/client-tokens/{clientTokenId}/token",
            get_with(show, about("showClientToken", "Client tokens", "Read the token itself, to put it into a page")),
        )
        .api_route(
            "/v1/client-tokens/{clientTokenId}/regenerate",
            post_with(regenerate, about("regenerateClientToken", "Client tokens", "Replace the token; the old one ends at once")),
        )
        .api_route(
            "/v1/client-tokens/{clientTokenId}/conversations",
            get_with(
                list_conversations,
                about("listConversationsOfClientToken", "Client tokens", "List the conversations that pages had with it, newest first"),
            ),
        )
        .api_route(
            "/v1/client-tokens/{clientTokenId}/feedback",
            get_with(list_feedback, about("listFeedbackOfClientToken", "Client tokens", "List what users said of answers, newest first")),
        )
}

/// Where a token may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ClientTokenEnvironment")]
pub(super) enum Environment {
    #[default]
    Live,
    /// Pages of the developer's own machine may use it, too.
    Test,
}

impl Environment {
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Live => "ct_live_",
            Self::Test => "ct_test_",
        }
    }
}

/// What every token begins with.
pub(super) const PREFIXES: [&str; 2] = [Environment::Live.prefix(), Environment::Test.prefix()];

/// How a chat looks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "ClientTokenConfig")]
pub(super) struct Look {
    pub welcome_message: Option<String>,
    pub placeholder: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub theme: Option<Map<String, Value>>,
}

/// A client token's settings as they are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Settings {
    pub name: String,
    /// `https://app.example.com`, `app.example.com`, `localhost:3000`, `*.example.com` or `*`.
    pub allowed_origins: Vec<String>,
    pub flow_ids: Vec<FlowId>,
    pub agent_ids: Vec<AgentId>,
    /// What runs when a page names nothing: one of the flows or agents. The first of them when absent.
    pub default_flow_id: Option<String>,
    pub environment: Environment,
    /// Whether pages may use it. Those of earlier versions may.
    #[serde(default = "active")]
    pub is_active: bool,
    /// Run the published version, not the one that was saved last.
    pub pin_to_version: bool,
    /// Messages that one session may send.
    pub rate_limit_per_minute: u32,
    pub rate_limit_per_hour: u32,
    pub max_messages_per_session: u32,
    /// How long a session lives without a message.
    pub session_idle_timeout_minutes: u32,
    /// Whether users may come back to earlier conversations.
    pub visitor_history: bool,
    /// The key of the managed secret under which the owner's backend signs identity proofs; absent, none is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_secret: Option<String>,
    pub config: Look,
}

const fn active() -> bool {
    true
}

/// A client token's row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ClientToken {
    pub hash: String,
    /// The token itself, sealed: it stands in a page anyway, but not in the database.
    sealed: Vec<u8>,
    hint: String,
    pub settings: Settings,
}

impl Document for ClientToken {
    const KIND: &'static str = "client_token";
    type Id = ClientTokenId;
}

impl ClientToken {
    /// How the token begins, for people.
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// Whether a page of this origin may use it.
    pub fn admits(&self, origin: Option<&str>) -> bool {
        let allowed = Origins::parse(self.settings.allowed_origins.iter().map(String::as_str)).unwrap_or_default();
        let Some(origin) = origin else { return allowed.allow("null") };
        let near = || {
            let host = origin.split_once("://").map_or("", |(_, host)| host);
            let host = host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(host, _)| host);
            ["localhost", "127.0.0.1", "[::1]"].contains(&host)
        };
        allowed.allow(origin) || self.settings.environment == Environment::Test && near()
    }

    /// Every target, the default one first.
    pub fn targets(&self) -> Vec<String> {
        let all = self.settings.agent_ids.iter().map(AgentId::to_string).chain(self.settings.flow_ids.iter().map(FlowId::to_string));
        let default = self.settings.default_flow_id.clone();
        let rest = all.filter(|id| Some(id) != default.as_ref());
        default.clone().into_iter().chain(rest).collect()
    }
}

/// A client token to make, or what changes about one.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "ClientTokenInput")]
struct Input {
    /// 1 to 100 characters. Required when the token is new.
    #[schemars(length(min = 1, max = 100))]
    name: Option<String>,
    /// Web origins whose pages may use it: `https://app.example.com`, `*.example.com`, `localhost:3000`, `*`. Required when the token is new.
    #[serde(alias = "allowed_origins")]
    allowed_origins: Option<Vec<String>>,
    #[serde(alias = "flow_ids")]
    flow_ids: Option<Vec<String>>,
    #[serde(alias = "agent_ids")]
    agent_ids: Option<Vec<String>>,
    /// A flow or an agent of those above.
    #[serde(alias = "default_flow_id")]
    default_flow_id: Option<String>,
    environment: Option<Environment>,
    /// False: pages may not use it until it is true again.
    #[serde(alias = "is_active")]
    is_active: Option<bool>,
    /// `true` or `published`: run the published version. `false` or `latest`: run the one that was saved last.
    #[serde(alias = "pin_to_version")]
    pin_to_version: Option<VersionPin>,
    #[schemars(range(min = 1, max = 10_000))]
    #[serde(alias = "rate_limit_per_minute")]
    rate_limit_per_minute: Option<u32>,
    #[schemars(range(min = 1, max = 100_000))]
    #[serde(alias = "rate_limit_per_hour")]
    rate_limit_per_hour: Option<u32>,
    #[schemars(range(min = 1, max = 10_000))]
    #[serde(alias = "max_messages_per_session")]
    max_messages_per_session: Option<u32>,
    #[schemars(range(min = 2, max = 43_200))]
    #[serde(alias = "session_idle_timeout_minutes")]
    session_idle_timeout_minutes: Option<u32>,
    #[serde(alias = "visitor_history")]
    visitor_history: Option<bool>,
    /// The key of a managed secret (`/v1/secrets`) under which the owner's backend signs identity proofs; the empty text ends that.
    #[schemars(length(max = 100))]
    #[serde(alias = "identity_secret")]
    identity_secret: Option<String>,
    config: Option<Look>,
}

/// Which version runs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "ClientTokenPin")]
enum VersionPin {
    Flag(bool),
    Name(String),
}

/// A client token's text.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ClientTokenText")]
struct Text {
    token: String,
}

/// One word on an answer.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Feedback")]
struct FeedbackRow {
    id: FeedbackId,
    created_at: Timestamp,
    #[serde(flatten)]
    feedback: Feedback,
}

const LONGEST_NAME: usize = 100;
/// Most origins, and most targets, of a token.
const MOST: usize = 100;

fn all(store: &SharedStore, tenant: TenantId) -> Collection<'_, ClientToken> {
    Collection::of(&**store, tenant)
}

fn context(tenant: TenantId, id: ClientTokenId) -> String {
    format!("client-token:{tenant}:{id}")
}

impl Input {
    /// The settings with what was given in the place of what was there.
    async fn over(self, old: Option<Settings>, store: &SharedStore, tenant: TenantId) -> Result<Settings> {
        let mut problems = Problems::default();
        let new = old.is_none();
        let mut settings = old.unwrap_or_else(|| Settings {
            name: String::new(),
            allowed_origins: Vec::new(),
            flow_ids: Vec::new(),
            agent_ids: Vec::new(),
            default_flow_id: None,
            environment: Environment::Live,
            is_active: true,
            pin_to_version: false,
            rate_limit_per_minute: 30,
            rate_limit_per_hour: 500,
            max_messages_per_session: 200,
            session_idle_timeout_minutes: 24 * 60,
            visitor_history: false,
            identity_secret: None,
            config: Look::default(),
        });
        match self.name {
            Some(name) => settings.name = name.trim().to_owned(),
            None if new => problems.add("/name", "expected a name"),
            None => {}
        }
        if settings.name.is_empty() || settings.name.chars().count() > LONGEST_NAME || settings.name.contains(char::is_control) {
            problems.add("/name", format!("expected 1 to {LONGEST_NAME} characters, none of them a control character"));
        }
        match self.allowed_origins {
            Some(origins) => settings.allowed_origins = origins,
            None if new => problems.add("/allowedOrigins", "expected the web origins whose pages may use the token; `*` for all"),
            None => {}
        }
        if settings.allowed_origins.len() > MOST {
            problems.add("/allowedOrigins", format!("a token may have {MOST} origins"));
        }
        for (index, origin) in settings.allowed_origins.iter().enumerate() {
            check_length(&mut problems, format!("/allowedOrigins/{index}"), Some(origin.as_str()), MAX_ORIGIN_BYTES);
            if let Err(error) = Origins::parse([origin.as_str()]) {
                problems.add(format!("/allowedOrigins/{index}"), error.message().to_owned());
            }
        }
        for (place, limit, given, most) in [
            ("/rateLimitPerMinute", &mut settings.rate_limit_per_minute, self.rate_limit_per_minute, 1..=10_000),
            ("/rateLimitPerHour", &mut settings.rate_limit_per_hour, self.rate_limit_per_hour, 1..=100_000),
            ("/maxMessagesPerSession", &mut settings.max_messages_per_session, self.max_messages_per_session, 1..=10_000),
            ("/sessionIdleTimeoutMinutes", &mut settings.session_idle_timeout_minutes, self.session_idle_timeout_minutes, 2..=43_200),
        ] {
            let Some(given) = given else { continue };
            if !most.contains(&given) {
                problems.add(place, format!("expected {} to {}", most.start(), most.end()));
            }
            *limit = given;
        }
        settings.environment = self.environment.unwrap_or(settings.environment);
        settings.is_active = self.is_active.unwrap_or(settings.is_active);
        match self.pin_to_version {
            None => {}
            Some(VersionPin::Flag(pinned)) => settings.pin_to_version = pinned,
            Some(VersionPin::Name(name)) if name == "published" || name == "latest" => settings.pin_to_version = name == "published",
            Some(VersionPin::Name(_)) => {
                problems.add("/pinToVersion", "expected `published` or `latest`: the targets of a token have versions of their own");
            }
        }
        settings.visitor_history = self.visitor_history.unwrap_or(settings.visitor_history);
        settings.config = self.config.unwrap_or(settings.config);
        if json_len(&settings.config) > MAX_LOOK_BYTES {
            problems
                .add("/config", format!("expected at most {MAX_LOOK_BYTES} bytes of JSON: every page reads it when it opens a session"));
        }
        match self.identity_secret {
            Some(key) if key.is_empty() => settings.identity_secret = None,
            Some(key) => {
                if !store.list_secrets(tenant).await?.iter().any(|secret| secret.key == key) {
                    problems.add("/identitySecret", "expected the key of a managed secret of this tenant; POST /v1/secrets makes one");
                }
                settings.identity_secret = Some(key);
            }
            None => {}
        }
        if let Some(ids) = self.flow_ids {
            settings.flow_ids = saved(store, tenant, TargetKind::Flow, "/flowIds", &ids, |id: FlowId| id, &mut problems).await?;
        }
        if let Some(ids) = self.agent_ids {
            settings.agent_ids = saved(store, tenant, TargetKind::Agent, "/agentIds", &ids, AgentId::as_flow, &mut problems).await?;
        }
        settings.default_flow_id = self.default_flow_id.or(settings.default_flow_id);
        let targets = settings.agent_ids.iter().map(AgentId::to_string).chain(settings.flow_ids.iter().map(FlowId::to_string));
        let targets: Vec<String> = targets.collect();
        if targets.is_empty() {
            problems.add("/flowIds", "expected at least one flow or agent that pages may run");
        } else if settings.default_flow_id.as_ref().is_some_and(|id| !targets.contains(id)) {
            problems.add("/defaultFlowId", "expected one of the flows and agents of this token");
        }
        problems.into_result()?;
        Ok(settings)
    }
}

/// The ids of what is saved; every other one is a fault.
async fn saved<I: std::str::FromStr + Copy>(
    store: &SharedStore,
    tenant: TenantId,
    kind: TargetKind,
    at: &str,
    ids: &[String],
    as_flow: impl Fn(I) -> FlowId,
    problems: &mut Problems,
) -> Result<Vec<I>> {
    if ids.len() > MOST {
        problems.add(at, format!("a token may have {MOST} of them"));
        return Ok(Vec::new());
    }
    let mut found = Vec::with_capacity(ids.len());
    for (index, text) in ids.iter().enumerate() {
        let id = text.parse::<I>().ok();
        let there = match id {
            Some(id) => store.find_flow(tenant, kind, as_flow(id)).await?.is_some(),
            None => false,
        };
        match id.filter(|_| there) {
            Some(id) => found.push(id),
            None => problems.add(format!("{at}/{index}"), format!("no such {}", kind.as_str())),
        }
    }
    Ok(found)
}

fn warnings(settings: &Settings) -> Vec<Warning> {
    let anywhere = settings.environment == Environment::Live && settings.allowed_origins.iter().any(|origin| origin.trim() == "*");
    let warning = Warning { kind: "wildcard_origin", message: "every page of the web may use this token; name the origins that should" };
    anywhere.then_some(warning).into_iter().collect()
}

/// A token's text, and its row over these settings.
fn mint(clock: &Clock, vault: &Vault, tenant: TenantId, id: ClientTokenId, settings: Settings) -> Result<(Secret, ClientToken)> {
    let prefix = settings.environment.prefix();
    let (text, hash) = ticket::mint(clock, prefix, tenant, id.as_u128());
    let sealed = vault.seal(text.expose().as_bytes(), &context(tenant, id))?;
    Ok((text, ClientToken { hash, sealed, hint: format!("{prefix}..."), settings }))
}

async fn list(caller: Scoped<ClientTokensRead>, State(store): State<SharedStore>, Params(paging): Params<Paging>) -> Result<Json<Rows>> {
    let (trail, limit) = (paging.trail::<ClientTokenId>()?, paging.limit());
    let tokens = all(&store, caller.tenant).list(None, trail.after(), limit + 1).await?;
    let page = trail.page(tokens, limit, false, |token| token.id);
    let data: Vec<Row> = page.data.into_iter().map(Row::from).collect();
    Ok(Json(Rows { client_tokens: data.clone(), data, pagination: page.pagination }))
}

async fn create(
    caller: Scoped<ClientTokensWrite>,
    State(store): State<SharedStore>,
    State(vault): State<Vault>,
    State(clock): State<Clock>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<NewRow>> {
    let tenant = caller.tenant;
    let call = Call { tenant, route: "POST /v1/client-tokens", key, request: fingerprint(&body.raw), secret: true };
    let input = body.value;
    receipts
        .once(call, move |seed| async move {
            let settings = input.over(None, &store, tenant).await?;
            let id = ClientTokenId::from_u128(seed);
            let (text, token) = mint(&clock, &vault, tenant, id, settings)?;
            let kept = match all(&store, tenant).find(id).await? {
                // An earlier try under this id got as far as the store, but nobody was shown its token: replace it.
                Some(old) => all(&store, tenant).change(&old, token, clock.now()).await?.ok_or_else(changed)?,
                None => all(&store, tenant).create(id, token, clock.now()).await?,
            };
            let warnings = warnings(&kept.body.settings);
            Ok(NewRow::new(kept, text.expose().to_owned(), warnings))
        })
        .await
}

fn changed() -> Error {
    Error::new(Kind::Conflict, "client_token_changed", "somebody else changed this client token at the same time").next("repeat the change")
}

async fn find(store: &SharedStore, tenant: TenantId, id: ClientTokenId) -> Result<Kept<ClientToken>> {
    all(store, tenant).find(id).await?.ok_or_else(ClientTokenId::missing)
}

async fn read(caller: Scoped<ClientTokensRead>, State(store): State<SharedStore>, Id(id): Id<ClientTokenId>) -> Result<Json<TokenAnswer>> {
    let kept = find(&store, caller.tenant, id).await?;
    let warnings = warnings(&kept.body.settings);
    Ok(Json(TokenAnswer::new(kept, warnings)))
}

async fn update(
    caller: Scoped<ClientTokensWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    Id(id): Id<ClientTokenId>,
    body: Body<Input>,
) -> Result<Json<TokenAnswer>> {
    let old = find(&store, caller.tenant, id).await?;
    let settings = body.value.over(Some(old.body.settings.clone()), &store, caller.tenant).await?;
    if settings.environment != old.body.settings.environment {
        return Err(Error::invalid_at("/environment", "a token's environment stands in its text; make another token"));
    }
    let next = ClientToken { settings, ..old.body.clone() };
    let kept = all(&store, caller.tenant).change(&old, next, clock.now()).await?.ok_or_else(changed)?;
    let warnings = warnings(&kept.body.settings);
    Ok(Json(TokenAnswer::new(kept, warnings)))
}

async fn delete(
    caller: Scoped<ClientTokensWrite>,
    State(store): State<SharedStore>,
    Id(id): Id<ClientTokenId>,
) -> Result<Json<Deletion<ClientTokenId>>> {
    if !all(&store, caller.tenant).delete(id).await? {
        return Err(ClientTokenId::missing());
    }
    Ok(Json(Deletion::of(id)))
}

async fn show(
    caller: Scoped<ClientTokensWrite>,
    State(store): State<SharedStore>,
    State(vault): State<Vault>,
    Id(id): Id<ClientTokenId>,
) -> Result<Json<Text>> {
    let token = find(&store, caller.tenant, id).await?;
    let text = vault.open(&token.body.sealed, &context(caller.tenant, id))?;
    let token = String::from_utf8(text.to_vec()).map_err(Error::internal)?;
    Ok(Json(Text { token }))
}

async fn regenerate(
    caller: Scoped<ClientTokensWrite>,
    State(store): State<SharedStore>,
    State(vault): State<Vault>,
    State(clock): State<Clock>,
    Id(id): Id<ClientTokenId>,
) -> Result<Json<NewRow>> {
    let old = find(&store, caller.tenant, id).await?;
    let (text, next) = mint(&clock, &vault, caller.tenant, id, old.body.settings.clone())?;
    let kept = all(&store, caller.tenant).change(&old, next, clock.now()).await?.ok_or_else(changed)?;
    let warnings = warnings(&kept.body.settings);
    Ok(Json(NewRow::new(kept, text.expose().to_owned(), warnings)))
}

async fn list_conversations(
    caller: Scoped<ClientTokensRead>,
    State(store): State<SharedStore>,
    Id(id): Id<ClientTokenId>,
    Params(query): Params<owned::Query>,
) -> Result<Json<owned::Rows>> {
    find(&store, caller.tenant, id).await?;
    owned::page(&store, caller.tenant, Some(&id.to_string()), query).await
}

async fn list_feedback(
    caller: Scoped<ClientTokensRead>,
    State(store): State<SharedStore>,
    Id(id): Id<ClientTokenId>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<FeedbackRow>>> {
    find(&store, caller.tenant, id).await?;
    let (trail, limit) = (paging.trail::<FeedbackId>()?, paging.limit());
    let found = Collection::<Feedback>::of(&*store, caller.tenant).list(Some(&id.to_string()), trail.after(), limit + 1).await?;
    let page = trail.page(found, limit, false, |feedback| feedback.id);
    let row = |kept: Kept<Feedback>| FeedbackRow { id: kept.id, created_at: kept.created_at, feedback: kept.body };
    Ok(Json(Page { data: page.data.into_iter().map(row).collect(), pagination: page.pagination }))
}
