//! `dispatch run`: one dispatch request, streamed to the terminal; on a server, or on one started for it.
//!
//! What is no file but has the form `module.action` is one action of a module instead.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use super::embedded::{Embedded, Scratch};
use super::follow::{Chase, Client, Decider};
use super::job::ServerOptions;
use super::job::action::{self, ActionRequest};
use super::kit::{KitContext, KitResult};
use super::output::Output;
use super::request::{parse_answer, parse_setting, read_request, set};
use super::signals::{INTERRUPTED, Signals};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::http::dispatch::Outcome;
use crate::job::names::is_action;
use crate::secret::Secret;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A file with the body of POST /v1/dispatch, `-` for stdin; or an action of a module, `tickets.open`.
    #[arg(value_name = "FILE|MODULE.ACTION")]
    file: String,
    /// Run it on this server; without one, it runs in this process.
    #[arg(long, env = "DISPATCH_URL", value_name = "URL")]
    server: Option<String>,
    /// The server's API key.
    #[arg(long, env = "DISPATCH_API_KEY", hide_env_values = true)]
    key: Option<Secret>,
    /// Keep the database in this folder, so that a paused execution can go on; else nothing is kept.
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    data: Option<PathBuf>,
    /// Allow loopback targets, and let local/echo answer for models whose provider has no key.
    #[arg(long, conflicts_with = "server")]
    dev: bool,
    /// Change the request: `inputs.city=Oslo`, `options.budget.maxCost=0.5`; JSON where it is JSON, else text. Repeat.
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = parse_setting)]
    settings: Vec<(String, Value)>,
    /// Answer every approval alike; without this, the terminal is asked.
    #[arg(long, value_enum)]
    approve: Option<Approve>,
    /// The output of a tool that runs with the caller: `get_location={"city":"Oslo"}`. Repeat.
    #[arg(long = "answer", value_name = "TOOL=VALUE", value_parser = parse_answer)]
    answers: Vec<(String, Value)>,
    /// Of an action: an input, `key=value`, in the type of the action's schema. Repeat.
    #[arg(long = "input", value_name = "KEY=VALUE")]
    inputs: Vec<String>,
    /// Of an action: in front of relative URLs.
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// Of an action: a header of every request, `name=value`. Repeat.
    #[arg(long = "header", value_name = "NAME=VALUE")]
    headers: Vec<String>,
    /// Of an action: a field of its credential and the environment variable that holds it, `field=NAME`. Repeat.
    #[arg(long = "credential", value_name = "FIELD=NAME")]
    credentials: Vec<String>,
}

impl Arguments {
    /// Whether an action of a module is named, and not a file.
    pub fn names_action(&self) -> bool {
        is_action(&self.file) && !self.file.ends_with(".json") && !std::path::Path::new(&self.file).exists()
    }
}

/// Runs one action of a module.
pub async fn run_action(arguments: Arguments, context: KitContext) -> KitResult<ExitCode> {
    let server = ServerOptions { server: arguments.server, key: arguments.key };
    let request = ActionRequest {
        action: &arguments.file,
        inputs: &arguments.inputs,
        base_url: arguments.base_url.as_deref(),
        headers: &arguments.headers,
        credentials: &arguments.credentials,
        server,
    };
    action::run(request, &context).await
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Approve {
    All,
    None,
}

pub async fn run(arguments: Arguments, output: &Output) -> Result<ExitCode> {
    let mut request = read_request(&arguments.file)?;
    for (path, value) in &arguments.settings {
        set(&mut request, path, value.clone())?;
    }
    let decider = match arguments.approve {
        Some(Approve::All) => Decider::Always(true, "(--approve all)"),
        Some(Approve::None) => Decider::Always(false, "(--approve none)"),
        None => Decider::person_or(Decider::Nobody, output),
    };
    let order = Order { request, decider, answers: arguments.answers.into_iter().collect(), output: *output };
    let clock = Clock::system();
    let mut signals = Signals::listen()?;
    match arguments.server {
        Some(url) => {
            let work = order.carry_out(Client::new(&url, arguments.key, &clock)?, Some("at the server".to_owned()));
            tokio::select! {
                done = work => done,
                () = signals.next() => {
                    output.say("\ninterrupted; the execution goes on at the server: GET /v1/executions lists it");
                    Ok(ExitCode::from(INTERRUPTED))
                }
            }
        }
        None => order.carry_out_here(arguments.data, arguments.dev, &clock, &mut signals).await,
    }
}

/// What is to be run, and how it is answered.
struct Order {
    request: Value,
    decider: Decider,
    answers: Map<String, Value>,
    output: Output,
}

impl Order {
    async fn carry_out_here(self, data: Option<PathBuf>, dev: bool, clock: &Clock, signals: &mut Signals) -> Result<ExitCode> {
        let output = self.output;
        let scratch = data.is_none().then(|| Scratch::new(clock)).transpose()?;
        let folder = scratch.as_ref().map(|scratch| scratch.path().to_owned()).or_else(|| data.clone()).unwrap_or_default();
        let config = Config { dev, env: std::env::vars().collect::<HashMap<_, _>>(), ..Config::new(folder) };
        let server = Embedded::start(&config, clock).await?;
        if let Some(key) = server.new_key.as_ref().filter(|_| scratch.is_none()) {
            output.say(format_args!("API key of this data folder (shown once): {}", key.expose()));
        }
        let later = data.map(|folder| format!("at `dispatch serve --data {}`", folder.display()));
        let client = server.client()?;
        let done = tokio::select! {
            done = self.carry_out(client, later) => done,
            () = signals.next() => {
                output.say("\ninterrupted");
                Ok(ExitCode::from(INTERRUPTED))
            }
        };
        server.stop().await?;
        done
    }

    async fn carry_out(self, client: Client, later: Option<String>) -> Result<ExitCode> {
        let output = self.output;
        let mut chase = Chase::start(client, self.request, self.decider, self.answers, output).await.map_err(advise)?;
        chase.settle().await?;
        let outcome = chase.outcome();
        let shown = serde_json::to_value(&outcome).map_err(Error::internal)?;
        match failure(&outcome, later.as_deref()) {
            Some(error) => Ok(output.fail_with(&error, Map::from_iter([("execution".to_owned(), shown)]))),
            None => output.envelope(json!({ "execution": shown })).map(|()| ExitCode::SUCCESS),
        }
    }
}

/// What the server advises its operator, for whoever is one for the time of this command.
fn advise(error: Error) -> Error {
    if error.code() != "provider_not_configured" {
        return error;
    }
    let advice = error.envelope().next.unwrap_or_default().to_owned();
    error.next(format!("{advice}; or let local/echo answer with --dev"))
}

/// Why an execution did not succeed; its exit code says whether the same request can succeed later.
///
/// `later` is where an answer can still be sent when the command has ended, if anywhere.
fn failure(outcome: &Outcome, later: Option<&str>) -> Option<Error> {
    if outcome.success {
        return None;
    }
    if let Some(reason) = &outcome.paused_reason {
        return Some(open_question(reason, later));
    }
    let Some(error) = outcome.error.as_ref().filter(|_| outcome.status != "completed") else {
        return Some(Error::new(Kind::Internal, "steps_failed", "the flow came to its end, but steps of it failed"));
    };
    let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let retryable = error.get("retryable").and_then(Value::as_bool).unwrap_or(false);
    let kind = if retryable { Kind::Unavailable } else { Kind::Internal };
    Some(Error::new(kind, text("code"), text("message")))
}

/// What nobody here could answer, with the call that answers it.
fn open_question(reason: &Value, later: Option<&str>) -> Error {
    let field = |name: &str| reason.get(name).cloned().unwrap_or_default();
    let name = field("toolName");
    let name = name.as_str().unwrap_or_default();
    let (error, here, path, body) = if reason.get("approvalId").is_some() {
        let error = Error::new(Kind::Conflict, "approval_needed", format!("`{name}` waits for an approval"));
        let (id, approval, digest) = (field("executionId"), field("approvalId"), field("digest"));
        let body = json!({ "executionId": id, "approvalId": approval, "digest": digest, "decision": "approved" });
        (error, "--approve all".to_owned(), "/v1/dispatch/approve", body)
    } else {
        let error = Error::new(Kind::Conflict, "tool_output_needed", format!("`{name}` runs with you, and its output is needed"));
        let call = field("toolCallId");
        let outputs = json!({ call.as_str().unwrap_or_default(): "..." });
        let body = json!({ "executionId": field("executionId"), "toolOutputs": outputs });
        (error, format!("--answer {name}=VALUE"), "/v1/dispatch/resume", body)
    };
    error.next(match later {
        Some(place) => format!("POST {path} {body} {place}, or run it anew with {here}"),
        None => format!("run it anew with {here}, or with --data DIR or --server URL, which keep it until it is answered"),
    })
}
