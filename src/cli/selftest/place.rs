//! Where a test's database lives: a folder of its own, and a schema of its own on PostgreSQL.

use std::path::{Path, PathBuf};

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::id::NodeId;
use crate::store::postgres::schema;

/// The kind of database that is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Store {
    Sqlite,
    Postgres,
}

impl Store {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// See the module.
pub struct Place {
    pub folder: PathBuf,
    schema: Option<(String, String)>,
}

impl Place {
    /// A fresh place; `server` is the address of a PostgreSQL database in which a schema may be made.
    pub async fn new(store: Store, server: Option<&str>, clock: &Clock) -> Result<Self> {
        let name = format!("dispatch_selftest_{}", NodeId::new(clock).suffix());
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&folder).map_err(Error::internal)?;
        let schema = match (store, server) {
            (Store::Sqlite, _) => None,
            (Store::Postgres, Some(server)) => {
                schema::create(server, &name).await?;
                Some((server.to_owned(), name))
            }
            (Store::Postgres, None) => {
                return Err(Error::new(Kind::Invalid, "database_url_missing", "--store postgres needs --database-url postgres://..."));
            }
        };
        Ok(Self { folder, schema })
    }

    /// The database's address for the server; `None`: the file in its data folder.
    pub fn url(&self) -> Result<Option<String>> {
        self.schema.as_ref().map(|(server, name)| schema::address(server, name).map_err(Error::from)).transpose()
    }

    /// Makes the servers deaf to notifications, until they have connected again.
    pub async fn deafen(&self) -> Result<()> {
        match &self.schema {
            Some((server, name)) => Ok(schema::deafen(server, name).await?),
            None => Ok(()),
        }
    }

    pub fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Removes everything.
    pub async fn remove(self) {
        if let Some((server, name)) = &self.schema
            && let Err(error) = schema::drop(server, name).await
        {
            tracing::warn!(%error, schema = name, "the test's schema could not be removed");
        }
        remove_folder(&self.folder);
    }
}

fn remove_folder(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::warn!(%error, folder = %folder.display(), "the test's folder could not be removed");
    }
}
