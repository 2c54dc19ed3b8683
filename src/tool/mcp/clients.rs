//! The conversations with servers: one for each run and server, kept for a few minutes after its last use.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use rmcp::RoleClient;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, ClientConfig, ErrorCode, Implementation, ProtocolVersion,
};
use rmcp::service::{ClientInitializeError, ClientLifecycleMode, ClientServiceExt, RunningService, ServiceError};
use rmcp::transport::{StreamableHttpClientTransport, TokioChildProcess, streamable_http_client::StreamableHttpClientTransportConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::asking::Asking;
use super::door::Door;
use super::{Listed, Place, Server};
use crate::net::{self, Egress};
use crate::tool::Effect;

/// Conversations at once, and how long one stays after its last use.
const MOST: u64 = 1_000;
const STAYS: Duration = Duration::from_secs(300);
/// The same of programs, unless the operator sets another number.
pub const MAX_PROGRAMS: u64 = 32;
const PROGRAM_STAYS: Duration = Duration::from_secs(30);
/// How long a server's list of tools is believed.
const BELIEVED: Duration = Duration::from_secs(300);
/// Of one result: bytes of a block that is shown, and how many are.
const LARGEST_BLOCK: usize = 1024 * 1024;
const MOST_BLOCKS: usize = 20;
/// Tools of one server.
const MOST_TOOLS: usize = 256;

/// The programs that tenants may start, by the names that the operator gave them.
pub type Commands = BTreeMap<String, Vec<String>>;

type Client = RunningService<RoleClient, Asking>;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Clients {
    egress: Egress,
    commands: Arc<Commands>,
    open: Cache<String, Arc<Client>>,
    /// Those with programs: each is a process.
    programs: Cache<String, Arc<Client>>,
    lists: Cache<String, Arc<Vec<Listed>>>,
}

/// Why a server could not be asked, or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: &'static str,
    pub message: String,
    /// The same question may be answered later.
    pub transient: bool,
    /// The question may have reached the server.
    pub sent: bool,
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// What the model reads, and what is for people only: pictures, sounds and links, as the protocol has them.
    Result { value: Value, beside: Vec<Value> },
    /// The tool failed; the text is for the model.
    Error(String),
    /// The server asks for something first: its questions by their names, and what it wants to be reminded of.
    Asks { questions: Map<String, Value>, state: Option<String> },
}

impl Clients {
    pub fn new(egress: Egress, commands: Commands) -> Self {
        Self {
            egress,
            commands: Arc::new(commands),
            open: Cache::builder().max_capacity(MOST).time_to_idle(STAYS).build(),
            programs: Cache::builder().max_capacity(MAX_PROGRAMS).time_to_idle(PROGRAM_STAYS).build(),
            lists: Cache::builder().max_capacity(MOST).time_to_live(BELIEVED).build(),
        }
    }

    /// Returns the same clients with another maximum number of running programs.
    #[must_use]
    pub fn with_max_programs(self, programs: u64) -> Self {
        Self { programs: Cache::builder().max_capacity(programs).time_to_idle(PROGRAM_STAYS).build(), ..self }
    }

    /// Lets go of connections and programs that nobody has used for a while. A cache does that by itself only when somebody asks it for something.
    pub async fn tidy(&self) {
        self.open.run_pending_tasks().await;
        self.programs.run_pending_tasks().await;
        self.lists.run_pending_tasks().await;
    }

    /// The tools that a server offers and lets be used. `whose`: among whom the answer is shared, with what the server knows of them.
    pub async fn list(&self, run: &str, whose: &str, server: &Server, place: &Place) -> Result<Vec<Listed>, Failure> {
        let key = format!("{whose}\n{}", secret_name(place));
        let fetch = async {
            let client = self.client(run, server, place).await?;
            let listed = within(server.timeout, client.list_all_tools()).await?;
            Ok(Arc::new(listed.into_iter().take(MOST_TOOLS).map(listing).collect::<Vec<_>>()))
        };
        let listed = self.lists.try_get_with(key, Box::pin(fetch)).await.map_err(|failure: Arc<Failure>| (*failure).clone())?;
        Ok(listed.iter().filter(|tool| server.allows(&tool.name)).cloned().collect())
    }

    /// Calls a tool. `answers` and `state`: what the server asked for before.
    pub async fn call(
        &self,
        run: &str,
        server: &Server,
        place: &Place,
        tool: &str,
        arguments: Map<String, Value>,
        answered: Option<(Map<String, Value>, Option<String>)>,
    ) -> Result<Answer, Failure> {
        let client = self.client(run, server, place).await?;
        let mut call = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
        let mut listening = None;
        if client.peer_info().is_some_and(|server| server.protocol_version < ProtocolVersion::V_2026_07_28) {
            let known = known(answered);
            listening = Some((client.service().listen(known.clone()).await, known));
        } else if let Some((answers, state)) = answered {
            call = call.with_input_responses(answers.into_iter().collect());
            call.request_state = state;
        }
        let answered = within(server.timeout, client.call_tool_once(call)).await;
        if let Some((listening, known)) = listening {
            let questions = listening.asked();
            // Whatever came of a call whose question was cancelled, it is made again.
            if !questions.is_empty() && answered.is_ok() {
                return Ok(Answer::Asks { questions, state: Some(Value::Object(known).to_string()) });
            }
        }
        match answered {
            Ok(CallToolResponse::Complete(result)) => Ok(answer(result)),
            Ok(CallToolResponse::InputRequired(asked)) => {
                let questions = asked.input_requests.unwrap_or_default();
                let questions = questions.into_iter().filter_map(|(name, question)| Some((name, serde_json::to_value(question).ok()?)));
                Ok(Answer::Asks { questions: questions.collect(), state: asked.request_state })
            }
            Ok(_) => Err(Failure::new("mcp_unsupported", "the MCP server answered with a task, which was not asked for")),
            Err(failure) => {
                if failure.transient {
                    // The next call begins a new conversation.
                    self.conversations(place).invalidate(&open_key(run, place)).await;
                }
                Err(failure)
            }
        }
    }

    const fn conversations(&self, place: &Place) -> &Cache<String, Arc<Client>> {
        match place {
            Place::Http(_) => &self.open,
            Place::Command(_) => &self.programs,
        }
    }

    async fn client(&self, run: &str, server: &Server, place: &Place) -> Result<Arc<Client>, Failure> {
        let key = open_key(run, place);
        let open = self.conversations(place);
        if let Some(client) = open.get(&key).await {
            if !client.is_transport_closed() {
                return Ok(client);
            }
            open.invalidate(&key).await;
        }
        open.try_get_with(key, Box::pin(self.connect(server, place))).await.map_err(|failure: Arc<Failure>| (*failure).clone())
    }

    async fn connect(&self, server: &Server, place: &Place) -> Result<Arc<Client>, Failure> {
        let capabilities = ClientCapabilities::builder().enable_elicitation().build();
        let config = ClientConfig::new(capabilities, Implementation::new("dispatch", env!("CARGO_PKG_VERSION")));
        let lifecycle = ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            legacy_version: Some(ProtocolVersion::V_2025_11_25),
        };
        let client = match place {
            Place::Http(head) => {
                let options = StreamableHttpClientTransportConfig::with_uri(head.url.as_str());
                let door = Door::new(self.egress.clone(), (**head).clone(), server.timeout);
                let transport = StreamableHttpClientTransport::with_client(door, options);
                begun(server.timeout, Asking::new(config).serve_with_lifecycle(transport, lifecycle)).await
            }
            Place::Command(name) => {
                let transport = self.start(name)?;
                begun(server.timeout, Asking::new(config).serve_with_lifecycle(transport, lifecycle)).await
            }
        };
        client.map(Arc::new)
    }

    /// Starts a program with an empty environment but its path: it must not learn the server's secrets.
    fn start(&self, name: &str) -> Result<TokioChildProcess, Failure> {
        let unknown = || {
            let known =
                if self.commands.is_empty() { "none".to_owned() } else { self.commands.keys().cloned().collect::<Vec<_>>().join(", ") };
            Failure::new("mcp_command_unknown", format!("the operator allows no MCP command `{name}`; allowed: {known}"))
        };
        let (program, arguments) = self.commands.get(name).and_then(|words| words.split_first()).ok_or_else(unknown)?;
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).kill_on_drop(true);
        let started = TokioChildProcess::builder(command).stderr(Stdio::null()).spawn();
        started
            .map(|(process, _)| process)
            .map_err(|error| Failure::new("mcp_command_failed", format!("`{name}` cannot be started: {error}")))
    }
}

/// Everything that people have answered so far: a server of the older revisions remembers nothing of the call before.
fn known(answered: Option<(Map<String, Value>, Option<String>)>) -> Map<String, Value> {
    let Some((answers, state)) = answered else { return Map::new() };
    let mut known: Map<String, Value> = state.and_then(|state| serde_json::from_str(&state).ok()).unwrap_or_default();
    known.extend(answers);
    known
}

/// A conversation belongs to one run: what a server remembers of it is nobody else's.
fn open_key(run: &str, place: &Place) -> String {
    format!("{run}\n{}", secret_name(place))
}

/// Tells places apart that differ in what only the server may know. In memory only.
fn secret_name(place: &Place) -> String {
    match place {
        Place::Command(name) => name.clone(),
        Place::Http(head) => {
            let headers = head.headers.iter().map(|(name, value)| match value {
                net::HeaderText::Plain(text) => format!("{name}:{text}"),
                net::HeaderText::Secret(secret) => format!("{name}:{}", secret.expose()),
            });
            let text = [head.url.clone()].into_iter().chain(headers).collect::<Vec<_>>().join("\n");
            use sha2::{Digest, Sha256};
            format!("{:?}", Sha256::digest(text.as_bytes()))
        }
    }
}

impl Failure {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), transient: false, sent: false }
    }

    fn unreachable(message: String) -> Self {
        Self { transient: true, sent: true, ..Self::new("mcp_unreachable", message) }
    }

    fn timeout(after: Duration) -> Self {
        Self {
            transient: true,
            sent: true,
            ..Self::new("mcp_timeout", format!("the MCP server did not answer within {} ms", after.as_millis()))
        }
    }
}

async fn within<T>(limit: Duration, asked: impl Future<Output = Result<T, ServiceError>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(ServiceError::McpError(error))) => {
            // It says itself that it went wrong inside; anything else it did not do.
            let sent = error.code == ErrorCode::INTERNAL_ERROR;
            Err(Failure { sent, ..Failure::new("mcp_refused", format!("the MCP server refused: {}", error.message)) })
        }
        Ok(Err(error)) => Err(Failure::unreachable(cause(&error))),
        Err(_) => Err(Failure::timeout(limit)),
    }
}

async fn begun(limit: Duration, beginning: impl Future<Output = Result<Client, ClientInitializeError>>) -> Result<Client, Failure> {
    match tokio::time::timeout(limit, beginning).await {
        Ok(Ok(client)) => Ok(client),
        // Nothing was asked for yet.
        Ok(Err(error)) => Err(Failure { sent: false, ..Failure::unreachable(cause(&error)) }),
        Err(_) => Err(Failure { sent: false, ..Failure::timeout(limit) }),
    }
}

/// The last cause: the way out's own words when it was that.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    // The SDK wraps the way out's words in names of its types.
    let words = last.to_string();
    let words = words.rsplit("] error: ").next().unwrap_or(&words).trim_start_matches("Client error: ");
    format!("the MCP server cannot be asked: {words}")
}

fn listing(tool: rmcp::model::Tool) -> Listed {
    let hints = tool.annotations.unwrap_or_default();
    let harmless = hints.read_only_hint == Some(true) || hints.idempotent_hint == Some(true);
    let parameters = Value::Object((*tool.input_schema).clone());
    let fits = parameters.get("type") == Some(&json!("object")) && crate::tool::schema::is_usable(&parameters);
    Listed {
        name: tool.name.into_owned(),
        description: tool.description.map(|text| text.chars().take(4_000).collect()).unwrap_or_default(),
        parameters: if fits { parameters } else { json!({ "type": "object" }) },
        effect: if harmless { Effect::Idempotent } else { Effect::Once },
    }
}

fn answer(result: CallToolResult) -> Answer {
    let texts: Vec<&str> = result.content.iter().filter_map(|block| block.as_text().map(|text| text.text.as_str())).collect();
    let text = texts.join("\n");
    if result.is_error == Some(true) {
        return Answer::Error(if text.is_empty() { "the tool failed and did not say why".into() } else { text });
    }
    let (mut notes, mut beside) = (Vec::new(), Vec::new());
    for block in result.content.iter().filter(|block| block.as_text().is_none()) {
        let Ok(block) = serde_json::to_value(block) else { continue };
        if block.to_string().len() > LARGEST_BLOCK || beside.len() >= MOST_BLOCKS {
            notes.push("(something that is too large to show was left out)".to_owned());
            continue;
        }
        // A model reads words; that something was shown is said in words.
        notes.push(match (block["type"].as_str(), block["mimeType"].as_str(), block["uri"].as_str()) {
            (Some("resource_link"), _, Some(uri)) => format!("(a link: {uri})"),
            (Some("resource"), ..) => block["resource"]["text"].as_str().map_or_else(|| "(a resource was given)".to_owned(), str::to_owned),
            (_, Some(mime), _) => format!("({mime} was shown to the user)"),
            _ => continue,
        });
        beside.push(block);
    }
    if let Some(value) = result.structured_content {
        return Answer::Result { value, beside };
    }
    let all: Vec<String> = std::iter::once(text).filter(|text| !text.is_empty()).chain(notes).collect();
    Answer::Result { value: Value::String(all.join("\n")), beside }
}
