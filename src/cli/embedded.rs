//! A server inside this process, for commands that need one: the real one, on a free port of the loopback interface.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::follow::Client;
use crate::app::App;
use crate::auth::{Auth, KeyRequest};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::id::{KeyId, TenantId};
use crate::model::wait::hex;
use crate::model::{Caller, Who};
use crate::secret::Secret;

/// A server at work. Stop it: what it holds is not given back by dropping it.
pub struct Embedded {
    pub url: String,
    /// The key that the first start over a data folder made.
    pub new_key: Option<Secret>,
    key: Secret,
    clock: Clock,
    auth: Auth,
    /// A key that lasts as long as this server.
    lent: Option<(TenantId, KeyId)>,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Embedded {
    pub async fn start(config: &Config, clock: &Clock) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(|error| {
            Error::new(Kind::Unavailable, "address_unavailable", format!("no port of the loopback interface is free: {error}"))
        })?;
        let url = format!("http://{}", listener.local_addr().map_err(Error::internal)?);
        let app = App::start(config, clock.clone()).await?;
        let auth = app.state.auth.clone();
        let new_key = app.new_key.clone();
        let (key, lent) = match &new_key {
            Some(key) => (key.clone(), None),
            None => lend(&app, clock).await?,
        };
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(app.serve(listener, shutdown.clone()));
        Ok(Self { url, new_key, key, clock: clock.clone(), auth, lent, shutdown, serving })
    }

    /// A client that may do everything.
    pub fn client(&self) -> Result<Client> {
        Client::new(&self.url, Some(self.key.clone()), &self.clock)
    }

    /// Lets executions end or hands them back, and closes the database.
    pub async fn stop(self) -> Result<()> {
        if let Some((tenant, key)) = self.lent {
            self.auth.revoke_key(tenant, key).await?;
        }
        self.shutdown.cancel();
        self.serving.await.map_err(Error::internal)
    }
}

/// A key of the first tenant, for this process alone.
async fn lend(app: &App, clock: &Clock) -> Result<(Secret, Option<(TenantId, KeyId)>)> {
    let tenants = app.state.store.list_tenants().await?;
    let tenant = tenants.first().ok_or_else(|| Error::internal("a database that was started has no tenant"))?.id;
    let id = KeyId::new(clock);
    let scopes = vec!["*".to_owned()];
    let owner = Caller { tenant, who: Who::Key(id), scopes: scopes.clone() };
    let made = app.state.auth.create_key(&owner, KeyRequest { id, name: "dispatch run".into(), scopes, expires_at: None }).await?;
    Ok((made.key, Some((tenant, made.row.id))))
}

/// A folder of this process's own that goes away with it.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(clock: &Clock) -> Result<Self> {
        let mut name = [0u8; 8];
        clock.fill(&mut name);
        let path = std::env::temp_dir().join(format!("dispatch-{}", hex(&name)));
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|error| {
            Error::new(Kind::Invalid, "data_folder_unusable", format!("{} cannot be made: {error}", path.display()))
                .next("choose another place with TMPDIR")
        })?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
