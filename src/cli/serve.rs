//! `dispatch serve`: the server.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::output::Output;
use super::reload::ReloadContext;
use super::settings::{self, LoadedSettings, ServerOptions};
use super::signals::{self, Request, Requests, Signals};
use crate::app::App;
use crate::app::about::keep_first_key;
use crate::app::telemetry::{self, LogOptions};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::{failpoint, process};

/// What `--help` says about secrets.
const VARIABLES: &str = "\
Best given as variables:
  DISPATCH_API_KEY     the first tenant's key; without it the first start creates one
  DISPATCH_MASTER_KEY  32 bytes as base64 or hex that seal stored secrets; without it the first start creates master.key
  OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY and others
                       keys of model providers; docs/configuration.md lists them";

/// See the module.
#[derive(Debug, clap::Args)]
#[command(after_help = VARIABLES)]
pub struct Arguments {
    /// A TOML file with settings. Flags and environment variables take precedence over it.
    #[arg(long, env = "DISPATCH_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    server: ServerOptions,
    /// What to log, as in `info,dispatch=debug`. The libraries for HTTP, TLS, DNS, SQL, SMTP, object storage and MCP log only warnings and errors
    /// at any setting, also in the traces of --otlp-endpoint: their lower levels contain hosts and messages, which may contain secrets.
    #[arg(long, env = "DISPATCH_LOG", default_value = "info", help_heading = "logs")]
    log: String,
    /// Log one JSON object a line.
    #[arg(long, env = "DISPATCH_LOG_JSON", help_heading = "logs")]
    log_json: bool,
    /// Base address of an OTLP collector (HTTP) that traces are sent to, for example `http://127.0.0.1:4318`. An invalid address is refused at
    /// the start.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", help_heading = "logs")]
    otlp_endpoint: Option<String>,
    /// For `dispatch selftest crash`: die when the named point is reached for the n-th time, as `name:n`.
    #[arg(env = "DISPATCH_FAILPOINT", long, hide = true)]
    failpoint: Option<String>,
}

impl Arguments {
    /// Returns the configuration file, if one is given.
    pub fn file(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Returns the log filter.
    pub fn log(&self) -> &str {
        &self.log
    }

    /// Returns the server's configuration, with provider keys and addresses from the environment.
    pub fn config(self) -> Config {
        self.server.config(std::env::vars().collect())
    }
}

/// Time limit for everything that follows the grace period: handing runs back, closing connections and the database.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

pub async fn run(arguments: Arguments, output: &Output) -> Result<()> {
    let file = arguments.config;
    let LoadedSettings { arguments, settings } = settings::load(file.as_deref())?;
    failpoint::arm(arguments.failpoint.as_deref()).map_err(|why| Error::new(Kind::Invalid, "failpoint_invalid", why))?;
    let log = LogOptions { filter: Some(arguments.log.clone()), json: arguments.log_json, otlp: arguments.otlp_endpoint.clone() };
    let telemetry = telemetry::install(&log)?;
    let wanted = arguments.server.listen.clone();
    let mut config = arguments.config();
    if let Some(files) = process::raise_open_files() {
        let connections = &mut config.limits.connections;
        *connections = connections.fitted_to(files);
        tracing::info!(files, connections = connections.max_connections, "raised the limit on open files");
    }
    let listener = listen(&wanted).await.map_err(|error| {
        Error::new(Kind::Unavailable, "address_unavailable", format!("cannot listen on {wanted}: {error}"))
            .next("choose another address with --listen")
    })?;
    // Before anyone can know that the server is there: a stop signal during the start counts as soon as it has started.
    let (stops, requests) = (Signals::listen()?, Requests::listen()?);
    signals::end_in_any_case(config.grace.saturating_add(STOP_TIMEOUT))?;
    let address = listener.local_addr().map_err(Error::internal)?;
    // With port 0 the system chose one.
    config.listen = address;
    let app = App::start(&config, Clock::system()).await?;
    if config.dev {
        tracing::warn!("--dev: loopback targets are allowed, and local/echo answers for models whose provider has no key");
    }
    if address.ip().is_unspecified() && config.public_url.is_none() {
        tracing::warn!(
            "URLs of files begin with http://{address}, which clients cannot reach; set --public-url to the address of this server"
        );
    }
    present(&app, &config, address, output)?;
    let shutdown = CancellationToken::new();
    let stopping = tokio::spawn(stop_on_signal(stops, shutdown.clone()));
    let reload = ReloadContext { file, settings, log: telemetry.log_filter() };
    let answering = tokio::spawn(answer_requests(requests, app.state.clone(), reload));
    app.serve(listener, shutdown).await;
    stopping.abort();
    answering.abort();
    tracing::info!("dispatch has stopped");
    Ok(())
}

/// Prefers IPv4: clients that try a name's addresses in order reach it first.
async fn listen(wanted: &str) -> std::io::Result<TcpListener> {
    let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host(wanted).await?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    TcpListener::bind(&*addresses).await
}

/// Reports the start: in words on a terminal, otherwise in the log. The first key never goes to the log.
fn present(app: &App, config: &Config, address: SocketAddr, output: &Output) -> Result<()> {
    let (about, url, version) = (&app.about, format!("http://{address}"), env!("CARGO_PKG_VERSION"));
    let is_terminal = std::io::stdout().is_terminal();
    let providers = about.providers.join(", ");
    if is_terminal {
        output.say(format_args!("dispatch {version}  data in {}, database {}", about.data.display(), about.database));
        if let Some(path) = &about.new_master_key {
            output.say(format_args!("created {}; keep it: stored secrets cannot be decrypted without it", path.display()));
        }
        match providers.as_str() {
            "" => {
                output.say("no model provider has a key; set OPENAI_API_KEY or another, or store one with PUT /v1/credentials/{provider}")
            }
            some => output.say(format_args!("providers with keys: {some}")),
        }
        output.say(format_args!("guide at {url}/llms.txt, API document at {url}/v1/openapi.json"));
    }
    if let Some(key) = app.new_key.as_ref().filter(|_| !output.json) {
        if is_terminal {
            output.say(format_args!("API key (shown once): {}", key.expose()));
        } else {
            let path = keep_first_key(config, key)?;
            output.say(format_args!("API key: written to {}; move it to a safe place", path.display()));
        }
    }
    output.say(format_args!("listening on {url}"));
    output.envelope(json!({ "url": url, "apiKey": app.new_key.as_ref().map(|key| key.expose()), "store": app.state.store.name() }))?;
    tracing::info!(
        version, %address, data = %about.data.display(), store = app.state.store.name(), database = about.database,
        new_master_key = about.new_master_key.as_ref().map(|path| tracing::field::display(path.display())), providers,
        dev = config.dev, guide = "/llms.txt", openapi = "/v1/openapi.json", "dispatch started"
    );
    if about.providers.is_empty() && !config.dev {
        tracing::warn!("no model provider has a key; prompts are refused with 402 until a key is set or stored");
    }
    Ok(())
}

/// Starts a graceful stop at the first signal.
async fn stop_on_signal(mut signals: Signals, shutdown: CancellationToken) {
    signals.next().await;
    tracing::info!("stopping: waiting for runs to end, the rest is handed back; a second signal ends the process at once");
    shutdown.cancel();
}

/// Handles the signals that do not stop the server.
async fn answer_requests(mut requests: Requests, state: AppState, mut reload: ReloadContext) {
    loop {
        match requests.next().await {
            Request::Reload => reload.reload(&state),
            Request::Status => {
                let database = state.store.ping().await.map_or_else(|error| error.to_string(), |()| "accepts writes".to_owned());
                let takes_work = state.workers.admits().is_ok() && !state.readiness.is_draining();
                tracing::info!(runs = state.workers.active(), takes_work, store = state.store.name(), %database, "SIGUSR1: status");
            }
        }
    }
}
