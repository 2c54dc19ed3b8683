//! `dispatch serve`: the server.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::output::Output;
use super::server_options::ServerOptions;
use super::signals::{self, Request, Requests, Signals};
use crate::app::App;
use crate::app::telemetry::{self, LogOptions};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::{failpoint, process};

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    server: ServerOptions,
    /// What to log, as in `info,dispatch=debug`.
    #[arg(long, env = "DISPATCH_LOG", default_value = "info")]
    log: String,
    /// Log one JSON object a line.
    #[arg(long, env = "DISPATCH_LOG_JSON")]
    log_json: bool,
    /// Send traces to this OTLP collector (HTTP).
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// For `dispatch selftest crash`: die when the named point is reached for the n-th time, as `name:n`.
    #[arg(env = "DISPATCH_FAILPOINT", long, hide = true)]
    failpoint: Option<String>,
}

/// How much longer than runs may take to end a stop may take as a whole: handing runs back, closing connections and the database.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

pub async fn run(arguments: Arguments, output: &Output) -> Result<()> {
    failpoint::arm(arguments.failpoint.as_deref()).map_err(|why| Error::new(Kind::Invalid, "failpoint_invalid", why))?;
    let _telemetry =
        telemetry::install(&LogOptions { filter: Some(arguments.log), json: arguments.log_json, otlp: arguments.otlp_endpoint });
    let mut config = arguments.server.config(std::env::vars().collect::<HashMap<_, _>>());
    if let Some(files) = process::raise_open_files() {
        config.connections = config.connections.fitted_to(files);
        tracing::info!(files, connections = config.connections.max_connections, "the limit on open files");
    }
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        Error::new(Kind::Unavailable, "address_unavailable", format!("cannot listen on {}: {error}", config.listen))
            .next("choose another with --listen")
    })?;
    let address = listener.local_addr().map_err(Error::internal)?;
    // With port 0 the system chose one.
    config.listen = address;
    let app = App::start(&config, Clock::system()).await?;
    if config.dev {
        tracing::warn!("--dev: loopback targets are allowed, and local/echo answers for models whose provider has no key");
    }
    let shutdown = CancellationToken::new();
    signals::end_in_any_case(config.grace.saturating_add(STOP_TIMEOUT))?;
    let stopping = tokio::spawn(stop_on_signal(Signals::listen()?, shutdown.clone()));
    let answering = tokio::spawn(answer_requests(Requests::listen()?, app.state.clone()));
    if let Some(key) = &app.new_key {
        output.say(format_args!("API key (shown once): {}", key.expose()));
    }
    output.say(format_args!("listening on http://{address}"));
    output.envelope(json!({ "url": format!("http://{address}"), "apiKey": app.new_key.as_ref().map(|key| key.expose()), "store": app.state.store.name() }))?;
    tracing::info!(%address, store = app.state.store.name(), dev = config.dev, "dispatch serves");
    app.serve(listener, shutdown).await;
    stopping.abort();
    answering.abort();
    tracing::info!("dispatch has stopped");
    Ok(())
}

/// The first signal asks for a graceful stop.
async fn stop_on_signal(mut signals: Signals, shutdown: CancellationToken) {
    signals.next().await;
    tracing::info!("stopping: runs may end, the rest is handed back; a second signal ends at once");
    shutdown.cancel();
}

/// Does what other signals ask for.
async fn answer_requests(mut requests: Requests, state: AppState) {
    loop {
        match requests.next().await {
            Request::Reload => tracing::info!(
                "SIGHUP: nothing is read again; logs go to stderr, and options, environment and provider files are read at the start only"
            ),
            Request::Status => {
                let database = state.store.ping().await.map_or_else(|error| error.to_string(), |()| "takes writes".to_owned());
                let takes_work = state.workers.admits().is_ok() && !state.readiness.is_draining();
                tracing::info!(runs = state.workers.active(), takes_work, store = state.store.name(), %database, "SIGUSR1: status");
            }
        }
    }
}
