//! Servers of the Model Context Protocol as sources of tools (<https://modelcontextprotocol.io>, revisions up to 2026-07-28).
//!
//! A [`Server`] is where and how to ask; [`Clients`] keeps the conversations that are open, lists what a server offers and calls it. What a
//! server says of its tools is data from outside: [`Listed::fingerprint`] tells whether it says the same as before.
//!
//! Must not know: runs, journals, approvals. Who remembers a fingerprint is decided above.

mod asking;
mod clients;
mod door;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use clients::{Answer, Clients, Commands, Failure, MAX_PROGRAMS};

use super::http::{AuthConfig, HttpConfig, HttpTemplate, Mode};
use super::{Effect, check_name};
use crate::error::Problems;
use crate::expr::Scope;

/// Longest time that a call may take, in milliseconds.
pub const MAX_TIMEOUT_MS: u64 = 60_000;

/// A server as documents define it.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "McpServerConfig")]
pub struct ServerConfig {
    /// What `toolIds` (`mcp:name:tool`, `mcp:name:*`) and events call it by.
    pub name: String,
    /// Its address: streamable HTTP. A template that may read secrets, as are the headers.
    pub url: Option<String>,
    pub headers: Map<String, Value>,
    /// `{type: bearer, token}`, `{type: api_key, headerName, token}` or `{type: basic, username, password}`.
    pub auth: Option<AuthConfig>,
    /// Instead of `url`: the name of a program that the server's operator lets tenants start.
    pub command: Option<String>,
    /// The tools that may be used; all of them when absent.
    pub allowed_tools: Option<Vec<String>>,
    /// Milliseconds that one call may take; at most 60,000, and 30,000 when absent.
    #[serde(alias = "timeoutMs")]
    pub timeout: Option<u64>,
    /// A person must approve each call.
    pub requires_approval: bool,
}

/// How a server is reached.
#[derive(Debug, Clone)]
enum Reach {
    Http(Box<HttpTemplate>),
    Command(String),
}

/// A compiled server.
#[derive(Debug, Clone)]
pub struct Server {
    pub name: String,
    reach: Reach,
    /// `*` stands for all.
    pub allowed: Option<Vec<String>>,
    pub timeout: Duration,
    pub requires_approval: bool,
}

/// A tool as a server describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    pub name: String,
    pub description: String,
    pub parameters: Value,
    pub effect: Effect,
}

impl Listed {
    /// A hash of all that a model reads of it (SHA-256, hexadecimal). Members of the parameters in another order count as a change.
    pub fn fingerprint(&self) -> String {
        let text = serde_json::json!([self.name, self.description, self.parameters]).to_string();
        Sha256::digest(text.as_bytes()).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }
}

impl Server {
    /// Compiles a server; pointers of problems are relative to its configuration.
    pub fn compile(config: &ServerConfig) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        check_name(&config.name, &mut problems);
        let timeout = config.timeout.unwrap_or(super::MAX_TIMEOUT_MS);
        if !(1..=MAX_TIMEOUT_MS).contains(&timeout) {
            problems.add("/timeout", format!("expected 1 to {MAX_TIMEOUT_MS} milliseconds"));
        }
        let reach = match (&config.url, &config.command) {
            (Some(url), None) => {
                let call = HttpConfig {
                    url: url.clone(),
                    method: "GET".into(),
                    headers: config.headers.clone(),
                    auth: config.auth.clone(),
                    ..HttpConfig::default()
                };
                match HttpTemplate::compile(&call, Mode::Step) {
                    Ok(call) => Some(Reach::Http(Box::new(call))),
                    Err(faults) => {
                        problems.0.extend(faults.0);
                        None
                    }
                }
            }
            (None, Some(command)) => Some(Reach::Command(command.clone())),
            _ => {
                problems.add("/url", "expected the server's `url`, or the name of a `command`");
                None
            }
        };
        match reach {
            Some(reach) if problems.0.is_empty() => Ok(Self {
                name: config.name.clone(),
                reach,
                allowed: config.allowed_tools.clone(),
                timeout: Duration::from_millis(timeout),
                requires_approval: config.requires_approval,
            }),
            _ => Err(problems),
        }
    }

    /// Whether a tool of this name may be used.
    pub fn allows(&self, tool: &str) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.iter().any(|name| name == tool || name == "*"))
    }

    /// The address with what the run knows filled in. Error `secret_missing`: a secret that it names is not there.
    pub fn place(&self, scope: &Scope<'_>) -> crate::error::Result<Place> {
        match &self.reach {
            Reach::Command(name) => Ok(Place::Command(name.clone())),
            Reach::Http(call) => {
                let call = call.render(scope, "", self.timeout)?;
                Ok(Place::Http(Box::new(call.into_head())))
            }
        }
    }
}

/// Where a server is, for one run.
#[derive(Debug, Clone)]
pub enum Place {
    Http(Box<super::http::Head>),
    Command(String),
}

impl Place {
    /// What people know it by: without a query, which may hold secrets.
    pub fn shown(&self) -> String {
        match self {
            Self::Command(name) => format!("command:{name}"),
            Self::Http(head) => head.url.split(['?', '#']).next().unwrap_or_default().to_owned(),
        }
    }
}
