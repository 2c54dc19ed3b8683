//! Where a job runs: a server inside this process with a database of its own, or a server that was named.

use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::cli::embedded::Embedded;
use crate::cli::follow::Client;
use crate::cli::kit::{KitFault, KitResult};
use crate::clock::Clock;
use crate::config::Config;
use crate::net::{AllowRule, Policy};
use crate::secret::Secret;

/// Private networks that jobs on this machine may call, as the person who runs them may.
const PRIVATE_NETWORKS: &[&str] = &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

/// Options that choose the server.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ServerOptions {
    /// Run the job on this server; without one, it runs in this process.
    #[arg(long, env = "DISPATCH_URL", value_name = "URL")]
    pub server: Option<String>,
    /// The server's API key.
    #[arg(long, env = "DISPATCH_API_KEY", hide_env_values = true)]
    pub key: Option<Secret>,
}

/// A server for jobs.
pub struct JobHost {
    pub client: Client,
    pub clock: Clock,
    embedded: Option<Embedded>,
}

impl JobHost {
    /// Connects to the chosen server, or starts one over the database in `data`.
    pub async fn open(options: &ServerOptions, data: &Path, clock: &Clock) -> KitResult<Self> {
        if let Some(url) = &options.server {
            let client = Client::new(url, options.key.clone(), clock)?;
            return Ok(Self { client, clock: clock.clone(), embedded: None });
        }
        make_private_folder(data)?;
        let allow_private = private_networks();
        let config = Config { dev: true, allow_private, env: HashMap::new(), ..Config::new(data.to_owned()) };
        let embedded = Embedded::start(&config, clock).await?;
        Ok(Self { client: embedded.client()?, clock: clock.clone(), embedded: Some(embedded) })
    }

    /// Stops a server that was started here.
    pub async fn close(self) -> KitResult<()> {
        match self.embedded {
            Some(embedded) => Ok(embedded.stop().await?),
            None => Ok(()),
        }
    }
}

fn private_networks() -> Vec<AllowRule> {
    PRIVATE_NETWORKS.iter().filter_map(|network| network.parse().ok()).collect()
}

/// What calls of this process itself may reach: the same as those of the server inside it.
pub fn local_policy() -> Policy {
    Policy { allow: private_networks(), allow_loopback: true, ..Policy::default() }
}

/// Makes a folder that only its owner may open.
pub fn make_private_folder(path: &Path) -> KitResult<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| unwritable(path, &error))
}

/// A file or folder that cannot be written.
pub fn unwritable(path: &Path, error: &std::io::Error) -> KitFault {
    KitFault::runtime(format!("{} cannot be written: {error}", path.display()))
}

/// The folder of a run that is under way: its database, and what `job resume` needs.
pub fn engine_folder(run: &Path) -> PathBuf {
    run.join(".engine")
}
