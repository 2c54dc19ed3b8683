//! The database that a command works on itself, without a server.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::app;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::store::SharedStore;

/// Where it is.
#[derive(Debug, Clone, clap::Args)]
pub struct Location {
    /// Folder of the embedded database.
    #[arg(long, env = "DISPATCH_DATA", default_value = DEFAULT_DATA, global = true)]
    data: PathBuf,
    /// `sqlite://path` or `postgres://user@host/database`; the one in the data folder when absent.
    #[arg(long, env = "DISPATCH_DATABASE_URL", hide_env_values = true, global = true)]
    database_url: Option<String>,
}

/// The folder of the embedded database when none is named.
const DEFAULT_DATA: &str = "dispatch-data";

impl Location {
    /// Returns the place of a database that another command's options name.
    pub fn new(data: Option<PathBuf>, database_url: Option<String>) -> Self {
        Self { data: data.unwrap_or_else(|| DEFAULT_DATA.into()), database_url }
    }

    /// Opens a database that a server has used; it is not a command's to make one.
    pub async fn open(self, clock: &Clock) -> Result<(Config, SharedStore)> {
        let config = self.existing()?;
        let store = app::open(&config, clock).await?;
        Ok((config, store))
    }

    /// Returns the configuration for a database that a server has used.
    pub fn existing(self) -> Result<Config> {
        let config = self.config();
        if config.database_url.is_none() && !app::database_file(&config).exists() {
            return Err(Error::new(Kind::Missing, "database_not_found", format!("there is no database in {}", config.data.display()))
                .next("name its folder with --data, or start `dispatch serve` once: it makes the database and prints a key"));
        }
        Ok(config)
    }

    /// Returns the database's address, whether or not it exists.
    pub fn address(self) -> String {
        app::database(&self.config())
    }

    /// Returns the configuration, whether or not there is a database.
    pub fn config(self) -> Config {
        let master_key = std::env::var("DISPATCH_MASTER_KEY").ok().map(crate::secret::Secret::new);
        Config { database_url: self.database_url, env: HashMap::new(), master_key, ..Config::new(self.data) }
    }
}
