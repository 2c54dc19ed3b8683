//! The composition root: builds every part from the options, starts and stops them. Only this place knows all of them.

pub mod about;
mod backup;
mod discard;
mod master_key;
mod sealed_data;
pub mod telemetry;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::about::About;
pub use backup::{BackupContents, back_up, restore};
pub use discard::discard_run;

use crate::asset::{self, Assets};
use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::Config;
use crate::engine::notice::Listeners;
use crate::engine::{self, Engine, Mailing, Parts, SharedLimits, StartRun};
use crate::error::{Error, Kind, Result};
use crate::expr::script::{Limits as ScriptLimits, Sandbox};
use crate::feed::Feed;
use crate::html::Printer;
use crate::http::cors::Origins;
use crate::http::dispatch;
use crate::http::docs::Readiness;
use crate::http::limits::Limits;
use crate::http::serve::{ServeOptions, serve};
use crate::http::{AppState, HttpOptions, router, workflows};
use crate::id::{NodeId, TenantId};
use crate::model::job::{Placed, WORKFLOW_PREFIX};
use crate::net::{Egress, Mailer, Policy};
use crate::provider::{Catalogue, Models, Setup};
use crate::queue::jobs::NamedFlows;
use crate::queue::retention::RetentionSweeper;
use crate::queue::{Jobs, Workers, census, crons, events, webhooks};
use crate::secret::{Secret, Vault};
use crate::store::sealing::{self, Encryption, Founding, Sealing};
use crate::store::{self, SharedStore, Tenant};
use crate::tool::mcp::Clients;
use crate::tool::services::Services;

/// A server whose parts are built and at work, before or while it listens.
pub struct App {
    pub state: AppState,
    /// The key that the first start made; shown once.
    pub new_key: Option<Secret>,
    pub about: About,
    options: HttpOptions,
    connections: ServeOptions,
    grace: Duration,
    compact_after: Option<Duration>,
}

/// The flows of all surfaces, by name.
struct Flows {
    saved: dispatch::SavedFlows,
    workflows: workflows::Workflows,
}

#[async_trait::async_trait]
impl NamedFlows for Flows {
    async fn run_of(&self, tenant: TenantId, name: &str, inputs: Map<String, Value>) -> Result<Option<StartRun>> {
        if name.starts_with(WORKFLOW_PREFIX) {
            return self.workflows.run_of(tenant, name, inputs).await;
        }
        self.saved.run_of(tenant, name, inputs).await
    }

    async fn triggered(&self, tenant: TenantId, event: &str, payload: &Value) -> Result<Vec<(String, Placed)>> {
        self.workflows.triggered(tenant, event, payload).await
    }
}

/// Maximum number of concurrent scripts unless the operator sets one, regardless of the number of cores.
const MAX_SCRIPTS: usize = 16;
/// How often forgotten things are tidied away, and how often at most.
const TIDY: Duration = Duration::from_secs(60);
const SOONEST: Duration = Duration::from_secs(1);

impl App {
    /// Opens the database, builds the parts and takes up what an earlier server left.
    pub async fn start(config: &Config, clock: Clock) -> Result<Self> {
        Self::open(config, clock).await.map_err(|error| unless_full(config, error))
    }

    async fn open(config: &Config, clock: Clock) -> Result<Self> {
        std::fs::create_dir_all(&config.data).map_err(|error| unusable(&config.data, error))?;
        let connections = config.limits.database_connections;
        let options = store::Options { connections, ..store::Options::new(clock.clone()).advancing() };
        let store = store::open(&database(config), options).await?;
        Self::with_store(config, clock, store).await
    }

    /// [`App::start`] over a store that is open already.
    pub async fn with_store(config: &Config, clock: Clock, store: SharedStore) -> Result<Self> {
        let master_key = master_key::read(config, &store, &clock).await?;
        let vault = Vault::new(master_key.bytes, clock.clone());
        let sealing = Arc::new(Sealing::new(store, vault.clone(), clock.clone()));
        let store: SharedStore = sealing.clone();
        let auth = Auth::new(store.clone(), clock.clone());
        let new_key = auth.bootstrap(config.api_key.clone()).await?;
        let egress = Egress::new(policy(config), clock.clone())?;
        let feed = Feed::new(store.clone(), clock.clone());
        let models = models(config, &egress, &clock)?;
        let kept = config.assets.clone().unwrap_or_else(|| config.data.join("assets").display().to_string());
        let objects = asset::open(&kept, &config.env, &egress)?;
        let assets = Assets::new(objects, store.clone(), vault.clone(), clock.clone(), &public_url(config));
        let engine = Engine::new(Parts {
            store: store.clone(),
            feed: feed.clone(),
            models,
            services: Services::load(config.providers.as_deref(), &config.env)?,
            mail: mailing(config)?,
            assets: assets.clone(),
            mcp: Clients::new(egress.clone(), config.mcp_commands.clone()).with_max_programs(config.limits.mcp_programs),
            egress,
            sandbox: sandbox(config, &clock),
            printer: Printer::new(config.own_program.clone(), config.limits.printing, clock.clone()),
            limits: SharedLimits::new(config.limits.runs),
            listeners: Listeners::default(),
            vault: vault.clone(),
            clock: clock.clone(),
            node: NodeId::new(&clock),
        });
        webhooks::listen(engine.parts()).await?;
        let workers = Workers::start(engine.clone(), config.limits.workers);
        let flows = Flows {
            saved: dispatch::SavedFlows::new(engine.clone(), store.clone(), clock.clone()),
            workflows: workflows::Workflows::new(engine.clone(), store.clone(), vault.clone(), clock.clone()),
        };
        let jobs = Jobs::start(workers.clone(), flows, config.limits.jobs);
        let saved = Arc::new(dispatch::SavedFlows::new(engine.clone(), store.clone(), clock.clone()));
        let limits = Limits::new(config.limits.http, clock.clone());
        let readiness = Readiness::default();
        let retention = config.retention.clone();
        let state =
            AppState { assets, auth, store, sealing, vault, clock, limits, readiness, engine, feed, workers, jobs, saved, retention };
        let cors = Origins::parse(config.cors.iter().map(String::as_str))?;
        let options = HttpOptions { cors, metrics: telemetry::metrics() };
        let models = &state.engine.parts().models;
        engine::register(models);
        let about = About {
            data: config.data.clone(),
            database: about::database(&database(config)),
            new_master_key: master_key.made,
            providers: models.with_keys().into_iter().map(str::to_owned).collect(),
        };
        let connections = config.limits.connections;
        Ok(Self { state, new_key, about, options, connections, grace: config.grace, compact_after: config.compact_after })
    }

    /// Serves until `shutdown`; then takes no more, lets runs end or hands them back, lets readers go, and closes.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let state = self.state.clone();
        let tidy = tokio::spawn(tidy(state.clone(), self.compact_after, self.options.metrics.clone()));
        let census = tokio::spawn(census::beat(state.jobs.clone()));
        let beat = tokio::spawn(dispatch::beat(state.clone()));
        let crons = tokio::spawn(crons::beat(state.jobs.clone()));
        let events = tokio::spawn(events::beat(state.jobs.clone()));
        let webhooks = tokio::spawn(webhooks::beat(state.jobs.clone(), state.vault.clone()));
        let sweeper = RetentionSweeper::new(state.store.clone(), state.clock.clone(), state.retention.clone());
        let retention = tokio::spawn(sweeper.run());
        let stop = CancellationToken::new();
        let draining = {
            let (state, stop, grace) = (state.clone(), stop.clone(), self.grace);
            async move {
                shutdown.cancelled().await;
                state.readiness.drain();
                state.workers.shutdown(grace).await;
                // Runs say no more here: their readers are let go before their connections would be cut.
                state.feed.stop();
                stop.cancel();
            }
        };
        let router = router(self.state, self.options);
        let options = ServeOptions { shutdown_timeout: Duration::from_secs(3), ..self.connections };
        tokio::join!(serve(listener, router, state.clock.clone(), stop.clone(), options), draining);
        tidy.abort();
        beat.abort();
        crons.abort();
        events.abort();
        webhooks.abort();
        census.abort();
        retention.abort();
        state.store.close().await;
    }
}

async fn tidy(state: AppState, compact_after: Option<Duration>, metrics: Option<PrometheusHandle>) {
    let pause = compact_after.map_or(TIDY, |after| after.clamp(SOONEST, TIDY));
    loop {
        state.clock.sleep(pause).await;
        state.limits.sweep();
        // The recorder stores single measurements until they are rendered or this is called.
        if let Some(metrics) = &metrics {
            metrics.run_upkeep();
        }
        state.engine.parts().mcp.tidy().await;
        if let Err(error) = dispatch::tidy(&state.store, state.clock.now()).await {
            tracing::warn!(%error, "expired sessions stay for now");
        }
        if let Err(error) = workflows::tidy(&state.store, state.clock.now()).await {
            tracing::warn!(%error, "expired sessions of workflows stay for now");
        }
        if let Some(after) = compact_after
            && let Err(error) = state.feed.shrink(state.clock.now().before(after)).await
        {
            tracing::warn!(%error, "logs of ended executions stay as they are for now");
        }
    }
}

/// Checks the parts of the options that refer to something else: models, origins, services, the mail server. Opens and changes nothing.
pub fn check(config: &Config) -> Result<()> {
    let clock = Clock::system();
    let egress = Egress::new(policy(config), clock.clone())?;
    models(config, &egress, &clock)?;
    Origins::parse(config.cors.iter().map(String::as_str))?;
    Services::load(config.providers.as_deref(), &config.env)?;
    mailing(config).map(drop)
}

/// Takes over the limits that a running server can change.
pub fn reload(state: &AppState, config: &Config) {
    state.limits.set(config.limits.http);
    state.engine.parts().limits.set(config.limits.runs);
}

/// The embedded database's file, when no address names another.
pub fn database_file(config: &Config) -> PathBuf {
    config.data.join("dispatch.db")
}

/// Opens the store that the options name, for looking and administrating; a server may be at work on it.
pub async fn open(config: &Config, clock: &Clock) -> Result<SharedStore> {
    Ok(store::open(&database(config), store::Options::new(clock.clone())).await?)
}

/// Wraps a store so that sealed tenants can be read. Without the server's master key only tenants that seal nothing can be; for them any key works.
pub fn readable(config: &Config, clock: &Clock, store: SharedStore) -> Result<SharedStore> {
    let mut key = [0u8; 32];
    clock.fill(&mut key);
    let key = master_key::existing(config)?.unwrap_or(key);
    Ok(Arc::new(Sealing::new(store, Vault::new(key, clock.clone()), clock.clone())))
}

/// Makes a tenant and its first key. Who can read what it keeps is known before it can keep anything.
pub async fn new_tenant(
    config: &Config,
    clock: &Clock,
    store: &SharedStore,
    name: String,
    encryption: Encryption,
) -> Result<(Tenant, Secret)> {
    let id = TenantId::new(clock);
    match encryption {
        Encryption::None => {}
        Encryption::Managed => {
            let vault = Vault::new(master_key::read(config, store, clock).await?.bytes, clock.clone());
            sealing::found(&**store, clock, id, Founding::Managed(&vault)).await?;
        }
        Encryption::ZeroKnowledge => sealing::found(&**store, clock, id, Founding::ZeroKnowledge).await?,
    }
    let (tenant, made) = Auth::new(store.clone(), clock.clone()).create_tenant(id, name).await?;
    Ok((tenant, made.key))
}

/// Returns the address of the database that the options name.
pub fn database(config: &Config) -> String {
    config.database_url.clone().unwrap_or_else(|| format!("sqlite://{}", database_file(config).display()))
}

/// Scripts run only in workers. If the path of this program is unknown, none can be started.
fn sandbox(config: &Config, clock: &Clock) -> Sandbox {
    let limits = config.limits.scripts;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let concurrent = config.limits.script_workers.unwrap_or(cores.clamp(limits.concurrent, MAX_SCRIPTS));
    let limits = ScriptLimits { concurrent, ..limits };
    Sandbox::new(limits, clock.clone()).with_workers(config.own_program.clone().unwrap_or_default())
}

fn policy(config: &Config) -> Policy {
    Policy {
        allow: config.allow_private.clone(),
        allow_loopback: config.dev,
        max_requests: config.limits.outgoing_calls,
        ..Policy::default()
    }
}

fn mailing(config: &Config) -> Result<Mailing> {
    Ok(Mailing { server: config.smtp_url.as_ref().map(Mailer::new).transpose()?, from: config.mail_from.clone() })
}

/// Where readers of files reach this server.
fn public_url(config: &Config) -> String {
    config.public_url.clone().unwrap_or_else(|| format!("http://{}", config.listen))
}

fn models(config: &Config, egress: &Egress, clock: &Clock) -> Result<Models> {
    let mut catalogue = Catalogue::built_in()?;
    if let Some(folder) = &config.providers {
        catalogue.extend_from(folder)?;
    }
    if let Some(name) = config.default_provider.as_ref().filter(|name| catalogue.provider(name).is_none()) {
        let known: Vec<&str> = catalogue.providers().iter().map(|provider| provider.name.as_str()).collect();
        return Err(Error::new(
            crate::error::Kind::Invalid,
            "invalid_configuration",
            format!("--default-provider names no provider: `{name}`"),
        )
        .next(format!("choose one of {}", known.join(", "))));
    }
    for (alias, model) in &config.model_aliases {
        catalogue.resolve(model).map_err(|error| {
            Error::new(crate::error::Kind::Invalid, "invalid_configuration", format!("--model-alias {alias}: {}", error.message()))
        })?;
    }
    Ok(Models::new(Setup {
        catalogue,
        env: config.env.clone(),
        egress: egress.clone(),
        clock: clock.clone(),
        deadlines: config.limits.models,
        dev: config.dev,
        default_provider: config.default_provider.clone(),
        aliases: config.model_aliases.clone(),
    }))
}

fn unusable(path: &std::path::Path, error: std::io::Error) -> Error {
    Error::new(Kind::Invalid, "data_folder_unusable", format!("the data folder {} cannot be used: {error}", path.display()))
        .next("choose another with --data")
        .because(error)
}

/// The same error, or that of a start on a full disk, which fails again until space is freed.
fn unless_full(config: &Config, error: Error) -> Error {
    if !store::is_disk_full(&error) {
        return error;
    }
    let message = format!("the server cannot start: no space is left on the disk of the database {}", about::database(&database(config)));
    Error::new(Kind::Invalid, "disk_full", message)
        .next("free some space and start the server again; nothing that was accepted is lost, and `dispatch doctor` shows how much is free")
        .because(error)
}
